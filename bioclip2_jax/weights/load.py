"""A trained model, opened from any form it is kept in and ready to encode."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.weights import checkpoint, layout
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.open import Source, open_source


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
        return _encode_image(self.config, self.preprocess, normalize, self.params, images)

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
        return _encode_text(self.config, self.params, tokens)


# Parameters are arguments: all checkpoints of a run share what is compiled for the first.


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _encode_image(
    config: ClipConfig, preprocess: Preprocess, normalize: bool, params: dict, images: jax.Array
) -> jax.Array:
    if images.dtype == jnp.uint8:
        images = clip.normalize_images(images, preprocess.mean, preprocess.std)
    return clip.bind(config, params).encode_image(images.astype(jnp.float32), normalize)


@functools.partial(jax.jit, static_argnums=0)
def _encode_text(config: ClipConfig, params: dict, tokens: jax.Array) -> jax.Array:
    return clip.bind(config, params).encode_text(tokens)


def load(path: str | Path) -> Model:
    """Opens a model in any form that `open_source` knows.

    Args:
      path: a training workdir (its newest step) or one of its step folders; a folder of open_clip
        or of transformers; a `.safetensors`, `.pt`, `.pth` or `.bin` file; all of them here or in a
        bucket (gs://…); or `hf-hub:organisation/model[@revision]`.

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
