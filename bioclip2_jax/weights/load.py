"""A trained model, opened from any form it is kept in and ready to encode."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.weights import checkpoint, layout
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.open import Source, open_source


class _Encoders(NamedTuple):
    """Compiled functions: parameters and input → features."""

    image: Callable
    text: Callable


@dataclass(frozen=True)
class Model:
    """A trained model, ready to encode. Each batch size is compiled once for models of one shape.

    Computes in float32. TPUs and recent GPUs multiply that with fewer bits unless
    `jax.config.update("jax_default_matmul_precision", "float32")` is set.

    Attributes:
      config: sizes.
      params: nested dict, see `models/clip.py`.
      preprocess: how pictures are resized and normalised.
      step: training step of a checkpoint, None for an exported directory.
    """

    config: ClipConfig
    params: dict = field(repr=False)
    preprocess: Preprocess
    step: int | None = None

    @property
    def logit_scale(self) -> float:
        """The factor on cosine similarities, already exponentiated."""
        return float(np.exp(np.float32(self.params["logit_scale"])))

    def encode_image(self, images: np.ndarray | jax.Array, normalize: bool = True) -> jax.Array:
        """Pictures → L2-normalised float32 [batch, embed_dim].

        Args:
          images: [batch, size, size, 3], float32 already normalised, or uint8 and it normalises
            with `preprocess.mean` and `preprocess.std`.
          normalize: whether features get length 1, as names are compared with them.

        Raises:
          ValueError: another shape or dtype.
        """
        size = self.config.vision.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be [batch, {size}, {size}, 3], not {images.shape}")
        if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images must be uint8 or float32, not {images.dtype}")
        return self._encoders.image(self.params, images, normalize)

    def encode_text(self, tokens: np.ndarray | jax.Array) -> jax.Array:
        """Tokens of `bioclip2_jax.tokenize` → L2-normalised float32 [batch, embed_dim].

        Args:
          tokens: [batch, length] int32; may be cut after the last end-of-text token.

        Raises:
          ValueError: another shape or dtype.
        """
        context = self.config.text.context_length
        if tokens.ndim != 2 or not 0 < tokens.shape[1] <= context:
            raise ValueError(f"tokens must be [batch, up to {context}], not {tokens.shape}")
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens must be int32, not {tokens.dtype}")
        return self._encoders.text(self.params, tokens)

    @property
    def _encoders(self) -> _Encoders:
        return _compiled(self.config, tuple(self.preprocess.mean), tuple(self.preprocess.std))


@functools.lru_cache(4)
def _compiled(config: ClipConfig, mean: tuple[float, ...], std: tuple[float, ...]) -> _Encoders:
    """Parameters are arguments: all checkpoints of a run share what is compiled for the first."""

    def image(params: dict, images: jax.Array, normalize: bool) -> jax.Array:
        if images.dtype == jnp.uint8:
            images = clip.normalize_images(images, mean, std)
        return clip.bind(config, params).encode_image(images.astype(jnp.float32), normalize)

    def text(params: dict, tokens: jax.Array) -> jax.Array:
        return clip.bind(config, params).encode_text(tokens)

    return _Encoders(image=jax.jit(image, static_argnums=2), text=jax.jit(text))


def load(path: str | Path) -> Model:
    """Opens a model in any form that `open_source` knows.

    Args:
      path: a training workdir (its newest step) or one of its step folders; a folder of open_clip
        or of transformers; a `.safetensors`, `.pt`, `.pth` or `.bin` file; or
        `hf-hub:organisation/model[@revision]`.

    Raises:
      UserError: the path is none of these, or damaged.
    """
    source = open_source(path)
    params = jax.tree.map(jnp.asarray, read_params(source))
    return Model(
        config=source.config, params=params, preprocess=source.preprocess, step=source.step
    )


def read_params(source: Source) -> dict:
    """The parameters of an opened model as a nested dict of numpy arrays, float32.

    Raises:
      UserError: a file is damaged, or holds values that are not finite.
    """
    if source.step is not None and not source.resized:  # all of a checkpoint at once
        return checkpoint.restore_params(checkpoint.step_dir(source.path, source.step))
    return layout.read_params(source.tensors, source.config)
