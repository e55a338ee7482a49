"""What is measured of each model of `scaled_photos.py`, by the measures of `bioclip2_jax.analysis`.

Each figure is named by what it is and what it is of: `fisher_seen` is of species that all models of
the split were trained on, `_unseen` of those that none was, `_all` of both and the others; `_sex`,
`_disease` and `_cultivar` are of the species in which that varies.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scaled_photos_known import KINDS, TRAITS, Examination, Group
from scipy.stats import rankdata

from bioclip2_jax.analysis import between
from bioclip2_jax.analysis.within import within
from bioclip2_jax.errors import UserError
from bioclip2_jax.measures.accuracy import lineage_groups
from bioclip2_jax.measures.simple_shot import few_shot

SHOTS = (1, 3)


@dataclass(frozen=True)
class Shares:
    """A figure that is a sum of parts over a sum of wholes, one or more a species."""

    species: np.ndarray
    parts: np.ndarray
    wholes: np.ndarray

    def value(self, weights: np.ndarray) -> float:
        """Where each species counts so often; NaN where none does."""
        drawn = weights[self.species]
        whole = float(drawn @ self.wholes)
        return float(drawn @ self.parts) / whole if whole > 0 else float("nan")


@dataclass(frozen=True)
class Alignment:
    """The rank correlation of the distances of species in features and in a trait.

    Of a label, species are 0 or 1 apart; it is then Clarke's analysis of similarities (1993).

    Attributes:
      species: [s] int, numbers.
      prototypes: [s, d].
      values: [s] float64, of the trait.
      is_label: whether only equal or not counts.
    """

    species: np.ndarray
    prototypes: np.ndarray
    values: np.ndarray
    is_label: bool

    def value(self, weights: np.ndarray) -> float:
        """Where each species counts so often; a species and itself are no pair."""
        first, second = self._pairs
        drawn = weights[self.species]
        pairs = (drawn[first] * drawn[second]).astype(np.float64)
        far, near = (x - (pairs @ x) / max(pairs.sum(), 1) for x in (self._far, self._apart))
        spread = (pairs @ far**2) * (pairs @ near**2)
        return float(pairs @ (far * near) / spread**0.5) if spread > 0 else float("nan")

    def values_of(self, others: np.ndarray) -> np.ndarray:
        """[p], of other traits [s, p]."""
        far, near = self._far, self._ranks(others)
        far, near = far - far.mean(), near - near.mean(axis=1, keepdims=True)
        spread = (far @ far) * (near**2).sum(axis=1)
        return (near @ far) / np.sqrt(np.maximum(spread, 1e-300))

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        return np.triu_indices(len(self.species), 1)

    @cached_property
    def _far(self) -> np.ndarray:
        """[pairs] ranks of the distances of the prototypes."""
        return rankdata(1 - (self.prototypes @ self.prototypes.T)[self._pairs])

    @cached_property
    def _apart(self) -> np.ndarray:
        """[pairs] ranks of the distances in the trait."""
        return self._ranks(self.values[:, None])[0]

    def _ranks(self, values: np.ndarray) -> np.ndarray:
        """[p, pairs] ranks of the distances in traits [s, p]."""
        first, second = self._pairs
        apart = np.abs(values[first] - values[second])
        return rankdata(apart > 0 if self.is_label else apart, axis=0).T


@dataclass(frozen=True)
class Measured:
    """Of one model.

    Attributes:
      row: figures, and what they are made of, as the results keep them.
      parts: figure → what it is made of, species by species; of those that have such.
    """

    row: dict[str, Any]
    parts: dict[str, Shares | Alignment]


def measure(
    features: np.ndarray,
    names: np.ndarray,
    examination: Examination,
    roles: dict[str, set[int]],
    draws: int,
) -> Measured:
    """All figures of a model.

    Args:
      features: [n, d] float32, L2-normalised.
      names: [species, d] float32, L2-normalised, of the texts of all species.
      examination: of the n pictures.
      roles: "seen" and "unseen" → numbers of species.
      draws: permutations of each test.
    """
    parts: dict[str, Shares | Alignment] = {}
    row: dict[str, Any] = {"effective_rank": effective_rank(features)}
    for on, species in roles.items():
        parts[f"top1_{on}"] = _named(features, names, examination.numbers, sorted(species))
        row[f"top1_chance_{on}"] = 1 / len(species)
    row["variants"], plain = _variation(features, examination, roles, draws, parts)
    row["traits"] = _alignments(features, examination, roles, draws, parts)
    everyone = np.ones(len(examination.taxa), np.int64)
    row |= plain | {name: _or_none(part.value(everyone)) for name, part in parts.items()}
    return Measured(row=row, parts=parts)


def effective_rank(features: np.ndarray) -> float:
    """(sum of the covariance's eigenvalues)² / sum of their squares."""
    centred = np.asarray(features - features.mean(axis=0), np.float64)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    return float(values.sum() ** 2 / (values**2).sum())


def _named(
    features: np.ndarray, names: np.ndarray, numbers: np.ndarray, species: list[int]
) -> Shares:
    """Zero-shot, of the pictures of some species and with their names alone: a share a species."""
    rows = np.flatnonzero(np.isin(numbers, species))
    right = np.asarray(species)[(features[rows] @ names[species].T).argmax(axis=1)] == numbers[rows]
    there, place = np.unique(numbers[rows], return_inverse=True)
    hits = np.bincount(place, right) / np.bincount(place)
    return Shares(species=there, parts=hits, wholes=np.ones(len(there)))


def _variation(
    features: np.ndarray,
    examination: Examination,
    roles: dict[str, set[int]],
    draws: int,
    parts: dict[str, Shares | Alignment],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What varies within species; adds to `parts`. Also a row a group, and figures without parts.

    The subspace that rho and Fisher's ratio know is that of all groups, so that the figures of
    some are comparable with those of others.
    """
    groups = examination.groups
    of_which = {
        "all": groups,
        **{on: [g for g in groups if g.species in some] for on, some in roles.items()},
        **{kind: [g for g in groups if g.kind == kind] for kind in KINDS},
    }
    entries = {groups[e.species].name: e for e in _within(features, groups, draws).species}
    rows: dict[str, dict[str, Any]] = {}
    for group in groups:
        entry = entries[group.name]
        pictures, counts = features[group.rows], np.bincount(group.values)
        row = {"group": group.name, "kind": group.kind, "pictures": list(entry.counts)}
        for name in ("fisher", "fisher_removed", "fisher_p", "fisher_smallest_p", "rho", "rho_p"):
            row[name] = getattr(entry, name)
        row |= {"signal": entry.signal, "inside": entry.inside, "chance": 1 / len(counts)}
        for shots in SHOTS:
            shown = few_shot(pictures, group.values, shots, {}).fold_top1
            row[f"few_shot_{shots}"] = float(shown.mean())
        rows[group.name] = row
    plain: dict[str, Any] = {}
    for on, some in of_which.items():
        each = [rows[group.name] for group in some]
        if not each:
            continue
        species = np.asarray([group.species for group in some])

        def over(name: str, each: list[dict] = each) -> np.ndarray:
            return np.asarray([row[name] for row in each], np.float64)

        one = np.ones(len(each))
        for name in ("fisher", "fisher_removed", *(f"few_shot_{shots}" for shots in SHOTS)):
            parts[f"{name}_{on}"] = Shares(species=species, parts=over(name), wholes=one)
        # Where the differences hardly exceed their noise, a share of them is no number.
        signal, inside = over("signal"), over("inside")
        clear = len(some) > 2 and signal.mean() > 2 * signal.std() / len(some) ** 0.5
        if clear and np.isfinite(inside).all():
            parts[f"rho_{on}"] = Shares(species, inside, signal)
        plain[f"few_shot_chance_{on}"] = float(over("chance").mean())
        if len(some) < 3:
            continue
        own = _within(features, some, draws)
        plain[f"rho_plane_{on}"] = own.plane.rho if own.plane else None
        plain[f"rho_halves_{on}"], plain[f"rho_null_{on}"] = own.halves, own.null_mean
        plain[f"rho_over_null_{on}"] = own.halves / own.null_mean
        plain[f"rho_p_{on}"] = own.p
    return list(rows.values()), plain


def _within(features: np.ndarray, groups: list[Group], draws: int) -> Any:
    rows = np.concatenate([group.rows for group in groups])
    which = np.repeat(np.arange(len(groups)), [len(group.rows) for group in groups])
    sides = np.concatenate([group.sides for group in groups])
    return within(features[rows], which, sides, permutations=draws)


def _alignments(
    features: np.ndarray,
    examination: Examination,
    roles: dict[str, set[int]],
    draws: int,
    parts: dict[str, Shares | Alignment],
) -> list[dict[str, Any]]:
    """Traits of species; adds to `parts`. Also a row a trait and role, as `between` tests it."""
    prototypes = between.prototypes(features, examination.numbers)
    rows = []
    for trait in TRAITS:
        everyone = examination.species_with(trait)
        for on in ("all", *roles):
            species = everyone if on == "all" else everyone[np.isin(everyone, sorted(roles[on]))]
            values = examination.known[trait.name][species]
            taxa = [examination.taxa[number] for number in species]
            row = {"trait": trait.name, "on": on, "species": len(species)}
            lineages = lineage_groups(taxa)
            look = between.continuous_trait if trait.scale else between.discrete_trait
            try:
                found = look(
                    prototypes[species],
                    values,
                    lineages.get("family", np.zeros(0)),
                    lineages=lineages,
                    permutations=draws,
                )
            except UserError as error:
                row["cautions"] = [str(error)]
            else:
                scalars = (float, int, list)
                row |= {k: v for k, v in vars(found).items() if v is None or isinstance(v, scalars)}
            rows.append(row)
            if len(species) >= between.MIN_SPECIES and np.ptp(values) > 0:
                parts[f"{trait.name}_{on}"] = Alignment(
                    species, prototypes[species], values, is_label=not trait.scale
                )
    return rows


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
