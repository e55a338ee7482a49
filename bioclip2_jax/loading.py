"""Opens a trained model from any form it is kept in."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bioclip2_jax import checkpoint, convert
from bioclip2_jax.errors import UserError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig


@dataclass(frozen=True)
class Model:
    """A trained model, ready to encode.

    Attributes:
      config: sizes.
      params: nested dict, see `models/clip.py`.
      preprocess: how pictures are resized and normalised.
      step: training step of a checkpoint, None for an exported directory.
    """

    config: ClipConfig
    params: dict = field(repr=False)
    preprocess: convert.Preprocess
    step: int | None = None

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities, already exponentiated."""
        return float(np.exp(np.float32(self.params["logit_scale"])))

    def encode_image(self, images: np.ndarray | jax.Array) -> jax.Array:
        """Pictures → L2-normalised float32 [batch, embed_dim].

        Args:
          images: [batch, size, size, 3], float32 already normalised, or uint8 and it normalises
            with `preprocess.mean` and `preprocess.std`.

        Raises:
          ValueError: another shape or dtype.
        """
        size = self.config.vision.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be [batch, {size}, {size}, 3], not {images.shape}")
        if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images must be uint8 or float32, not {images.dtype}")
        return self._functions[0](self.params, images)

    def encode_text(self, tokens: np.ndarray | jax.Array) -> jax.Array:
        """Tokens [batch, length <= 77] int32 → L2-normalised float32 [batch, embed_dim]."""
        return self._functions[1](self.params, tokens)

    @functools.cached_property
    def _functions(self) -> tuple[Callable, Callable]:
        def image(params: dict, images: jax.Array) -> jax.Array:
            if images.dtype == jnp.uint8:
                mean, std = self.preprocess.mean, self.preprocess.std
                images = clip.normalize_images(images, mean, std)
            return clip.bind(self.config, params).encode_image(images.astype(jnp.float32))

        def text(params: dict, tokens: jax.Array) -> jax.Array:
            return clip.bind(self.config, params).encode_text(tokens)

        return jax.jit(image), jax.jit(text)


def load(path: str | Path) -> Model:
    """Opens a training workdir (its newest step), a checkpoint step folder or an export.

    Raises:
      UserError: the path is none of these, or damaged.
    """
    path = Path(path)
    if (path / convert.CONFIG_FILE).is_file():
        config, params, preprocess = convert.read_open_clip(path)
        return Model(config, jax.tree.map(jnp.asarray, params), preprocess)
    if path.name.isdigit() and path.parent.name == checkpoint.FOLDER:
        workdir, step = path.parent.parent, int(path.name)
    else:
        workdir, step = path, checkpoint.latest_step(path)
    folder = checkpoint.step_dir(workdir, step) if step is not None else None
    if folder is None or not folder.is_dir():
        raise UserError(
            f"{path}: no model here; expected a training workdir (checkpoints/STEP), one of its"
            f" step folders, or an exported directory ({convert.CONFIG_FILE})"
        )
    description = workdir / "model.json"
    try:
        config, preprocess = convert.read_description(json.loads(description.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{description}: cannot be read ({error})") from error
    params = jax.tree.map(jnp.asarray, checkpoint.restore_params(folder))
    return Model(config, params, preprocess, step)
