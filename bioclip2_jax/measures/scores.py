"""What image features and text features say of each other: cosines, probabilities, first answers.

Features are [n, dim] float32 and of length 1.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from scipy.special import softmax

CHUNK_ELEMENTS = 1 << 24  # image x class scores held at a time, a few arrays of them

Item = TypeVar("Item", bound=Hashable)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., dim] brought to length 1; one of length 0 stays as it is."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def number(items: Sequence[Item]) -> tuple[list[Item], np.ndarray]:
    """Distinct items in order of first appearance, and the number of each: [items] int."""
    ids: dict[Item, int] = {}
    numbers = [ids.setdefault(item, len(ids)) for item in items]
    return list(ids), np.asarray(numbers, np.int64)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest of [rows, classes] finite scores, best first, ties by lower index.

    Returns:
      [rows, min(k, classes)] int.
    """
    k = min(k, scores.shape[1])
    if k <= 5:
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
    return softmax(logit_scale * (image_features @ class_features.T).astype(np.float64), axis=1)


def sum_groups(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Adds up the columns of [n, c] scores that share a group number: [n, groups]."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    return np.add.reduceat(scores[:, order], starts, axis=1)


def cosine_chunks(
    image_features: np.ndarray, class_features: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Stretches of images with their cosines to all classes, [images, c] float32, to be changed."""
    size = max(1, CHUNK_ELEMENTS // max(1, len(class_features)))
    for start in range(0, len(image_features), size):
        rows = slice(start, start + size)
        yield rows, image_features[rows] @ class_features.T


def log_counts(counts: np.ndarray) -> np.ndarray:
    """Of numbers that are not negative; what was never counted is taken for counted once."""
    return np.log(np.maximum(counts, 1))


def lineage_counts(counts: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """What the counts of names add up to in each lineage, with 1 for a name never counted.

    Args:
      counts: [names] numbers, not negative.
      groups: [names] int, the lineage of each.

    Returns:
      [lineages] float64.
    """
    return np.bincount(groups, np.maximum(counts, 1).astype(np.float64))


def with_prior(
    image_features: np.ndarray,
    name_features: np.ndarray,
    counts: np.ndarray,
    factor: float,
    which: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Both kinds of features with one more number, by which a cosine grows with a name's count.

    A logit is then logit_scale · cosine + strength · log count, what is known of the names before
    any picture is seen; a name that was never counted is taken for one counted once.

    Args:
      image_features: [n, dim] float32.
      name_features: [names, dim] float32.
      counts: [names] numbers, not negative; or of several priors [priors, names].
      factor: the strength over the logit scale.
      which: [n] int, the one of several that is a picture's: each is one more number.
    """
    counts = np.atleast_2d(counts)
    own = np.zeros(len(image_features), np.int64) if which is None else which
    is_own = (own[:, None] == np.arange(len(counts))).astype(image_features.dtype)
    bonus = factor * log_counts(counts).T
    return (
        np.concatenate([image_features, is_own], axis=1),
        np.concatenate([name_features, bonus.astype(name_features.dtype)], axis=1),
    )


def nearest(image_features: np.ndarray, class_features: np.ndarray) -> np.ndarray:
    """The class with the largest cosine for every image, [n] int."""
    answers = np.zeros(len(image_features), np.int64)
    for rows, cosines in cosine_chunks(image_features, class_features):
        answers[rows] = cosines.argmax(axis=1)
    return answers
