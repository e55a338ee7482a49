"""Reads tables and lists as people have them, from spreadsheets, databases and GBIF."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UserError
from bioclip2_jax.text.taxonomy import normal

# What people call a column, as `normal` writes it, the best name first.
FILE_COLUMNS = (
    *("filename", "file", "filepath", "path", "image", "imagefile", "imagepath", "imagefilename"),
    *("img", "imgpath", "localpath", "associatedmedia"),
)
SPLIT_COLUMNS = ("split", "subset")
SCIENTIFIC_NAME_COLUMNS = ("scientificname",)
COMMON_NAME_COLUMNS = ("vernacularname", "commonname", "common")
_SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "dev": "val"}
_SPLIT_NAMES |= {"testing": "test", "evaluation": "test"}

_WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_WORKBOOK_STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # not "PK,name", a header with a key
_SEP_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # Excel's own hint above the header


@dataclass(frozen=True)
class Table:
    """A table that was found readable; `rows` streams it.

    Attributes:
      path: of the file.
      header: column names as written.
      encoding: of the text.
      delimiter: one character.
      skip: lines above the header.
    """

    path: Path
    header: tuple[str, ...]
    encoding: str
    delimiter: str
    skip: int

    def columns(self, names: Sequence[str]) -> list[str]:
        """The headers that are among `names` (as `normal` writes them), in the order of those."""
        return [header for name in names for header in self.header if normal(header) == name]

    def column(self, names: Sequence[str]) -> str | None:
        """The first of them, if there is any."""
        return next(iter(self.columns(names)), None)

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """(line it begins on, header → cell without outer blanks) of each row that is not blank.

        A row that is too short lacks its last cells, as spreadsheet programs write it.

        Raises:
          UserError: more cells than columns, or an unclosed quote; names the line.
        """
        for line, cells in _lines(self.path, self.encoding, self.delimiter, self.skip + 1):
            if len(cells) > len(self.header) and any(cells[len(self.header) :]):
                raise UserError(
                    f"{self.path}, line {line}: {len(cells)} cells under {len(self.header)}"
                    " columns; quote cells that hold the delimiter"
                )
            cells += [""] * (len(self.header) - len(cells))
            yield line, dict(zip(self.header, cells, strict=False))


def split_name(cell: str) -> str:
    """The split that a cell means: "Training" is train, "dev" is val."""
    name = re.sub(r"\W+", "_", cell.lower()).strip("_")
    return _SPLIT_NAMES.get(name, name)


def open_table(path: Path) -> Table:
    """Finds encoding, delimiter and header of a table.

    Understands UTF-8 and UTF-16 (by its byte order mark); anything else is taken for
    Windows-1252. The delimiter is the commonest in the header of comma, semicolon, tab and bar.

    Raises:
      UserError: missing, empty, binary, or two columns of one name.
    """
    encoding = _encoding(path)
    with _open_text(path, encoding) as file:
        first, skip = file.readline(), 0
        while first and not first.strip():
            first, skip = file.readline(), skip + 1
        hint = _SEP_LINE.fullmatch(first)
        if hint:
            first, skip = file.readline(), skip + 1
    delimiter = hint[1] if hint else max(",;\t|", key=first.count)
    lines = _lines(path, encoding, delimiter, skip)
    header = tuple(next(lines, (0, []))[1])
    if not header or next(lines, None) is None:
        raise UserError(f"{path}: the table has no rows")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: two columns are called {twice[0]!r}; rename one of them")
    return Table(path=path, header=header, encoding=encoding, delimiter=delimiter, skip=skip)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text without outer blanks) of every line of a list that is not blank.

    Raises:
      UserError: missing or binary.
    """
    with _open_text(path, _encoding(path)) as file:
        return [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]


def refuse_workbook(path: str | Path, start: bytes = b"") -> None:
    """Refuses what spreadsheet programs save, by its name or its first bytes.

    Raises:
      UserError: says what to do.
    """
    if start.startswith(_WORKBOOK_STARTS) or str(path).lower().endswith(_WORKBOOKS):
        raise UserError(
            f"{path}: not a text table or list but a workbook; save its sheet as CSV in UTF-8"
        )


def _open_text(path: Path, encoding: str, newline: str | None = None) -> TextIO:
    # Paths in buckets know no encodings themselves.
    file = buckets.open_bytes(path)
    return io.TextIOWrapper(file, encoding=encoding, errors="replace", newline=newline)


def _encoding(path: Path) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    encoding = "utf-8-sig"
    try:
        with buckets.open_bytes(path) as file:
            start = file.read(4)
            refuse_workbook(path, start)
            if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                return "utf-16"
            file.seek(0)
            for chunk in iter(lambda: file.read(1 << 20), b""):
                if b"\0" in chunk:
                    raise UserError(f"{path}: not a text table or list; export it in UTF-8")
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    encoding = "cp1252"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return encoding


def _lines(path: Path, encoding: str, delimiter: str, skip: int) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, stripped cells) of every line that is not blank."""
    # Tab-separated exports of databases (GBIF) hold bare quotes; those of Excel quote cells.
    bare = delimiter == "\t"
    quoting = csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL
    with _open_text(path, encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise UserError(
                    f"{path}, row from line {line}: {error}; check its quotes"
                ) from error
            if cells is None:
                return
            cells = [_unquoted(cell.strip()) if bare else cell.strip() for cell in cells]
            if line > skip and any(cells):
                yield line, cells


def _unquoted(cell: str) -> str:
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"').strip()
    return cell
