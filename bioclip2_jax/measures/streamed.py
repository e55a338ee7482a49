"""The best of a list of names that is too long for all scores to be held: by stretches of it.

What stays on the device are the names' features, a stretch of scores and, of every picture, what
it needs for the end: its best names so far and the sum that they are shares of.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

STRETCH = 1 << 16  # names
LONG = 1 << 16  # a list of more is better asked by stretches

Best = tuple[np.ndarray, np.ndarray]


class LongList:
    """Names on the device, of which the best for some pictures are asked again and again."""

    def __init__(
        self,
        features: Callable[[int, int], np.ndarray],
        count: int,
        *,
        bonus: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        stretch: int = STRETCH,
    ):
        """Takes the names over, a stretch at a time.

        Args:
          features: (first, stop) → [stop - first, dim] float32, L2-normalised.
          count: names.
          bonus: [count] what is added to each logit, such as a prior's.
          groups: [count] int, where scores of names are added up; None for each by itself.
          stretch: names whose scores are held.
        """
        self._count = count
        self._num_groups = 0 if groups is None else int(groups.max()) + 1
        self._stretches = []
        for first in range(0, count, stretch):
            stop = min(first + stretch, count)
            spare = (0, stretch - (stop - first))
            added = np.zeros(stop - first) if bonus is None else bonus[first:stop]
            added = np.pad(added.astype(np.float32), spare, constant_values=-np.inf)
            names = np.pad(features(first, stop), (spare, (0, 0)))
            own = np.zeros(0) if groups is None else np.pad(groups[first:stop], spare)
            arrays = (names, added, own.astype(np.int32))
            self._stretches.append((np.int32(first), *map(jnp.asarray, arrays)))

    def best(self, image_features: np.ndarray, logit_scale: float, k: int) -> Best:
        """The k best names, or groups, of every picture: the best first, ties by lower index.

        Args:
          image_features: [n, dim] float32, L2-normalised.
          logit_scale: the exponential of the learned parameter.
          k: answers, at most as many as there are.

        Returns:
          [n, k] int, and their shares in the softmax over the list: [n, k] float32.
        """
        rows = len(image_features)
        k = min(k, self._num_groups or self._count)
        # Few shapes, each of which is compiled: rows are rounded up to a power of two.
        padded = np.zeros((1 << max(rows - 1, 0).bit_length(), image_features.shape[1]), np.float32)
        padded[:rows] = image_features
        pictures, scale = jnp.asarray(padded), jnp.float32(logit_scale)
        state = _start(len(padded), self._num_groups or k, grouped=bool(self._num_groups))
        for first, names, bonus, groups in self._stretches:
            if self._num_groups:
                state = _add_groups(state, pictures, names, bonus, groups, scale)
            else:
                state = _add(state, pictures, names, bonus, scale, first)
        shares, places = _finish_groups(state, k) if self._num_groups else _finish(state)
        return np.asarray(places)[:rows], np.minimum(np.asarray(shares)[:rows], 1)


def _start(rows: int, width: int, *, grouped: bool) -> tuple[jax.Array, ...]:
    top = jnp.full((rows,), -jnp.inf)
    if grouped:
        return top, jnp.zeros((rows, width))
    scores, places = jnp.full((rows, width), -jnp.inf), jnp.zeros((rows, width), jnp.int32)
    return top, jnp.zeros((rows,)), scores, places


def _logits(pictures: jax.Array, names: jax.Array, bonus: jax.Array, scale: jax.Array) -> jax.Array:
    return scale * jnp.dot(pictures, names.T, precision="highest") + bonus


@functools.partial(jax.jit, donate_argnums=0)
def _add(
    state: tuple[jax.Array, ...],
    pictures: jax.Array,
    names: jax.Array,
    bonus: jax.Array,
    scale: jax.Array,
    first: jax.Array,
) -> tuple[jax.Array, ...]:
    """One more stretch; `state`: largest logit, sum over it, best logits and their places."""
    top, total, scores, places = state
    logits, k = _logits(pictures, names, bonus, scale), scores.shape[1]
    higher = jnp.maximum(top, logits.max(axis=1))
    shares = jnp.exp(logits - higher[:, None])
    # In two steps, so that the sum of many small numbers keeps its last digits.
    parts = shares.reshape(len(shares), -1, _divisor(shares.shape[1])).sum(axis=2)
    total = total * jnp.exp(top - higher) + parts.sum(axis=1)
    here, where = jax.lax.top_k(logits, min(k, logits.shape[1]))
    scores = jnp.concatenate([scores, here], axis=1)
    places = jnp.concatenate([places, where.astype(jnp.int32) + first], axis=1)
    scores, chosen = jax.lax.top_k(scores, k)
    return higher, total, scores, jnp.take_along_axis(places, chosen, axis=1)


@functools.partial(jax.jit, donate_argnums=0)
def _add_groups(
    state: tuple[jax.Array, ...],
    pictures: jax.Array,
    names: jax.Array,
    bonus: jax.Array,
    groups: jax.Array,
    scale: jax.Array,
) -> tuple[jax.Array, ...]:
    """The same; `state`: largest logit, and the sum of each group over it."""
    top, sums = state
    logits = _logits(pictures, names, bonus, scale)
    higher = jnp.maximum(top, logits.max(axis=1))
    shares = jnp.exp(logits - higher[:, None])
    added = jax.ops.segment_sum(shares.T, groups, num_segments=sums.shape[1]).T
    return higher, sums * jnp.exp(top - higher)[:, None] + added


@jax.jit
def _finish(state: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    top, total, scores, places = state
    return jnp.exp(scores - top[:, None]) / total[:, None], places


@functools.partial(jax.jit, static_argnames="k")
def _finish_groups(state: tuple[jax.Array, ...], k: int) -> tuple[jax.Array, jax.Array]:
    _, sums = state
    shares, places = jax.lax.top_k(sums, k)
    return shares / sums.sum(axis=1, keepdims=True), places


def _divisor(count: int) -> int:
    """One near the root of a count."""
    return next(n for n in range(int(count**0.5), 0, -1) if count % n == 0)
