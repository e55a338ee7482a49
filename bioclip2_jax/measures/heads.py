"""The head that BioCLIP 2 trains on frozen features for several labels at once.

Linear(dim, 512), dropout of one half, Linear(512, labels), nothing between: a linear map in the
end. Adam, batches of 256, 50 epochs, binary cross-entropy, the rate halved every 20 epochs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

HIDDEN = 512
BATCH = 256
EPOCHS = 50
HALVE_EVERY = 20
DROPOUT = 0.5

Params = dict[str, jax.Array]


def train_head(
    features: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
    seed: int,
    epochs: int = EPOCHS,
) -> Params:
    """Trains the head.

    Args:
      features: [n, dim] float32, not normalised.
      labels: [n, labels] 0 and 1.
      learning_rate: of the first epochs.
      seed: of the start, the order and the dropout.
      epochs: passes over the data.

    Returns:
      Its parameters, see `head_logits`.
    """
    start, shuffles = jax.random.split(jax.random.key(seed))
    params = _init(start, features.shape[1], labels.shape[1])
    state = _optimizer(learning_rate, len(features)).init(params)
    x, y = jnp.asarray(features, jnp.float32), jnp.asarray(labels, jnp.float32)
    for epoch in range(epochs):
        key = jax.random.fold_in(shuffles, epoch)
        params, state = _epoch(params, state, x, y, key, learning_rate=learning_rate)
    return params


def head_logits(
    params: Params, features: jax.Array | np.ndarray, dropout: jax.Array | None = None
) -> jax.Array:
    """[n, dim] → [n, labels] logits; `dropout` is the key that leaves out half of the units."""
    hidden = jnp.asarray(features) @ params["w1"] + params["b1"]
    if dropout is not None:
        kept = jax.random.bernoulli(dropout, 1 - DROPOUT, hidden.shape)
        hidden = jnp.where(kept, hidden / (1 - DROPOUT), 0)
    return hidden @ params["w2"] + params["b2"]


def evaluation_logits(params: Params, features: np.ndarray, protocol: str, seed: int) -> np.ndarray:
    """Logits as both releases give them, with the dropout still on, or "corrected" ones."""
    key = jax.random.key(seed + 1_000_000) if protocol != "corrected" else None
    return np.asarray(head_logits(params, jnp.asarray(features, jnp.float32), key))


def _init(key: jax.Array, dim: int, labels: int) -> Params:
    """As PyTorch starts its linear layers: uniform up to 1 / sqrt(inputs)."""

    def uniform(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-1, maxval=1) / np.sqrt(inputs)

    keys = jax.random.split(key, 4)
    return {
        "w1": uniform(keys[0], (dim, HIDDEN), dim),
        "b1": uniform(keys[1], (HIDDEN,), dim),
        "w2": uniform(keys[2], (HIDDEN, labels), HIDDEN),
        "b2": uniform(keys[3], (labels,), HIDDEN),
    }


def _optimizer(learning_rate: float, examples: int) -> optax.GradientTransformation:
    steps = HALVE_EVERY * -(-examples // BATCH)
    return optax.adam(optax.exponential_decay(learning_rate, steps, 0.5, staircase=True))


@functools.partial(jax.jit, donate_argnums=(0, 1), static_argnames="learning_rate")
def _epoch(
    params: Params,
    state: optax.OptState,
    features: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    learning_rate: float,
) -> tuple[Params, optax.OptState]:
    count = len(features)
    optimizer = _optimizer(learning_rate, count)
    batches = -(-count // BATCH)
    order_key, dropout_key = jax.random.split(key)
    order = jnp.pad(jax.random.permutation(order_key, count), (0, batches * BATCH - count))
    real = jnp.arange(batches * BATCH) < count  # the last batch is a small one

    def loss(params: Params, rows: jax.Array, real: jax.Array, key: jax.Array) -> jax.Array:
        logits = head_logits(params, features[rows], key)
        each = optax.sigmoid_binary_cross_entropy(logits, labels[rows]).mean(axis=1)
        return jnp.sum(each * real) / jnp.sum(real)

    def step(carry: tuple, batch: tuple) -> tuple[tuple, None]:
        params, state = carry
        rows, real, number = batch
        gradient = jax.grad(loss)(params, rows, real, jax.random.fold_in(dropout_key, number))
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    parts = order.reshape(batches, BATCH), real.reshape(batches, BATCH), jnp.arange(batches)
    (params, state), _ = jax.lax.scan(step, (params, state), parts)
    return params, state
