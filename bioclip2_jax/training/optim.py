"""AdamW and its schedule as the original trains (open_clip's `scheduler.py`, `main.py`)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("cosine", "constant", "linear", "trapezoid")
_DECAYED = {"kernel", "token_embedding", "position_embedding", "projection", "replay_projection"}


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule. Each is the key of the same name in `configs/common.py`."""

    steps: int
    learning_rate: float
    warmup_steps: int
    schedule: str
    cooldown_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    momentum_dtype: str


def learning_rate(settings: OptimizerSettings) -> optax.Schedule:
    """Linear warm-up `peak * (step + 1) / warmup`, then one of `SCHEDULES`.

    "cosine" and "linear" would reach 0 at `steps`; so does "trapezoid" in its last
    `cooldown_steps`, before which it is "constant" (open_clip's `const-cooldown`).
    """
    warmup, steps = settings.warmup_steps, settings.steps

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        rise = (step + 1) / max(warmup, 1)
        passed = jnp.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
        fall = {
            "cosine": lambda: 0.5 * (1 + jnp.cos(jnp.pi * passed)),
            "constant": lambda: 1.0,
            "linear": lambda: 1 - passed,
            "trapezoid": lambda: jnp.clip((steps - step) / max(settings.cooldown_steps, 1), 0, 1),
        }[settings.schedule]()
        return settings.learning_rate * jnp.where(step < warmup, rise, fall)

    return schedule


def decay_mask(params: dict) -> dict:
    """True for tensors that weight decay touches: every matrix, embeddings included.

    Biases, LayerNorm, the class embedding and logit_scale are left alone. Names decide, not
    dimensions, because the layers of a tower are stacked on a leading axis.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in _DECAYED, params)


def optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """AdamW with decoupled decay; equals torch's AdamW with two parameter groups."""
    return optax.adamw(
        learning_rate(settings),
        b1=settings.beta1,
        b2=settings.beta2,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        mask=decay_mask,
        mu_dtype=settings.momentum_dtype,
    )
