"""From per-image outcomes to the numbers and tables that are reported."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bioclip2_jax.text.taxonomy import RANKS, Taxon

T = TypeVar("T", bound=Hashable)
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


def number(items: Sequence[T]) -> tuple[list[T], np.ndarray]:
    """Distinct items in order of first appearance, and the number of each: [items] int."""
    ids: dict[T, int] = {}
    numbers = [ids.setdefault(item, len(ids)) for item in items]
    return list(ids), np.asarray(numbers, np.int64)


def lineage_groups(taxa: Sequence[Taxon]) -> dict[str, np.ndarray]:
    """Rank → [taxa] int: the number of the distinct lineage down to that rank.

    Empty ranks are kept in the lineage, so a taxon known only to its family is a genus and a
    species of its own.
    """
    return {rank: number([taxon.lineage(rank) for taxon in taxa])[1] for rank in RANKS}


def rows_by_class(labels: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The distinct labels, ascending, and the rows of each, ascending."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    return present, np.split(order, starts[1:]) if len(present) else []


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest of [rows, classes] finite scores, best first, ties by lower index.

    Returns:
      [rows, min(k, classes)] int.
    """
    k = min(k, scores.shape[1])
    if k <= max(TOP):
        # For a few places, one pass over the scores for each is several times as fast.
        left, every = scores.copy(), np.arange(len(scores))
        best = np.empty((len(scores), k), np.int64)
        for place in range(k):
            best[:, place] = left.argmax(axis=1)
            left[every, best[:, place]] = -np.inf
        return best
    candidates = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, candidates, axis=1), axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1)


def class_average(hits: np.ndarray, trials: np.ndarray, labels: np.ndarray) -> float | None:
    """The mean over the classes of hits / trials of each; None where nothing was asked.

    Args:
      hits, trials: [n] numbers.
      labels: [n] int, class of each.
    """
    asked = np.bincount(labels, trials)
    right = np.bincount(labels, hits, len(asked))
    return float(np.mean(right[asked > 0] / asked[asked > 0])) if asked.any() else None


def summarize(
    outcomes: Outcomes,
    labels: np.ndarray,
    seed: int = 0,
    rank_groups: dict[str, np.ndarray] | None = None,
) -> dict:
    """Micro and class-averaged accuracy with 95 % bootstrap intervals.

    Images are resampled with replacement; a class that a resample misses is left out of that
    resample's class average.

    Args:
      outcomes: of n images.
      labels: [n] int, class of every image.
      seed: of the resampling.
      rank_groups: rank → [classes] int, lineage number of every class; None for no averages over
        the lineages of a rank.

    Returns:
      `top1`, `top3`, `top5` over images, `macro_top1`, `macro_top3`, `macro_top5` averaged over
      classes, `ranks` (rank → `top1`, `interval`, and with `rank_groups` `macro_top1`, averaged
      over the lineages of that rank) and `intervals` (name → [low, high]); all None where nothing
      was asked.
    """
    names = [f"top{k}" for k in TOP] + list(outcomes.ranks)
    hits = np.stack(list(outcomes.top.values()) + list(outcomes.ranks.values()), axis=1)
    present, own = np.unique(labels, return_inverse=True)

    def estimate(weights: np.ndarray) -> np.ndarray:
        """[metrics + 1]: every metric, then the class average of top1."""
        micro = weights @ hits / np.maximum(weights @ outcomes.trials, 1)
        asked = np.bincount(own, weights * outcomes.trials, len(present))
        right = np.bincount(own, weights * outcomes.top[1], len(present))
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
    ranks = {rank: {"top1": value[rank], "interval": interval[rank]} for rank in outcomes.ranks}
    for rank, row in ranks.items() if rank_groups else ():
        groups = rank_groups[rank][labels]
        row["macro_top1"] = class_average(outcomes.ranks[rank], outcomes.trials, groups)
    return {
        **{name: value[name] for name in plain},
        **{f"macro_top{k}": class_average(outcomes.top[k], outcomes.trials, own) for k in TOP[1:]},
        "ranks": ranks,
        "intervals": {name: interval[name] for name in plain},
    }


def strata(outcomes: Outcomes, labels: np.ndarray, train_images: np.ndarray) -> dict:
    """Accuracy apart for classes with few, medium and many training images.

    Fewer than 20, up to 100, and more (Liu et al. 2019, arXiv 1904.05160); classes without any are
    "unseen".

    Args:
      outcomes: of n images.
      labels: [n] int.
      train_images: [classes] int, training images of every class.

    Returns:
      Name of the stratum → `num_classes`, `num_images`, `top1`, `macro_top1`; those without images
      are missing.
    """
    places = np.searchsorted([0, 19, 100], train_images)[labels]
    found = {}
    for place, name in enumerate(("unseen", "few", "medium", "many")):
        inside = places == place
        part, own = outcomes.select(inside), labels[inside]
        if part.trials.any():
            found[name] = {
                "num_classes": len(np.unique(own)),
                "num_images": int(inside.sum()),
                "top1": rates(part)["top1"],
                "macro_top1": class_average(part.top[1], part.trials, own),
            }
    return found


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
