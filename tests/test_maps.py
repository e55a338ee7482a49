"""Vectors in two dimensions: a place for each, the main axis first, the same every time."""

import numpy as np
import pytest

from bioclip2_jax.measures.maps import flat_map, principal_map


@pytest.mark.parametrize("count", [1, 2, 9, 10, 40])
def test_every_vector_has_a_place(count):
    features = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    for places in (flat_map(features), principal_map(features)):
        assert places.shape == (count, 2) and np.isfinite(places).all()
    assert np.array_equal(flat_map(features), principal_map(features)) == (count < 10)


def test_the_main_axis_comes_first_and_its_direction_is_not_left_to_chance():
    rng = np.random.default_rng(0)
    axis = np.array([0.1, 0.2, 0.9, -0.3])
    along = rng.normal(size=60)
    features = 0.1 * rng.normal(size=(60, 4)) + along[:, None] * axis
    for given in (features, -features):  # the largest weight, 0.9, is positive either way
        places = principal_map(given)
        assert np.corrcoef(places[:, 0], given @ axis)[0, 1] > 0.95
        assert places[:, 0].std() > 5 * places[:, 1].std()


def test_the_seed_decides():
    features = np.random.default_rng(0).normal(size=(30, 6))
    np.testing.assert_array_equal(flat_map(features, 1), flat_map(features, 1))
