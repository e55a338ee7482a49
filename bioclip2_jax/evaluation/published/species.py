"""The species sets of BioCLIP 2's first table as they are published, and any annotation table.

A set is found by the files that lie in its folder:

- NABirds (Van Horn et al. 2015): `images.txt`, `image_class_labels.txt`, `classes.txt` and
  `hierarchy.txt`, lines of an id, a blank and a value, as CUB-200 has them.
- Meta-Album (Ullah et al. 2022), seven sets: `labels.csv` and `info.json`, the form that its
  repository asks of processed sets.
- IDLE-OO Camera Traps, five sets in one folder: `SET-balanced.csv` (dataset card).
- Rare Species (dataset card), and everything else: `metadata.csv`.

The released code has an annotation table for each (bioclip-2, src/evaluation/data.py); those work
here too. Classes are numbered in the order of the rows, which few-shot draws from.
"""

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bioclip2_jax.data import buckets, tables
from bioclip2_jax.data.tables import normal, open_table
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation.published.folders import no_column, read_lines
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.files import absolute, place, read_json_object
from bioclip2_jax.measures.scores import number
from bioclip2_jax.text import captions
from bioclip2_jax.text.taxonomy import RANKS, Taxon, TaxonEntry

_NABIRDS = ("images.txt", "image_class_labels.txt", "classes.txt", "hierarchy.txt")
_TABLE = "metadata.csv"
_BALANCED = "-balanced"
_DEPTH = 3  # folders below --data that are looked into: meta-album/set0/PLK_Mini
_FILES = ("filepath", *tables.FILE_COLUMNS)
_SCIENTIFIC = (*tables.SCIENTIFIC_NAME_COLUMNS, "sciname")


@dataclass(frozen=True, kw_only=True)
class Species:
    """Pictures of one species set.

    Attributes:
      files: file names.
      labels: [images] int, numbered in order of first appearance; -1 without a class.
      classes: what each label is; the scientific name of a class that has no lineage is its name.
      names: of the classes as they go into the templates.
    """

    files: list[str]
    labels: np.ndarray
    classes: list[TaxonEntry]
    names: list[str]


@dataclass(frozen=True, kw_only=True)
class SpeciesSet:
    """A set that was found.

    Attributes:
      name: of the set.
      root: folder that its pictures lie below.
      table: file that says what they show; NABirds' `images.txt` stands for its four.
      text_kind: the form of names that the paper gives the set.
      file_column, class_column: columns of the table; None to know them by their names.
    """

    name: str
    root: Path
    table: Path
    text_kind: str
    file_column: str | None = None
    class_column: str | None = None


# ---- Finding


def find(folder: str | Path) -> list[SpeciesSet]:
    """The sets in a folder, or in the folders below it; none is an empty list.

    Raises:
      UserError: a set's description cannot be read.
    """
    folder = place(folder)
    sets = list(_find(folder, _DEPTH)) if folder.is_dir() else []
    often = Counter(species_set.name for species_set in sets)
    return [
        replace(each, name="-".join(each.root.relative_to(folder).parts) or each.name)
        if often[each.name] > 1
        else each
        for each in sets
    ]


def of_table(path: str | Path, root: str | Path | None) -> SpeciesSet:
    """The set that an annotation table describes.

    Args:
      path: of the table.
      root: folder of the pictures; None for the table's own.

    Raises:
      UserError: the table cannot be read.
    """
    path = place(path)
    header = {normal(name) for name in open_table(path).header}
    text_kind = "taxon_com" if header & {*RANKS, *_SCIENTIFIC} - {"class"} else "asis"
    name = path.stem.removesuffix(_BALANCED)
    plain = name in ("metadata", "annotations", "labels")
    name = absolute(path).parent.name if plain else name
    pictures = place(root) if root else path.parent
    return SpeciesSet(name=name, root=pictures, table=path, text_kind=text_kind)


def _find(folder: Path, depth: int) -> Iterator[SpeciesSet]:
    if all((folder / name).is_file() for name in _NABIRDS):
        name = absolute(folder).name
        yield SpeciesSet(name=name, root=folder, table=folder / _NABIRDS[0], text_kind="asis")
    elif (folder / "labels.csv").is_file() and (folder / "info.json").is_file():
        yield _meta_album(folder)
    elif tables_here := buckets.named(folder, f"*{_BALANCED}.csv"):
        for path in tables_here:
            name = path.stem.removesuffix(_BALANCED)
            yield SpeciesSet(name=name, root=folder, table=path, text_kind="taxon_com")
    elif (folder / _TABLE).is_file():
        yield of_table(folder / _TABLE, folder)
    elif depth:
        for below in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _find(below, depth - 1)


def _meta_album(folder: Path) -> SpeciesSet:
    path = folder / "info.json"
    try:
        info = read_json_object(path)
    except UserError as error:
        raise UserError(f"{path}: not the description of a Meta-Album set ({error})") from error
    return SpeciesSet(
        name=absolute(folder).name,
        root=folder,
        table=folder / "labels.csv",
        text_kind="asis",
        file_column=str(info.get("image_column_name") or "FILE_NAME"),
        class_column=str(info.get("category_column_name") or "CATEGORY"),
    )


# ---- Reading


def read(species_set: SpeciesSet, text_kind: str, choice: Settings | None = None) -> Species:
    """The pictures of a set and their classes.

    Args:
      species_set: from `find` or `of_table`.
      text_kind: "asis" takes the names of the classes as they are, the others are those of
        `captions.class_name`.
      choice: its split and conditions choose rows, its class column says what is a class: rows
        where it is empty have none. None takes all rows, and the set's own classes.

    Raises:
      UsageError: `choice` asks for what the set does not have.
      UserError: a file cannot be used; names the line.
    """
    choice = choice or Settings()
    if species_set.table.name == _NABIRDS[0]:
        if text_kind != "asis":
            raise UsageError(
                f"--text-kind {text_kind}: {species_set.root} is NABirds, which has only the names"
                " of its classes; leave it out"
            )
        return _nabirds(species_set.root, choice)
    return _table(species_set, text_kind, choice)


def _table(species_set: SpeciesSet, text_kind: str, choice: Settings) -> Species:
    """Rows of the same name are one class, as in the original."""
    table = open_table(species_set.table)
    file = table.column([normal(species_set.file_column)] if species_set.file_column else _FILES)
    if file is None:
        raise no_column(table, species_set.file_column or "filepath", " that names the picture")
    class_column = _class_column(species_set, table, text_kind, choice)
    common = table.column(tables.COMMON_NAME_COLUMNS)
    has_lineages = text_kind != "asis"
    # A column `class` that names the class is no rank.
    ranks = [name for name in table.header if name != class_column]
    numbers: dict[str, int] = {}
    classes: list[TaxonEntry] = []
    files, labels = [], []
    for line, row in _rows(table, choice):
        files.append(row[file].replace("\\", "/").removeprefix("./"))
        cell = row[class_column] if class_column else ""
        common_name = row[common] if common and has_lineages else ""
        taxon = Taxon.from_row({name: row[name] for name in ranks}) if has_lineages else Taxon()
        if not files[-1]:
            raise UserError(f"{table.path}: line {line} names no picture in {file!r}")
        if choice.class_column and not cell:
            labels.append(-1)
            continue
        if not (taxon.deepest_rank or cell or common_name):
            raise UserError(f"{table.path}: line {line} names nothing; fill its ranks or its class")
        name = captions.class_name(text_kind, taxon, common_name, cell)
        if name not in numbers:
            numbers[name] = len(numbers)
            scientific = taxon.scientific_name or cell or common_name
            classes.append(TaxonEntry(taxon, scientific, common_name, {}))
        labels.append(numbers[name])
    if not numbers:
        raise UserError(f"{table.path}: no row that is asked for has a class")
    return Species(files=files, labels=np.asarray(labels), classes=classes, names=list(numbers))


def _class_column(
    species_set: SpeciesSet, table: tables.Table, text_kind: str, choice: Settings
) -> str | None:
    """The column that names the class, None where the ranks alone do."""
    if choice.class_column:
        return _column(table, choice.class_column, "--class-column")
    if species_set.class_column:
        column = table.column((normal(species_set.class_column),))
        if column is None:
            raise no_column(table, species_set.class_column, ", which info.json names")
        return column
    is_rank = table.column(("kingdom",)) and not table.column(("cls",))
    column = None if is_rank else table.column(("class",))
    if text_kind == "asis":
        column = column or table.column(_SCIENTIFIC)
        if column is None:
            why = " with the names of the classes, which --text-kind asis takes"
            raise no_column(table, "class", why)
    return column


def _column(table: tables.Table, name: str, where: str) -> str:
    column = name if name in table.header else table.column((normal(name),))
    if column is None:
        near = difflib.get_close_matches(name, table.header, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"{where} {name}: {table.path} has no such column, only"
            f" {', '.join(filter(None, table.header))}{meant}"
        )
    return column


def _rows(table: tables.Table, choice: Settings) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of those asked for; what no row has is an error before anything is embedded."""
    wanted: list[tuple[str, str]] = []
    for text in choice.where:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--where {text}: write COLUMN=VALUE")
        wanted.append((_column(table, name.strip(), "--where"), value.strip()))
    split = table.column(tables.SPLIT_COLUMNS)
    if choice.split:
        if split is None:
            raise UsageError(
                f"--split {choice.split}: {table.path} has no column 'split'; leave --split out to"
                " take all rows"
            )
        wanted.append((split, choice.split))

    def holds(row: dict[str, str], name: str, value: str) -> bool:
        if name == split:
            return tables.split_name(row[name]) == tables.split_name(value)
        return row[name] == value

    rows = list(table.rows())
    chosen = [(line, row) for line, row in rows if all(holds(row, *pair) for pair in wanted)]
    if wanted and not chosen:
        alone = [pair for pair in wanted if not any(holds(row, *pair) for _, row in rows)]
        if not alone:
            shown = " and ".join(f"{name} {value!r}" for name, value in wanted)
            raise UsageError(f"{table.path}: no row has {shown} at once")
        name, value = alone[0]
        values = sorted({row[name] for _, row in rows} - {""})
        shown = ", ".join(values[:10]) + (" ..." if len(values) > 10 else "")
        raise UsageError(f"{table.path}: no row has {name} {value!r}; there are {shown}")
    return chosen


def _nabirds(root: Path, choice: Settings) -> Species:
    """`images.txt` gives the order; `classes.txt` has inner nodes too, which no picture is of."""
    if choice.class_column or choice.where:
        raise UsageError(f"{root}: NABirds has no table; leave out --class-column and --where")
    files, numbers = _pairs(root / "images.txt"), _pairs(root / "image_class_labels.txt")
    names = _pairs(root / "classes.txt")
    if choice.split:
        if choice.split not in ("train", "test"):
            raise UsageError(f"{root}: no split {choice.split!r}; it has train, test")
        part = "1" if choice.split == "train" else "0"
        is_train = _pairs(root / "train_test_split.txt")
        files = {key: file for key, file in files.items() if is_train.get(key) == part}
    for key in files:
        if numbers.get(key) not in names:
            raise UserError(
                f"{root / 'image_class_labels.txt'}: picture {key} has the class"
                f" {numbers.get(key)}, which is not in classes.txt"
            )
    shown, labels = number([names[numbers[key]] for key in files])
    return Species(
        files=[f"images/{file}" for file in files.values()],
        labels=labels,
        classes=[TaxonEntry(Taxon(), name, "", {}) for name in shown],
        names=shown,
    )


def _pairs(path: Path) -> dict[str, str]:
    """First word → rest of every line."""
    pairs: dict[str, str] = {}
    for line in read_lines(path):
        key, _, value = line.partition(" ")
        if not value.strip():
            raise UserError(f"{path}: the line {line!r} is not an id, a blank and a value")
        pairs[key] = value.strip()
    return pairs
