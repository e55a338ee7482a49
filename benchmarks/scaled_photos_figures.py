"""What is measured of each model of `scaled_photos.py`, by the measures of `bioclip2_jax.analysis`.

Each figure is named by what it is and what it is of: `fisher_seen` is of species that all models of
the split were trained on, `_unseen` of those that none was, `_all` of both and the others; `_sex`,
`_disease` and `_cultivar` are of the species in which that varies.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from hierarchy import rows_of
from scipy.stats import rankdata

from bioclip2_jax.analysis import between, traits
from bioclip2_jax.analysis.within import MIN_FOR_RHO, within
from bioclip2_jax.errors import UserError
from bioclip2_jax.measures.accuracy import lineage_groups
from bioclip2_jax.measures.simple_shot import few_shot
from bioclip2_jax.text.taxonomy import Taxon

KINDS = ("sex", "disease", "cultivar")  # columns of what varies within a species
OTHER_LABELS = ("life_stage", "habitat")
MIN_IMAGES = 3  # of a species, for a place among the others
SHOTS = (1, 3)


@dataclass(frozen=True)
class Trait:
    """A trait of species, and where it is found.

    Attributes:
      name: of the figure.
      class_: whose species have it.
      table, column: in the folder of traits.
      by: "species", or "genus" where that is what the table knows.
      scale: "log" or "linear"; "" for labels.
    """

    name: str
    class_: str
    table: str
    column: str
    by: str = "species"
    scale: str = "linear"


_BIRDS, _FISH = (
    ("Aves", "bird_traits_for_images.csv"),
    ("Actinopterygii", "fishnet_genus_habitat.csv"),
)
TRAITS = (
    Trait("bird_mass", *_BIRDS, "Mass", scale="log"),
    Trait("bird_hand_wing_index", *_BIRDS, "Hand-Wing.Index"),
    Trait("bird_openness", *_BIRDS, "Habitat.Density"),
    Trait("bird_habitat", *_BIRDS, "Habitat", scale=""),
    Trait("fish_trophic_level", *_FISH, "Troph", by="genus"),
    Trait("fish_feeding", *_FISH, "FeedingPath", by="genus", scale=""),
)


@dataclass(frozen=True)
class Group:
    """Pictures of one species that differ in a label.

    Attributes:
      name: of species and label.
      kind: the label.
      species: number of the species.
      rows: [m] int, its pictures.
      values: [m] int, which value of the label each shows.
      sides: [m] int, the same in two: 0 and 1, -1 neither. What is healthy against all diseases,
        else the two values of which there are most pictures.
    """

    name: str
    kind: str
    species: int
    rows: np.ndarray
    values: np.ndarray
    sides: np.ndarray


@dataclass(frozen=True)
class Examination:
    """The pictures that are measured, and what is known of them.

    Attributes:
      keys: of the n pictures.
      taxa: of all species of the campaign.
      numbers: [n] int, the species of each picture.
      groups: of pictures in which a label varies.
      known: trait → values [species] float64, NaN unknown; labels are numbered.
    """

    keys: list[str]
    taxa: list[Taxon]
    numbers: np.ndarray
    groups: list[Group]
    known: dict[str, np.ndarray]

    @classmethod
    def of(cls, pictures: Sequence[Any], taxa: Sequence[Taxon], folder: Path) -> "Examination":
        """Of pictures as `scaled_photos.Picture` has them; `folder` holds tables of traits."""
        place = {taxon: number for number, taxon in enumerate(taxa)}
        numbers = np.asarray([place[picture.taxon] for picture in pictures])
        cells = defaultdict(list)
        for row, picture in enumerate(pictures):
            if picture.kind:
                cells[numbers[row], picture.kind].append((row, picture.variant))
        groups = [
            _group(f"{taxa[number].scientific_name}, {kind}", kind, int(number), cell)
            for (number, kind), cell in sorted(cells.items())
        ]
        return cls(
            keys=[picture.key for picture in pictures],
            taxa=list(taxa),
            numbers=numbers,
            groups=[
                g for g in groups if min((g.sides == 0).sum(), (g.sides == 1).sum()) >= MIN_FOR_RHO
            ],
            known={trait.name: _known(trait, taxa, folder) for trait in TRAITS},
        )

    @property
    def counts(self) -> np.ndarray:
        """[species] int, pictures."""
        return np.bincount(self.numbers, minlength=len(self.taxa))

    def species_with(self, trait: Trait) -> np.ndarray:
        """Numbers of the species of enough pictures with a known trait."""
        known = np.isfinite(self.known[trait.name])
        return np.flatnonzero((self.counts >= MIN_IMAGES) & known)


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
    rows = []
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
        rows.append(row)
    plain: dict[str, Any] = {}
    for on, some in of_which.items():
        each = [rows[groups.index(group)] for group in some]
        if not each:
            continue
        species = np.asarray([group.species for group in some])

        def over(name: str, each: list[dict] = each) -> np.ndarray:
            return np.asarray([row[name] for row in each], np.float64)

        one = np.ones(len(each))
        for name in ("fisher", "fisher_removed", *(f"few_shot_{shots}" for shots in SHOTS)):
            parts[f"{name}_{on}"] = Shares(species=species, parts=over(name), wholes=one)
        if over("inside").any():
            parts[f"rho_{on}"] = Shares(species, over("inside"), over("signal"))
        plain[f"few_shot_chance_{on}"] = float(over("chance").mean())
        if len(some) < 3:
            continue
        own = _within(features, some, draws)
        plain[f"rho_plane_{on}"] = own.plane.rho if own.plane else None
        plain[f"rho_halves_{on}"], plain[f"rho_null_{on}"] = own.halves, own.null_mean
        plain[f"rho_over_null_{on}"] = own.halves / own.null_mean
        plain[f"rho_p_{on}"] = own.p
    return rows, plain


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


# ---- What is known


def labels_there(examination: Examination, photos: Path) -> list[dict[str, Any]]:
    """A row for each label and trait: how much of it there is, and what it can be used for."""
    seen: dict[str, dict[str, Counter]] = {
        name: defaultdict(Counter) for name in (*KINDS, *OTHER_LABELS)
    }
    for path in sorted(photos.glob("*/metadata.csv")):
        for row in rows_of(path):
            for name in seen:
                if row.get(name):
                    seen[name][Taxon.from_row(row).scientific_name][row[name]] += 1
    rows = []
    for name, of in seen.items():
        groups = [group for group in examination.groups if group.kind == name]
        row = {
            "label": name,
            "species": len(of),
            "values": len({value for counts in of.values() for value in counts}),
            "pictures": sum(sum(counts.values()) for counts in of.values()),
            "varies_in": sum(len(counts) > 1 for counts in of.values()),
            "measured_in": len(groups),
            "examined": [np.bincount(g.sides[g.sides >= 0]).tolist() for g in groups],
        }
        rows.append(row)
    for trait in TRAITS:
        values = examination.known[trait.name][examination.species_with(trait)]
        rows.append({"label": trait.name, "species": len(values), "values": len(np.unique(values))})
    return rows


def _group(name: str, kind: str, species: int, cell: list[tuple[int, str]]) -> Group:
    rows, texts = zip(*cell, strict=True)
    counts = Counter(texts)
    kept = sorted(counts)
    common = sorted(counts, key=lambda text: (-counts[text], text))[:2]
    sides = {text: (common.index(text) if text in common else -1) for text in kept}
    if "healthy" in counts:
        sides = {text: int(text != "healthy") for text in kept}
    return Group(
        name=name,
        kind=kind,
        species=species,
        rows=np.asarray(rows),
        values=np.asarray([kept.index(text) for text in texts]),
        sides=np.asarray([sides[text] for text in texts]),
    )


def _known(trait: Trait, taxa: Sequence[Taxon], folder: Path) -> np.ndarray:
    """[species] float64."""
    table = traits.read_table(folder / trait.table, "genus" if trait.by == "genus" else None)
    names = [taxon.genus if trait.by == "genus" else taxon.scientific_name for taxon in taxa]
    texts = [
        next(iter(found), "") if taxon.class_ == trait.class_ else ""
        for taxon, found in zip(taxa, table.texts(names, trait.column), strict=True)
    ]
    if not trait.scale:
        kept = sorted(set(texts) - {""})
        return np.asarray([kept.index(text) if text else np.nan for text in texts], np.float64)
    values = np.asarray([float(text) if text else np.nan for text in texts])
    return np.log10(values) if trait.scale == "log" else values


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
