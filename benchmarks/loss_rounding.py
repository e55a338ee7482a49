"""How far rounding moves the first loss: ours and open_clip's, in float32 and in bfloat16.

    python benchmarks/loss_rounding.py [--model vit_l14] [--batches 4] [--pictures FILE]
    python benchmarks/loss_rounding.py --model tiny --pairs 32 4 --ways float32 xla    # a CPU

Same weights and batches as `train_step.py`, forward alone. One JSON object a line; open_clip's
only where it and torch are installed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bioclip2_jax.data.images import CLIP_MEAN, CLIP_STD
from bioclip2_jax.losses import contrastive_loss
from bioclip2_jax.models import clip
from bioclip2_jax.models.execution import Execution
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.training.xla_flags import set_flags
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.description import to_open_clip
from bioclip2_jax.weights.tensors import open_safetensors

HERE = Path(__file__).parent
WAYS = {
    "float32": Execution("float32"),
    "packed": Execution("bfloat16", attention="packed"),
    "cudnn": Execution("bfloat16", attention="cudnn"),
    "xla": Execution("bfloat16"),
}


def ours(folder: Path, model: str, sizes: tuple[int, int], way: str) -> list[float]:
    """The loss of each batch, of both streams together, by one of `WAYS`."""
    config, size = PRESETS[model], sizes[0]
    params = layout.read_params(open_safetensors(folder / "weights.safetensors"), config)

    @jax.jit
    def loss(params: dict, images: jax.Array, tokens: jax.Array) -> jax.Array:
        clipped = clip.bind(config, params, WAYS[way])
        pooled = clipped.image_trunk(clip.normalize_images(images, CLIP_MEAN, CLIP_STD))
        texts, scale = clipped.encode_text(tokens), jnp.exp(clipped.logit_scale[...])
        replay = clipped.project_image(pooled[size:], replay=True)
        main = contrastive_loss(clipped.project_image(pooled[:size]), texts[:size], scale)
        return main + contrastive_loss(replay, texts[size:], scale)

    params = jax.device_put(params)
    with jax.default_matmul_precision("highest" if way == "float32" else "default"):
        return [float(loss(params, *batch)) for batch in batches(folder, sum(sizes))]


def batches(folder: Path, pairs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures [pairs, size, size, 3] uint8 and tokens [pairs, 77], whole batches alone."""
    found = np.load(folder / "batch.npz")
    images, tokens = found["images"], found["tokens"]
    starts = range(0, len(images) - pairs + 1, pairs)
    return [(images[n : n + pairs], tokens[n : n + pairs]) for n in starts]


def theirs(folder: Path, model: str, sizes: tuple[int, int], way: str) -> list[float]:
    """open_clip's, without and with autocast."""
    import step_open_clip
    import torch

    half = way == "bfloat16"
    towers, device = step_open_clip.load(folder, to_open_clip(PRESETS[model]))
    found = []
    for images, tokens in batches(folder, sum(sizes)):
        pixels, numbers = step_open_clip.inputs(images, tokens, device)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
            found.append(step_open_clip.loss(towers, pixels, numbers, sizes[0]).item())
    return found


def main() -> None:
    """One line a way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(PRESETS), default="vit_l14")
    parser.add_argument("--pairs", type=int, nargs=2, default=[256, 32], help="and of replay")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--pictures", metavar="FILE", help="made by step_inputs.py --pictures")
    options = parser.parse_args()
    set_flags("packed")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory beside JAX
    sizes = tuple(options.pairs)
    with tempfile.TemporaryDirectory() as folder:
        count = str(options.batches * sum(sizes))
        prepared = [options.pictures] if options.pictures else []
        inputs = [HERE / "step_inputs.py", folder, options.model, count, *prepared]
        subprocess.run([sys.executable, *inputs], check=True)
        for way in options.ways:
            losses = ours(Path(folder), options.model, sizes, way)
            print(json.dumps({"side": "ours", "way": way, "losses": losses}), flush=True)
        if importlib.util.find_spec("open_clip"):
            for way in "float32", "bfloat16":
                losses = theirs(Path(folder), options.model, sizes, way)
                print(json.dumps({"side": "open_clip", "way": way, "losses": losses}), flush=True)


if __name__ == "__main__":
    main()
