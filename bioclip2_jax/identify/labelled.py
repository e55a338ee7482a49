"""Tables of pictures that people have named: of classes for `fit`, of taxa for `calibrate`."""

from collections.abc import Callable
from dataclasses import dataclass

from bioclip2_jax import files
from bioclip2_jax.data import tables
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify import name_checks
from bioclip2_jax.identify.heads import UNKNOWN
from bioclip2_jax.text.taxonomy import Taxon


@dataclass(frozen=True)
class Labelled:
    """Rows of a table: files, classes and groups ("" without) as written."""

    files: list[str]
    classes: list[str]
    groups: list[str]


def read(path: str, column: str, group: str | None, say: Callable[[str], None]) -> Labelled:
    """The rows that have a class. A picture that is named twice alike counts once.

    Args:
      path: of the table.
      column: whose cells are the classes.
      group: whose cells are groups; None without.
      say: receives what was left out.

    Raises:
      UsageError: no such file, or column.
      UserError: unreadable, or a row that cannot be used; names the line.
    """
    table, file_column, has = _opened(path)

    def header(option: str, name: str) -> str:
        wanted = name if name in table.header else table.column([tables.normal(name)])
        if not wanted:
            raise UsageError(f"{path}: no column {name!r} ({option}); it has {has}")
        return wanted

    label_column = header("--column", column)
    group_column = header("--group", group) if group else ""
    lines: dict[str, int] = {}
    rows, skipped, twice = Labelled([], [], []), 0, 0
    for line, row in table.rows():
        name, label = row[file_column], row[label_column]
        if not label:
            skipped += 1
            continue
        where = f"{path}, line {line}"
        if not name:
            raise UserError(f"{where}: no file in {file_column}; name the picture, or take it out")
        if label == UNKNOWN:
            raise UserError(
                f"{where}: {column} is {label!r}, which `predict` answers below the threshold;"
                " empty the cell if nobody knows, or call the class otherwise"
            )
        cell = row[group_column] if group else ""
        if group and not cell:
            raise UserError(f"{where}: no {group}; fill the cell, or take the row out")
        if name in lines:
            earlier = lines[name]
            if (label, cell) != (rows.classes[earlier], rows.groups[earlier]):
                raise UserError(
                    f"{where}: {name} is {label!r} here and {rows.classes[earlier]!r} above, or of"
                    " another group; keep one of the rows"
                )
            twice += 1
            continue
        lines[name] = len(rows.files)
        rows.files.append(name)
        rows.classes.append(label)
        rows.groups.append(cell)
    if skipped:
        say(f"{path}: {skipped:,} rows without {column} are left out")
    _tell_twice(path, twice, say)
    return rows


def read_taxa(path: str, say: Callable[[str], None]) -> tuple[list[str], list[Taxon]]:
    """The files of a table, and what they show; see `Taxon.from_row`.

    Rows that name no taxon are left out, and synonyms are taken for what they stand for.

    Args:
      path: of the table.
      say: receives what was left out.

    Raises:
      UsageError: no such file, or column.
      UserError: unreadable, or a row that cannot be used; names the line.
    """
    table, file_column, has = _opened(path)
    known: dict[str, Taxon] = {}
    skipped = twice = 0
    for line, row in table.rows():
        name, taxon = row[file_column], name_checks.accepted_taxon(row)[0]
        if taxon.deepest_rank is None:
            skipped += 1
            continue
        if not name:
            raise UserError(
                f"{path}, line {line}: no file in {file_column}; name the picture, or take it out"
            )
        if known.setdefault(name, taxon) != taxon:
            raise UserError(
                f"{path}, line {line}: {name} is {taxon.scientific_name} here and"
                f" {known[name].scientific_name} above; keep one of the rows"
            )
        twice += 1
    if not known:
        raise UserError(f"{path}: no row names a taxon, such as in `scientificName`; it has {has}")
    if skipped:
        say(f"{path}: {skipped:,} rows that name no taxon are left out")
    _tell_twice(path, twice - len(known), say)
    return list(known), list(known.values())


def _opened(path: str) -> tuple[tables.Table, str, str]:
    """A table, its column of files, and what columns it has."""
    place = files.place(path)
    if not place.is_file():
        raise UsageError(f"{path}: no such table")
    table = tables.open_table(place)
    has = ", ".join(name for name in table.header if name)
    file_column = table.column(tables.FILE_COLUMNS)
    if not file_column:
        raise UsageError(f"{path}: no column with file names, such as `filename`; it has {has}")
    return table, file_column, has


def _tell_twice(path: str, twice: int, say: Callable[[str], None]) -> None:
    if twice:
        say(f"{path}: {twice:,} rows repeat a picture, which counts once")
