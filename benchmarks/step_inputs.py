"""One batch and one set of weights for both sides of `benchmarks/train_step.py`.

    python benchmarks/step_inputs.py FOLDER MODEL PAIRS [PICTURES.npz]
    python benchmarks/step_inputs.py --pictures PICTURES.npz MODEL

The second writes the pictures and captions alone, for a machine without tensorflow_datasets.
"""

import io
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights import layout

_SPECIES, _PICTURES = 512, 64


def draw(model: str) -> dict[str, np.ndarray]:
    """Some pictures [pictures, size, size, 3] uint8, and a caption of each species."""
    from bioclip2_jax.prepare.simulated.individuals import draw_individuals, photograph
    from bioclip2_jax.prepare.simulated.tree import grow_tree
    from bioclip2_jax.text.captions import caption
    from bioclip2_jax.text.tokenizer import tokenize

    species = grow_tree(0, _SPECIES)
    chosen = draw_individuals(0, species, 4 * _SPECIES)["train"][:_PICTURES]
    encoded = [photograph(0, one, PRESETS[model].vision.image_size)["image"] for one in chosen]
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]
    texts = [caption("taxon_com", one.taxon, common_name=one.common_name) for one in species]
    return {"pictures": np.stack(pictures), "tokens": tokenize(texts)}


def main(folder: str, model: str, pairs: str, prepared: str | None = None) -> None:
    """Writes random weights in open_clip's layout, and `pairs` pictures with their lineages.

    Pictures are few, each shifted by another amount; all captions have 77 tokens, padded.
    """
    config = PRESETS[model]
    params = jax.jit(lambda: clip.init_params(config, 0, replay_projection=True))()
    flat = {name: np.asarray(leaf) for name, leaf in layout.flatten(params).items()}
    tensors = layout.of_ours(flat.__getitem__, config, replay_projection=True)
    arrays = {name: np.ascontiguousarray(tensor.read()) for name, tensor in tensors.items()}
    save_file(arrays, Path(folder, "weights.safetensors"))

    found = np.load(prepared) if prepared else draw(model)
    pictures, tokens = found["pictures"], found["tokens"]
    rng, size = np.random.default_rng(0), config.vision.image_size
    images = np.empty((int(pairs), size, size, 3), np.uint8)
    for row, image in enumerate(images):
        image[:] = np.roll(pictures[row % _PICTURES], rng.integers(0, size, 2), (0, 1))
    np.savez(
        Path(folder, "batch.npz"), images=images, tokens=tokens[np.arange(int(pairs)) % _SPECIES]
    )


if __name__ == "__main__":
    if sys.argv[1] == "--pictures":
        np.savez_compressed(sys.argv[2], **draw(sys.argv[3]))
    else:
        main(*sys.argv[1:])
