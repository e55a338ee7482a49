"""Species of a feature store and what is known of them: from its labels, or from a trait table."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data.tables import normal, open_table
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation.findings import BetweenSettings
from bioclip2_jax.features.store import Store
from bioclip2_jax.measures import scores
from bioclip2_jax.text.taxonomy import RANKS, Taxon

SPECIES_COLUMNS = ("scientificname", "species", "binomial", "species1")  # as `normal` writes them
_MISSING = ("", "na", "n/a", "nan", "null")
_NO_NUMBER = (*_MISSING, "none")
_NO_CLASS = (*_MISSING, "unknown")  # "none" is a class, such as that of birds without a crest


@dataclass(frozen=True)
class SpeciesList:
    """The s species of a feature store, in the order of their lineages.

    Attributes:
      names: of every species.
      taxa: their lineages.
      numbers: [n] int, the species of every picture; -1 for those that are of none.
    """

    names: list[str]
    taxa: list[Taxon]
    numbers: np.ndarray

    def clades(self, rank: str) -> np.ndarray:
        """[s] number of every species' clade; those of one unnamed family share its order."""
        return scores.number([taxon.lineage(rank) for taxon in self.taxa])[1]


def list_species(
    store: Store, place: str, rank: str = "species", min_images: int = 1
) -> SpeciesList:
    """Finds the species of a store, or its taxa at a higher rank.

    Args:
      store: the features.
      place: for messages.
      rank: pictures that are not named at this rank are of no species.
      min_images: a species with fewer pictures is left out.

    Raises:
      UserError: no picture is named at this rank, or no species has enough pictures.
    """
    depth = RANKS.index(rank)
    lineages = [taxon.lineage(rank) if taxon.ranks[depth] else () for taxon in store.taxa]
    counts = Counter(lineage for lineage in lineages if lineage)
    if not counts:
        raise UserError(f"{place}: not one picture has a {rank}; take features of a named dataset")
    enough = sorted(lineage for lineage, count in counts.items() if count >= min_images)
    if not enough:
        raise UserError(
            f"{place}: no {rank} has {min_images} pictures, the most is {max(counts.values())};"
            " lower --min-images"
        )
    number = {lineage: place for place, lineage in enumerate(enough)}
    numbers = np.asarray([number.get(lineage, -1) for lineage in lineages])
    taxa = [Taxon(*lineage) for lineage in enough]
    names = [taxon.scientific_name for taxon in taxa]
    return SpeciesList(names=names, taxa=taxa, numbers=numbers)


def label_values(store: Store, name: str, place: str) -> np.ndarray:
    """[n] str, a label of the store's pictures, "" where unknown.

    Raises:
      UsageError: the store has no such label.
    """
    if name not in store.labels:
        has = f"it has {', '.join(sorted(store.labels))}" if store.labels else "it has none"
        raise UsageError(f"{place}: no label {name!r}; {has}")
    return store.labels[name]


def texts_of_label(species: SpeciesList, values: np.ndarray) -> list[list[str]]:
    """The values [n] of a label, those of each species together."""
    texts: list[list[str]] = [[] for _ in species.names]
    for number, text in zip(species.numbers.tolist(), values.tolist(), strict=True):
        if number >= 0:
            texts[number].append(text)
    return texts


@dataclass(frozen=True)
class TraitTable:
    """A table with a row for a species or an individual.

    Attributes:
      path: where it lies.
      rows_of: species, as `_key` writes it → its rows.
      columns: names of the columns.
    """

    path: Path
    rows_of: dict[str, list[dict[str, str]]]
    columns: list[str]

    def texts(self, names: Sequence[str], column: str) -> list[list[str]]:
        """The cells of each species' rows.

        Raises:
          UsageError: no such column.
        """
        if column not in self.columns:
            raise UsageError(f"{self.path}: no column {column!r}; it has {', '.join(self.columns)}")
        return [[row[column].strip() for row in self.rows_of.get(_key(n), ())] for n in names]


def read_table(path: str | Path, species_column: str | None = None) -> TraitTable:
    """Reads a trait table.

    Args:
      path: of the file.
      species_column: that holds binomials; by default the first of `SPECIES_COLUMNS` that it has.

    Raises:
      UsageError: there is no such file, or no column with species.
      UserError: as `open_table` and the rows of its table.
    """
    path = files.place(path)
    if not path.is_file():
        raise UsageError(f"{path}: cannot be read (no such file)")
    table = open_table(path)
    columns = [name for name in table.header if name]
    column = species_column
    if column not in columns:
        column = table.column([normal(column)] if column else SPECIES_COLUMNS)
    if column is None:
        asked = f"no column {species_column!r}" if species_column else "no column with species"
        raise UsageError(
            f"{path}: {asked}; it has {', '.join(columns)}: name the one with binomials"
            " (--species-column)"
        )
    rows_of: dict[str, list[dict[str, str]]] = {}
    for _, row in table.rows():
        rows_of.setdefault(_key(row[column]), []).append(row)
    return TraitTable(path=path, rows_of=rows_of, columns=columns)


def known_traits(
    store: Store, species: SpeciesList, wanted: BetweenSettings, place: str
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Name → values [s] of the continuous traits, NaN unknown, and of the discrete, "" unknown.

    Raises:
      UsageError: no such label or column, or nothing is named and the store has no known trait.
      UserError: a value is no number, or has no logarithm.
    """
    continuous, discrete = list(wanted.continuous), list(wanted.discrete)
    table = read_table(wanted.table, wanted.species_column) if wanted.table else None
    if not (continuous or discrete or wanted.logarithms):
        if table:
            raise UsageError(
                f"{table.path}: name what to look for with --trait, --log-trait or --label; it has"
                f" {', '.join(table.columns)}"
            )
        continuous = [name for name in store.labels if name.startswith("trait_")]
        discrete = [name for name in ("habitat", "diet", "activity") if name in store.labels]
        if not (continuous or discrete):
            has = f"its labels are {', '.join(store.labels)}" if store.labels else "it has no label"
            raise UsageError(
                f"{place}: name what to look for with --trait, --log-trait or --label; {has}, and"
                " --traits names a table"
            )

    def texts(name: str, unknown: Sequence[str]) -> list[list[str]]:
        """What is known of each species."""
        if table:
            each = table.texts(species.names, name)
        else:
            each = texts_of_label(species, label_values(store, name, place))
        return [[x for x in texts if x.strip().lower() not in unknown] for texts in each]

    def numbers(name: str) -> np.ndarray:
        where = f"{table.path if table else place}: {name} of"
        means = [
            np.mean([_number(text, f"{where} {taxon}") for text in known]) if known else np.nan
            for taxon, known in zip(species.names, texts(name, _NO_NUMBER), strict=True)
        ]
        return np.asarray(means)

    values = {name: numbers(name) for name in continuous}
    for name in wanted.logarithms:
        plain = numbers(name)
        if (low := np.flatnonzero(plain <= 0)).size:
            raise UserError(
                f"{name} of {species.names[low[0]]} is {plain[low[0]]:g}, which has no logarithm;"
                " ask for it with --trait"
            )
        values[f"log10 {name}"] = np.log10(plain)
    return values, {name: list(map(_majority, texts(name, _NO_CLASS))) for name in discrete}


def _key(name: str) -> str:
    """Species names as they compare: 'Pica_pica' is 'pica pica'."""
    return " ".join(name.replace("_", " ").casefold().split())


def _majority(texts: Sequence[str]) -> str:
    """The commonest, the first of several by the alphabet, "" of none."""
    counts = Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text), default="")


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{what}: {text!r} is no number; is it a --label rather than a --trait?")
    return value
