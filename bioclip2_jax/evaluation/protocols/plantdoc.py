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
      accuracy: mean over the draws.
      macro: the same, averaged over the classes in each draw.
      std: population standard deviation over them.
      folds: [repeats] float, accuracy of each draw.
      support: [repeats, classes] int, the training rows drawn, by ascending class.
    """

    accuracy: float
    macro: float
    std: float
    folds: np.ndarray
    support: np.ndarray


def plantdoc(parts: Parts, repeats: int = 5) -> PlantDocScores:
    """Names the test pictures from one training picture a class.

    Args:
      parts: features of length 1, and labels [n] int.
      repeats: draws; draw r shuffles the rows of every class, in ascending order of the classes,
        with NumPy's generator seeded by r.

    Raises:
      UserError: a class of the test has no training picture.
    """
    train_features, train_labels, test_features, test_labels = parts
    classes = np.unique(train_labels)
    unknown = np.setdiff1d(test_labels, classes)
    if len(unknown):
        raise UserError(f"PlantDoc: class {unknown[0]} has test pictures but none to learn from")
    folds, averages, supports = [], [], []
    for repeat in range(repeats):
        rng = np.random.RandomState(repeat)
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
        folds.append(right.mean())
        averages.append(class_average(right, test_labels))
        supports.append(support)
    return PlantDocScores(
        accuracy=float(np.mean(folds)),
        macro=float(np.mean(averages)),
        std=float(np.std(folds)),
        folds=np.asarray(folds),
        support=np.asarray(supports),
    )
