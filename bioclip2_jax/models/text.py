"""The text tower."""

import jax
import jax.numpy as jnp
from flax import nnx

from bioclip2_jax.models import layers
from bioclip2_jax.models.execution import Execution, look_up, pool
from bioclip2_jax.models.presets import ClipConfig


class TextTower(nnx.Module):
    """Causal transformer, pooled at the end-of-text token: the text half of OpenAI's CLIP."""

    def __init__(self, config: ClipConfig, execution: Execution, rngs: nnx.Rngs):
        text, width = config.text, config.text.width
        self.execution = execution
        self.token_embedding = layers.normal(rngs, (text.vocab_size, width), 0.02)
        self.position_embedding = layers.normal(rngs, (text.context_length, width), 0.01)
        block = layers.BlockConfig(
            width=width,
            heads=text.heads,
            hidden=4 * width,
            causal=True,
            activation=layers.activation(config),
            stds=layers.InitialStds.text(width, text.layers),
            product=execution.product,
        )
        self.blocks = layers.stack_blocks(text.layers, block, rngs)
        self.ln_final = layers.LayerNorm(width)
        self.projection = layers.normal(rngs, (width, config.embed_dim), width**-0.5)

    def __call__(self, tokens: jax.Array, maxima: jax.Array | None = None) -> jax.Array:
        """Tokens [batch, length] int32 → [batch, embed_dim], not normalised.

        `maxima`: see `execution.run_blocks`.
        """
        dtype, gather = jnp.dtype(self.execution.dtype), self.execution.gather
        length = tokens.shape[1]
        # Gathered in full precision: the gradients of frequent tokens are sums of very many.
        embedding = gather(self.token_embedding[...])
        x = look_up(embedding, tokens, self.execution)
        x = x + self.position_embedding[...][:length].astype(dtype)
        # End-of-text has the largest id, and nothing after it can reach it: the mask is causal.
        x = pool(self.blocks, x, jnp.argmax(tokens, axis=1), self.execution, maxima)
        x = self.ln_final(x)
        return x @ gather(self.projection[...].astype(dtype))
