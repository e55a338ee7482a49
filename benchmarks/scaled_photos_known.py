"""What is known of the photographs that `scaled_photos.py` measures: variants and traits."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hierarchy import rows_of

from bioclip2_jax.analysis import traits
from bioclip2_jax.analysis.within import MIN_FOR_RHO
from bioclip2_jax.text.taxonomy import Taxon

KINDS = ("sex", "disease", "cultivar")  # columns of what varies within a species
OTHER_LABELS = ("life_stage", "habitat")
MIN_IMAGES = 3  # of a species, for a place among the others


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
