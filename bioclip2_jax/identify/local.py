"""What a list of names is told of the places of pictures, and what it answers."""

from collections.abc import Hashable
from typing import NamedTuple, Protocol

import numpy as np

from bioclip2_jax.data.exif import Capture

Answer = tuple[tuple[str, ...], float]  # the cells of a name, and its score
Found = tuple[int, float, float]  # number of an answer, its score, and that without the place


class Local(Protocol):
    """What lives where; see `places.Places`.

    Attributes:
      strength: of its say.
    """

    strength: float

    def place_of(self, picture: str, capture: Capture | None) -> Hashable | None:
        """Where a picture was taken; None if nobody knows."""
        ...

    def weights(self, place: Hashable) -> np.ndarray:
        """[names] how likely each is there, compared with the least likely one, which has 1."""
        ...


class AtPlace(NamedTuple):
    """Answers for one picture with regard to its place; see `Prediction`."""

    answers: list[Answer]
    unweighted: tuple[float, ...]
    plain: list[Answer]


class Prior(NamedTuple):
    """Counts of names, [names] or several times [priors, names]; see `scores.with_prior`."""

    counts: np.ndarray
    strength: float
    which: np.ndarray | None = None
