"""Ridge regression held out by clade, for many targets at once.

Ridge predictions are linear in the targets, so that one decomposition of the training features
serves every strength and every permutation of a trait.
"""

from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

FOLDS = 10
STRENGTHS = 10.0 ** np.arange(-3, 4)  # in units of the mean eigenvalue of the training features
_BLOCK = 16_000_000  # numbers held at a time


class HeldOut(NamedTuple):
    """Held-out predictions of c scores in p columns for s species.

    Attributes:
      predictions: [s, c, p].
      baselines: [s, c, p], mean of the targets of the training species.
      class_means: [folds, c, c, p]; entry [f, k, :, p] is the mean score, weighted by target k, of
        the species that were held out of the training species of fold f; NaN where all weights are
        zero. For indicators of classes as targets these are mean scores of the classes.
    """

    predictions: np.ndarray
    baselines: np.ndarray
    class_means: np.ndarray


def assign_folds(clades: np.ndarray) -> np.ndarray:
    """[s] clade of every species → [s] fold, at most `FOLDS`; a clade is never divided.

    The largest clades are dealt first, each to the fold with the fewest species.
    """
    names, numbers, sizes = np.unique(clades, return_inverse=True, return_counts=True)
    fold_of = np.zeros(len(names), np.int64)
    filled = np.zeros(min(FOLDS, len(names)), np.int64)
    for clade in np.argsort(-sizes, kind="stable"):
        fold_of[clade] = np.argmin(filled)
        filled[fold_of[clade]] += sizes[clade]
    return fold_of[numbers]


# Its matrices are small: threads would wait for each other longer than they work.
@threadpool_limits.wrap(limits=1)
def nested_ridge(
    features: np.ndarray,
    folds: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    group_targets: bool = False,
) -> HeldOut:
    """Predicts every fold from the others; strength chosen by the folds within those.

    Every column gets, in every fold, the strength with the least squared error over its scores.

    Args:
      features: [s, d] float64.
      folds: [s] int, 0 ... f-1; at least three.
      targets: [s, c, p] float64.
      groups: [s] int, 0 ... g-1; features count from the mean of the group's training species, so
        that differences between groups teach nothing, and say nothing of a group that has none.
        None: all are one group.
      group_targets: so do targets.
    """
    _, num_scores, num_columns = targets.shape
    block = max(1, _BLOCK // (len(features) * num_scores * len(STRENGTHS)))
    if num_columns > block:
        parts = (
            nested_ridge(features, folds, targets[..., i : i + block], groups, group_targets)
            for i in range(0, num_columns, block)
        )
        return HeldOut(*(np.concatenate(blocks, axis=-1) for blocks in zip(*parts, strict=True)))
    groups = np.zeros(len(features), np.int64) if groups is None else groups
    target_groups = groups if group_targets else np.zeros_like(groups)
    num_folds = folds.max() + 1
    errors = np.zeros((num_folds, len(STRENGTHS), num_columns))
    sums = np.zeros((num_folds, len(STRENGTHS), num_scores, num_scores, num_columns))
    # A fit without two folds predicts each of them on behalf of the other.
    for first in range(num_folds):
        for second in range(first):
            rest = (folds != first) & (folds != second)
            fit = _Fit(features, targets, rest, groups, target_groups)
            for outer, inner in ((first, second), (second, first)):
                truth, predicted = targets[folds == inner], fit.predict(folds == inner)
                errors[outer] += ((predicted - truth) ** 2).sum(axis=(1, 2))
                for score in range(num_scores):
                    weighted = truth[:, score, None] * predicted
                    sums[outer, :, score] += weighted.sum(axis=1)
    best = errors.argmin(axis=1)
    predictions, baselines = np.empty_like(targets), np.empty_like(targets)
    means = np.empty((num_folds, num_scores, num_scores, num_columns))
    columns = np.arange(num_columns)
    for fold in range(num_folds):
        train, test = folds != fold, folds == fold
        fit = _Fit(features, targets, train, groups, target_groups)
        predictions[test] = np.moveaxis(fit.predict(test)[best[fold], :, :, columns], 0, 2)
        baselines[test] = fit.baseline(test)
        weights = targets[train].sum(axis=0)[:, None]
        picked = np.moveaxis(sums[fold, best[fold], :, :, columns], 0, 2)
        means[fold] = np.where(weights != 0, picked / np.where(weights, weights, 1), np.nan)
    return HeldOut(predictions=predictions, baselines=baselines, class_means=means)


def gradient_axis(features: np.ndarray, folds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Direction of the ridge fit to all species, its strength chosen by the folds.

    Args:
      features: [s, d] float64.
      folds: [s] int.
      values: [s] float64.

    Returns:
      [d] float64 of length 1.
    """
    targets, one_group = values[:, None, None], np.zeros(len(values), np.int64)
    errors = np.zeros(len(STRENGTHS))
    for fold in range(folds.max() + 1):
        fit = _Fit(features, targets, folds != fold, one_group, one_group)
        predicted = fit.predict(folds == fold)
        errors += ((predicted - targets[folds == fold]) ** 2).sum(axis=(1, 2, 3))
    fit = _Fit(features, targets, np.full(len(values), True), one_group, one_group)
    axis = fit.weights(int(errors.argmin()))[:, 0]
    return axis / max(np.linalg.norm(axis), 1e-300)


class _Fit:
    """Ridge regression on some rows, with an intercept for every group, for all strengths."""

    def __init__(
        self,
        features: np.ndarray,
        targets: np.ndarray,
        rows: np.ndarray,
        groups: np.ndarray,
        target_groups: np.ndarray,
    ):
        taught = np.bincount(groups[rows], minlength=groups.max() + 1)[groups] > 0
        self.centred = (features - _group_means(features, rows, groups)[groups]) * taught[:, None]
        self.target_groups = target_groups
        self.centre = _group_means(targets, rows, target_groups)
        left, sizes, right = np.linalg.svd(self.centred[rows], full_matrices=False)
        spanned = sizes > 1e-10 * max(sizes[0], 1e-150)
        self.right, sizes = right[spanned], sizes[spanned]
        answers = (targets - self.baseline(slice(None)))[rows].reshape(rows.sum(), -1)
        self.answers = left[:, spanned].T @ answers
        unit = (sizes**2).mean() if len(sizes) else 1.0
        self.shrink = sizes / (sizes**2 + STRENGTHS[:, None] * unit)  # [strengths, rank]

    def baseline(self, rows: np.ndarray | slice) -> np.ndarray:
        """[m, c, p], what is predicted without features."""
        return self.centre[self.target_groups[rows]]

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """[strengths, m, c, p]."""
        places = self.centred[rows] @ self.right.T
        shrunk = (places * self.shrink[:, None]).reshape(
            len(STRENGTHS) * len(places), len(self.right)
        )
        base = self.baseline(rows)
        return (shrunk @ self.answers).reshape(len(STRENGTHS), *base.shape) + base

    def weights(self, strength: int) -> np.ndarray:
        """[d, c * p]."""
        return self.right.T @ (self.shrink[strength][:, None] * self.answers)


def _group_means(values: np.ndarray, rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """[g, ...] over the group's rows; over all rows for a group that has none."""
    means = [
        values[part if part.any() else rows].mean(axis=0)
        for part in (rows & (groups == group) for group in range(groups.max() + 1))
    ]
    return np.stack(means)
