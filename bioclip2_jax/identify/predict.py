"""Names for new pictures, chosen from a list of taxa or of free labels.

The score of a name is its share in softmax(exp(logit_scale) · cosine) over the list, each name in
the 80 sentences that pybioclip takes (the evaluation has one more, the original's). Above species
it is the sum over the taxa of a lineage, which names higher ranks better than asking for them.
"""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, reason
from bioclip2_jax.features.encode import embed_classes, embed_images
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.measures.accuracy import lineage_groups
from bioclip2_jax.measures.scores import number, probabilities, sum_groups, top_k, with_prior
from bioclip2_jax.measures.tree import top_down
from bioclip2_jax.text.templates import IMAGENET_TEMPLATES
from bioclip2_jax.weights.load import Model


@dataclass(frozen=True)
class Prediction:
    """The first answers for one picture; `error` instead if it could not be read."""

    file_name: str
    answers: list[tuple[tuple[str, ...], float]]
    error: str = ""


def predict(
    model: Model,
    paths: Sequence[str],
    labels: LabelSet,
    k: int = 5,
    batch_size: int = 32,
    *,
    decode: str = "flat",
    counts: np.ndarray | None = None,
    strength: float = 0.25,
) -> Iterator[Prediction]:
    """The k best names of every picture, in the order of `paths`.

    Args:
      model: from `load`.
      paths: picture files.
      labels: the closed list; `k` is clipped to its length.
      k: answers a picture.
      batch_size: pictures, and texts, encoded at a time.
      decode: "flat", or "top_down": the best name is the one that the tree leads to, see
        `measures.tree`, so that answers at several ranks are of one lineage; the others are those
        that share its lineage above.
      counts: [names], how often each is met, a prior of that `strength` (`scores.with_prior`).
    """
    size = max(batch_size, 128)
    groups, lineages = lineage_groups(labels.taxa) if decode == "top_down" else {}, {}
    for rank in list(groups)[:-1]:
        lineages[rank] = number([taxon.lineage(rank) for taxon in labels.taxa])[0]
    named = {rank: np.array([bool(line[-1]) for line in of]) for rank, of in lineages.items()}
    texts = [labels.names]
    texts += [[" ".join(filter(None, x)) or "unknown" for x in of] for of in lineages.values()]
    vectors = embed_classes(model, [t for part in texts for t in part], size, IMAGENET_TEMPLATES)
    label_features, *prompted = np.split(vectors, np.cumsum([len(part) for part in texts])[:-1])
    asked = dict(zip(lineages, prompted, strict=True))

    def weighed(features: np.ndarray, names: np.ndarray, own: np.ndarray | None = None) -> tuple:
        """Features of pictures and names with the prior; `own`: lineage of each label."""
        if counts is None:
            return features, names
        sums = counts if own is None else np.bincount(own, counts)
        return with_prior(features, names, sums, strength / model.logit_scale)

    def read(index: int) -> bytes:
        return buckets.read_bytes(files.place(paths[index]))

    for batch in embed_images(model, len(paths), read, batch_size):
        answers = {
            index: Prediction(file_name=paths[index], answers=[], error=error)
            for index, error in batch.bad
        }
        if batch.indices:
            features, names = weighed(batch.features, label_features)
            scores = probabilities(features, names, model.logit_scale)
            scores = sum_groups(scores, labels.groups)
            order = scores
            if groups:
                of_lineages = {r: weighed(batch.features, asked[r], groups[r])[1] for r in asked}
                down = top_down(
                    features, names, model.logit_scale, groups, of_lineages, named
                ).answers
                order = _beside(scores, down, groups, labels.rank)
            for index, row, above, best in zip(
                batch.indices, scores, order, top_k(order, k), strict=True
            ):
                listed = best[above[best] >= 0]
                pairs = [(labels.rows[group], float(row[group])) for group in listed]
                answers[index] = Prediction(file_name=paths[index], answers=pairs)
        yield from (answers[index] for index in sorted(answers))


def _beside(
    scores: np.ndarray, down: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray], rank: str
) -> np.ndarray:
    """[n, names] to put in order: the answers down the tree first, -1 for what is not beside them.

    Args:
      scores: [n, names] at `rank`.
      down: rank → [n] int, the answers.
      groups: rank → [classes] int, see `accuracy.lineage_groups`.
      rank: that is answered at.
    """
    order = scores.copy()
    place = list(groups).index(rank)
    if place:
        above = list(groups)[place - 1]
        parents = np.zeros(scores.shape[1], np.int64)
        parents[groups[rank]] = groups[above]
        order[parents[None, :] != down[above][:, None]] = -1
    np.put_along_axis(order, down[rank][:, None], 2, axis=1)
    return order


@contextmanager
def open_output(path: str) -> Iterator[TextIO]:
    """Standard output for "-"; otherwise a file that appears only once it is complete.

    Raises:
      UsageError: the file cannot be made.
    """
    if path == "-":
        yield sys.stdout
        return
    try:
        with files.writing(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            try:
                yield text
            finally:
                text.detach()  # which hands on what it holds; `writing` closes the file
    except OSError as error:
        why = error.strerror or reason(error)
        raise UsageError(f"--output {path}: cannot be written ({why})") from error
