"""What the published sets share on disk: tables, lists, and folders with one folder a class."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioclip2_jax.data import tables
from bioclip2_jax.data.folders import files_below
from bioclip2_jax.errors import UserError


class Labelled(NamedTuple):
    """File names, and what is true of each: labels [images, ...] int."""

    files: list[str]
    labels: np.ndarray


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of a table that has these columns; a first column without a name is an index.

    Raises:
      UserError: it cannot be read, or lacks a column.
    """
    table = tables.open_table(path)
    missing = [name for name in columns if name not in table.header]
    if missing:
        raise no_column(table, missing[0])
    return list(table.rows())


def no_column(table: tables.Table, name: str, what: str = "") -> UserError:
    """The error about a table that lacks a column."""
    has = ", ".join(filter(None, table.header))
    return UserError(f"{table.path}: no column {name!r}{what}; it has {has}")


def read_lines(path: Path) -> list[str]:
    """The lines of a text that are not blank.

    Raises:
      UserError: it cannot be read, or holds none.
    """
    lines = [line for _, line in tables.read_lines(path)]
    if not lines:
        raise UserError(f"{path}: nothing in it")
    return lines


def pictures_in(folder: Path, root: Path) -> list[str]:
    """The pictures below a folder, sorted, as paths from `root`.

    Raises:
      UserError: there is none.
    """
    pictures = files_below(folder).pictures
    if not pictures:
        raise UserError(f"{folder}: no picture here")
    return [(folder.relative_to(root) / name).as_posix() for name in pictures]


def class_folders(folder: Path, root: Path) -> tuple[Labelled, list[str]]:
    """The pictures of a folder with one folder a class, and the names of the classes.

    Raises:
      UserError: there is none, or one without pictures.
    """
    names = sorted(p.name for p in (folder.iterdir() if folder.is_dir() else ()) if p.is_dir())
    if not names:
        raise UserError(f"{folder}: no folder of a class here")
    pictures = [pictures_in(folder / name, root) for name in names]
    labels = np.repeat(np.arange(len(names)), [len(part) for part in pictures])
    return Labelled([file for part in pictures for file in part], labels), names
