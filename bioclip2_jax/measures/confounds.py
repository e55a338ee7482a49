"""What tells classes without looking at any picture: where pictures come from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Source:
    """Result of `told_by`.

    Attributes:
      accuracy: of the class by the source alone.
      prior: of the commonest class.
      sources: how many there are.
    """

    accuracy: float
    prior: float
    sources: int

    @property
    def tells(self) -> bool:
        """Whether the source leaves less than half of what the commonest class leaves open."""
        return self.prior < 1 and (self.accuracy - self.prior) / (1 - self.prior) > 0.5


def told_by(sources: np.ndarray, labels: np.ndarray) -> Source:
    """How well the source of a picture tells its class, by the other pictures of that source.

    A picture is given the commonest class among all others of its source, so that a source of one
    picture tells nothing; of equal ones, and of none, that which is commonest in all.

    Args:
      sources: [n] of any kind that sorts, such as folders.
      labels: [n] int.
    """
    names, numbers = np.unique(sources, return_inverse=True)
    table = np.zeros((len(names), labels.max() + 1), np.int64)
    np.add.at(table, (numbers, labels), 1)
    totals = table.sum(axis=0)
    order = np.argsort(-totals, kind="stable")  # the commonest first, which argmax then prefers
    place_of = np.argsort(order)
    right = 0
    for source, label in zip(*np.nonzero(table), strict=True):
        others = table[source].copy()
        others[label] -= 1
        right += table[source, label] * (others[order].argmax() == place_of[label])
    return Source(
        accuracy=float(right / len(labels)),
        prior=float(totals.max() / len(labels)),
        sources=len(names),
    )


def in_one_group(labels: np.ndarray, groups: np.ndarray) -> list[int]:
    """Classes whose pictures are all of one group, so that no other group can confirm them."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)[0]
    return np.flatnonzero(np.bincount(pairs) == 1).tolist()
