"""The image tower."""

import jax
import jax.numpy as jnp
from flax import nnx

from bioclip2_jax.models import layers
from bioclip2_jax.models.execution import Execution, norm, pool
from bioclip2_jax.models.presets import ClipConfig


class ImageTower(nnx.Module):
    """ViT with class token, `ln_pre`, and one or two bias-free projections.

    The network of open_clip's `VisionTransformer`; only the class token reaches `ln_post`.
    """

    def __init__(
        self,
        config: ClipConfig,
        execution: Execution,
        rngs: nnx.Rngs,
        *,
        replay_projection: bool = False,
    ):
        vision, width = config.vision, config.vision.width
        hidden, std = vision.hidden, width**-0.5
        self.execution = execution
        self.patch_embed = PatchEmbed(vision.patch_size, width, rngs)
        self.class_embedding = layers.normal(rngs, (width,), std)
        tokens = 1 + (vision.image_size // vision.patch_size) ** 2
        self.position_embedding = layers.normal(rngs, (tokens, width), std)
        self.ln_pre = layers.LayerNorm(width)
        block = layers.BlockConfig(
            width=width,
            heads=vision.heads,
            hidden=hidden,
            causal=False,
            activation=layers.activation(config),
            stds=layers.InitialStds.image(width, hidden),
            product=execution.product,
        )
        self.blocks = layers.stack_blocks(vision.layers, block, rngs)
        self.ln_post = layers.LayerNorm(width)
        self.projection = layers.normal(rngs, (width, config.embed_dim), std)
        if replay_projection:
            # Starts as a copy: the original fills both from the same LAION weights.
            self.replay_projection = nnx.Param(self.projection[...])

    def __call__(
        self,
        images: jax.Array,
        patch_keep: jax.Array | None = None,
        maxima: jax.Array | None = None,
    ) -> jax.Array:
        """See `Clip.image_trunk`."""
        embed = self._embed
        if self.execution.remat not in ("none", "dots", "attention"):
            embed = jax.checkpoint(embed)  # little work, but three copies of all tokens
        x = pool(self.blocks, embed(images, patch_keep), None, self.execution, maxima)
        return self.ln_post(x)

    def _embed(self, images: jax.Array, patch_keep: jax.Array | None) -> jax.Array:
        """The tokens [batch, 1 + patches kept, width] that enter the blocks."""
        dtype = jnp.dtype(self.execution.dtype)
        position = self.position_embedding[...].astype(dtype)
        x = self.patch_embed(images.astype(dtype)) + position[1:]
        if patch_keep is not None:
            x = jnp.take_along_axis(x, patch_keep[:, :, None], axis=1)
        first = self.class_embedding[...].astype(dtype) + position[0]
        first = jnp.broadcast_to(first, (x.shape[0], 1, x.shape[2]))
        return norm(self.ln_pre, jnp.concatenate([first, x], axis=1), self.execution)


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
