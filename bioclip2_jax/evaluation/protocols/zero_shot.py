"""Zero-shot classification: the name whose text lies nearest to the image.

Protocol of BioCLIP 2: logits are exp(logit_scale) times the cosine, accuracy is over images. A
rank above species is read off the species probabilities by summing them over each lineage, which
beats asking for the name of the higher taxon; that prompted form is reported beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bioclip2_jax.measures.accuracy import TOP, Outcomes
from bioclip2_jax.measures.scores import cosine_chunks, nearest, top_k
from bioclip2_jax.measures.tree import TopDown, top_down, tree_order


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Result of `zero_shot` on n images and c classes.

    Attributes:
      outcomes: one trial an image.
      predictions: [n, min(5, c)] int, classes best first.
      scores: [n, min(5, c)] float, their probabilities over the c classes.
      prompted: rank → [n] int, the first answer when the lineages down to that rank are the
        classes asked for.
      top_down: where names of lineages are given.
    """

    outcomes: Outcomes
    predictions: np.ndarray
    scores: np.ndarray
    prompted: dict[str, np.ndarray]
    top_down: TopDown | None = None


def zero_shot(
    image_features: np.ndarray,
    labels: np.ndarray,
    class_features: np.ndarray,
    logit_scale: float,
    rank_groups: Mapping[str, np.ndarray],
    prompted_features: Mapping[str, np.ndarray] | None = None,
    named: Mapping[str, np.ndarray] | None = None,
) -> ZeroShot:
    """Names every image from a closed list of classes.

    Memory beyond the arguments does not grow with images times classes.

    Args:
      image_features: [n, dim] float32, L2-normalised.
      labels: [n] int, true class.
      class_features: [c, dim] float32, one normalised template ensemble a class.
      logit_scale: the exponential of the learned parameter.
      rank_groups: rank → [c] int, lineage number of every class, coarse ranks first, each rank a
        refinement of the one before (`accuracy.lineage_groups`).
      prompted_features: rank → [lineages, dim] float32, text features of the lineages themselves.
      named: rank → [lineages] bool, those that have a name at that rank and can be asked for; None
        for all.

    Raises:
      ValueError: `rank_groups` are no tree.
    """
    num_images, num_classes = len(labels), len(class_features)
    places = min(max(TOP), num_classes)
    predictions = np.zeros((num_images, places), np.int64)
    scores = np.zeros((num_images, places))
    rank_hits = {rank: np.zeros(num_images, np.int64) for rank in rank_groups}
    order, levels = tree_order(rank_groups, num_classes)
    for rows, cosines in cosine_chunks(image_features, class_features):
        best = predictions[rows] = top_k(cosines, places)
        first = np.take_along_axis(cosines, best, axis=1)
        # In place, and less the largest, so that nothing overflows.
        np.subtract(cosines, first[:, :1], out=cosines)
        np.multiply(cosines, np.float32(logit_scale), out=cosines)
        weights = np.exp(cosines, out=cosines)
        totals = weights.sum(axis=1, dtype=np.float64)[:, None]
        gaps = first.astype(np.float64) - first[:, :1]
        scores[rows] = np.exp(logit_scale * gaps) / totals
        sums = np.take(weights, order, axis=1) if levels else weights
        for rank, starts, numbers in levels:
            if len(starts) == num_classes:  # every class is a lineage of its own
                answers = rank_groups[rank][best[:, 0]]
            else:
                sums = np.add.reduceat(sums, starts, axis=1)
                answers = numbers[sums.argmax(axis=1)]
            rank_hits[rank][rows] = answers == rank_groups[rank][labels[rows]]
    right = predictions == labels[:, None]
    top = {k: right[:, :k].any(axis=1).astype(np.int64) for k in TOP}
    outcomes = Outcomes(trials=np.ones(num_images, np.int64), top=top, ranks=rank_hits)
    asked = prompted_features or {}
    named = named or {rank: np.ones(len(features), bool) for rank, features in asked.items()}
    prompted = {}
    for rank, lineages in asked.items():
        choices = np.flatnonzero(named[rank])
        if len(choices):
            prompted[rank] = choices[nearest(image_features, lineages[choices])]
    return ZeroShot(
        outcomes=outcomes,
        predictions=predictions,
        scores=scores,
        prompted=prompted,
        top_down=top_down(image_features, class_features, logit_scale, rank_groups, asked, named)
        if asked
        else None,
    )
