"""Intervals of shares: between 0 and 1, around the share, narrower with more cases."""

import numpy as np
import pytest
from scipy.optimize import brentq

from bioclip2_jax.measures.intervals import over_draws, student, widened_difference, wilson


def test_the_interval_of_a_share_is_that_of_the_textbook():
    # Agresti and Coull 1998, section 1: centre (p + z²/2n) / (1 + z²/n), of 1 in 10.
    z2 = 1.959964**2
    centre, half = (0.1 + z2 / 20) / (1 + z2 / 10), (z2 * (0.009 + z2 / 400)) ** 0.5
    low, high = wilson(1, 10)
    assert (low + high) / 2 == pytest.approx(centre, abs=1e-6)
    assert (high - low) / 2 == pytest.approx(half / (1 + z2 / 10), abs=1e-6)


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_none_and_all_of_the_cases_leave_room_on_one_side(count):
    (low, high), (other_low, other_high) = wilson(0, count), wilson(count, count)
    assert low == 0 < high < 1 and (other_low, other_high) == pytest.approx((1 - high, 1))


def tango(second_only: int, count: int, sign: int) -> float:
    """A bound of the paired difference, by the score test's own equation (Tango 1998).

    No case is right for the first alone, so that its quadratic has no constant part.
    """

    def score(gap: float) -> float:
        share = max(second_only - (2 * count - second_only) * gap, 0) / (2 * count)
        variance = count * (2 * share + gap * (1 - gap))
        return second_only - count * gap + sign * 1.959964 * variance**0.5

    return brentq(score, -1 + 1e-9, 1 - 1e-9)


@pytest.mark.parametrize("count", [3, 50])
def test_a_difference_without_width_gets_that_of_the_score_test(count):
    low, high = widened_difference((0.0, 0.0), count)
    assert high == -low == pytest.approx(tango(0, count, 1), abs=1e-6)
    low, high = widened_difference((1.0, 1.0), count)
    assert high == 1 and low == pytest.approx(tango(count, count, -1), abs=1e-6)
    assert widened_difference((-1.0, -1.0), count) == (-1, pytest.approx(-low))
    assert widened_difference((-0.1, 0.2), count) == (-0.1, 0.2)


def test_draws_widen_an_interval_in_squares():
    draws = [0.4, 0.5, 0.6]
    low, high = student(np.asarray(draws))
    found = over_draws(0.5, (0.45, 0.58), draws)
    half = (high - low) / 2
    assert found == pytest.approx((0.5 - np.hypot(0.05, half), 0.5 + np.hypot(0.08, half)))
    assert over_draws(0.5, (0.45, 0.58), draws[:2]) is None
    assert over_draws(1.0, (0.9, 1.0), [1.0, 1.0, 1.0]) == pytest.approx((0.9, 1))
