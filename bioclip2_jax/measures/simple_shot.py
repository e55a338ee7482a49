"""Few-shot classification by nearest centroid (SimpleShot, Wang et al. 2019, CL2N).

Protocol of BioCLIP 2: five folds seeded 0 ... 4, k images of every class as support, all other
images as queries; features are centred by the mean of the support and normalised again, centroids
are plain means. The code's first release (v1.0.0) shuffles one set of lists all along, so that a
fold depends on those before it, and 5-shot on the folds of 1-shot; the later one takes copies.
"""

import operator
import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bioclip2_jax.errors import UserError
from bioclip2_jax.measures.accuracy import NAMES, TOP, Outcomes, class_average
from bioclip2_jax.measures.scores import top_k, unit

FOLDS = 5
CHUNK_ELEMENTS = 1 << 22  # query x dimension, or x class, numbers held at a time


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Result of `few_shot` on n images.

    Attributes:
      outcomes: trials are the folds in which an image was a query.
      folds: of `accuracy.NAMES` → [folds] float, over the queries of each fold.
      classes: labels with k images or more, in order of first appearance.
      queried: those with more, whose other images were queries.
      left_out: labels with fewer than k images.
      support: the support images of every fold, as rows of the features.
    """

    outcomes: Outcomes
    folds: dict[str, np.ndarray]
    classes: list[int]
    queried: list[int]
    left_out: list[int]
    support: list[list[int]]

    @property
    def fold_top1(self) -> np.ndarray:
        """[folds] float, accuracy over the queries of each fold."""
        return self.folds["top1"]

    @property
    def std(self) -> float | None:
        """Population standard deviation over the folds."""
        return float(self.fold_top1.std()) if len(self.fold_top1) else None


def split_support(images_of: dict[int, list[int]], k: int, fold: int) -> tuple[list, list]:
    """Draws k images a class as the reference does: Python's `random` seeded by the fold.

    Args:
      images_of: class → its image rows, classes in order of first appearance.
      k: support images a class.
      fold: the seed.

    Returns:
      Support and query rows of every class, in the order of `images_of`.
    """
    rng = random.Random(fold)
    support, queries = [], []
    for rows in images_of.values():
        shuffled = list(rows)
        rng.shuffle(shuffled)
        support.append(shuffled[:k])
        queries.append(shuffled[k:])
    return support, queries


def _given_support(images_of: dict[int, list[int]], k: int, chosen: list[int]) -> tuple[list, list]:
    taken = set(chosen)
    support = [[row for row in rows if row in taken] for rows in images_of.values()]
    queries = [[row for row in rows if row not in taken] for rows in images_of.values()]
    wrong = next((len(rows) for rows in support if len(rows) != k), None)
    if wrong is not None:
        raise UserError(f"a support list holds {wrong} images of a class, where {k} are needed")
    return support, queries


def few_shot(
    features: np.ndarray,
    labels: np.ndarray,
    k: int,
    rank_groups: Mapping[str, np.ndarray],
    supports: list[list[int]] | None = None,
    *,
    run_on: bool = False,
) -> FewShot:
    """Names images by the nearest centroid of k labelled images a class.

    Args:
      features: [n, dim] float32, L2-normalised.
      labels: [n] int.
      k: support images a class.
      rank_groups: rank → [classes] int, lineage number of every label.
      supports: the support rows of every fold, as `FewShot.support` gives them; drawn if None.
      run_on: each fold shuffles the order that the last one left, and the first one that of 1-shot
        after its folds, as in the original's first release.

    Raises:
      UserError: a fold of `supports` does not hold k rows of every class that has more.
    """
    images_of: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        images_of.setdefault(label, []).append(row)
    for fold in range(FOLDS if run_on and k > 1 else 0):
        _, orders = split_support(images_of, 0, fold)
        images_of = dict(zip(images_of, orders, strict=True))
    left_out = [label for label, rows in images_of.items() if len(rows) < k]
    images_of = {label: rows for label, rows in images_of.items() if len(rows) >= k}
    # With a single class there is nothing to tell apart.
    queried = [label for label, rows in images_of.items() if len(rows) > k and len(images_of) > 1]
    classes = np.fromiter(images_of, np.int64)

    trials = np.zeros(len(labels), np.int64)
    top = {size: np.zeros(len(labels), np.int64) for size in TOP}
    ranks = {rank: np.zeros(len(labels), np.int64) for rank in rank_groups}
    per_fold, drawn = {name: [] for name in NAMES}, []
    folds = FOLDS if supports is None else len(supports)
    for fold in range(folds if queried else 0):
        if supports is None:
            support, queries = split_support(images_of, k, fold)
            if run_on:
                orders = map(operator.add, support, queries)
                images_of = dict(zip(images_of, orders, strict=True))
        else:
            support, queries = _given_support(images_of, k, supports[fold])
        drawn.append([row for rows in support for row in rows])
        mean = features[np.concatenate(support)].mean(axis=0)
        # A single support image equals its own mean, and stays at zero.
        centroids = np.stack([unit(features[rows] - mean).mean(axis=0) for rows in support])
        rows = np.concatenate(queries).astype(np.int64)  # of no queries, float
        truth = labels[rows]
        answers = classes[_nearest(features, rows, mean, centroids)]
        trials[rows] += 1
        for size in TOP:
            hits = (answers[:, :size] == truth[:, None]).any(axis=1)
            top[size][rows] += hits
            per_fold[f"top{size}"].append(hits.mean())
        per_fold["macro_top1"].append(class_average(answers[:, 0] == truth, truth))
        for rank, groups in rank_groups.items():
            ranks[rank][rows] += groups[answers[:, 0]] == groups[truth]
    return FewShot(
        outcomes=Outcomes(trials=trials, top=top, ranks=ranks),
        folds={name: np.asarray(values) for name, values in per_fold.items()},
        classes=classes.tolist(),
        queried=queried,
        left_out=left_out,
        support=drawn,
    )


def _nearest(
    features: np.ndarray, rows: np.ndarray, mean: np.ndarray, centroids: np.ndarray
) -> np.ndarray:
    """The nearest centroids of the queries among the features, [queries, TOP] int, best first."""
    lengths = (centroids**2).sum(axis=1)
    size = max(1, CHUNK_ELEMENTS // max(centroids.shape))
    answers = []
    for start in range(0, len(rows), size):
        queries = unit(features[rows[start : start + size]] - mean)
        # Squared Euclidean distance without the query's own norm, which is the same for all.
        answers.append(top_k(2 * queries @ centroids.T - lengths, max(TOP)))
    return np.concatenate(answers)
