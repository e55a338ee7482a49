"""Whether one model is better than another on the same images, or luckier."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 1000


@dataclass(frozen=True)
class Paired:
    """Result of `paired` on n images; differences are the second model's less the first's.

    Attributes:
      first, second: accuracy of each, over all trials.
      difference, interval: of those, and the 95 % bootstrap interval.
      macro_difference, macro_interval: the same of the class-averaged accuracies.
      first_only, second_only: images on which that model was right more often than the other.
      p: of the exact two-sided sign test of those two counts against one half; where each image
        was asked once that is McNemar's exact test.
    """

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    macro_difference: float
    macro_interval: tuple[float, float]
    first_only: int
    second_only: int
    p: float


def paired(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    trials: np.ndarray | None = None,
    seed: int = 0,
) -> Paired:
    """Compares two models image by image.

    Resamples draw images with replacement, the same for both models; a class that a resample misses
    is left out of that resample's class average.

    Args:
      first, second: [n] int, how often each model was right.
      labels: [n] int, class of every image.
      trials: [n] int, how often each image was asked, once or more; None for once.
      seed: of the resampling.

    Raises:
      ValueError: there is no image.
    """
    if not len(labels):
        raise ValueError("no images to compare on")
    trials = np.ones(len(labels)) if trials is None else np.asarray(trials, float)
    hits = np.stack([first, second]).astype(float)
    present, own = np.unique(labels, return_inverse=True)

    def estimate(weights: np.ndarray) -> np.ndarray:
        """[2, 2]: micro and macro accuracy of each model."""
        asked = np.bincount(own, weights * trials, len(present))
        kept = asked > 0
        found = []
        for each in hits:
            right = np.bincount(own, weights * each, len(present))
            found.append([right.sum() / asked.sum(), np.mean(right[kept] / asked[kept])])
        return np.asarray(found)

    count = len(labels)
    rng = np.random.default_rng(seed)
    draws = np.stack(
        [
            np.diff(estimate(np.bincount(rng.integers(count, size=count), minlength=count)), axis=0)
            for _ in range(RESAMPLES)
        ]
    )[:, 0]
    (micro, macro), (other_micro, other_macro) = estimate(np.ones(count)).tolist()
    low, high = np.percentile(draws, [2.5, 97.5], axis=0).tolist()
    one, other = int((hits[0] > hits[1]).sum()), int((hits[1] > hits[0]).sum())
    return Paired(
        micro,
        other_micro,
        other_micro - micro,
        (low[0], high[0]),
        other_macro - macro,
        (low[1], high[1]),
        one,
        other,
        float(binomtest(one, one + other).pvalue) if one + other else 1.0,
    )
