"""The text tower."""

import jax
import jax.numpy as jnp
from flax import nnx

from bioclip2_jax.models import layers
from bioclip2_jax.models.presets import TextConfig


class TextTower(nnx.Module):
    """Causal transformer, pooled at the end-of-text token: the text half of OpenAI's CLIP."""

    def __init__(
        self, config: TextConfig, embed_dim: int, activation: layers.Activation, rngs: nnx.Rngs
    ):
        width = config.width
        self.token_embedding = layers.normal(rngs, (config.vocab_size, width), 0.02)
        self.position_embedding = layers.normal(rngs, (config.context_length, width), 0.01)
        stds = layers.InitialStds.text(width, config.layers)
        self.blocks = layers.stack_blocks(
            config.layers, width, config.heads, 4 * width, True, activation, stds, rngs
        )
        self.ln_final = layers.LayerNorm(width)
        self.projection = layers.normal(rngs, (width, embed_dim), width**-0.5)

    def __call__(self, tokens: jax.Array, execution: layers.Execution) -> jax.Array:
        """Tokens [batch, length] int32 → [batch, embed_dim], not normalised."""
        dtype = jnp.dtype(execution.dtype)
        length = tokens.shape[1]
        # Gathered in full precision: the gradients of frequent tokens are sums of very many.
        embedding = execution.gather(self.token_embedding[...])
        x = embedding[tokens].astype(dtype)
        x = x + self.position_embedding[...][:length].astype(dtype)
        x = layers.run_blocks(self.blocks, x, execution)
        # End-of-text has the largest id, and nothing after it can reach it: the mask is causal.
        end = jnp.argmax(tokens, axis=1, keepdims=True) == jnp.arange(length)
        # A sum over a mask: the gradient of picking by index would be a scatter.
        x = self.ln_final(jnp.where(end[:, :, None], x, 0).sum(1))
        return x @ execution.gather(self.projection[...].astype(dtype))
