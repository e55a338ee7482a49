"""Pictures of a store that are nearly the same: every pair, exactly, and what they join.

A pair's cosine is at most that of both features' shadows in a few directions, plus the product of
what the shadows lack (Cauchy and Schwarz). Most pairs are settled by that, for a tenth of the work;
the others are computed. The work still grows with the square of the store.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bioclip2_jax.features.library import Entry, Library
from bioclip2_jax.measures.scores import CHUNK_ELEMENTS

_BLOCK = 1 << 16  # rows; two blocks of them lie in memory
_DIRECTIONS = 64
_SAMPLE = 8192  # rows that tell the directions; any directions give the same answers
_SLACK = 1e-5  # of the bound, which is computed in float32
_ROUNDING = 1e-6  # of a cosine
_PAIRS = 8192  # computed at a time, one by one
_EDGES = 1 << 20  # gathered before they are joined

Tell = Callable[[int, int], object]  # blocks done, all
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, a later row, cosine: [pairs] each


@dataclass(frozen=True)
class Twin:
    """A picture that has near duplicates.

    Attributes:
      group: its number, from 1; all that a chain of near duplicates joins are one group.
      row: its number in the store.
      entry: what is known of it.
      cosine: to the nearest other picture, to 6 decimals.
      nearest: that one's key; of equally near ones the first of the store.
    """

    group: int
    row: int
    entry: Entry
    cosine: float
    nearest: str


def near_duplicates(library: Library, threshold: float, tell: Tell = lambda *_: None) -> list[Twin]:
    """All pictures that have near duplicates, group by group, in the order of the store.

    Args:
      library: that is looked through.
      threshold: the cosine from which on two pictures are near duplicates.
      tell: called with blocks done and all.

    Raises:
      UserError: a file is damaged.
    """
    groups, nearest = _Groups(len(library)), _Nearest(len(library))
    for first, later, cosines in _pairs(library, threshold, tell):
        groups.join(first, later)
        nearest.see(first, later, cosines)
    leaders = groups.leaders()
    rows = np.flatnonzero(nearest.rows >= 0)
    rows = rows[np.lexsort((rows, leaders[rows]))]
    numbers = np.cumsum(np.diff(leaders[rows], prepend=-1) != 0)
    others = nearest.rows[rows]
    every = list(dict.fromkeys([*rows.tolist(), *others.tolist()]))
    entries = dict(zip(every, library.entries(every), strict=True))
    return [
        Twin(group, row, entries[row], float(nearest.cosines[row]), entries[other].key)
        for group, row, other in zip(numbers.tolist(), rows.tolist(), others.tolist(), strict=True)
    ]


def _pairs(library: Library, threshold: float, tell: Tell) -> Iterator[Pairs]:
    """Each pair once, a block of rows against a block."""
    runs = library.blocks(_BLOCK)
    basis = _directions(library, runs)
    done, total = itertools.count(1), len(runs) * (len(runs) + 1) // 2
    for number, run in enumerate(runs):
        left = _Block(library, run, basis)
        for other in runs[number:]:
            right = left if other == run else _Block(library, other, basis)
            yield from _of_blocks(left, right, threshold)
            tell(next(done), total)


class _Block:
    """Some rows: features [rows, dim], and shadows with what they lack, [rows, directions + 1]."""

    def __init__(self, library: Library, run: tuple[int, int], basis: np.ndarray):
        found = list(library.stretches(*run))
        self.start = found[0][0] if found else 0
        parts = [features for _, features in found]
        self.features = np.concatenate(parts or [np.zeros((0, library.about.dim), np.float32)])
        shadows = self.features @ basis
        # Rather too long: the bound has to hold in float32.
        lacks = np.sqrt(np.maximum(1 - np.einsum("nd,nd->n", shadows, shadows), 0) + 1e-6)
        self.shadows = np.concatenate([shadows, lacks[:, None]], axis=1)


def _directions(library: Library, runs: list[tuple[int, int]]) -> np.ndarray:
    """Orthonormal [dim, directions] float32 that hold most of the features' length."""
    sample, wanted = [], -(-_SAMPLE // min(len(runs), 8))
    for run in runs[:: -(-len(runs) // 8)]:
        stretches = (features for _, features in library.stretches(*run))
        rows = np.concatenate(list(itertools.islice(stretches, 4)) or [np.zeros((0, 1))])
        sample.append(rows[:: max(1, len(rows) // wanted)])
    rows = np.concatenate([part for part in sample if len(part)])
    count = max(1, min(_DIRECTIONS, library.about.dim // 8))
    return np.linalg.eigh((rows.T @ rows).astype(np.float64))[1][:, -count:].astype(np.float32)


def _of_blocks(left: _Block, right: _Block, threshold: float) -> Iterator[Pairs]:
    size = max(1, CHUNK_ELEMENTS // max(1, len(right.features)))
    for start in range(0, len(left.features), size):
        # Of a block with itself, the half above the diagonal.
        skip = start if left is right else 0
        a, b = left.features[start : start + size], right.features[skip:]
        bounds = left.shadows[start : start + size] @ right.shadows[skip:].T
        rows, columns = np.nonzero(bounds >= threshold - _SLACK)
        if left is right:
            above = rows < columns
            rows, columns = rows[above], columns[above]
        if len(rows) > bounds.size // 64:
            cosines = (a @ b.T)[rows, columns]
        else:
            cosines = np.zeros(len(rows), np.float32)
            for pair in range(0, len(rows), _PAIRS):
                these = slice(pair, pair + _PAIRS)
                cosines[these] = np.einsum("nd,nd->n", a[rows[these]], b[columns[these]])
        near = cosines >= threshold - _ROUNDING
        rows, columns, cosines = rows[near], columns[near], cosines[near]
        if len(rows):
            yield left.start + start + rows, right.start + skip + columns, cosines


class _Groups:
    """Connected components of pairs that come one after another; a leader is the first row."""

    def __init__(self, count: int):
        self._leaders = np.arange(count)
        self._waiting: list[np.ndarray] = []

    def join(self, first: np.ndarray, later: np.ndarray) -> None:
        """Puts pairs of rows into one group each."""
        ends = np.stack([self._leaders[first], self._leaders[later]])
        ends = np.unique(ends[:, ends[0] != ends[1]], axis=1)
        self._waiting.append(ends)
        if sum(part.shape[1] for part in self._waiting) > _EDGES:
            self.leaders()

    def leaders(self) -> np.ndarray:
        """The leader of each row: [rows] int."""
        ends = np.concatenate([np.zeros((2, 0), np.int64), *self._waiting], axis=1)
        self._waiting.clear()
        if ends.shape[1]:
            nodes, numbers = np.unique(ends, return_inverse=True)
            a, b = numbers.reshape(2, -1)
            graph = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(len(nodes), len(nodes)))
            labels = connected_components(graph, directed=False)[1]
            # Nodes are sorted: the first of each component is its smallest.
            first = np.unique(labels, return_index=True)[1]
            moved = np.arange(len(self._leaders))
            moved[nodes] = nodes[first[labels]]
            self._leaders = moved[self._leaders]
        return self._leaders


class _Nearest:
    """The nearest other picture of each row: `rows` [n] int, -1 for none, and its `cosines`."""

    def __init__(self, count: int):
        self.rows = np.full(count, -1)
        self.cosines = np.full(count, -2, np.float64)

    def see(self, first: np.ndarray, later: np.ndarray, cosines: np.ndarray) -> None:
        """Looks at pairs from both of their ends."""
        rows, others = np.concatenate([first, later]), np.concatenate([later, first])
        # To so many decimals, that equal pairs of pictures are equal.
        scores = np.tile(np.minimum(np.round(cosines.astype(np.float64), 6), 1), 2)
        order = np.lexsort((others, -scores, rows))
        chosen = order[np.unique(rows[order], return_index=True)[1]]
        rows, others, scores = rows[chosen], others[chosen], scores[chosen]
        is_same = (scores == self.cosines[rows]) & (others < self.rows[rows])
        better = (scores > self.cosines[rows]) | is_same
        self.rows[rows[better]], self.cosines[rows[better]] = others[better], scores[better]
