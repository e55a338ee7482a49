"""What the tree says about answers: how far wrong they are, and whether they fit together."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bioclip2_jax.measures.accuracy import class_average


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """Result of `mistakes`.

    Attributes:
      mean_height: over all images.
      macro_mean_height: averaged over the classes.
      nlca: mean over all images of the known ranks that answer and truth share from kingdom down,
        as a part of those known of the truth.
      mistake_height: over the wrong answers, None without any.
      heights: the number of images at each height 0 ... 7.
      consistency: where it was asked for as well.
    """

    mean_height: float
    macro_mean_height: float | None = None  # which came later, as did nlca
    nlca: float | None = None
    mistake_height: float | None
    heights: list[int]
    consistency: "Consistency | None" = None


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Result of `consistency`.

    Attributes:
      agreement: rank → share of images whose answer at that rank is the lineage of their species
        answer.
      consistent: share of images whose answers form one lineage, that is, agree at all ranks; one
        minus the tree-based inconsistency error (TICE) of Park et al. 2024, arXiv 2406.11608.
      top_down: rank → share of images answered rightly at that rank and at every one above it;
        down to species this is the full-path accuracy (FPA) of that paper.
      full_path, macro_full_path: its last value, and the same averaged over the classes.
    """

    agreement: dict[str, float]
    consistent: float
    top_down: dict[str, float]
    full_path: float
    macro_full_path: float | None


def mistakes(
    rank_groups: Mapping[str, np.ndarray],
    labels: np.ndarray,
    predictions: np.ndarray,
    known: Mapping[str, np.ndarray] | None = None,
) -> Mistakes:
    """How far wrong the wrong answers are.

    The height of an answer is the number of ranks one must climb from species until it and the
    truth share their lineage: 0 for the right one, 1 for another species of its genus, 7 for
    another kingdom (Bertinetto et al. 2020, arXiv 1912.09393).

    Args:
      rank_groups: rank → [classes] int, lineage number of every class (`accuracy.lineage_groups`).
      labels: [n] int, true classes.
      predictions: [n] int, first answers.
      known: rank → [classes] bool, whether the rank of a class is known; None: all are.
    """
    groups = list(rank_groups.values())
    heights = np.sum([of[labels] != of[predictions] for of in groups], axis=0)
    shared, depth = np.zeros(len(labels)), np.zeros(len(labels))
    for rank, of in rank_groups.items():
        counts = known[rank][labels] if known else np.ones(len(labels), bool)
        depth += counts
        shared += counts & (of[labels] == of[predictions])
    wrong = heights[predictions != labels]
    return Mistakes(
        mean_height=float(heights.mean()),
        macro_mean_height=class_average(heights, labels),
        nlca=float((shared / np.maximum(depth, 1)).mean()),
        mistake_height=float(wrong.mean()) if len(wrong) else None,
        heights=np.bincount(heights, minlength=len(groups) + 1).tolist(),
    )


def consistency(
    rank_groups: Mapping[str, np.ndarray],
    labels: np.ndarray,
    predictions: np.ndarray,
    prompted: Mapping[str, np.ndarray],
    known: Mapping[str, np.ndarray] | None = None,
) -> Consistency:
    """Whether the answers to "which kingdom", "which phylum", ... and "which species" agree.

    Every rank above species is asked on its own, with its lineages as the list of names; the rank
    of species is answered by the first answer among the classes. Nothing makes these answers fit
    together: the genus may be a bird's and the class that of fishes. An answer counts as right at a
    rank that is not known of the truth, and as fitting at one not known of the species answered.

    Args:
      rank_groups: rank → [classes] int, lineage number of every class, coarse ranks first.
      labels: [n] int, true classes.
      predictions: [n] int, first answers among the classes.
      prompted: rank → [n] int, the lineage answered where that rank is asked for; for all ranks
        but species.
      known: rank → [classes] bool, whether the rank of a class is known; None: all are.
    """
    fits, agreement = np.ones(len(labels), bool), {}
    for rank, answers in prompted.items():
        same = answers == rank_groups[rank][predictions]
        asked = known[rank][predictions] if known else np.ones(len(labels), bool)
        if asked.any():
            agreement[rank] = float(same[asked].mean())
        fits &= same | ~asked
    right = right_down(rank_groups, labels, predictions, prompted, known)
    full = right[list(rank_groups)[-1]]
    return Consistency(
        agreement=agreement,
        consistent=float(fits.mean()),
        top_down={rank: float(hits.mean()) for rank, hits in right.items()},
        full_path=float(full.mean()),
        macro_full_path=class_average(full, labels),
    )


def right_down(
    rank_groups: Mapping[str, np.ndarray],
    labels: np.ndarray,
    predictions: np.ndarray,
    prompted: Mapping[str, np.ndarray],
    known: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Which images are answered rightly at a rank and at every one above it.

    Args:
      rank_groups, labels, predictions, prompted, known: as of `consistency`.

    Returns:
      Rank → [n] bool; down to species this is the full path.
    """
    right, path = np.ones(len(labels), bool), {}
    for rank, groups in rank_groups.items():
        hits = prompted.get(rank, groups[predictions]) == groups[labels]
        right = right & (hits | ~known[rank][labels] if known else hits)
        path[rank] = right
    return path
