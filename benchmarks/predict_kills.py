"""Kills `bioclip2 predict` at random moments and looks whether anything was lost.

    PYTHONPATH=.:tests/helpers nice python benchmarks/predict_kills.py [--pictures N] [--kills N]

Makes pictures of noise and a small model with random weights in a temporary folder, names the
pictures undisturbed, and again with kills by SIGINT, SIGTERM and SIGKILL in turn, each at a random
moment behind its first new batch. Every picture that is given to the model is written down by its
process. Prints JSON: whether the files are equal to the byte, and how many pictures were encoded
more than once, of which those in flight at a kill may be.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from kept_models import export_open_clip
from PIL import Image

from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.weights.description import Preprocess

_NAMES = ("red fox", "stone marten", "wild boar", "roe deer", "badger", "raccoon")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
# Each batch is a line with the checksums of its pictures' pixels.
_PROGRAM = """
import sys, zlib
import numpy as np
from bioclip2_jax import cli
from bioclip2_jax.weights.load import Model
seen, encode = sys.argv.pop(1), Model.encode_image
def watched(self, images, normalize=True):
    with open(seen, "a") as file:
        file.write(" ".join(str(zlib.crc32(x.tobytes())) for x in np.asarray(images)) + "\\n")
    return encode(self, images, normalize)
Model.encode_image = watched
cli.main()
"""


def make(folder: Path, pictures: int) -> None:
    """Writes the pictures, the model and the names."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(pictures):
        pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:05}.png", compress_level=1)
    (folder / "photos" / "00777.png").write_bytes(b"no picture")
    config = ClipConfig(32, VisionConfig(32, 8, 64, 2, 32), TextConfig(32, 1, 1))
    params = jax.jit(lambda: clip.init_params(config, 0))()
    export_open_clip(jax.tree.map(np.asarray, params), config, Preprocess(32), folder / "model")
    (folder / "names.txt").write_text("\n".join(_NAMES))


def call(folder: Path, form: str, output: str) -> list[str]:
    """The program that names them."""
    return [
        *(sys.executable, "-c", _PROGRAM, str(folder / f"{output}.seen")),
        *("predict", str(folder / "photos"), "--model", str(folder / "model")),
        *("--labels", str(folder / "names.txt"), "--batch-size", "16"),
        *("--format", form, "--output", str(folder / output)),
    ]


def encoded(folder: Path, output: str) -> dict[str, int]:
    """Checksum of a picture's pixels → how often the model was given it."""
    counts: dict[str, int] = {}
    for line in (folder / f"{output}.seen").read_text().splitlines():
        for checksum in set(line.split()):  # places to spare in a last batch are alike
            counts[checksum] = counts.get(checksum, 0) + 1
    return counts


def main() -> None:
    """Prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--form", default="csv")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.pictures)
        started = time.perf_counter()
        done = subprocess.run(call(folder, args.form, "whole"), stderr=subprocess.PIPE, text=True)
        assert done.returncode == 3, done.stderr
        undisturbed = time.perf_counter() - started
        once, ends = encoded(folder, "whole"), []
        batches = -(-args.pictures // 16)
        for number in range(args.kills):
            kill = _SIGNALS[number % len(_SIGNALS)]
            process = subprocess.Popen(call(folder, args.form, "cut"), stderr=subprocess.PIPE)
            before = _batches(folder)
            target = before + 1 + rng.randrange(batches // (args.kills + 1))
            while _batches(folder) < target and process.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.random() / 50)
            process.send_signal(kill)
            said = process.communicate()[1].decode()
            ends.append({"signal": kill.name, "code": process.returncode, "batches": target})
            assert "Traceback" not in said, said
        done = subprocess.run(call(folder, args.form, "cut"), stderr=subprocess.PIPE, text=True)
        assert done.returncode == 3, done.stderr
        again = encoded(folder, "cut")
        print(
            json.dumps(
                {
                    "pictures": args.pictures,
                    "form": args.form,
                    "kills": ends,
                    "equal": (folder / "cut").read_bytes() == (folder / "whole").read_bytes(),
                    "left": sorted(path.name for path in folder.iterdir()),
                    "missed": len(once.keys() - again.keys()),
                    "encoded_again": sum(count - 1 for count in again.values()),
                    "in_flight_at_most": 2 * 16 * args.kills,
                    "most_often": max(again.values()),
                    "undisturbed_seconds": round(undisturbed, 1),
                    "devices": f"{os.cpu_count()} cores",
                },
                indent=1,
            )
        )


def _batches(folder: Path) -> int:
    """Batches that were given to the model in all calls."""
    seen = folder / "cut.seen"
    return seen.read_bytes().count(b"\n") if seen.exists() else 0


if __name__ == "__main__":
    main()
