"""From per-image outcomes to accuracies: of all images, of classes, of lineages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bioclip2_jax.measures import intervals
from bioclip2_jax.measures.intervals import Interval
from bioclip2_jax.measures.scores import number
from bioclip2_jax.text.taxonomy import RANKS, Taxon

TOP = (1, 3, 5)
NAMES = ("top1", "top3", "top5", "macro_top1")  # those with intervals


@dataclass(frozen=True, kw_only=True)
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
            trials=self.trials[rows],
            top={k: hits[rows] for k, hits in self.top.items()},
            ranks={rank: hits[rows] for rank, hits in self.ranks.items()},
        )


@dataclass(frozen=True, kw_only=True)
class RankAccuracy:
    """Of first answers at one rank; None where nothing was asked.

    Attributes:
      top1, interval: over images.
      macro_top1: averaged over the lineages of that rank, None where those are not known.
      num_classes, chance: the lineages to choose from, and what guessing gives.
    """

    top1: float | None
    interval: Interval | None
    macro_top1: float | None = None
    num_classes: int | None = None
    chance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Result of `summarize`; None where nothing was asked.

    Attributes:
      top1, top3, top5: over images.
      macro_top1, macro_top3, macro_top5: averaged over classes.
      ranks: rank → of first answers there.
      intervals: of `NAMES` → 95 % interval.
    """

    top1: float | None
    top3: float | None = None
    top5: float | None = None
    macro_top1: float | None
    macro_top3: float | None = None
    macro_top5: float | None = None
    ranks: Mapping[str, RankAccuracy]
    intervals: Mapping[str, Interval | None]


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Accuracy of the classes with about as many training images."""

    num_classes: int
    num_images: int
    top1: float
    macro_top1: float | None


def lineage_groups(taxa: Sequence[Taxon]) -> dict[str, np.ndarray]:
    """Rank → [taxa] int: the number of the distinct lineage down to that rank.

    Empty ranks are kept in the lineage, so a taxon known only to its family is a genus and a
    species of its own. No rank at all where no taxon has a lineage.
    """
    if not any(taxon.deepest_rank for taxon in taxa):
        return {}
    return {rank: number([taxon.lineage(rank) for taxon in taxa])[1] for rank in RANKS}


def rows_by_class(labels: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The distinct labels, ascending, and the rows of each, ascending."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    return present, np.split(order, starts[1:]) if len(present) else []


def class_average(
    hits: np.ndarray, labels: np.ndarray, trials: np.ndarray | None = None
) -> float | None:
    """The mean over the classes of hits / trials of each; None where nothing was asked.

    Args:
      hits: [n] numbers.
      labels: [n] int, class of each.
      trials: [n] numbers; None for one each.
    """
    asked = np.bincount(labels, trials)
    right = np.bincount(labels, hits, len(asked))
    return float(np.mean(right[asked > 0] / asked[asked > 0])) if asked.any() else None


def summarize(
    outcomes: Outcomes,
    labels: np.ndarray,
    seed: int = 0,
    rank_groups: Mapping[str, np.ndarray] | None = None,
    classes: Sequence[int] | None = None,
) -> Accuracy:
    """Micro and class-averaged accuracy with 95 % bootstrap intervals.

    Images are resampled with replacement; a class that a resample misses is left out of that
    resample's class average. Where all answers are right, or all wrong, intervals are Wilson's.

    Args:
      outcomes: of n images.
      labels: [n] int, class of every image.
      seed: of the resampling.
      rank_groups: rank → [classes] int, lineage number of every class; None for no averages over
        the lineages of a rank.
      classes: to choose from; None for all of `rank_groups`.
    """
    trials = outcomes.trials
    names = [*(f"top{k}" for k in TOP), *outcomes.ranks, "macro_top1"]
    hits = np.stack([*outcomes.top.values(), *outcomes.ranks.values()], axis=1)
    own = np.unique(labels, return_inverse=True)[1]

    def estimate(weights: np.ndarray) -> np.ndarray:
        """[names]: every share over images, then the class average of top1."""
        micro = weights @ hits / np.maximum(weights @ trials, 1)
        macro = class_average(weights * outcomes.top[1], own, weights * trials)
        return np.append(micro, macro or 0.0)

    value: dict[str, Any] = dict.fromkeys(names)
    interval: dict[str, Any] = dict.fromkeys(names)
    if trials.any():
        value = dict(zip(names, estimate(np.ones(len(labels))).tolist(), strict=True))
        bounds = intervals.bootstrap(estimate, len(labels), seed)
        asked = int((trials > 0).sum())
        bounds = [intervals.widened(each, asked) for each in bounds]
        interval = dict(zip(names, bounds, strict=True))

    def of_rank(rank: str) -> RankAccuracy:
        row = RankAccuracy(top1=value[rank], interval=interval[rank])
        if rank_groups is None:
            return row
        groups = rank_groups[rank]
        count = len(np.unique(groups if classes is None else groups[classes]))
        macro = class_average(outcomes.ranks[rank], groups[labels], trials)
        chance = 1 / count if count else None
        return replace(row, macro_top1=macro, num_classes=count, chance=chance)

    return Accuracy(
        **{name: value[name] for name in NAMES},
        **{f"macro_top{k}": class_average(outcomes.top[k], own, trials) for k in TOP[1:]},
        ranks={rank: of_rank(rank) for rank in outcomes.ranks},
        intervals={name: interval[name] for name in NAMES},
    )


def strata(outcomes: Outcomes, labels: np.ndarray, train_images: np.ndarray) -> dict[str, Stratum]:
    """Accuracy apart for classes with few, medium and many training images.

    Fewer than 20, up to 100, and more (Liu et al. 2019, arXiv 1904.05160); classes without any are
    "unseen".

    Args:
      outcomes: of n images.
      labels: [n] int.
      train_images: [classes] int, training images of every class.

    Returns:
      Name of the stratum → its accuracy; those without images are missing.
    """
    places = np.searchsorted([0, 19, 100], train_images)[labels]
    result = {}
    for place, name in enumerate(("unseen", "few", "medium", "many")):
        inside = places == place
        part, own = outcomes.select(inside), labels[inside]
        if part.trials.any():
            result[name] = Stratum(
                num_classes=len(np.unique(own)),
                num_images=int(inside.sum()),
                top1=share(part, 1),
                macro_top1=class_average(part.top[1], own, part.trials),
            )
    return result


def share(outcomes: Outcomes, k: int) -> float:
    """Trials in which the true class was among the first k answers, of all trials."""
    return float(outcomes.top[k].sum() / outcomes.trials.sum())


def most_confused(labels: np.ndarray, predictions: np.ndarray, label: int) -> tuple[int, int]:
    """The wrong class most often given to images of `label`, and how often; (-1, 0) if none."""
    wrong = predictions[(labels == label) & (predictions != label)]
    if not len(wrong):
        return -1, 0
    counts = np.bincount(wrong)
    return int(counts.argmax()), int(counts.max())
