"""AdamW and its schedule as the original trains (open_clip's `scheduler.py`, `main.py`)."""

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

_DECAYED = {"kernel", "token_embedding", "position_embedding", "projection", "replay_projection"}


def learning_rate(train: ConfigDict) -> optax.Schedule:
    """Linear warm-up `peak * (step + 1) / warmup`, then a cosine that would reach 0 at `steps`."""

    def schedule(step: jax.Array) -> jax.Array:
        rise = (step + 1) / max(train.warmup_steps, 1)
        passed = (step - train.warmup_steps) / max(train.steps - train.warmup_steps, 1)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(passed, 0, 1)))
        return train.learning_rate * jnp.where(step < train.warmup_steps, rise, fall)

    return schedule


def decay_mask(params: dict) -> dict:
    """True for tensors that weight decay touches: every matrix, embeddings included.

    Biases, LayerNorm, the class embedding and logit_scale are left alone. Names decide, not
    dimensions, because the layers of a tower are stacked on a leading axis.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in _DECAYED, params)


def optimizer(train: ConfigDict) -> optax.GradientTransformation:
    """AdamW with decoupled decay; equals torch's AdamW with two parameter groups."""
    return optax.adamw(
        learning_rate(train),
        b1=train.beta1,
        b2=train.beta2,
        eps=train.epsilon,
        weight_decay=train.weight_decay,
        mask=decay_mask,
        mu_dtype=train.momentum_dtype,
    )
