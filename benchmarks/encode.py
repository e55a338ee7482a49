"""How fast pictures become features on this device, beside what its products alone would allow.

    python benchmarks/encode.py [--batch 1024] [--images FOLDER] [--lines FILE]
    python benchmarks/encode.py --toy                # seconds, on a CPU

ViT-L/14 with random weights, uint8 in and features out, as `embed` calls it: in float32 and with
`--precision bfloat16`; then the same with the decoding of JPEGs by the host's cores before it,
of the pictures in FOLDER or of simulated ones. The share of the product rate counts the FLOPs of
the tower's products and attention. One JSON object a line.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from product_rate import product_rate

from bioclip2_jax.features.encode import embed_images
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS, ClipConfig
from bioclip2_jax.training.xla_flags import set_flags
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.load import PRECISIONS, Model


def picture_flops(config: ClipConfig) -> float:
    """FLOPs of one picture's features: products and attention, the last block as computed."""
    vision = config.vision
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens, width = 1 + patches, vision.width
    attention, mlp = 4 * width * width, 2 * width * vision.hidden
    whole = tokens * (attention + mlp) + 2 * tokens * tokens * width
    # Keys and values of all tokens; the rest is for the pooled one.
    last = 2 * tokens * width * width + 2 * width * width + mlp + 2 * tokens * width
    embedding = patches * 3 * vision.patch_size**2 * width
    return 2 * ((vision.layers - 1) * whole + last + embedding + width * config.embed_dim)


def encode(model: Model, batch: int, seconds: float, toy: bool) -> dict:
    """Pictures already decoded: in the device's memory, and in the host's."""
    size = model.config.vision.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    there = jax.device_put(pixels)
    before = time.perf_counter()
    jax.block_until_ready(model.encode_image(there))
    compiled = time.perf_counter() - before

    def rate(images: jax.Array | np.ndarray) -> float:
        rates = []
        for _ in range(3):
            before, done, last = time.perf_counter(), 0, None
            while time.perf_counter() - before < seconds / 3:
                features = model.encode_image(jax.device_put(images))
                if last is not None:
                    np.asarray(last)  # as `embed`: one batch is under way while one is fetched
                last, done = features, done + batch
            np.asarray(last)
            rates.append(done / (time.perf_counter() - before))
        return statistics.median(rates)

    found = {"pictures_per_second": rate(there), "from_host_memory": rate(pixels)}
    products = product_rate(toy)
    share = found["pictures_per_second"] * picture_flops(model.config) / products
    return found | {"product_rate": products, "share_of_product_rate": share, "compiled": compiled}


def main() -> None:
    """One line a precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=6, help="of one reading")
    parser.add_argument("--images", type=Path, help="folder of JPEGs")
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS[::-1]))
    parser.add_argument("--lines", type=Path, help="also write each row at once, as JSON")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    if options.toy:
        options.batch, options.seconds = min(options.batch, 16), 0.6
    set_flags("packed")
    config = PRESETS["tiny" if options.toy else "vit_l14"]
    params = jax.jit(lambda: clip.init_params(config, 0))()
    files = jpegs(options.images, config.vision.image_size)
    for precision in options.precision:
        model = Model(config, params, Preprocess(size=config.vision.image_size), None, precision)
        row = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        row |= {"precision": precision, "batch": options.batch, "cores": os.cpu_count()}
        row |= encode(model, options.batch, options.seconds, options.toy)
        row |= {"pictures": len(files), "mean_kilobytes": np.mean([*map(len, files)]) / 1e3}
        rounds = 2 if options.toy else 8
        before, done = time.perf_counter(), 0
        for part in embed_images(
            model, rounds * options.batch, lambda n: files[n % len(files)], options.batch
        ):
            done += len(part.indices)
        row["decoded_too_per_second"] = done / (time.perf_counter() - before)
        print(json.dumps(row), flush=True)
        if options.lines:
            with options.lines.open("a") as lines:
                lines.write(json.dumps(row) + "\n")


def jpegs(folder: Path | None, size: int) -> list[bytes]:
    """Encoded pictures; without a folder simulated ones."""
    if folder:
        found = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
        if not found:
            raise SystemExit(f"error: no .jpg below {folder}")
        return found
    from bioclip2_jax.prepare.simulated.individuals import draw_individuals, photograph
    from bioclip2_jax.prepare.simulated.tree import grow_tree

    chosen = draw_individuals(0, grow_tree(0, 64), 256)["train"][:64]
    return [photograph(0, one, size)["image"] for one in chosen]


if __name__ == "__main__":
    main()
