"""Answers down a tree: each rank is chosen among the children of the answer above it.

A child's score joins two sources. One is the sum of the probabilities of its species, as a share of
its parent's; the other is what its own name, asked for among its siblings', gets. Their logarithms
are averaged. A lineage whose name at that rank is unknown has no name to ask for and keeps the
share of its sum. The answers of one picture form a lineage by construction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, logsumexp

from bioclip2_jax.measures.scores import cosine_chunks, sum_groups


@dataclass(frozen=True, kw_only=True)
class TopDown:
    """Result of `top_down` on n images.

    Attributes:
      answers: rank → [n] int, the lineage answered there; the finest is of `classes`.
      classes: [n] int, the class that the path ends at.
    """

    answers: dict[str, np.ndarray]
    classes: np.ndarray


def top_down(
    image_features: np.ndarray,
    class_features: np.ndarray,
    logit_scale: float,
    rank_groups: Mapping[str, np.ndarray],
    prompted_features: Mapping[str, np.ndarray],
    named: Mapping[str, np.ndarray],
) -> TopDown:
    """Names every image from the coarsest rank down.

    Args:
      image_features: [n, dim] float32, L2-normalised.
      class_features: [classes, dim] float32, the same.
      logit_scale: the exponential of the learned parameter.
      rank_groups: rank → [classes] int, lineage number of every class, coarse ranks first, each a
        refinement of the one before (`accuracy.lineage_groups`).
      prompted_features: rank → [lineages, dim] float32, features of the lineages' own names.
      named: rank → [lineages] bool, whether a lineage has a name at that rank.
    """
    *ranks, last = rank_groups
    num_images = len(image_features)
    answers = {rank: np.zeros(num_images, np.int64) for rank in ranks}
    classes = np.zeros(num_images, np.int64)
    for part, cosines in cosine_chunks(image_features, class_features):
        logits = logit_scale * cosines.astype(np.float64)
        pictures = image_features[part]
        stretches = [(np.arange(len(pictures)), np.arange(len(class_features)))]
        for rank in ranks:
            groups, stretches_below = rank_groups[rank], []
            for rows, members in stretches:
                children, own = np.unique(groups[members], return_inverse=True)
                best = np.zeros(len(rows), np.int64)
                if len(children) > 1:
                    sums = _log_sums(logits[np.ix_(rows, members)], own)
                    shares = log_softmax(sums, axis=1)
                    if rank in prompted_features:
                        names = prompted_features[rank][children]
                        prompts = logit_scale * (pictures[rows] @ names.T).astype(np.float64)
                        shares = _joined(shares, prompts, named[rank][children])
                    best = shares.argmax(axis=1)
                answers[rank][part.start + rows] = children[best]
                stretches_below += [
                    (rows[best == child], members[own == child]) for child in np.unique(best)
                ]
            stretches = stretches_below
        for rows, members in stretches:
            best = logits[np.ix_(rows, members)].argmax(axis=1)
            classes[part.start + rows] = members[best]
    return TopDown(answers=answers | {last: rank_groups[last][classes]}, classes=classes)


def _log_sums(logits: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[n, members] logits → [n, children], the log of what each child's members add up to."""
    top = logits.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):  # under a strong prior a child may come to nothing
        return top + np.log(sum_groups(np.exp(logits - top), own))


def _joined(shares: np.ndarray, prompts: np.ndarray, named: np.ndarray) -> np.ndarray:
    """[n, children] scores of two sources, the second of those with a name alone."""
    if not named.any():
        return shares
    asked = shares.copy()
    of_named = logsumexp(shares[:, named], axis=1, keepdims=True)
    asked[:, named] = of_named + log_softmax(prompts[:, named], axis=1)
    return (shares + asked) / 2
