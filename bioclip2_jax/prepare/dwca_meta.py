"""The description of a Darwin Core Archive, meta.xml, and the rows of its tables."""

import codecs
import collections
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO
from xml.parsers import expat

from bioclip2_jax.data.tables import normal
from bioclip2_jax.errors import UserError

CORES = ("occurrence", "taxon")
EXTENSIONS = ("multimedia", "simplemultimedia", "image", "simpleimage", "document")
_MAX_LINE = 1 << 24
_MAX_META = 1 << 20
_ESCAPES = {"\\t": "\t", "\\n": "\n", "\\r": "\r"}
_Attributes = Mapping[str, str]


@dataclass
class DwcTable:
    """One table of an archive, as meta.xml describes it.

    Attributes:
      kind: normal name of what a row is.
      attributes: of its element.
      files: names.
      id: index of the id, or of the core's.
      terms: index → term; completed by the header where meta.xml has none.
      defaults: term → what an empty or missing cell means.
    """

    kind: str
    attributes: _Attributes
    files: list[str] = field(default_factory=list)
    id: int = 0
    terms: dict[int, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)

    def get(self, name: str, default: str) -> str:
        """An attribute, escapes undone."""
        text = self.attributes.get(name, default)
        for escape, character in _ESCAPES.items():
            text = text.replace(escape, character)
        return text

    def row(self, cells: list[str]) -> dict[str, str]:
        """Term → text."""
        row: dict[str, str] = {}
        for i, name in self.terms.items():  # several namespaces may have a term
            row[name] = row.get(name) or (cells[i].strip() if i < len(cells) else "")
        return row | {name: text for name, text in self.defaults.items() if not row.get(name)}


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
      number: of the line that it begins on.
      id: of the core's row; "" if there is none.
      cells: of it.
      fault: what is wrong with it.
    """

    number: int
    id: str
    cells: list[str]
    fault: str


def read_meta(data: bytes, place: str) -> tuple[DwcTable, DwcTable | None]:
    """The core and the extension that has the pictures, if there is one.

    Raises:
      UserError: it is no description of an archive that pictures can be taken from.
    """
    tables: list[DwcTable] = []
    texts: list[str] = []

    def refuse(*_: object) -> None:
        raise UserError(f"{place}: it declares document types or entities, which no archive needs")

    def start(tag: str, attributes: _Attributes) -> None:
        name = normal(tag)
        if name in ("core", "extension"):
            kind = normal(attributes.get("rowType", ""))
            tables.append(DwcTable(kind=kind, attributes=attributes))
        if name == "location":
            texts.clear()
        index = attributes.get("index", "")
        if name in ("id", "coreid") and tables and index.isdecimal():
            tables[-1].id = int(index)
        if name == "field" and tables:
            term = attributes.get("term", "").rstrip("/").rpartition("/")[2]
            if index.isdecimal():
                tables[-1].terms.setdefault(int(index), term)
            if "default" in attributes:
                tables[-1].defaults[term] = attributes["default"]

    def end(tag: str) -> None:
        if normal(tag) == "location" and tables:
            tables[-1].files.append("".join(texts).strip())

    parser = expat.ParserCreate()
    # Without a document type there are no entities, inner or outer, to expand.
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = texts.append
    try:
        if len(data) > _MAX_META:
            raise UserError(f"{place}: {len(data)} bytes are too many")
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as error:
        raise UserError(f"{place}: cannot be read ({error})") from error
    core = next((table for table in tables if table.kind in CORES), None)
    if core is None or not core.files:
        kinds = ", ".join(table.kind for table in tables) or "nothing"
        raise UserError(f"{place}: its core is neither Occurrence nor Taxon (it describes {kinds})")
    media = (table for table in tables if table.kind in EXTENSIONS and table is not core)
    return core, next((table for table in media if table.files), None)


def lines_of(table: DwcTable, stream: IO[bytes], place: str) -> Iterator[Line]:
    """The rows of a file of a table that are not blank; completes `table.terms`.

    Raises:
      UserError: its encoding or separators are none that can be read.
    """
    encoding, separator = table.get("encoding", "UTF-8"), table.get("fieldsTerminatedBy", ",")
    quote = table.get("fieldsEnclosedBy", '"')
    try:
        is_readable = "\n".encode(encoding) == b"\n" and table.get("linesTerminatedBy", "\n")[-1:]
    except LookupError:
        is_readable = ""
    if is_readable != "\n" or len(separator) != 1 or len(quote) > 1:
        raise UserError(
            f"{place}: meta.xml describes it with an encoding or separators that are not"
            " understood; export it in UTF-8, lines ended by \\n and cells separated by tabs"
        )
    skip = int(table.attributes.get("ignoreHeaderLines", "0") or 0)
    width = 0
    for number, cells, fault in _cells(stream, encoding, separator, quote, place):
        if not any(cells) and not fault:
            continue
        width = width or len(cells)
        if number <= skip:
            if not table.terms:
                table.terms = {i: cell.strip() for i, cell in enumerate(cells) if cell.strip()}
            continue
        if not table.terms:
            raise UserError(f"{place}: neither meta.xml nor a header names its columns")
        if len(cells) != width and not fault:
            fault = f"a malformed row ({len(cells)} cells instead of {width})"
        own = cells[table.id].strip() if table.id < len(cells) else ""
        yield Line(number=number, id=own, cells=cells, fault=fault)


def _cells(
    stream: IO[bytes], encoding: str, separator: str, quote: str, place: str
) -> Iterator[tuple[int, list[str], str]]:
    """(number of the first line, cells, what is wrong with their text) of every row."""
    texts = _texts(stream, encoding, place)
    unsound = f"a text is not valid {encoding}"
    if not quote:
        for number, text, is_sound in texts:
            yield number, text.rstrip("\r\n").split(separator), "" if is_sound else unsound
        return
    waiting: collections.deque[tuple[int, str, bool]] = collections.deque()
    taken: list[tuple[int, str, bool]] = []

    def feed() -> Iterator[str]:
        while line := waiting.popleft() if waiting else next(texts, None):
            taken.append(line)
            yield line[1]

    width = 0
    reader = csv.reader(feed(), delimiter=separator, quotechar=quote, strict=True)
    while True:
        taken.clear()
        cells, fault = [], ""
        try:
            cells = next(reader, None)
        except csv.Error as error:
            fault = f"a malformed row ({error})"
        if cells is None:
            return
        width = width or len(cells)
        if len(taken) > 1 and (fault or len(cells) != width):
            # A quote that is never closed takes the rows behind it in: they are read again.
            waiting.extendleft(reversed(taken[1:]))
            reader = csv.reader(feed(), delimiter=separator, quotechar=quote, strict=True)
            fault = "a malformed row (a quote in it is not closed)"
        is_sound = all(line[2] for line in taken)
        yield taken[0][0], cells, fault or ("" if is_sound else unsound)


def _texts(stream: IO[bytes], encoding: str, place: str) -> Iterator[tuple[int, str, bool]]:
    """(number, text, whether it could be decoded) of every line."""
    number = 0
    while line := stream.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise UserError(f"{place}, line {number}: it has more than {_MAX_LINE} bytes")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, line.decode(encoding), True
        except UnicodeDecodeError:
            yield number, line.decode(encoding, "backslashreplace"), False
