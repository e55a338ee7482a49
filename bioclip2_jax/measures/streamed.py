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

Best = tuple[np.ndarray, np.ndarray, np.ndarray]


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

    def best(
        self,
        image_features: np.ndarray,
        logit_scale: float,
        k: int,
        *,
        extra: np.ndarray | None = None,
    ) -> Best:
        """The k best names, or groups, of every picture: the best first, ties by lower index.

        Args:
          image_features: [n, dim] float32, L2-normalised.
          logit_scale: the exponential of the learned parameter.
          k: answers, at most as many as there are.
          extra: [count] what is added to each logit of these pictures, besides.

        Returns:
          [n, k] int, their shares in the softmax over the list: [n, k] float32, and what these
          would be without `extra`.
        """
        rows = len(image_features)
        k = min(k, self._num_groups or self._count)
        # Few shapes, each of which is compiled: rows are rounded up to a power of two.
        padded = np.zeros((1 << max(rows - 1, 0).bit_length(), image_features.shape[1]), np.float32)
        padded[:rows] = image_features
        pictures, scale = jnp.asarray(padded), jnp.float32(logit_scale)
        state = self._over_all(pictures, scale, k, extra)
        plain = state if extra is None else self._over_all(pictures, scale, k, None)
        if self._num_groups:
            shares, places = _finish_groups(state, k)
            own = shares if extra is None else _of_groups(plain, places)
        else:
            shares, places = _finish(state)
            own = shares
            if extra is not None:
                less = jnp.asarray(extra.astype(np.float32))[places]
                own = jnp.exp(state[2] - less - plain[0][:, None]) / plain[1][:, None]
        shares, own = (np.minimum(np.asarray(one)[:rows], 1) for one in (shares, own))
        return np.asarray(places)[:rows], shares, own

    def _over_all(
        self, pictures: jax.Array, scale: jax.Array, k: int, extra: np.ndarray | None
    ) -> tuple[jax.Array, ...]:
        """The state behind the last stretch."""
        state = _start(len(pictures), self._num_groups or k, grouped=bool(self._num_groups))
        for first, names, bonus, groups in self._stretches:
            if extra is not None:
                own = extra[first : first + len(bonus)].astype(np.float32)
                bonus = bonus + np.pad(own, (0, len(bonus) - len(own)))
            if self._num_groups:
                state = _add_groups(state, pictures, names, bonus, groups, scale)
            else:
                state = _add(state, pictures, names, bonus, scale, first)
        return state


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


@jax.jit
def _of_groups(state: tuple[jax.Array, ...], places: jax.Array) -> jax.Array:
    _, sums = state
    return jnp.take_along_axis(sums, places, axis=1) / sums.sum(axis=1, keepdims=True)


def _divisor(count: int) -> int:
    """One near the root of a count."""
    return next(n for n in range(int(count**0.5), 0, -1) if count % n == 0)
