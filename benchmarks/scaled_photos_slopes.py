"""Does a figure of `scaled_photos.py` rise or fall with scale: slopes and their doubt.

A figure's slope is fitted to its values at the shares of one split, against the doublings, and
averaged over the splits. Three splits are three cases: no test of their signs can reach 0.05. So
what is tested is of species, of which there are more, and says nothing of other models:

- a mean over species (accuracies, Fisher's ratios): signed ranks of the species' own slopes;
- alignment with a trait: the same slope of traits that evolve along the lineages and know nothing
  of the features (`analysis.phylogeny`), since a model that is taught lineages learns to follow
  them; `p_dealt` is of traits dealt to the species at random, which ancestry alone makes small;
- everything else, and what is of fewer than five species, has an interval over the splits alone.

There is no p where none could reach 0.05.

All p are one-sided, in the direction that the paper claims (`CLAIMS`), and adjusted together by
Benjamini and Hochberg's procedure. Intervals are bootstraps of species, the same ones at all
scales, and of splits. `detectable` is the slope that would be found (two-sided, 0.05) in four of
five such campaigns.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from scaled_photos_figures import Alignment, Measured, Shares
from scaled_photos_known import Examination
from scipy.stats import false_discovery_control, permutation_test, rankdata, t

from bioclip2_jax.analysis.nulls import LEVEL, arrangements, p_value
from bioclip2_jax.analysis.phylogeny import Tree, deal_labels, evolve_values
from bioclip2_jax.measures.accuracy import lineage_groups
from bioclip2_jax.measures.intervals import student

# The start of a figure's name → the sign of its slope as the paper claims it; 0: no claim.
CLAIMS = {
    **dict.fromkeys(("top1_", "bird_", "fish_", "few_shot_", "fisher_"), 1),
    **dict.fromkeys(("rho_",), -1),
    "effective_rank_": 0,
}
NO_SLOPE = ("rho_halves_", "rho_null_", "rho_p_")  # `rho_over_null` has
POWER = 0.8
MIN_SPECIES = 5  # to draw from; the signs of fewer cannot give a p of 0.05 either

Models = dict[tuple[int, Fraction], Measured]


def slopes(measured: Models, examination: Examination, draws: int) -> list[dict[str, Any]]:
    """A row a figure; none where not one split has models of two shares.

    Args:
      measured: (split, share) → what was measured.
      examination: of it.
      draws: of each bootstrap and each test.
    """
    rows = []
    for name in dict.fromkeys(name for each in measured.values() for name in each.row):
        claim = claimed(name)
        if claim is None:
            continue
        series = {
            split: [models[share] for share in sorted(models)]
            for split, models in _by_split(measured, name).items()
        }
        if not series:
            continue
        weights = _fit(sorted({share for _, share in measured}))
        row = {"figure": name, "claim": claim}
        by_split = [
            float(weights @ [model.row[name] for model in models]) for models in series.values()
        ]
        row |= {"by_split": by_split, "slope": float(np.mean(by_split))}
        parts = [[model.parts.get(name) for model in models] for models in series.values()]
        there = {n for of in parts for part in of if part for n in part.species.tolist()}
        if len(there) >= MIN_SPECIES:
            row |= _over_species(parts, weights, examination, claim, draws)
        else:
            row |= _over_splits(by_split)
        rows.append(row)
    if with_p := [row for row in rows if row.get("p") is not None]:
        adjusted = false_discovery_control([row["p"] for row in with_p])
        for row, p in zip(with_p, adjusted.tolist(), strict=True):
            row["p_corrected"], row["holds"] = p, p <= LEVEL
    return rows


def claimed(name: str) -> int | None:
    """The sign of a figure's slope in the paper, 0 if that says nothing; None: it has no slope."""
    if name in ("traits", "variants") or "chance" in name or name.startswith(NO_SLOPE):
        return None
    return next((sign for start, sign in CLAIMS.items() if f"{name}_".startswith(start)), None)


def _by_split(measured: Models, name: str) -> dict[int, dict[Fraction, Measured]]:
    """The splits that have the figure at all shares of the campaign, of which there are several."""
    shares = {share for _, share in measured}
    splits: dict[int, dict[Fraction, Measured]] = {}
    for (split, share), model in measured.items():
        if model.row.get(name) is not None:
            splits.setdefault(split, {})[share] = model
    return {k: models for k, models in splits.items() if set(models) == shares and len(shares) > 1}


def _fit(shares: Sequence[Fraction]) -> np.ndarray:
    """[shares]: what values are multiplied by to give their slope per doubling."""
    doublings = np.log2([float(share) for share in shares])
    doublings -= doublings.mean()
    return doublings / (doublings**2).sum() if len(shares) > 1 else doublings


def _over_splits(by_split: list[float]) -> dict[str, Any]:
    """Where a figure is not made of species."""
    count = len(by_split)
    interval = student(np.asarray(by_split))
    row: dict[str, Any] = {"interval": interval, "interval_over": f"{count} splits", "p": None}
    if interval:
        error = np.std(by_split, ddof=1) / math.sqrt(count)
        row["detectable"] = float((t.ppf(0.975, count - 1) + t.ppf(POWER, count - 1)) * error)
    return row


def _over_species(
    parts: list[list[Any]], weights: np.ndarray, examination: Examination, claim: int, draws: int
) -> dict[str, Any]:
    """`parts`: of each split, of each share."""
    total = len(examination.taxa)
    there = np.unique(np.concatenate([of[0].species for of in parts]))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        counts = np.zeros(total, np.int64)
        counts[there] = rng.multinomial(len(there), np.full(len(there), 1 / len(there)))
        some = [parts[place] for place in rng.integers(len(parts), size=len(parts))]
        values = [weights @ [part.value(counts) for part in of] for of in some]
        values = [value for value in values if np.isfinite(value)]
        if values:
            drawn.append(np.mean(values))
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    row = {"interval": (low, high), "interval_over": f"{len(there)} species, {len(parts)} splits"}
    upper, power = t.ppf(0.975, np.inf), t.ppf(POWER, np.inf)
    row["detectable"] = float((upper + power) * (high - low) / (2 * upper))
    if isinstance(parts[0][0], Alignment):
        return row | _against_traits(parts, weights, examination, draws)
    if all(np.ptp(part.wholes) == 0 for of in parts for part in of):
        return row | _against_signs(parts, weights, claim)
    return row | {"p": None}


def _against_signs(parts: list[list[Shares]], weights: np.ndarray, claim: int) -> dict[str, Any]:
    """Signed ranks of the species' own slopes, with signs flipped."""
    each = [
        (species, weights @ [part.parts[place] for part in of])
        for of in parts
        for place, species in enumerate(of[0].species.tolist())
    ]
    species, values = np.asarray([s for s, _ in each]), np.asarray([v for _, v in each])
    own = np.asarray([values[species == s].mean() for s in np.unique(species)])
    own = np.sign(own) * rankdata(np.abs(own))  # a ratio may be huge in one species (Wilcoxon 1945)
    least = max(0.5 ** len(own), 1 / 10_000)
    if least > LEVEL:
        return {"p": None, "smallest_p": least}
    found = permutation_test(
        (own,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        alternative="less" if claim < 0 else "greater",
        n_resamples=9999,
        vectorized=True,
        random_state=np.random.default_rng(0),
    )
    of = f"signed ranks of the slopes of {len(own)} species"
    return {"p": float(found.pvalue), "p_of": of, "smallest_p": least}


def _against_traits(
    parts: list[list[Alignment]], weights: np.ndarray, examination: Examination, draws: int
) -> dict[str, Any]:
    """Other traits, the same at all shares, and in all splits that share species."""
    rng = np.random.default_rng(1)
    places = rng.random((draws, len(examination.taxa)))
    dealt, evolved, evolved_of = [], [], {}
    for of in parts:
        species, values = of[0].species, of[0].values
        order = np.argsort(places[:, species], axis=1)
        dealt.append(_slopes(of, weights, np.vstack([values, values[order]]).T))
        if (key := tuple(species)) not in evolved_of:
            same = [part for other in parts if tuple(other[0].species) == key for part in other]
            features = np.concatenate([part.prototypes for part in same], axis=1)
            evolved_of[key] = _evolved(of[0], features, examination, draws, len(evolved_of))
        evolved.append(_slopes(of, weights, np.column_stack([values, evolved_of[key]])))
    shortest = min(map(len, evolved))
    each = {tuple(of[0].species): of[0].values for of in parts}
    ways = math.prod(arrangements(values) for values in each.values())
    return {
        "p": p_value(np.mean([slope[:shortest] for slope in evolved], axis=0)),
        "p_of": "traits that follow the tree",
        "p_dealt": p_value(np.mean(dealt, axis=0)),
        "smallest_p": max(1 / shortest, 1 / ways),
    }


def _slopes(of: list[Alignment], weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[p], of traits [s, p]; the first is the true one."""
    return weights @ np.stack([part.values_of(values) for part in of])


def _evolved(
    part: Alignment, features: np.ndarray, examination: Examination, draws: int, seed: int
) -> np.ndarray:
    """[s, at most draws] traits of the species of a part that follow their lineages."""
    taxa = [examination.taxa[number] for number in part.species]
    tree = Tree.of(lineage_groups(taxa), np.arange(len(taxa)))
    rng = np.random.default_rng((2, seed))
    if part.is_label:
        labels = np.unique(part.values, return_inverse=True)[1]
        return deal_labels(tree, labels, draws, rng).T
    return evolve_values(tree, features, part.values, draws, rng)


# ---- The tables


def markdown(result: dict[str, Any]) -> str:
    """The models, and the figures at each scale with their slopes."""
    rows = result["rows"]
    lines = _table("split", "share", "species", "pictures", "steps", "minutes", "of a core")
    for row in rows:
        counts = (f"{row[key]:,}" for key in ("species", "images", "steps"))
        times = (f"{row[key] / 60:.1f}" for key in ("seconds", "processor_seconds"))
        lines.append(
            f"| {row['seed']} | {_share(row['share'])} | {' | '.join((*counts, *times))} |"
        )
    shares = sorted({row["share"] for row in rows})
    doubts = ("slope per doubling", "p", "corrected", "detectable")
    lines += ["", *_table("figure", "claim", *map(_share, shares), *doubts)]
    for slope in result["slopes"]:
        cells = [slope["figure"], {1: "rises", -1: "falls", 0: ""}[slope["claim"]]]
        for share in shares:
            values = [row.get(slope["figure"]) for row in rows if row["share"] == share]
            values = [value for value in values if value is not None]
            cells.append(f"{np.mean(values):.3f}" if values else "")
        low_high = slope["interval"]
        doubt = f" [{low_high[0]:+.3f}, {low_high[1]:+.3f}]" if low_high else ""
        cells.append(f"{slope['slope']:+.3f}{doubt}")
        for key in ("p", "p_corrected", "detectable"):
            cells.append("" if slope.get(key) is None else f"{slope[key]:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _share(share: float) -> str:
    return "start" if not share else str(Fraction(share)) if share < 1 else "all"
