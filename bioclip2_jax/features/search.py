"""What in a feature store is nearest to a query: exactly, in one pass over its files.

Beside a stretch of features only the best so far lie in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bioclip2_jax.errors import UsageError
from bioclip2_jax.features.library import Entry, Library
from bioclip2_jax.measures.scores import top_k

_SPARE = 16  # more than are asked for, as float32 may mistake the order of those that are equal


@dataclass(frozen=True)
class Hit:
    """A picture that was found, `score` its cosine to the query, `row` its number in the store."""

    row: int
    score: float
    entry: Entry


def best(
    library: Library, queries: np.ndarray, k: int, without: Sequence[int | None] = ()
) -> list[list[Hit]]:
    """The k nearest pictures of every query, the best first; of equal ones the first row.

    Args:
      library: that is looked through.
      queries: [n, dim] float32, L2-normalised.
      k: pictures a query; fewer where there are fewer.
      without: [n] a row that is no answer, such as the query's own; None for none.

    Raises:
      UsageError: queries of another length than the store's features.
      UserError: a file is damaged.
    """
    if queries.shape[1] != library.about.dim:
        raise UsageError(
            f"{library.folder}: features of {library.about.dim} numbers, the query's have"
            f" {queries.shape[1]}"
        )
    own = list(without) or [None] * len(queries)
    states = [_Best(query, k + _SPARE, library.about.dim) for query in queries]
    for start, features in library.stretches():
        cosines = queries @ features.T
        for state, row, scores in zip(states, own, cosines, strict=True):
            if row is not None and start <= row < start + len(features):
                scores[row - start] = -np.inf
            state.offer(start, scores, features)
    found = [state.ordered(k) for state in states]
    rows = [row for pairs in found for row, _ in pairs]
    entries = dict(zip(rows, library.entries(rows), strict=True))
    return [[Hit(row, score, entries[row]) for row, score in pairs] for pairs in found]


@dataclass(eq=False)
class _Best:
    """The best so far of one query, in float32; the order is made in float64 at the end."""

    query: np.ndarray
    count: int
    dim: int
    _scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    _rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        self._features = np.zeros((0, self.dim), np.float32)

    def offer(self, start: int, scores: np.ndarray, features: np.ndarray) -> None:
        """Takes what is better of a stretch: rows from `start` on, [rows] and [rows, dim]."""
        is_full = len(self._scores) == self.count
        places = np.flatnonzero(scores > (self._scores[-1] if is_full else -np.inf))
        if not len(places):
            return
        places = np.sort(places[top_k(scores[None, places], self.count)[0]])
        merged = np.concatenate([self._scores, scores[places]])
        order = np.argsort(-merged, kind="stable")[: self.count]
        self._scores = merged[order]
        self._rows = np.concatenate([self._rows, start + places])[order]
        self._features = np.concatenate([self._features, features[places]])[order]

    def ordered(self, k: int) -> list[tuple[int, float]]:
        """(row, cosine) of the k best."""
        # A sum by itself for each row, so that equal features have equal cosines.
        features = self._features.astype(np.float64)
        lengths = np.sqrt((features * features).sum(axis=1)) * np.linalg.norm(self.query)
        cosines = (features * self.query).sum(axis=1) / np.where(lengths > 0, lengths, 1)
        order = np.lexsort((self._rows, -cosines))[:k]
        return [(int(self._rows[place]), float(cosines[place])) for place in order]
