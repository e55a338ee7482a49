"""Zero-shot classification: the name whose text lies nearest to the image.

Protocol of BioCLIP 2: logits are exp(logit_scale) times the cosine, accuracy is over images. A
rank above species is read off the species probabilities by summing them over each lineage, which
beats asking for the name of the higher taxon; that prompted form is reported beside it.
"""

from dataclasses import dataclass

import numpy as np

from bioclip2_jax.evaluators.metrics import TOP, Outcomes, top_k

CHUNK_ELEMENTS = 1 << 24  # image x class scores held at a time


@dataclass(frozen=True)
class ZeroShot:
    """Result of `zero_shot` on n images and c classes.

    Attributes:
      outcomes: one trial an image.
      predictions: [n, min(5, c)] int, classes best first.
      scores: [n, min(5, c)] float, their probabilities over the c classes.
      prompted: rank → accuracy when the lineages down to that rank are the classes asked for.
    """

    outcomes: Outcomes
    predictions: np.ndarray
    scores: np.ndarray
    prompted: dict[str, float]


def probabilities(
    image_features: np.ndarray, class_features: np.ndarray, logit_scale: float
) -> np.ndarray:
    """Softmax of exp(logit_scale) · cosine.

    Args:
      image_features: [n, dim] float32, L2-normalised.
      class_features: [c, dim] float32, L2-normalised.
      logit_scale: the exponential of the learned parameter.

    Returns:
      [n, c] float64, rows sum to 1.
    """
    logits = logit_scale * (image_features @ class_features.T).astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def sum_groups(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Adds up the columns of [n, c] scores that share a group number: [n, groups]."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    return np.add.reduceat(scores[:, order], starts, axis=1)


def zero_shot(
    image_features: np.ndarray,
    labels: np.ndarray,
    class_features: np.ndarray,
    logit_scale: float,
    rank_groups: dict[str, np.ndarray],
    prompted_features: dict[str, np.ndarray] | None = None,
) -> ZeroShot:
    """Names every image from a closed list of classes.

    Args:
      image_features: [n, dim] float32, L2-normalised.
      labels: [n] int, true class.
      class_features: [c, dim] float32, one normalised template ensemble a class.
      logit_scale: the exponential of the learned parameter.
      rank_groups: rank → [c] int, lineage number of every class (`metrics.lineage_groups`).
      prompted_features: rank → [lineages, dim] float32, text features of the lineages themselves.
    """
    prompted_features = prompted_features or {}
    num_images, num_classes = len(labels), len(class_features)
    kept = min(max(TOP), num_classes)
    predictions = np.zeros((num_images, kept), np.int64)
    scores = np.zeros((num_images, kept))
    rank_hits = {rank: np.zeros(num_images, np.int64) for rank in rank_groups}
    prompted_hits = dict.fromkeys(prompted_features, 0)
    chunk = max(1, CHUNK_ELEMENTS // num_classes)
    for start in range(0, num_images, chunk):
        rows = slice(start, start + chunk)
        chances = probabilities(image_features[rows], class_features, logit_scale)
        predictions[rows] = top_k(chances, kept)
        scores[rows] = np.take_along_axis(chances, predictions[rows], axis=1)
        for rank, groups in rank_groups.items():
            truth = groups[labels[rows]]
            rank_hits[rank][rows] = sum_groups(chances, groups).argmax(axis=1) == truth
            if rank in prompted_features:
                cosines = image_features[rows] @ prompted_features[rank].T
                prompted_hits[rank] += int((cosines.argmax(axis=1) == truth).sum())
    right = predictions == labels[:, None]
    top = {k: right[:, :k].any(axis=1).astype(np.int64) for k in TOP}
    outcomes = Outcomes(np.ones(num_images, np.int64), top, rank_hits)
    prompted = {rank: hits / num_images for rank, hits in prompted_hits.items()}
    return ZeroShot(outcomes, predictions, scores, prompted)
