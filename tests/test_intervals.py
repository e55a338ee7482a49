"""Intervals of shares: between 0 and 1, around the share, narrower with more cases."""

import pytest

from bioclip2_jax.measures.intervals import wilson


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
