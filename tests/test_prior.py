"""Priors over names: what they change, and which strength fits."""

import numpy as np
import pytest
from scipy.special import softmax

from bioclip2_jax.measures import prior
from bioclip2_jax.measures.calibration import summary
from bioclip2_jax.measures.scores import unit

SCALE = 6.0
COUNTS = np.array([1000.0, 200, 40, 8, 2, 0])
LOGS = np.log(np.maximum(COUNTS, 1))


def world(n: int, strength: float) -> tuple:
    """Pictures whose true names are drawn from the probabilities that a prior makes."""
    rng = np.random.default_rng(0)
    images = unit(rng.normal(size=(n, 6))).astype(np.float32)
    names = np.eye(6, dtype=np.float32)
    drawn = softmax(SCALE * images @ names.T + strength * LOGS, axis=1)
    labels = (drawn.cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)
    return images, labels, names, SCALE, COUNTS


def fit(n: int, strength: float) -> prior.PriorFit:
    found = prior.fit(*world(n, strength), commonest=0, keys=[f"{i}.jpg" for i in range(n)])
    assert found
    return found


def test_points_are_those_of_the_whole_softmax(monkeypatch):
    monkeypatch.setattr("bioclip2_jax.measures.scores.CHUNK_ELEMENTS", 100)  # several stretches
    images, labels, names, scale, counts = world(40, 0.5)
    told = prior.points(
        images, labels, names, scale, counts, commonest=1, strengths=(1, 0.25, 0, 0)
    )
    assert [point.strength for point in told] == [0, 0.25, 1]
    for point in told:
        shares = softmax(scale * images @ names.T + point.strength * LOGS, axis=1)
        right = shares.argmax(axis=1) == labels
        assert point.top1 == right.mean()
        each = [right[labels == name].mean() for name in np.unique(labels)]
        assert point.macro_top1 == pytest.approx(np.mean(each))
        assert point.commonest_top1 == right[labels == 1].mean()
        assert point.nll == pytest.approx(-np.log(shares[range(40), labels]).mean(), rel=1e-5)
        assert point.ece == pytest.approx(summary(shares.max(axis=1), right).ece, abs=1e-5)
    assert told[0].top1 != told[-1].top1


def test_the_strength_that_made_the_pictures_is_found_and_judged_on_the_others():
    found = fit(5000, 0.6)
    assert found.strength == pytest.approx(0.6, abs=0.05) and not found.caution
    assert (found.num_fitted, found.num_judged) == (2500, 2500)
    arguments = world(5000, 0.6)
    rows = prior.halves([f"{i}.jpg" for i in range(5000)])[1]
    judged = (arguments[0][rows], arguments[1][rows], *arguments[2:])
    told = prior.points(*judged, commonest=0, strengths=(0.0, found.strength))
    assert [found.before, found.after] == told
    assert found.after.ece < found.before.ece and found.after.top1 > found.before.top1


def test_where_no_prior_fits_none_is_given():
    found = fit(3000, -0.5)  # rare ones are on more pictures
    assert found.strength == 0 and found.before == found.after
    assert found.caution == "no strength is better than none"
    assert fit(40, 3.0).caution == (
        "the best strength lies at the bound of those that were looked at, and it was fitted on 20"
        " pictures"
    )


def test_halves_are_of_keys_not_of_their_order():
    keys = [f"{i}.jpg" for i in range(101)]
    fitted, judged = prior.halves(keys)
    assert sorted([*fitted, *judged]) == list(range(101)) and len(fitted) == 50
    assert list(fitted) != sorted(fitted)
    turned = prior.halves(keys[::-1])[0]
    assert {keys[row] for row in fitted} == {keys[::-1][row] for row in turned}
