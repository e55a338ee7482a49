"""The image tower."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from bioclip2_jax.models import layers
from bioclip2_jax.models.presets import VisionConfig


class ImageTower(nnx.Module):
    """ViT with class token, `ln_pre`, and one or two bias-free projections.

    The network of open_clip's `VisionTransformer`; only the class token reaches `ln_post`.
    """

    def __init__(
        self,
        config: VisionConfig,
        embed_dim: int,
        activation: layers.Activation,
        replay_projection: bool,
        rngs: nnx.Rngs,
    ):
        self.config = config
        width, patch = config.width, config.patch_size
        std = width**-0.5
        self.patch_embed = PatchEmbed(patch, width, rngs)
        self.class_embedding = layers.normal(rngs, (width,), std)
        tokens = 1 + (config.image_size // patch) ** 2
        self.position_embedding = layers.normal(rngs, (tokens, width), std)
        self.ln_pre = layers.LayerNorm(width)
        hidden = int(config.mlp_ratio * width)
        stds = layers.InitialStds.image(width, hidden)
        self.blocks = layers.stack_blocks(
            config.layers, width, config.heads, hidden, False, activation, stds, rngs
        )
        self.ln_post = layers.LayerNorm(width)
        self.projection = layers.normal(rngs, (width, embed_dim), std)
        if replay_projection:
            # Starts as a copy: the original fills both from the same LAION weights.
            self.replay_projection = nnx.Param(self.projection[...])

    def __call__(
        self, images: jax.Array, patch_keep: jax.Array | None, execution: layers.Execution
    ) -> jax.Array:
        """See `Clip.image_trunk`."""
        embed = functools.partial(self._embed, dtype=jnp.dtype(execution.dtype))
        if execution.remat in ("full", "offload"):
            embed = jax.checkpoint(embed)  # little work, but three copies of all tokens
        x = layers.run_blocks(self.blocks, embed(images, patch_keep), execution)
        return self.ln_post(x[:, 0])

    def _embed(
        self, images: jax.Array, patch_keep: jax.Array | None, dtype: jnp.dtype
    ) -> jax.Array:
        """The tokens [batch, 1 + patches kept, width] that enter the blocks."""
        position = self.position_embedding[...].astype(dtype)
        x = self.patch_embed(images.astype(dtype)) + position[1:]
        if patch_keep is not None:
            x = jnp.take_along_axis(x, patch_keep[:, :, None], axis=1)
        first = self.class_embedding[...].astype(dtype) + position[0]
        first = jnp.broadcast_to(first, (x.shape[0], 1, x.shape[2]))
        return self.ln_pre(jnp.concatenate([first, x], axis=1))


class PatchEmbed(nnx.Module):
    """A convolution without bias whose stride is its size, as one matrix product."""

    def __init__(self, patch: int, width: int, rngs: nnx.Rngs):
        # Torch's default for convolutions, U(-b, b) with b = inputs^-0.5, as a normal distribution.
        std = (3 * 3 * patch * patch) ** -0.5
        self.kernel = layers.normal(rngs, (patch, patch, 3, width), std)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[batch, height, width, 3] → [batch, patches, width], row by row."""
        batch, height, width, channels = images.shape
        kernel = self.kernel[...].astype(images.dtype)
        patch, columns = kernel.shape[0], width // kernel.shape[0]
        x = images.reshape(batch, height // patch, patch, columns, patch, channels)
        inputs = patch * patch * channels
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // patch * columns, inputs)
        return x @ kernel.reshape(inputs, -1)
