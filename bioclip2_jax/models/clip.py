"""CLIP with BioCLIP 2's second visual projection; parameters are a plain nested dict outside.

Shapes of the dict (`L` layers, `w` width, `p` patch, `d` embed_dim):
  image/ patch_embed/kernel [p, p, 3, w], class_embedding [w], position_embedding [1 + patches, w],
    ln_pre, blocks, ln_post, projection [w, d], replay_projection [w, d] (only with replay)
  text/ token_embedding [vocab, w], position_embedding [77, w], blocks, ln_final, projection [w, d]
  blocks/ ln_1, ln_2 {scale, bias}, attention/{qkv, out}, mlp/{fc, proj} {kernel [L, in, out],
    bias [L, out]}
  logit_scale [], the logarithm
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bioclip2_jax.models.execution import DEFAULT_EXECUTION, Execution
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.models.text import TextTower
from bioclip2_jax.models.vit import ImageTower


class Clip(nnx.Module):
    """Two towers into one space.

    Attributes:
      logit_scale: [] float32, the logarithm of the factor on cosine similarities.
    """

    def __init__(
        self,
        config: ClipConfig,
        rngs: nnx.Rngs,
        *,
        execution: Execution = DEFAULT_EXECUTION,
        replay_projection: bool = False,
    ):
        self.config, self.execution = config, execution
        self.image = ImageTower(config, execution, rngs, replay_projection=replay_projection)
        self.text = TextTower(config, execution, rngs)
        self.logit_scale = nnx.Param(jnp.asarray(math.log(1 / 0.07), jnp.float32))

    def image_trunk(
        self,
        images: jax.Array,
        patch_keep: jax.Array | None = None,
        maxima: jax.Array | None = None,
    ) -> jax.Array:
        """The class token after `ln_post`.

        Args:
          images: [batch, size, size, 3] float, normalised.
          patch_keep: [batch, kept] int32, the patches that are looked at (FLIP, arXiv
            2212.00794); None for all.
          maxima: [layers, 2, 3] float32, for MLPs in 8 bits, see `models.fp8`; None for others.

        Returns:
          [batch, width] in the compute dtype.
        """
        return self.image(images, patch_keep, maxima)

    def project_image(
        self, pooled: jax.Array, replay: bool = False, normalize: bool = True
    ) -> jax.Array:
        """Trunk output [batch, width] → L2-normalised float32 [batch, embed_dim].

        `replay` takes the second projection, which only training on replay images uses;
        without `normalize` the lengths are kept.
        """
        kernel = self.image.replay_projection if replay else self.image.projection
        kernel = self.execution.gather(kernel[...].astype(pooled.dtype))
        features = pooled @ kernel
        return l2_normalize(features) if normalize else features.astype(jnp.float32)

    def encode_image(self, images: jax.Array, normalize: bool = True) -> jax.Array:
        """Normalised images [batch, size, size, 3] → L2-normalised float32 [batch, embed_dim].

        Without `normalize` the lengths are kept.
        """
        return self.project_image(self.image_trunk(images), normalize=normalize)

    def encode_text(self, tokens: jax.Array, maxima: jax.Array | None = None) -> jax.Array:
        """Tokens [batch, length <= 77] int32 → L2-normalised float32 [batch, embed_dim].

        Cutting the padding after the last end-of-text token does not change the result. `maxima` as
        for `image_trunk`.
        """
        return l2_normalize(self.text(tokens, maxima))


def l2_normalize(x: jax.Array) -> jax.Array:
    """[..., dim] → float32 of length 1; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def normalize_images(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 [..., 3] → float32 (x / 255 - mean) / std, per channel."""
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def init_params(config: ClipConfig, seed: int, *, replay_projection: bool = False) -> dict:
    """Random float32 parameters, spread as open_clip's, see `layers.InitialStds`. Traceable."""
    model = Clip(config, nnx.Rngs(seed), replay_projection=replay_projection)
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def abstract_params(config: ClipConfig, *, replay_projection: bool = False) -> dict:
    """Shapes and dtypes of `init_params`, without memory or time."""
    return jax.eval_shape(lambda: init_params(config, 0, replay_projection=replay_projection))


def bind(config: ClipConfig, params: dict, execution: Execution = DEFAULT_EXECUTION) -> Clip:
    """The model with these parameters; cheap, and usable inside `jit`.

    Args:
      params: nested dict as made by `init_params`; the replay projection is optional.
      execution: how it is run. LayerNorm, normalisation and the result are float32.
    """
    replay = "replay_projection" in params["image"]

    def create() -> Clip:
        return Clip(config, nnx.Rngs(0), execution=execution, replay_projection=replay)

    graph, state = nnx.split(nnx.eval_shape(create), nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)
