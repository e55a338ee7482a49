"""Claims about scale: slopes that are planted, tests that keep their word, corrections."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import wilcoxon

from bioclip2_jax.analysis import hypotheses
from bioclip2_jax.analysis.hypotheses import answer, detectable, hodges_lehmann, holm, signed_rank
from bioclip2_jax.evaluation.experiments import Claim, Measures, Row

SCALES = ((4, 100, 10), (8, 400, 40), (16, 1600, 160), (32, 6400, 640))
NOTHING = Measures(
    zero_shot_chance=0.1,
    effective_rank=1.0,
    inherited_seen=0.0,
    inherited_unseen=0.0,
    convergent_seen=0.0,
    convergent_unseen=0.0,
)
RISES = Claim(name="rises", claim="it rises", measure="inherited_seen", sign=1, least=0.01)


def row(seed: int, scale: tuple[int, int, int] = SCALES[0], **others) -> Row:
    """A model of the paper's kind that measures nothing."""
    species, images, steps = scale
    values = {"world": "factors", "captions": "hierarchical", "replay": True, "grows": "all"}
    sizes = {"species": species, "images": images, "steps": steps, "seed": seed}
    return Row(**values | sizes | vars(NOTHING) | others)


def study(slopes: np.ndarray, measure: str = "inherited_seen", **others) -> list[Row]:
    """A tree for each slope a doubling of pictures, without noise."""
    return [
        row(seed, scale, **{measure: slope * np.log2(scale[1])}, **others)
        for (seed, slope), scale in itertools.product(enumerate(slopes), SCALES)
    ]


def test_planted_slopes_are_found_and_answered():
    slopes = 0.05 + 0.01 * np.arange(12)
    (found,) = answer([RISES], study(slopes))
    assert found.trees == pytest.approx(slopes) and found.slope == pytest.approx(slopes.mean())
    assert found.p == pytest.approx(2 / 2**12) and found.holds and found.verdict == "holds"
    (falls,) = answer([dataclasses.replace(RISES, sign=-1)], study(slopes))
    assert not falls.holds and falls.refuted and falls.verdict == "the opposite holds"
    (none,) = answer([RISES], study(0.001 * (-1.0) ** np.arange(12)))
    assert not none.holds and none.refuted and none.verdict == "refuted"
    (wide,) = answer([RISES], study(0.1 * (-1.0) ** np.arange(12)))
    assert wide.verdict == "open" and wide.detectable > RISES.least


def test_what_cannot_be_known_is_open():
    (found,) = answer([RISES], [])
    assert found.slope is None and found.interval is None and found.verdict == "open"
    (unknown,) = answer([dataclasses.replace(RISES, measure="rho_sex")], study(np.ones(12)))
    assert unknown.trees == [] and unknown.p == 1


def test_others_are_subtracted():
    rows = study(np.full(6, 0.3)) + study(np.full(6, 0.1), captions="flat")
    (found,) = answer([dataclasses.replace(RISES, against="flat")], rows)
    assert found.trees == pytest.approx([0.2] * 6)
    rows = [dataclasses.replace(one, halves_sex=0.5, null_sex=one.inherited_seen) for one in rows]
    claim = dataclasses.replace(RISES, measure="halves_sex", beside="null_sex")
    assert answer([claim], rows)[0].trees == pytest.approx([-0.3] * 6)


def test_theory_and_pictures_stand_beside_the_answer():
    rows = study(np.full(6, 0.3)) + study(np.full(3, 0.2), world="theory", replay=False)
    rows += [one for one in study([0.1], world="pictures") if one.images in (100, 6400)]
    (found,) = answer([RISES], rows)
    assert found.predicted == pytest.approx(0.2) and found.in_pictures == pytest.approx(0.1)


def test_where_one_grows_alone_the_factorial_is_one_of_its_scales():
    middle = SCALES[1]
    alone = [(species, *middle[1:]) for species, _, _ in SCALES]
    rows = [row(0, middle, replay=False, inherited_seen=np.log2(middle[0]))]
    rows += [row(0, SCALES[0], replay=False, inherited_seen=9.0)]  # of another line
    rows += [
        row(0, scale, replay=False, grows="species", inherited_seen=np.log2(scale[0]))
        for scale in alone
        if scale != middle
    ][:2]
    claim = dataclasses.replace(RISES, grows="species", replay=False)
    assert answer([claim], rows)[0].trees == pytest.approx([1.0])


def test_the_interval_holds_what_the_test_does_not_reject():
    values = np.random.default_rng(3).normal(0.4, 1, size=12)
    middle, (low, high) = hodges_lehmann(values)
    assert low < middle < high
    for bound, outwards in ((low, -1e-6), (high, 1e-6)):
        assert wilcoxon(values - bound - outwards, method="exact").pvalue <= 0.05
        assert wilcoxon(values - bound + outwards, method="exact").pvalue > 0.05
    assert hodges_lehmann(values[:5])[1] is None and signed_rank(values[:2]) == 1


def test_holm_is_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_few_studies_of_nothing_find_anything():
    rng = np.random.default_rng(0)
    # Heavy tails, as a share of what hardly differs has them.
    p = [[signed_rank(v) for v in rng.standard_t(2, size=(8, 12))] for _ in range(150)]
    assert np.mean(np.asarray(p) <= 0.05) < 0.06
    assert np.mean([min(holm(row)) <= 0.05 for row in p]) < 0.09


def test_five_trees_cannot_reach_the_level_and_twelve_can():
    assert np.isinf(detectable(5, 0.05)) and np.isinf(detectable(8, 0.05 / 16))
    needed = detectable(12, 0.05 / 16)
    assert 1 < needed < 2 and detectable(24, 0.05 / 16) < needed
    rng = np.random.default_rng(1)
    found = [signed_rank(rng.normal(needed, 1, 12)) <= 0.05 / 16 for _ in range(200)]
    assert np.mean(found) == pytest.approx(hypotheses.POWER, abs=0.09)
