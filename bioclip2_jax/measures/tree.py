"""Answers down a tree: each rank is chosen among the children of the answer above it.

A child's score joins two sources. One is the sum of the probabilities of its species, as a share of
its parent's; the other is what its own name, asked for among its siblings', gets. Their logarithms
are averaged. A lineage whose name at that rank is unknown has no name to ask for and keeps the
share of its sum. The answers of one picture form a lineage by construction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bioclip2_jax.measures.scores import cosine_chunks


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

    Raises:
      ValueError: `rank_groups` are no tree.
    """
    *ranks, last = rank_groups
    num_images = len(image_features)
    answers = {rank: np.zeros(num_images, np.int64) for rank in ranks}
    classes = np.zeros(num_images, np.int64)
    order, levels = tree_order(rank_groups, len(class_features))
    _, to_classes, _ = levels[0]
    to_classes = np.append(to_classes, len(order))
    for part, cosines in cosine_chunks(image_features, class_features):
        logits = np.multiply(np.take(cosines, order, axis=1), logit_scale, dtype=np.float64)
        sums = _log_sums(logits, [starts for _, starts, _ in levels])
        pictures = image_features[part]
        # What lies below an answer is a stretch of columns; at first that is everything.
        stretches = [(np.arange(len(pictures)), 0, len(levels[-1][1]))]
        for number, (rank, starts, numbers) in reversed(list(enumerate(levels))[1:]):
            bounds, below = np.append(starts, len(levels[number - 1][1])), []
            for rows, first, stop in stretches:
                children = numbers[first:stop]
                best = np.zeros(len(rows), np.int64)
                if len(children) > 1:
                    scores = sums[number - 1][rows, first:stop]
                    if rank in prompted_features:
                        names = prompted_features[rank][children]
                        prompts = logit_scale * (pictures[rows] @ names.T).astype(np.float64)
                        scores = _joined(scores, prompts, named[rank][children])
                    best = scores.argmax(axis=1)
                answers[rank][part.start + rows] = children[best]
                for child in np.unique(best):
                    place = first + child
                    below.append((rows[best == child], bounds[place], bounds[place + 1]))
            stretches = below
        for rows, first, stop in stretches:
            columns = slice(to_classes[first], to_classes[stop])
            members = np.argsort(order[columns])  # of equal ones the first on the list
            best = members[logits[rows, columns][:, members].argmax(axis=1)]
            classes[part.start + rows] = order[columns][best]
    return TopDown(answers=answers | {last: rank_groups[last][classes]}, classes=classes)


def tree_order(
    rank_groups: Mapping[str, np.ndarray], num_classes: int
) -> tuple[np.ndarray, list[tuple[str, np.ndarray, np.ndarray]]]:
    """How to add up class scores to lineages, from species to kingdom, each from the one below.

    Returns:
      The order of the classes in which every lineage is a stretch, and for each rank, the finest
      first, its name, where its lineages start among those of the rank below, and their numbers.

    Raises:
      ValueError: `rank_groups` are no tree.
    """
    # `lexsort` takes the most important key last.
    order = np.lexsort(list(rank_groups.values())[::-1]) if rank_groups else np.arange(num_classes)
    levels: list[tuple[str, np.ndarray, np.ndarray]] = []
    inner = np.arange(num_classes)  # where the lineages of the rank below start
    for rank, groups in reversed(list(rank_groups.items())):
        numbers = groups[order]
        own = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
        if len(own) != len(np.unique(groups)):
            raise ValueError(f"the groups of rank {rank} do not refine those of the rank above")
        if not np.isin(own, inner).all():
            raise ValueError(f"the groups of rank {levels[-1][0]} do not refine those of {rank}")
        levels.append((rank, np.searchsorted(inner, own), numbers[own]))
        inner = own
    return order, levels


def _log_sums(logits: np.ndarray, levels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of [n, classes] logits in the order of the tree: for all levels but the finest [n, columns].

    The log of what each lineage adds up to, the picture's likeliest class being 1.
    """
    sums, logs = logits - logits.max(axis=1, keepdims=True), []
    np.exp(sums, out=sums)
    for number, starts in enumerate(levels):
        if len(starts) < sums.shape[1]:
            sums = np.add.reduceat(sums, starts, axis=1)
        if number:
            # Under a strong prior a lineage may come to nothing.
            logs.append(np.log(np.maximum(sums, np.finfo(np.float64).tiny)))
    return logs


def _joined(sums: np.ndarray, prompts: np.ndarray, named: np.ndarray) -> np.ndarray:
    """[n, children] scores of two sources, the second of those with a name alone.

    To a constant of each picture, which changes no order: logs of sums, and logits of prompts.
    """
    if named.all():
        return sums + prompts
    asked = sums.copy()
    if named.any():
        own = prompts[:, named]
        asked[:, named] = (own - _log_total(own)) + _log_total(sums[:, named])
    return sums + asked


def _log_total(logs: np.ndarray) -> np.ndarray:
    """[n, k] → [n, 1], the log of what they are the logs of, added up."""
    top = logs.max(axis=1, keepdims=True)
    return top + np.log(np.exp(logs - top).sum(axis=1, keepdims=True))
