"""PlantDoc: diseases of plants from one example each (Singh et al. 2020).

Protocol of BioCLIP 2: in each of five draws one training picture a class; features centred by the
mean of those and normalised again, the nearest of them names every test picture (SimpleShot).
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


def plantdoc(parts: Parts, seed: int) -> PlantDocScores:
    """Names the test pictures from one training picture a class.

    Args:
      parts: features of length 1, and labels [n] int.
      seed: of NumPy's generator, which shuffles the rows of every class, in ascending order of the
        classes.

    Raises:
      UserError: a class of the test has no training picture.
    """
    train_features, train_labels, test_features, test_labels = parts
    classes = np.unique(train_labels)
    unknown = np.setdiff1d(test_labels, classes)
    if len(unknown):
        raise UserError(f"PlantDoc: class {unknown[0]} has test pictures but none to learn from")
    rng = np.random.RandomState(seed)
    support = []
    for label in classes:
        rows = np.flatnonzero(train_labels == label)
        rng.shuffle(rows)
        support.append(rows[0])
    mean = train_features[support].mean(axis=0)
    centroids = unit(train_features[support] - mean)
    queries = unit(test_features - mean)
    # Squared Euclidean distance without the query's own norm, which is the same for all.
    distances = (centroids**2).sum(axis=1) - 2 * queries @ centroids.T
    right = classes[distances.argmin(axis=1)] == test_labels
    macro = class_average(right, test_labels)
    return PlantDocScores(accuracy=float(right.mean()), macro=macro, support=support)
