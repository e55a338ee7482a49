"""What a small head is worth: figures with intervals, a learning curve, and when to say nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, vstack

from bioclip2_jax.measures import choice, intervals
from bioclip2_jax.measures.accuracy import class_average
from bioclip2_jax.measures.choice import Recipe
from bioclip2_jax.measures.folds import draw
from bioclip2_jax.measures.intervals import Interval

LARGEST_K = 256
_DRAWS = 3  # a fold, where pictures are few
_JUDGED = 5000  # pictures of a fold that a point of the curve is judged on
_UNSEEN_ROWS, _UNSEEN_CLASSES = 5000, 20


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Accuracy and class average on pictures that were held out, with 95 % intervals."""

    accuracy: float
    accuracy_interval: Interval
    average: float
    average_interval: Interval


@dataclass(frozen=True, kw_only=True)
class Point:
    """Of a learning curve: means over folds, and 95 % intervals of these means.

    Attributes:
      k: pictures a class; of a class that has fewer, all.
      accuracy, average: the latter the class average.
      average_interval: Student's over the folds.
    """

    k: int
    accuracy: float
    average: float
    average_interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """When an answer is "unknown".

    Attributes:
      threshold: of the largest probability, below which it is.
      asked: share of pictures of known classes that were to be called unknown.
      share: that are, each fold by the threshold of the others.
      share_of_wrong: of those whose answer would be wrong.
      unseen: of pictures of a class, by a head that never saw the class, the mean over classes;
        None of two classes.
    """

    threshold: float
    asked: float
    share: float
    share_of_wrong: float | None
    unseen: float | None


def figures(
    answers: Mapping[str, np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray | None,
    seed: int,
    pair: tuple[str, str] | None = None,
) -> tuple[dict[str, Figure], Interval | None]:
    """Figures of several answers to the same pictures, by one bootstrap of all.

    Args:
      answers: name → [n] int.
      labels: [n] int.
      groups: [n] int, drawn whole; None draws pictures.
      seed: of the drawing.
      pair: of two of them, whose class averages are compared.

    Returns:
      name → figures, and the interval of the difference of the pair's class averages.
    """
    clusters = (
        np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    )
    classes, count = int(labels.max()) + 1, int(clusters.max()) + 1

    def table(values: np.ndarray) -> csr_matrix:
        return csr_matrix((values.astype(float), (labels, clusters)), (classes, count))

    rows = [table(found == labels) for found in answers.values()]
    stacked = csr_matrix(vstack([table(np.ones(len(labels))), *rows]))

    def estimate(drawn: np.ndarray) -> np.ndarray:
        sums = np.asarray(stacked @ drawn).reshape(-1, classes)
        present = sums[0] > 0
        accuracy = sums[1:].sum(axis=1) / sums[0].sum()
        average = (sums[1:, present] / sums[0, present]).mean(axis=1)
        gap = [] if not pair else [average[names.index(pair[0])] - average[names.index(pair[1])]]
        return np.concatenate([accuracy, average, gap])

    names = list(answers)
    values = estimate(np.ones(count))
    found = intervals.bootstrap(estimate, count, seed)
    made = {}
    for number, name in enumerate(names):
        other = number + len(names)
        made[name] = Figure(
            accuracy=float(values[number]),
            accuracy_interval=intervals.widened(found[number], count),
            average=float(values[other]),
            average_interval=intervals.widened(found[other], count),
        )
    return made, found[-1] if pair else None


def learning_curve(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    recipe: Recipe,
    cosines: np.ndarray | None,
    seed: int,
) -> list[Point]:
    """What heads of that recipe are worth with 1, 2, 4 … pictures a class.

    Up to what the middle class has in training; each fold is judged by draws from the others, its
    settings as they were chosen on all.

    Args:
      features: [n, dim] float32, L2-normalised.
      labels: [n] int.
      folds: [n] int.
      recipe: that was chosen.
      cosines: [n, classes] float32, if it is a mixture.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    classes, count = int(labels.max()) + 1, int(folds.max()) + 1
    most = min(LARGEST_K, int(np.median(np.bincount(labels)) * (count - 1) / count))
    points = []
    for k in (2**power for power in range(most.bit_length())):
        scores = []
        for fold in range(count):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            test = rng.permutation(test)[:_JUDGED]
            for _ in range(_DRAWS if k <= 16 else 1):
                rows = train[draw(labels[train], k, rng)]
                head = choice.fit(features[rows], labels[rows], classes, recipe)
                own = None if cosines is None else cosines[test]
                found = recipe.log_probabilities(head.logits(features[test]), own).argmax(axis=1)
                right = found == labels[test]
                scores.append((fold, right.mean(), class_average(right, labels[test])))
        numbers, accuracy, average = map(np.asarray, zip(*scores, strict=True))
        by_fold = np.bincount(numbers, average) / np.bincount(numbers)
        points.append(
            Point(
                k=k,
                accuracy=float(accuracy.mean()),
                average=float(by_fold.mean()),
                average_interval=intervals.student(by_fold),
            )
        )
    return points


def unknown(
    confidence: np.ndarray,
    right: np.ndarray,
    folds: np.ndarray,
    share: float,
    unseen: tuple[np.ndarray, np.ndarray] | None = None,
) -> Unknown:
    """The threshold below which so large a share of known pictures lies.

    Args:
      confidence: [n] float, the largest probability of held-out pictures.
      right: [n] bool, whether the answer is right.
      folds: [n] int.
      share: of known pictures to be called unknown.
      unseen: (confidence, class) of pictures of classes that the head never saw.
    """
    threshold = _at(confidence, share)
    called = np.zeros(len(folds), bool)
    for fold in np.unique(folds):
        inside = folds == fold
        called[inside] = confidence[inside] < _at(confidence[~inside], share)
    return Unknown(
        threshold=threshold,
        asked=share,
        share=float(called.mean()),
        share_of_wrong=None if right.all() else float(called[~right].mean()),
        unseen=None if unseen is None else class_average(unseen[0] < threshold, unseen[1]),
    )


def _at(confidence: np.ndarray, share: float) -> float:
    """The value below which no more than that share lies."""
    return float(np.quantile(confidence, share, method="lower"))


def unseen_confidence(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    recipe: Recipe,
    cosines: np.ndarray | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """What heads say of pictures of a class that is struck off, each class in its turn.

    Of at most so many classes and rows; arguments as of `learning_curve`.

    Returns:
      (largest probabilities, classes) of pictures of the first fold; None of two classes.
    """
    rng = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    if classes < 3:
        return None
    train = rng.permutation(np.flatnonzero(folds != 0))[:_UNSEEN_ROWS]
    confidence, of = [], []
    for label in np.sort(rng.permutation(classes)[:_UNSEEN_CLASSES]):
        test = np.flatnonzero((folds == 0) & (labels == label))[:_UNSEEN_ROWS]
        rows, others = train[labels[train] != label], np.arange(classes) != label
        names = np.unique(labels[rows])
        if not len(test) or len(names) < 2:
            continue
        head = choice.fit(features[rows], labels[rows], classes, recipe)
        own = None if cosines is None else cosines[test][:, others]
        logits = head.logits(features[test])[:, others]
        confidence.append(np.exp(recipe.log_probabilities(logits, own).max(axis=1)))
        of.append(labels[test])
    return (np.concatenate(confidence), np.concatenate(of)) if of else None
