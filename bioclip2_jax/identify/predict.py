"""Names for new pictures, chosen from a list of taxa or of free labels.

The score of a name is its share in softmax(exp(logit_scale) · cosine) over the list, each name in
the 80 sentences that pybioclip takes (the evaluation has one more, the original's). Above species
it is the sum over the taxa of a lineage, which names higher ranks better than asking for them.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, reason
from bioclip2_jax.features.encode import embed_classes, embed_images
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.measures.scores import probabilities, sum_groups, top_k
from bioclip2_jax.text.templates import IMAGENET_TEMPLATES
from bioclip2_jax.weights.load import Model


@dataclass(frozen=True)
class Prediction:
    """The first answers for one picture; `error` instead if it could not be read."""

    file_name: str
    answers: list[tuple[tuple[str, ...], float]]
    error: str = ""


def predict(
    model: Model, paths: Sequence[str], labels: LabelSet, k: int = 5, batch_size: int = 32
) -> Iterator[Prediction]:
    """The k best names of every picture, in the order of `paths`.

    Args:
      model: from `load`.
      paths: picture files.
      labels: the closed list; `k` is clipped to its length.
      k: answers a picture.
      batch_size: pictures, and texts, encoded at a time.
    """
    label_features = embed_classes(model, labels.names, max(batch_size, 128), IMAGENET_TEMPLATES)

    def read(index: int) -> bytes:
        return buckets.read_bytes(files.place(paths[index]))

    for batch in embed_images(model, len(paths), read, batch_size):
        answers = {
            index: Prediction(file_name=paths[index], answers=[], error=error)
            for index, error in batch.bad
        }
        if batch.indices:
            scores = probabilities(batch.features, label_features, model.logit_scale)
            scores = sum_groups(scores, labels.groups)
            for index, row, best in zip(batch.indices, scores, top_k(scores, k), strict=True):
                pairs = [(labels.rows[group], float(row[group])) for group in best]
                answers[index] = Prediction(file_name=paths[index], answers=pairs)
        yield from (answers[index] for index in sorted(answers))


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
