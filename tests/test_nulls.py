"""What so few cases can show, and what is left of a p-value among many."""

from types import SimpleNamespace

import numpy as np
import pytest

from bioclip2_jax.analysis import between, nulls
from bioclip2_jax.measures.scores import unit


def test_many_p_values_are_adjusted_column_by_column():
    rows = [
        SimpleNamespace(first=0.01, other=0.5),
        SimpleNamespace(first=0.04, other=None),
        SimpleNamespace(second=0.03),
        SimpleNamespace(second=0.2),
    ]
    found = nulls.adjusted(rows, [("first", "second"), ("other",)])
    # Benjamini and Hochberg: p n / rank, never above that of a larger p.
    expected = [0.04, 0.16 / 3, 0.16 / 3, 0.2]
    assert [value for row in found for value in row.values()] == pytest.approx(expected)
    assert [list(row) for row in found] == [["first"], ["first"], ["second"], ["second"]]


def test_the_value_that_is_needed_has_a_p_of_five_hundredths():
    rng = np.random.default_rng(0)
    null = rng.normal(size=99)
    bar = nulls.needed(null)
    assert nulls.p_value(np.append(bar + 1e-6, null)) <= 0.05 < nulls.p_value(np.append(bar, null))
    assert nulls.needed(null[:18]) == np.inf  # 1 of 19 is more
    assert nulls.needed(null[:19]) == null[:19].max()


def test_arrangements_are_counted_without_those_that_are_the_same():
    assert nulls.arrangements(np.asarray([1.0, 1.0, 2.0, 3.0])) == 12
    assert nulls.arrangements(np.arange(6), np.arange(6) // 2) == 8
    assert nulls.divisions(np.asarray(list("aabbcc"))) == 15


def test_six_species_in_three_families_are_told_what_they_cannot_show():
    rng = np.random.default_rng(1)
    features, clades = unit(rng.normal(size=(6, 8))), np.arange(6) // 2
    found = between.continuous_trait(features, np.arange(6.0), clades, permutations=99)
    few, bar = found.cautions
    assert few == (
        "values inside the clades can be dealt in 8 ways only, so that p cannot fall below 0.125"
    )
    assert bar.startswith("the held-out correlation must exceed 0.") and "half of such sets" in bar
    labels = between.discrete_trait(features, [0, 1, 0, 1, 0, 1], clades, permutations=99)
    few, bar = labels.cautions
    assert few == "labels can be dealt in 10 ways only, so that p cannot fall below 0.100"
    assert bar.startswith("the held-out accuracy must exceed 0.")


def test_many_species_are_told_nothing():
    rng = np.random.default_rng(2)
    features = unit(rng.normal(size=(90, 8)))
    found = between.continuous_trait(
        features, rng.normal(size=90), np.arange(90) // 6, permutations=99
    )
    assert found.cautions == []
