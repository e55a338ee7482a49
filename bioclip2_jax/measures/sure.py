"""How deep in the tree an answer may go so that a wanted share of answers is right.

Of each picture the best lineage of every rank is scored by the sum over its species. From the
deepest rank up, a rank gets the lowest threshold above which enough of the answers that are left to
it are right; a picture is answered at the deepest rank whose threshold it reaches.

A threshold is found by fixed sequence testing, as of Learn then Test (Angelopoulos et al. 2021,
arXiv 2110.01052, section 3.2): from the highest score down, one picture more at a time, as long as
the one-sided exact binomial test (Clopper and Pearson 1934) rejects at level `ERROR` that the
precision above it is too low. As the sequence stops at the first that it cannot reject, the level
needs no correction for how many are tried. It starts at the fewest pictures that may hold a wrong
one.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr

ERROR = 0.1  # chance that a rank's precision is too low
NEVER = np.inf  # a threshold
PRECISIONS = tuple(number / 100 for number in range(50, 100))
UNKNOWN = -1  # whether an answer is right


def threshold(scores: np.ndarray, right: np.ndarray, precision: float) -> float:
    """The lowest score from which on answers are right often enough.

    Args:
      scores: [n] float.
      right: [n] bool.
      precision: the wanted share of right answers, below 1.

    Returns:
      `NEVER` where so few or so poor answers prove nothing.
    """
    first = fewest(precision)
    if len(scores) < first:
        return NEVER
    order = np.argsort(-scores, kind="stable")
    counts = np.arange(1, len(order) + 1)
    wrong = np.cumsum(~right[order].astype(bool))
    proven = bdtr(wrong, counts, 1 - precision) <= ERROR
    # Of equal scores all are answered or none is.
    is_last = np.append(np.diff(scores[order]) != 0, True)
    failed = np.flatnonzero(is_last[first - 1 :] & ~proven[first - 1 :])
    tried = is_last.copy()
    tried[: first - 1] = False
    if len(failed):
        tried[first - 1 + failed[0] :] = False
    ends = np.flatnonzero(tried)
    return float(scores[order[ends[-1]]]) if len(ends) else NEVER


def fewest(precision: float) -> int:
    """Pictures that prove a precision although one of them is wrong."""
    counts = np.arange(1, 2 + int(10 / (1 - precision)))
    return int(counts[np.argmax(bdtr(1.0, counts, 1 - precision) <= ERROR)])


def ladder(
    scores: np.ndarray, right: np.ndarray, precisions: Sequence[float] = PRECISIONS
) -> np.ndarray:
    """The thresholds of all ranks, from the deepest up.

    Args:
      scores: [n, ranks] float, coarse ranks first; 0 where there is no name at that rank.
      right: [n, ranks] int: 1 for right, 0 for wrong, `UNKNOWN` where nobody knows.
      precisions: wanted.

    Returns:
      [precisions, ranks] float.
    """
    found = np.full((len(precisions), scores.shape[1]), NEVER)
    for row, precision in enumerate(precisions):
        left = np.ones(len(scores), bool)
        for rank in reversed(range(scores.shape[1])):
            judged = left & (right[:, rank] != UNKNOWN) & (scores[:, rank] > 0)
            own = threshold(scores[judged, rank], right[judged, rank] == 1, precision)
            found[row, rank] = own
            left &= scores[:, rank] < own
    return found


def deepest(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The place of the deepest rank that is sure, -1 where none is.

    Args:
      scores: [n, ranks] float, coarse ranks first.
      thresholds: [ranks] float.

    Returns:
      [n] int.
    """
    reached = (scores >= thresholds) & (scores > 0)
    last = scores.shape[1] - 1 - reached[:, ::-1].argmax(axis=1)
    return np.where(reached.any(axis=1), last, -1)
