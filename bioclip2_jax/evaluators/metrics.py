"""From per-image outcomes to the numbers and tables that are reported."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from bioclip2_jax.taxonomy import RANKS, Taxon

TOP = (1, 3, 5)
RESAMPLES = 1000


@dataclass(frozen=True)
class Outcomes:
    """How often each image was asked for its name and how often the answer was right.

    Attributes:
      trials: [images] int, times the image was a query: 1 in zero-shot, up to the number of folds
        in few-shot.
      top: k → [images] int, trials in which the true class was among the first k answers.
      ranks: rank → [images] int, trials in which the first answer shared the true lineage down to
        that rank.
    """

    trials: np.ndarray
    top: dict[int, np.ndarray]
    ranks: dict[str, np.ndarray]

    def select(self, rows: np.ndarray) -> "Outcomes":
        """The same for some of the images; `rows` is an index array or a mask."""
        return Outcomes(
            self.trials[rows],
            {k: hits[rows] for k, hits in self.top.items()},
            {rank: hits[rows] for rank, hits in self.ranks.items()},
        )


def number(items: Sequence[Hashable]) -> tuple[list[Hashable], np.ndarray]:
    """Distinct items in order of first appearance, and the number of each: [items] int."""
    ids: dict[Hashable, int] = {}
    numbers = [ids.setdefault(item, len(ids)) for item in items]
    return list(ids), np.asarray(numbers, np.int64)


def lineage_groups(taxa: Sequence[Taxon]) -> dict[str, np.ndarray]:
    """Rank → [taxa] int: the number of the distinct lineage down to that rank.

    Empty ranks are kept in the lineage, so a taxon known only to its family is a genus and a
    species of its own.
    """
    return {rank: number([taxon.lineage(rank) for taxon in taxa])[1] for rank in RANKS}


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest of [rows, classes] scores, best first, ties by lower index.

    Returns:
      [rows, min(k, classes)] int.
    """
    k = min(k, scores.shape[1])
    candidates = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, candidates, axis=1), axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1)


def summarize(outcomes: Outcomes, labels: np.ndarray, seed: int = 0) -> dict:
    """Micro and class-averaged accuracy with 95 % bootstrap intervals.

    Images are resampled with replacement; a class that a resample misses is left out of that
    resample's class average.

    Args:
      outcomes: of n images.
      labels: [n] int, class of every image.
      seed: of the resampling.

    Returns:
      `top1`, `top3`, `top5`, `macro_top1`, `ranks` (rank → `top1`, `interval`) and `intervals`
      (name → [low, high]); all None where nothing was asked.
    """
    names = [f"top{k}" for k in TOP] + list(outcomes.ranks)
    hits = np.stack(list(outcomes.top.values()) + list(outcomes.ranks.values()), axis=1)
    num_classes = int(labels.max()) + 1 if len(labels) else 0

    def estimate(weights: np.ndarray) -> np.ndarray:
        """[metrics + 1]: every metric, then the class average of top1."""
        micro = weights @ hits / np.maximum(weights @ outcomes.trials, 1)
        asked = np.bincount(labels, weights * outcomes.trials, num_classes)
        right = np.bincount(labels, weights * outcomes.top[1], num_classes)
        macro = np.mean(right[asked > 0] / asked[asked > 0]) if asked.any() else 0.0
        return np.append(micro, macro)

    values, low, high = [None] * (len(names) + 1), None, None
    if outcomes.trials.any():
        count = len(labels)
        values = estimate(np.ones(count)).tolist()
        rng = np.random.default_rng(seed)
        draws = [
            estimate(np.bincount(rng.integers(count, size=count), minlength=count))
            for _ in range(RESAMPLES)
        ]
        low, high = np.percentile(draws, [2.5, 97.5], axis=0).tolist()
    value = dict(zip([*names, "macro_top1"], values, strict=True))
    interval = {
        name: [low[i], high[i]] if low is not None else None
        for i, name in enumerate([*names, "macro_top1"])
    }
    plain = [*(f"top{k}" for k in TOP), "macro_top1"]
    return {
        **{name: value[name] for name in plain},
        "ranks": {r: {"top1": value[r], "interval": interval[r]} for r in outcomes.ranks},
        "intervals": {name: interval[name] for name in plain},
    }


def rates(outcomes: Outcomes) -> dict[str, float | None]:
    """`top1`, `top3`, `top5` over all trials; None without any."""
    trials = int(outcomes.trials.sum())
    return {f"top{k}": outcomes.top[k].sum() / trials if trials else None for k in TOP}


def most_confused(labels: np.ndarray, predictions: np.ndarray, label: int) -> tuple[int, int]:
    """The wrong class most often given to images of `label`, and how often; (-1, 0) if none."""
    wrong = predictions[(labels == label) & (predictions != label)]
    if not len(wrong):
        return -1, 0
    counts = np.bincount(wrong)
    return int(counts.argmax()), int(counts.max())


def hierarchy(taxa: Sequence[Taxon], labels: np.ndarray, predictions: np.ndarray) -> dict:
    """How far wrong the wrong answers are, in the tree.

    The height of an answer is the number of ranks one must climb from species until it and the
    truth share their lineage: 0 for the right one, 1 for another species of its genus, 7 for
    another kingdom (Bertinetto et al. 2020, arXiv 1912.09393).

    Args:
      taxa: of the classes.
      labels: [n] int, true classes.
      predictions: [n] int, first answers.

    Returns:
      `mean_height` over all images, `mistake_height` over the wrong ones (None without any), and
      `heights`, the number of images at each height 0 ... 7.
    """
    groups = lineage_groups(taxa)
    shared = np.stack([groups[rank][labels] == groups[rank][predictions] for rank in RANKS])
    heights = len(RANKS) - shared.sum(axis=0)
    wrong = heights[predictions != labels]
    return {
        "mean_height": float(heights.mean()),
        "mistake_height": float(wrong.mean()) if len(wrong) else None,
        "heights": np.bincount(heights, minlength=len(RANKS) + 1).tolist(),
    }
