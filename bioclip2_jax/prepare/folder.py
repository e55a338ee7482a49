"""Pictures in folders with their metadata in CSV tables, Darwin Core or our own column names.

The tables are read once: every row is checked, and planned in slices that are read one by one.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bioclip2_jax import files
from bioclip2_jax.data import buckets, tables
from bioclip2_jax.data.tables import Table, normal, open_table
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.prepare import columns, recognise
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.prepare.spool import split_of
from bioclip2_jax.text.names import clean
from bioclip2_jax.text.taxonomy import RANKS

_ROWS_A_PART = 1000


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Folders of pictures, each with a table of one row a picture.

    Attributes:
      tables: pairs of a folder (None: the table's own) and a table.
      captions: the column of the pictures' own captions, "" for none.
    """

    tables: tuple[tuple[Path | None, Path], ...]
    captions: str = ""

    def parts(self, folder: Path) -> list[Part]:
        """Slices of the rows of all tables.

        Raises:
          UsageError: a folder that is not there, or a column.
          UserError: a table that cannot be used, with its file and row.
        """
        recognise.refuse_others([str(table) for _, table in self.tables], "folder")
        several = len(self.tables) > 1
        opened = [
            _open_table(images, path, self.captions, prefix=several) for images, path in self.tables
        ]
        rows = (row for each in opened for row in each.rows())
        return list(write_slices(rows, folder, _ROWS_A_PART))

    def read(self, part: Part) -> Iterator[Picture | Rejected]:
        """The pictures of the rows of a slice."""
        rows = list(read_slice(part.file))
        is_far = any(files.is_remote(row["images"]) for row in rows)
        yield from buckets.each(_picture, rows) if is_far else map(_picture, rows)


def _picture(row: dict[str, Any]) -> Picture | Rejected:
    file, split, key = row["file"], row["split"], row["key"]
    path = f"{row['images']}/{file}" if file else ""
    if not file:
        fault = f"the {row['column']} cell is empty ({row['place']})"
    elif re.match("(https?|ftp)://", file):
        fault = "a web address; download the picture and name its file"
    else:
        try:
            found = _find(files.place(row["images"]), file)
            described = columns.describe(
                row["cells"], captions=row["captions"], besides=row["besides"]
            )
            described.fields["dataset_name"] = row["dataset"]
            image = buckets.read_bytes(found)
            return Picture(file=str(found), split=split, record=described.record(key, image))
        except (OSError, ValueError) as error:
            detail = getattr(error, "strerror", None) or reason(error)
            fault = f"cannot be read ({detail})"
    return Rejected(key=key, file=path, split=split, reason=fault)


def write_slices(rows: Iterable[Mapping[str, Any]], folder: Path, size: int) -> Iterator[Part]:
    """Writes rows, one a line of JSON, in files of `size` of them; a part for each."""
    rows, number = iter(rows), 0
    while lines := [json.dumps(row) + "\n" for row in islice(rows, size)]:
        path = folder / f"{number:06d}.jsonl"
        files.write_text(path, "".join(lines))
        yield Part(file=str(path))
        number += 1


def read_slice(path: str) -> Iterator[dict[str, Any]]:
    """The rows of such a file."""
    with open(path, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table of pictures, and what its columns mean.

    Attributes:
      images: the folder that file names count from.
      prefix: whether keys begin with the name of the dataset.
      file, key, split, dataset: columns; only the first is always there.
      captions: the column of captions, "" for none.
      besides: columns that are no labels.
    """

    images: Path
    table: Table
    prefix: bool
    file: str
    key: str | None
    split: str | None
    dataset: str | None
    captions: str
    besides: list[str]

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each picture, in the order of the table."""
        home = files.absolute(self.table.path).parent.name
        for line, row in self.table.rows():
            dataset = (row[self.dataset] if self.dataset else "") or home
            start = f"{dataset}/" if self.prefix else ""
            for file in self._files(row):
                # Pictures of one occurrence share its key, and so their split.
                own_key = clean(row[self.key]) if self.key else ""
                key = start + (own_key or file or f"line {line}")
                split = tables.split_name(row[self.split] if self.split else "") or split_of(key)
                if split == "all":
                    raise UserError(
                        f"{self.table.path}, line {line}: no split may be called 'all', which"
                        " means all of them; rename it"
                    )
                yield {
                    "images": str(self.images),
                    "file": file,
                    "column": self.file,
                    "place": f"{self.table.path}, line {line}",
                    "key": key,
                    "split": split,
                    "dataset": dataset,
                    "captions": self.captions,
                    "besides": self.besides,
                    "cells": {header: cell for header, cell in row.items() if cell},
                }

    def _files(self, row: dict[str, str]) -> list[str]:
        """The pictures of a row; Darwin Core lists several with bars between them."""
        cell = row[self.file]
        if normal(self.file) != "associatedmedia":
            return [cell]
        return [part for part in (part.strip() for part in cell.split("|")) if part] or [""]


def _open_table(images: Path | None, path: Path, captions: str, *, prefix: bool) -> _Table:
    if images and not images.is_dir():
        raise UsageError(f"--images {images}: there is no such folder")
    table = open_table(path)
    file = table.column(tables.FILE_COLUMNS)
    if file is None:
        raise UserError(
            f"{path}: no column names the picture; call one of them 'filename'"
            f" (there are {', '.join(table.header)})"
        )
    if captions and captions not in table.header:
        raise UsageError(
            f"--captions {captions}: {path} has no such column, but {', '.join(table.header)}"
        )
    if not captions and not columns.name_columns(table.header):
        # Corpora for replay have captions instead of taxonomy.
        captions = table.column(("caption",)) or ""
        if not captions:
            raise UserError(
                f"{path}: no taxonomy; give at least one of {', '.join(RANKS)} or scientificName"
            )
    key, split = columns.key_column(table.header), table.column(tables.SPLIT_COLUMNS)
    return _Table(
        images=images or path.parent,
        table=table,
        prefix=prefix,
        file=file,
        key=key,
        split=split,
        dataset=table.column(("datasetname", "dataset")),
        captions=captions,
        besides=[normal(column) for column in (file, key, split) if column],
    )


def _find(images: Path, file: str) -> Path:
    """The picture's path: below `images`, or below the folder above it, in either spelling."""
    path, whole = images / file, files.absolute(images)
    for name in dict.fromkeys((file, file.replace("\\", "/"))):
        if (images / name).exists():
            return images / name
        # A table may also count from the folder above the pictures.
        if Path(name).parts[:1] == (whole.name,):
            above = whole.parent / name
            if above.exists():
                return above
    return path
