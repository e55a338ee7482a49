"""Answers at every rank of a list of names, and which of them are right for a known picture."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bioclip2_jax.errors import UsageError
from bioclip2_jax.identify import name_checks
from bioclip2_jax.identify.name_lists import RANK, LabelSet
from bioclip2_jax.measures import streamed, sure
from bioclip2_jax.measures.scores import number, sum_groups
from bioclip2_jax.text.taxonomy import RANKS, Taxon

NONE, UNSURE = "none of these", "unsure"
RIGHT, WRONG = 1, 0


class Ladder:
    """The lineages of a list, rank by rank down to the one that it is answered at.

    Attributes:
      labels: the list with a column `RANK`, and with the cells of all answers.
      ranks: coarse ones first.
    """

    def __init__(self, labels: LabelSet):
        """Of a list of taxa.

        Raises:
          UsageError: it is too long.
        """
        if labels.is_long:
            raise UsageError(
                f"--sure: {len(labels.groups):,} names are too many, {streamed.LONG:,} at most;"
                " take a part of them by --within"
            )
        self.ranks = RANKS[: RANKS.index(labels.rank) + 1]
        width, self._taxa = len(labels.columns), labels.taxa
        self._lineages: list[list[tuple[str, ...]]] = []
        self._groups: list[np.ndarray] = []
        self._cells: list[list[tuple[str, ...]]] = []
        for rank in self.ranks:
            lineages, groups = number([taxon.lineage(rank) for taxon in labels.taxa])
            cells = [(*names, *[""] * (width - len(names)), rank) for names in lineages]
            if rank == labels.rank:
                groups = labels.groups
                first = np.unique(groups, return_index=True)[1]
                lineages = [labels.taxa[place].lineage(rank) for place in first]
                cells = [(*row, rank) for row in labels.rows]
            self._lineages.append(lineages)
            self._groups.append(groups)
            self._cells.append(cells)
        self._named = [np.array([bool(of[-1]) for of in part]) for part in self._lineages]
        pairs = list(zip(self._cells[:-1], self._groups[:-1], strict=True))
        above = [tuple(cells[groups[n]] for cells, groups in pairs) for n in range(len(self._taxa))]
        self.labels = replace(
            labels, columns=(*labels.columns, RANK), rows=self._cells[-1], above=tuple(above)
        )
        self._by_name = name_checks.by_name(labels.taxa)

    def cells(self, rank: int, lineage: int) -> tuple[str, ...]:
        """Of an answer: its rank by number, and its lineage there."""
        return self._cells[rank][lineage]

    def empty(self, what: str) -> tuple[str, ...]:
        """The cells of `NONE` or `UNSURE`."""
        return (*[""] * (len(self.labels.columns) - 1), what)

    def best(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best lineage of each rank.

        Args:
          shares: [n, names] float64, rows sum to 1.

        Returns:
          [n, ranks] int, and its summed shares [n, ranks]; 0 where it has no name at that rank.
        """
        every = np.arange(len(shares))
        places = np.zeros((len(shares), len(self.ranks)), np.int64)
        scores = np.zeros(places.shape)
        for rank, (groups, named) in enumerate(zip(self._groups, self._named, strict=True)):
            sums = sum_groups(shares, groups)
            best = places[:, rank] = sums.argmax(axis=1)
            scores[:, rank] = np.minimum(sums[every, best], 1) * named[best]
        return places, scores

    # ---- Of known pictures

    def own(self, truth: Taxon) -> int:
        """The number of a taxon in the list, -1 if it is not there."""
        rank = truth.deepest_rank or ""
        names = [truth.scientific_name]
        if truth.species:
            names.append(f"{truth.genus} {truth.species.split()[0]}")  # of a subspecies
        for name in names:
            for place in self._by_name.get((rank, name), ()):
                if self._taxa[place].deepest_rank == rank and _same_kingdom(
                    self._taxa[place].ranks, truth.ranks
                ):
                    return place
        return -1

    def right(self, places: np.ndarray, truths: Sequence[Taxon]) -> np.ndarray:
        """Which answers are right.

        By their name at that rank. Nobody knows of a picture that is not known so deep, unless it
        is known to be something else above; what a table does not say of a lineage is taken from
        the list.

        Args:
          places: [n, ranks] int, from `best`.
          truths: n.

        Returns:
          [n, ranks] int: `RIGHT`, `WRONG`, or `sure.UNKNOWN`.
        """
        judged = np.zeros(places.shape, np.int64)
        whole: dict[Taxon, tuple[str, ...]] = {}
        known: dict[tuple, int] = {}
        for row, truth in enumerate(truths):
            if truth not in whole:
                whole[truth] = self._filled(truth)
            for rank, place in enumerate(places[row].tolist()):
                key = truth, rank, place
                if key not in known:
                    known[key] = _judge(whole[truth], self._lineages[rank][place])
                judged[row, rank] = known[key]
        return judged

    def _filled(self, truth: Taxon) -> tuple[str, ...]:
        own = self.own(truth)
        if own >= 0:
            return _joined(self._taxa[own].ranks, truth.ranks)
        for depth in reversed(range(len(RANKS) - 1)):
            name = truth.ranks[depth]
            for place in self._by_name.get((RANKS[depth], name), ()) if name else ():
                other = self._taxa[place].ranks
                if _same_kingdom(other, truth.ranks):
                    above = _joined(other[: depth + 1], truth.ranks[: depth + 1])
                    return *above, *truth.ranks[depth + 1 :]
        return truth.ranks


def _joined(one: Sequence[str], two: Sequence[str]) -> tuple[str, ...]:
    return tuple(a or b for a, b in zip(one, two, strict=True))


def _same_kingdom(one: Sequence[str], two: Sequence[str]) -> bool:
    return one[0] == two[0] or not one[0] or not two[0]


def _judge(truth: Sequence[str], answer: Sequence[str]) -> int:
    """`answer`: a lineage down to some rank."""
    last = len(answer) - 1
    ours, theirs = answer[last].split(), truth[last].split()
    if ours and theirs:
        is_same = ours[: len(theirs)] == theirs[: len(ours)]
        if last == len(RANKS) - 1:
            is_same = is_same and answer[last - 1] == truth[last - 1]
        return RIGHT if is_same and _same_kingdom(answer, truth) else WRONG
    above = zip(answer[:last], truth[:last], strict=True)
    return WRONG if any(a and b and a != b for a, b in above) else sure.UNKNOWN
