"""Answers to claims about scale, by statistics that are settled before the rows are made.

A tree is one case. Its slope is that of a straight line through the scales, in the measure's unit a
doubling; whether the slopes of all trees lie on one side of zero is asked by Wilcoxon's signed-rank
test (1945), exact and two-sided, which takes them to be symmetric about their median and nothing
else. Five trees cannot reach 0.05 in it (2 / 2^5); twelve reach 0.0005, which leaves room for
Holm's correction (1979) over a family of claims. The slope that is reported, and its interval, are
those that belong to the test: Hodges and Lehmann (1963).

A claim holds where the corrected p is at most 0.05 and the sign is the claimed one. It is refuted
where the whole interval lies below the least slope that would matter; what is neither is open.
"""

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata, wilcoxon

from bioclip2_jax.evaluation.experiments import LEVEL, Claim, Hypothesis, Row
from bioclip2_jax.measures.intervals import MIN_CASES, Interval

GROWING = ("species", "images", "steps")
MIN_SCALES = 3  # of a tree, for a slope
POWER = 0.8
_STUDIES = 2000  # simulated, for the power


def answer(claims: Sequence[Claim], rows: Sequence[Row]) -> list[Hypothesis]:
    """What the rows say of each claim, those of a family corrected together.

    What Theorem 5.1's setting and the pictures say of it stands beside the answer.
    """
    rows = [*rows, *_shared(rows)]
    found = [_answer(claim, rows) for claim in claims]
    for family in {claim.family for claim in claims}:
        places = [place for place, one in enumerate(found) if one.family == family]
        corrected = holm([found[place].p for place in places])
        for place, p in zip(places, corrected, strict=True):
            one = found[place]
            agrees = one.slope is not None and one.sign * one.slope > 0
            power = None
            needed = detectable(len(one.trees), LEVEL / len(places))
            if math.isfinite(needed):
                power = needed * float(np.std(one.trees, ddof=1))
            found[place] = dataclasses.replace(
                one, p_corrected=p, holds=bool(agrees and p <= LEVEL), detectable=power
            )
    return found


def slopes(claim: Claim, rows: Sequence[Row], least: int = MIN_SCALES) -> dict[int, float]:
    """Tree → slope a doubling, of those with so many scales or more."""
    own = _slopes(claim, claim.captions, rows, least)
    if not claim.against:
        return own
    other = _slopes(claim, claim.against, rows, least)
    return {seed: slope - other[seed] for seed, slope in own.items() if seed in other}


def value_of(claim: Claim, row: Row) -> float | None:
    """The measure of the claim, less what it is compared with; None where either is unknown."""
    value = getattr(row, claim.measure)
    beside = getattr(row, claim.beside) if claim.beside else 0.0
    return None if value is None or beside is None else value - beside


def belongs(claim: Claim, row: Row, captions: str) -> bool:
    """Whether a row is a point of the claim's line of these captions."""
    asked = (claim.world, captions, claim.replay, claim.grows)
    return (row.world, row.captions, row.replay, row.grows) == asked


def size_of(row: Row, grows: str) -> int:
    """What is doubled: pictures where all grow."""
    return row.images if grows == "all" else getattr(row, grows)


def signed_rank(values: Sequence[float]) -> float:
    """Two-sided p that the values are symmetric about zero; 1 for fewer than three."""
    if len(values) < MIN_CASES or not np.any(values):
        return 1.0
    return float(np.asarray(wilcoxon(values, method="exact"))[1])


def hodges_lehmann(values: Sequence[float]) -> tuple[float | None, Interval | None]:
    """Median of the means of pairs, each value with itself among them, and its 95 % interval.

    The interval holds what `signed_rank` would not reject; fewer than six values have none.
    """
    count = len(values)
    if count < MIN_CASES:
        return None, None
    first, second = np.triu_indices(count)
    middles = np.sort((np.asarray(values)[first] + np.asarray(values)[second]) / 2)
    cut = _critical(count, LEVEL)
    interval = None
    if cut >= 0:
        interval = (float(middles[cut]), float(middles[len(middles) - 1 - cut]))
    return float(np.median(middles)), interval


def holm(values: Sequence[float]) -> list[float]:
    """p-values by Holm's step-down: all of them hold at once, at 0.05."""
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    stepped = np.minimum(np.maximum.accumulate(np.asarray(values)[order] * factors), 1)
    corrected = np.empty(len(values))
    corrected[order] = stepped
    return corrected.tolist()


@functools.cache
def detectable(trees: int, level: float) -> float:
    """Slope, in standard deviations over trees, that is found in `POWER` of studies.

    Normal slopes are simulated; infinite where no p can reach the level.
    """
    cut = _critical(trees, level)
    if cut < 0:
        return math.inf
    noise = np.random.default_rng(0).normal(size=(_STUDIES, trees))
    low, high = 0.0, 20.0
    for _ in range(30):
        middle = (low + high) / 2
        values = noise + middle
        ranks = rankdata(np.abs(values), axis=1)
        below = np.minimum((ranks * (values > 0)).sum(axis=1), (ranks * (values < 0)).sum(axis=1))
        low, high = (middle, high) if (below <= cut).mean() < POWER else (low, middle)
    return high


def _answer(claim: Claim, rows: Sequence[Row]) -> Hypothesis:
    trees = list(slopes(claim, rows).values())
    slope, interval = hodges_lehmann(trees)
    refuted = False
    if interval is not None:
        best = interval[1] if claim.sign > 0 else -interval[0]
        refuted = best < claim.least
    p = signed_rank(trees)
    predicted = in_pictures = None
    if claim.world == "factors" and claim.grows == "all":
        shown = slopes(dataclasses.replace(claim, world="pictures"), rows, least=2).values()
        in_pictures = float(np.mean(list(shown))) if shown else None
        if not claim.against and claim.captions == "hierarchical":
            setting = dataclasses.replace(claim, world="theory", replay=False)
            predicted = hodges_lehmann(list(slopes(setting, rows).values()))[0]
    return Hypothesis(
        **vars(claim),
        slope=slope,
        interval=interval,
        p=p,
        p_corrected=p,
        holds=False,
        refuted=refuted,
        trees=trees,
        predicted=predicted,
        in_pictures=in_pictures,
    )


def _shared(rows: Sequence[Row]) -> list[Row]:
    """Rows of the factorial that are also those of a control in which one thing grows alone."""
    others = {
        (row.grows, row.world, row.captions, row.replay, row.seed, *_still(row, row.grows))
        for row in rows
        if row.grows in GROWING
    }
    return [
        dataclasses.replace(row, grows=grows)
        for row in rows
        for grows in GROWING
        if row.grows == "all"
        and (grows, row.world, row.captions, row.replay, row.seed, *_still(row, grows)) in others
    ]


def _still(row: Row, grows: str) -> list[int]:
    return [getattr(row, name) for name in GROWING if name != grows]


def _slopes(claim: Claim, captions: str, rows: Sequence[Row], least: int) -> dict[int, float]:
    lines: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        value = value_of(claim, row)
        if belongs(claim, row, captions) and value is not None:
            lines[row.seed].append((math.log2(size_of(row, claim.grows)), value))
    found = {}
    for seed, points in sorted(lines.items()):
        x, y = np.asarray(points).T
        if len(np.unique(x)) >= least:
            x = x - x.mean()
            found[seed] = float(x @ y / (x @ x))
    return found


def _critical(count: int, level: float) -> int:
    """Largest sum of ranks, of the rarer sign, that is significant; -1 if none is."""
    ways = np.ones(1)
    for rank in range(1, count + 1):
        ways = np.convolve(ways, np.r_[1, np.zeros(rank - 1), 1])
    below = 2 * np.cumsum(ways) / 2.0**count
    return int(np.searchsorted(below, level * (1 + 1e-12), side="right")) - 1
