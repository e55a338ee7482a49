"""Models in memory and on disk, for the tests of conversion and loading."""

import json
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.weights import checkpoint, layout
from bioclip2_jax.weights.description import Preprocess, write_description
from bioclip2_jax.weights.open import Source, open_source
from bioclip2_jax.weights.tensors import Tensor, Tensors
from bioclip2_jax.weights.write import write


def tensors_of(params: dict, config: ClipConfig, replay_projection: bool = False) -> Tensors:
    """Parameters under open_clip's names."""
    flat = {name: np.asarray(leaf) for name, leaf in layout.flatten(params).items()}
    return layout.of_ours(flat.__getitem__, config, replay_projection=replay_projection)


def state_dict(params: dict, config: ClipConfig, replay_projection: bool = False) -> dict:
    """The same as arrays."""
    tensors = tensors_of(params, config, replay_projection)
    return {name: tensor.read() for name, tensor in tensors.items()}


def params_of(tensors: dict, config: ClipConfig) -> dict:
    """The inverse of `state_dict`."""
    found = {
        name: Tensor(value.shape, str(value.dtype), partial(np.asarray, value))
        for name, value in tensors.items()
    }
    return layout.read_params(found, config)


def source_of(params: dict, config: ClipConfig, preprocess: Preprocess) -> Source:
    """A model in memory, as if it had been opened."""
    replay = "replay_projection" in params["image"]
    return Source(config, preprocess, tensors_of(params, config, replay), "weights", Path("memory"))


def export_open_clip(
    params: dict, config: ClipConfig, preprocess: Preprocess, out: Path, **options: object
) -> None:
    """Writes open_clip's folder."""
    write(source_of(params, config, preprocess), out, "open_clip", **options)


def read(path: Path) -> tuple[ClipConfig, dict, Preprocess]:
    """Sizes, parameters and preprocessing of any model on disk."""
    source = open_source(path)
    return source.config, layout.read_params(source.tensors, source.config), source.preprocess


def save_run(
    folder: Path, steps: dict[int, dict], config: ClipConfig, preprocess: Preprocess
) -> None:
    """A training workdir with these parameters at these steps."""
    writer = checkpoint.Writer(folder, keep=5)
    for step, params in steps.items():
        writer.save(step, params, {"step": jnp.int32(step)})
    writer.close()
    description = write_description(config, preprocess)
    (folder / "model.json").write_text(json.dumps(description))
