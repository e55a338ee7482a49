"""Names that the user gives, and bins of them."""

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bioclip2_jax.identify.label_features import features_of
from bioclip2_jax.identify.pybioclip.base import BaseClassifier, Picture, Progress, listed
from bioclip2_jax.identify.pybioclip.names import CLASSIFICATION, FILE_NAME, SCORE

_TEXTS = 256  # encoded at a time

Row = dict[str, Any]


class CustomLabelsClassifier(BaseClassifier):
    """Chooses among names, each in the 80 sentences of CLIP.

    Attributes:
      classes: the names, without outer blanks.
      txt_embeddings: [dim, names] float32, L2-normalised columns.
    """

    def __init__(self, cls_ary: Iterable[str], **kwargs: Any):
        """Encodes the names.

        Args:
          cls_ary: the names.
          **kwargs: of `BaseClassifier`, which see for the errors.
        """
        super().__init__(**kwargs)
        self.classes = [name.strip() for name in cls_ary]
        self.txt_embeddings = features_of(self.model, self.classes, _TEXTS).T

    def predict(
        self,
        images: Picture | Sequence[Picture],
        k: int | None = None,
        batch_size: int | None = 10,
        callback: Progress | None = None,
    ) -> list[Row]:
        """The k best names of each picture, the best first.

        Args:
          images: a path, or several, or pictures of Pillow.
          k: rows a picture; None for all.
          batch_size: pictures encoded at a time; None for all.
          callback: called with (pictures done, all) after each batch, in the place of a bar.

        Returns:
          Rows with "file_name" (of pictures without one their number), "classification", "score".

        Raises:
          OSError: a picture cannot be read.
        """
        images = listed(images)
        k = min(k or len(self.classes), len(self.classes))
        rows = [
            row
            for number, shares in self._probabilities(
                images, self.txt_embeddings, batch_size, callback
            )
            for row in self.group_probs(self.make_key(images[number], number), shares, k)
        ]
        self.record_event(images=images, k=k, batch_size=batch_size)
        return rows

    def group_probs(self, image_key: Any, img_probs: np.ndarray, k: int) -> list[Row]:
        """Rows of one picture.

        Args:
          image_key: what it is called.
          img_probs: [names] float32.
          k: rows.
        """
        best = np.argsort(-img_probs, kind="stable")[:k]
        return [_row(image_key, self.classes[place], float(img_probs[place])) for place in best]


class CustomLabelsBinningClassifier(CustomLabelsClassifier):
    """Chooses among bins, whose scores are the sums over their names.

    Attributes:
      cls_to_bin: name → bin.
    """

    def __init__(self, cls_to_bin: Mapping[str, Hashable], **kwargs: Any):
        """Encodes the names.

        Args:
          cls_to_bin: name → bin.
          **kwargs: of `BaseClassifier`.

        Raises:
          ValueError: a bin is empty, None or NaN.
        """
        # NaN alone differs from itself.
        empty = [name for name, bin_ in cls_to_bin.items() if not bin_ or bin_ != bin_]
        if empty:
            raise ValueError(f"{empty[0]!r} has no bin: every name needs one that is not empty")
        super().__init__(cls_ary=cls_to_bin, **kwargs)
        self.cls_to_bin = cls_to_bin
        self._bins = [cls_to_bin[name] for name in cls_to_bin]

    def group_probs(self, image_key: Any, img_probs: np.ndarray, k: int) -> list[Row]:
        """Rows of one picture; "classification" is the bin."""
        sums: dict[Any, Any] = dict.fromkeys(self._bins, np.float32(0))
        for bin_, share in zip(self._bins, img_probs, strict=True):
            sums[bin_] += share
        best = heapq.nlargest(k, sums, key=lambda bin_: float(sums[bin_]))
        return [_row(image_key, bin_, float(sums[bin_])) for bin_ in best]


def predict_classifications_from_list(
    img: Picture, cls_ary: Iterable[str], device: Any = "cpu"
) -> list[Row]:
    """All names for one picture, by BioCLIP 2; see `CustomLabelsClassifier`."""
    return CustomLabelsClassifier(cls_ary, device=device).predict([img])


def _row(key: Any, name: Any, share: float) -> Row:
    return {FILE_NAME: key, CLASSIFICATION: name, SCORE: share}
