"""Shares of labelled pictures for cross-validation: stratified, and no group on both sides."""

import numpy as np

from bioclip2_jax.errors import UserError

FOLDS = 5


def count_folds(labels: np.ndarray, groups: np.ndarray | None = None) -> int:
    """How many folds such pictures bear: `FOLDS`, or fewer where a class or the groups are few.

    Args:
      labels: [n] int.
      groups: [n] int, such as of individuals or cameras.

    Raises:
      UserError: fewer than three; nested folds need one to judge, one to choose, one to learn.
    """
    if groups is None:
        few = int(np.bincount(labels).min())
        if few < 3:
            raise UserError(
                f"a class has {few} pictures; each needs three at least, to learn, choose and judge"
            )
        return min(FOLDS, few)
    few = len(np.unique(groups))
    if few < 3:
        raise UserError(
            f"there are {few} groups; three at least are needed, to learn, choose and judge"
        )
    return min(FOLDS, few)


def deal(
    labels: np.ndarray, count: int, groups: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Deals pictures into folds that have each class in like number.

    Whole groups go, the largest first, to the fold after which classes are spread most evenly
    (least sum of squares of the shares of each class), as a greedy rule; without groups a picture
    is its own, which comes to the same as dealing each class in turn.

    Args:
      labels: [n] int, classes.
      count: of folds.
      groups: [n] int; None where each picture stands for itself.
      seed: of the order among equals.

    Returns:
      [n] int, 0 ... count - 1; every one of them has pictures if there are as many groups.
    """
    rng = np.random.default_rng(seed)
    folds = np.zeros(len(labels), np.int64)
    if groups is None:
        start = 0
        for label in range(labels.max() + 1):
            rows = rng.permutation(np.flatnonzero(labels == label))
            folds[rows] = (start + np.arange(len(rows))) % count
            start += len(rows)
        return folds
    _, groups = np.unique(groups, return_inverse=True)
    table = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(table, (groups, labels), 1)
    shares = table / table.sum(axis=0).clip(1)
    shuffled = rng.permutation(len(table))
    order = shuffled[np.argsort(-table[shuffled].sum(axis=1), kind="stable")]
    filled, sizes = np.zeros((count, table.shape[1])), np.zeros(count)
    fold_of = np.zeros(len(table), np.int64)
    for place, group in enumerate(order):
        cost = (2 * filled + shares[group]) @ shares[group]  # what the sum of squares grows by
        cost[sizes > 0] += np.inf if len(order) - place <= (sizes == 0).sum() else 0
        best = np.lexsort((sizes, cost.round(12)))[0]
        fold_of[group] = best
        filled[best] += shares[group]
        sizes[best] += table[group].sum()
    return fold_of[groups]


def draw(labels: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """[chosen] int, rows of k random pictures of each class, or of all that it has if fewer."""
    parts = [rng.permutation(np.flatnonzero(labels == label))[:k] for label in np.unique(labels)]
    return np.concatenate(parts)
