"""Darwin Core Archives, a folder or a zip, whose pictures lie on this machine.

The rows of media are cut into slices; those of the core are joined to each slice on disk.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax.data import buckets
from bioclip2_jax.data.tables import normal
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.files import is_remote
from bioclip2_jax.prepare import joins, recognise
from bioclip2_jax.prepare.columns import describe, key_column
from bioclip2_jax.prepare.dwca_files import Archive, last_part, names_of, opened
from bioclip2_jax.prepare.dwca_meta import DwcTable, Line
from bioclip2_jax.prepare.joined_tables import connection, faults_of, scan
from bioclip2_jax.prepare.local_files import Unreadable
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.prepare.spool import NO_NAME
from bioclip2_jax.prepare.tar_members import printable
from bioclip2_jax.text.taxonomy import clean

_ROWS_A_PART = 5000
_COPY = "archive.zip"  # of one in a bucket, among the parts
_KEYS = ("gbifid", "occurrenceid", "taxonid", "id")
_NO_LABELS = ("id", "coreid", "type", "format", "associatedmedia", *_KEYS)
_ADDRESSES = ("accessuri", "identifier", "accessurl", "associatedmedia", "references")
_BETWEEN = "\x1f"  # cells of a row
_SCHEMA = pa.schema(
    [("key", pa.string()), ("line", pa.int64()), ("row", pa.string()), ("fault", pa.string())]
)
_NO_PICTURES = {"sound", "movingimage", "video", "audio", "text", "dataset", "interactiveresource"}


@dataclass(frozen=True, kw_only=True)
class DwcaSource:
    """A Darwin Core Archive.

    Attributes:
      archive: a folder with meta.xml, or a zip of it.
      media: the folder of the pictures; None: media/ in the archive, or the archive itself.
    """

    archive: Path
    media: Path | None = None

    def parts(self, folder: Path) -> Sequence[Part]:
        """Slices of the table of media."""
        if self.media and not self.media.is_dir():
            raise UsageError(f"--media {self.media}: there is no such folder")
        recognise.refuse_others([str(self.archive)], "dwca", "archive")
        if self._is_packed_far():
            buckets.fetch(self.archive, folder).rename(folder / _COPY)
        with self._opened(folder) as archive, faults_of(self.archive):
            core, media = archive.tables()
            _write(archive.lines(core), folder / "core.parquet")
            lines = archive.lines(media) if media else _associated_media(core, archive)
            addresses = _Addresses(media or _associated(core), folder / "addresses.parquet")
            parts: list[Part] = []
            with addresses:
                while some := list(itertools.islice(lines, _ROWS_A_PART)):
                    parts.append(Part(file=str(folder / f"media-{len(parts):06}.parquet")))
                    _write(some, Path(parts[-1].file))
                    addresses.add(some)
            addresses.write_shared(folder / "shared.parquet")
        if not parts:
            raise UserError(
                f"{self.archive}: it names no pictures, neither in a table of"
                " multimedia nor as associatedMedia"
            )
        keys = ((i, pq.read_table(part.file)["key"].to_pylist()) for i, part in enumerate(parts))
        tables = [folder / "core.parquet"]
        joined = joins.join(parts, keys, tables=tables, folder=folder / "joined")
        tables[0].unlink()
        return joined

    def read(self, part: Part) -> Iterator[Picture | Rejected]:
        """The pictures of a slice; media of other kinds are passed over."""
        shared = pq.read_table(Path(part.file).with_name("shared.parquet"))["name"].to_pylist()
        core_rows = joins.load(part.joined)
        with self._opened(Path(part.file).parent) as archive:
            core, media = archive.tables()
            rows = _Rows(archive, core, media or _associated(core), frozenset(shared), self.media)
            for row in pq.read_table(part.file).to_pylist():
                yield from rows.read(row, core_rows.get(row["key"], {}))

    def _is_packed_far(self) -> bool:
        return is_remote(self.archive) and not self.archive.is_dir()

    def _opened(self, folder: Path) -> AbstractContextManager[Archive]:
        copy = folder / _COPY
        return opened(self.archive, copy if copy.exists() else None)


@dataclass(frozen=True)
class _Rows:
    """The rows of an archive; see `DwcaSource.read`."""

    archive: Archive
    core: DwcTable
    media: DwcTable
    shared: Collection[str]
    folder: Path | None

    def read(
        self, row: Mapping[str, Any], core_row: Mapping[str, str]
    ) -> Iterator[Picture | Rejected]:
        """A picture, or nothing for other media.

        Args:
          row: of a slice.
          core_row: the one it belongs to, if there is one.
        """
        name, core_name = self.media.files[0], self.core.files[0]
        fault, what = row["fault"], {}
        if not fault:
            what = self.media.row(row["row"].split(_BETWEEN))
            if _is_no_picture(what):
                return
        if not fault and core_row.get("fault"):
            fault = f"{core_row['fault']} ({core_name}, line {core_row['line']})"
        own = self.core.row(core_row.get("row", "").split(_BETWEEN)) if core_row else {}
        column = key_column([term for term, text in own.items() if text], _KEYS)
        key = clean(own[column] if column else row["key"])
        key = printable(key) or f"{name}:{row['line']}"
        file = f"{self.archive.path}/{name}, line {row['line']}"
        described = describe(what, own, besides=_NO_LABELS)
        if not fault and not described.is_named:
            fault = NO_NAME
            if not core_row:
                fault += f" ({core_name} has no row {printable(row['key'])})"
        image = b""
        if not fault:
            try:
                names = names_of(what, _columns(self.media), self.shared)
                image = self.archive.picture(names, self.folder)
            except Unreadable as error:
                fault = str(error)
        if fault:
            yield Rejected(key=key, file=file, split="", reason=fault)
        else:
            yield Picture(file=file, split="", record=described.record(key, image))


class _Addresses:
    """Finds on disk which last parts of addresses name more than one picture."""

    def __init__(self, table: DwcTable, path: Path):
        self._table, self._path, self._columns = table, path, _columns(table)
        schema = pa.schema([(name, pa.string()) for name in ("name", "term", "address")])
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self):
        return self

    def __exit__(self, *_: object):
        self._writer.close()

    def add(self, lines: Iterable[Line]):
        rows = (self._table.row(line.cells) for line in lines if not line.fault)
        found = [
            (last_part(row[term]), term, row[term])
            for row in rows
            for term in self._columns
            if row.get(term)
        ]
        columns = [pa.array(some, pa.string()) for some in zip(*found, strict=True)]
        if columns:
            self._writer.write_batch(pa.record_batch(columns, schema=self._writer.schema))

    def write_shared(self, path: Path):
        with connection(path.parent) as database:
            shared = database.sql(
                f"SELECT DISTINCT name FROM (SELECT name FROM {scan([self._path])}"
                " GROUP BY name, term HAVING min(address) <> max(address)) ORDER BY name"
            ).to_arrow_table()
        pq.write_table(shared, path)
        self._path.unlink()


def _columns(table: DwcTable) -> list[str]:
    """The terms of a table that may name the file of a picture."""
    terms = [*table.terms.values(), *table.defaults]
    return [term for name in _ADDRESSES for term in dict.fromkeys(terms) if normal(term) == name]


def _associated(core: DwcTable) -> DwcTable:
    """The table that the cells of associatedMedia make."""
    return DwcTable(kind="", attributes={}, files=core.files, terms={0: "associatedMedia"})


def _associated_media(core: DwcTable, archive: Archive) -> Iterator[Line]:
    for line in archive.lines(core):
        if line.fault:
            yield line
            continue
        cell = core.row(line.cells).get("associatedMedia", "")
        for address in filter(None, map(str.strip, cell.split("|"))):
            yield Line(number=line.number, id=line.id, cells=[address], fault="")


def _is_no_picture(row: Mapping[str, str]) -> bool:
    kinds = {normal(term): text.lower() for term, text in row.items() if text}
    is_other = normal(kinds.get("type", "")) in _NO_PICTURES
    return is_other or kinds.get("format", "").startswith(("audio", "video", "text", "model"))


def _write(lines: Iterable[Line], path: Path) -> None:
    lines = iter(lines)
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        while some := list(itertools.islice(lines, _ROWS_A_PART)):
            texts = [_BETWEEN.join(c.replace(_BETWEEN, " ") for c in line.cells) for line in some]
            columns = [
                [line.id for line in some],
                [line.number for line in some],
                texts,
                [line.fault for line in some],
            ]
            arrays = [pa.array(c, kind) for c, kind in zip(columns, _SCHEMA.types, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
