"""Whether one model is better than another on the same images, or luckier."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from bioclip2_jax.measures.intervals import Interval, bootstrap, widened_difference


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Result of `paired` on n images; differences are the second model's less the first's.

    Attributes:
      first, second: accuracy of each, over all trials.
      difference, interval: of those, and the 95 % bootstrap interval; Tango's where the models
        differ on no image, or alike on all.
      macro_difference, macro_interval: the same of the class-averaged accuracies.
      first_only, second_only: images on which that model was right more often than the other.
      p: of the exact two-sided sign test of those two counts against one half; where each image
        was asked once that is McNemar's exact test.
    """

    first: float
    second: float
    difference: float
    interval: Interval
    macro_difference: float
    macro_interval: Interval
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
      first, second: [n] numbers, how often each model was right, or a figure between 0 and 1.
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
        right = np.stack([np.bincount(own, weights * each, len(present)) for each in hits])
        macro = np.mean(right[:, asked > 0] / asked[asked > 0], axis=1)
        return np.stack([right.sum(axis=1) / asked.sum(), macro], axis=1)

    (micro, macro), (other_micro, other_macro) = estimate(np.ones(len(labels))).tolist()
    bounds = bootstrap(lambda weights: np.diff(estimate(weights), axis=0)[0], len(labels), seed)
    interval, macro_interval = (widened_difference(each, len(labels)) for each in bounds)
    first_only, second_only = int((hits[0] > hits[1]).sum()), int((hits[1] > hits[0]).sum())
    told_apart = first_only + second_only
    return Paired(
        first=micro,
        second=other_micro,
        difference=other_micro - micro,
        interval=interval,
        macro_difference=other_macro - macro,
        macro_interval=macro_interval,
        first_only=first_only,
        second_only=second_only,
        p=float(binomtest(first_only, told_apart).pvalue) if told_apart else 1.0,
    )
