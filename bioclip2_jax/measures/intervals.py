"""95 % intervals: of any estimate by the percentile bootstrap (Efron 1979), and of shares."""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
MIN_CASES = 3  # with fewer, nothing is known of how they vary

Interval = tuple[float, float]


def bootstrap(
    estimate: Callable[[np.ndarray], np.ndarray], count: int, seed: int
) -> list[Interval]:
    """Intervals of estimates from cases that are resampled with replacement.

    Args:
      estimate: [count] int, how often each case was drawn → [estimates] float.
      count: of cases.
      seed: of the resampling.

    Returns:
      (low, high) of every estimate.
    """
    rng = np.random.default_rng(seed)
    draws = [
        estimate(np.bincount(rng.integers(count, size=count), minlength=count))
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(draws, [2.5, 97.5], axis=0).tolist()
    return list(zip(low, high, strict=True))


def widened(interval: Interval, count: int) -> Interval:
    """The interval of a share; Wilson's of so many cases where none or all are hits.

    What is drawn from cases that are all alike is like them, so that the bootstrap has no width.
    """
    low, high = interval
    return wilson(round(high) * count, count) if low == high and high in (0, 1) else interval


def widened_difference(interval: Interval, count: int) -> Interval:
    """The interval of the difference of two shares of the same cases, as `widened`.

    Where both agree on all of n cases, or one is right and the other wrong in all, it is that of
    Tango's score test (1998), whose equation then has these solutions.
    """
    low, high = interval
    if low != high or low not in (-1, 0, 1):
        return interval
    room = wilson(0, count)[1]  # z² / (n + z²)
    return (-room, room) if low == 0 else (max(low - 2 * room, -1), min(low + 2 * room, 1))


def over_draws(value: float, interval: Interval, draws: Sequence[float]) -> Interval | None:
    """The interval of a mean over draws, such as of supports, that is to hold for further draws.

    What `interval` says of the cases and Student's interval of the draws are independent, so that
    their half-widths add up in squares. What a case and a draw do together counts in both, which
    makes it a little wide.

    Args:
      value: the mean.
      interval: over the cases, the draws as they are.
      draws: the value of each; none of fewer than three.
    """
    among = student(np.asarray(draws))
    if among is None:
        return None
    half = (among[1] - among[0]) / 2
    low, high = (abs(bound - value) for bound in interval)
    return max(value - float(np.hypot(low, half)), 0), min(value + float(np.hypot(high, half)), 1)


def wilson(hits: int, count: int) -> Interval:
    """Score interval of the share of hits among so many cases (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def student(values: np.ndarray) -> Interval | None:
    """Interval of the mean of what cases vary around (Student 1908); None for fewer than three."""
    if len(values) < MIN_CASES:
        return None
    mean, error = values.mean(), values.std(ddof=1) / len(values) ** 0.5
    half = student_quantile(len(values) - 1) * error
    return float(mean - half), float(mean + half)


def student_quantile(freedom: float) -> float:
    """Upper 2.5 % point of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
