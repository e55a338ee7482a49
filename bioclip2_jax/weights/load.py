"""A trained model, opened from any form it is kept in and ready to encode."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bioclip2_jax.models import clip
from bioclip2_jax.models.execution import to_encode
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.weights import checkpoint, layout
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.open import Source, open_source

PRECISIONS = ("float32", "bfloat16")
CPU_TOKENS = 1600  # a group on a CPU: of more, what lies between the products leaves its cache


@dataclass(frozen=True)
class Model:
    """A trained model, ready to encode. Each batch size is compiled once for models of one shape.

    Names are computed in float32, and so are pictures unless `precision` says otherwise. TPUs and
    recent GPUs multiply that with fewer bits unless
    `jax.config.update("jax_default_matmul_precision", "float32")` is set.

    Attributes:
      config: sizes.
      params: nested dict, see `models/clip.py`.
      preprocess: how pictures are resized and normalised.
      step: training step of a checkpoint, None for an exported directory.
      precision: one of `PRECISIONS`. With bfloat16, features of pictures differ in the third digit;
        devices that multiply it compute them faster (1.7 times on a CPU of Zen 4).
    """

    config: ClipConfig
    params: dict = field(repr=False)
    preprocess: Preprocess
    step: int | None = None
    precision: str = "float32"

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
        how = self.config, self.preprocess, normalize, self.precision
        return _encode_image(*how, self.params, images)

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


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _encode_image(
    config: ClipConfig,
    preprocess: Preprocess,
    normalize: bool,
    precision: str,
    params: dict,
    images: jax.Array,
) -> jax.Array:
    model = clip.bind(config, params, to_encode(precision, jax.default_backend()))

    def encode(images: jax.Array) -> jax.Array:
        if images.dtype == jnp.uint8:
            images = clip.normalize_images(images, preprocess.mean, preprocess.std)
        return model.encode_image(images.astype(jnp.float32), normalize)

    vision = config.vision
    return _in_groups(encode, images, 1 + (vision.image_size // vision.patch_size) ** 2)


@functools.partial(jax.jit, static_argnums=0)
def _encode_text(config: ClipConfig, params: dict, tokens: jax.Array) -> jax.Array:
    model = clip.bind(config, params, to_encode("float32", jax.default_backend()))
    return _in_groups(model.encode_text, tokens, tokens.shape[1])


def _in_groups(
    encode: Callable[[jax.Array], jax.Array], batch: jax.Array, tokens: int
) -> jax.Array:
    """`encode(batch)`: on a CPU group after group, since its caches are small."""
    most = max(1, CPU_TOKENS // tokens)
    if jax.default_backend() != "cpu" or jax.local_device_count() > 1 or len(batch) <= most:
        return encode(batch)
    even = max(size for size in range(1, most + 1) if len(batch) % size == 0)
    size = even if even > most // 2 else most
    whole = len(batch) // size * size
    groups = batch[:whole].reshape(-1, size, *batch.shape[1:])
    features = jax.lax.map(encode, groups).reshape(whole, -1)
    return features if whole == len(batch) else jnp.concatenate([features, encode(batch[whole:])])


def load(path: str | Path, precision: str = "float32") -> Model:
    """Opens a model in any form that `open_source` knows.

    Args:
      path: a training workdir (its newest step) or one of its step folders; a folder of open_clip
        or of transformers; a `.safetensors`, `.pt`, `.pth` or `.bin` file; all of them here or in a
        bucket (gs://…); or `hf-hub:organisation/model[@revision]`.
      precision: of the features of pictures, see `Model`.

    Raises:
      UserError: the path is none of these, or damaged.
      ValueError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    source = open_source(path)
    params = jax.tree.map(jnp.asarray, read_params(source))
    return Model(
        config=source.config,
        params=params,
        preprocess=source.preprocess,
        step=source.step,
        precision=precision,
    )


def read_params(source: Source) -> dict:
    """The parameters of an opened model as a nested dict of numpy arrays, float32.

    Raises:
      UserError: a file is damaged, or holds values that are not finite.
    """
    if source.step is not None and not source.resized:  # all of a checkpoint at once
        return checkpoint.restore_params(checkpoint.step_dir(source.path, source.step))
    return layout.read_params(source.tensors, source.config)
