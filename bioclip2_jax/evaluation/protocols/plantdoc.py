"""PlantDoc: diseases of plants from one example each (Singh et al. 2020).

Protocol of BioCLIP 2: in each of five draws one training picture a class; features centred by the
mean of those and normalised again, the nearest of them names every test picture (SimpleShot). In
the code's first release one generator makes all the draws and features are not of length 1; the
later one seeds it for each.
"""

from dataclasses import dataclass

import numpy as np

from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation.protocols.parts import Parts
from bioclip2_jax.measures.accuracy import class_average
from bioclip2_jax.measures.scores import unit


@dataclass(frozen=True, kw_only=True)
class PlantDocScores:
    """Result of `plantdoc`.

    Attributes:
      accuracy: over the test pictures.
      macro: averaged over their classes.
      support: the training rows drawn, by ascending class.
    """

    accuracy: float
    macro: float | None
    support: list[int]


def loader_order(count: int) -> np.ndarray:
    """The order in which PyTorch's loader hands out so many pictures after `manual_seed(0)`.

    The original draws among training pictures in this order, which is the reason why draws of the
    same seed differ from those of the folder's order. Both libraries have the Mersenne Twister:
    the fourth number of the first one seeds a second one, which swaps each place with a later one.
    """

    def numbers(seed: int, count: int) -> list[int]:
        return np.random.RandomState(seed).randint(0, 1 << 32, count, np.uint32).tolist()

    order = np.arange(count)
    for place, drawn in enumerate(numbers(numbers(0, 4)[3], count - 1)):
        other = place + drawn % (count - place)
        order[[place, other]] = order[[other, place]]
    return order


def plantdoc(parts: Parts, seed: int | np.random.RandomState) -> PlantDocScores:
    """Names the test pictures from one training picture a class.

    Args:
      parts: features, and labels [n] int.
      seed: of NumPy's generator, which shuffles the rows of every class, in ascending order of the
        classes; or the generator, for draws that follow one another.

    Raises:
      UserError: a class of the test has no training picture.
    """
    train_features, train_labels, test_features, test_labels = parts
    classes = np.unique(train_labels)
    unknown = np.setdiff1d(test_labels, classes)
    if len(unknown):
        raise UserError(f"PlantDoc: class {unknown[0]} has test pictures but none to learn from")
    rng = np.random.RandomState(seed) if isinstance(seed, int) else seed
    support = []
    for label in classes:
        rows = np.flatnonzero(train_labels == label)
        rng.shuffle(rows)
        support.append(rows[0])
    rng.permutation(len(support))  # the original mixes them: the next draw begins behind that
    mean = train_features[support].mean(axis=0)
    centroids = unit(train_features[support] - mean)
    queries = unit(test_features - mean)
    # Squared Euclidean distance without the query's own norm, which is the same for all.
    distances = (centroids**2).sum(axis=1) - 2 * queries @ centroids.T
    right = classes[distances.argmin(axis=1)] == test_labels
    macro = class_average(right, test_labels)
    return PlantDocScores(accuracy=float(right.mean()), macro=macro, support=support)
