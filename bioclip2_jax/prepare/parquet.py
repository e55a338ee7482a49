"""Pictures in Parquet: Hugging Face's, distributed-downloader's, and others with encoded bytes.

Row groups are read a few rows at a time, so that memory is that of the file's largest page.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bioclip2_jax.data import buckets
from bioclip2_jax.data.images import MAX_PIXELS
from bioclip2_jax.data.tables import SPLIT_COLUMNS, normal, split_name
from bioclip2_jax.errors import UsageError, reason
from bioclip2_jax.files import absolute, is_remote, place
from bioclip2_jax.prepare import joins, recognise
from bioclip2_jax.prepare.columns import (
    describe,
    name_columns,
    split_in,
    text_of,
)
from bioclip2_jax.prepare.folder_names import named
from bioclip2_jax.prepare.joined_tables import is_parquet
from bioclip2_jax.prepare.local_files import Unreadable, read_below
from bioclip2_jax.prepare.parquet_layout import Damaged, Layout, keys_of, opened, slices
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.prepare.spool import NO_NAME
from bioclip2_jax.prepare.tar_members import printable
from bioclip2_jax.text.taxonomy import RANKS, clean

_BYTES_A_BATCH = 16 << 20


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Parquet files with a column of pictures.

    Attributes:
      sources: files, and folders of them.
      captions: the column of the pictures' own captions.
      tables: catalogues and the like that are joined by the pictures' keys, see `joins.join`.
      unnamed: pictures are wanted, whether or not anything names their organisms.
    """

    sources: tuple[Path, ...]
    captions: str = ""
    tables: tuple[Path, ...] = ()
    unnamed: bool = False

    def parts(self, folder: Path) -> Sequence[Part]:
        """Slices of the files."""
        recognise.refuse_others([*map(str, self.sources)], "parquet")
        parts, why_not = [], ""
        for file, is_named in self._files():
            try:
                with opened(file) as parquet:
                    layout = Layout.of(parquet, file)
                    parts += list(slices(file, parquet.metadata))
            except Damaged as error:
                if is_named and not is_parquet(file):
                    raise UsageError(f"{file}: this is no Parquet file") from error
                parts.append(Part(file=str(file)))  # for `read` to report
                continue
            except UsageError as error:
                if is_named:
                    raise
                why_not = str(error)  # such as errors.parquet beside successes.parquet
                continue
            if not self.unnamed:
                self._check_names(file, layout)
        if not parts:
            raise UsageError(why_not or f"{self.sources[0]}: there is no Parquet file in it")
        if not self.tables:
            return parts
        return joins.join(parts, keys_of(parts), tables=self.tables, folder=folder / "joined")

    def read(self, part: Part) -> Iterator[Picture | Rejected]:
        """The pictures of a slice; of a damaged file one, and of a damaged part every row."""
        file = place(part.file)
        name = self._name(file)
        split = split_in(name) or "train"
        try:
            with buckets.fetched(file) as local, opened(local) as parquet:
                rows = _Rows(
                    file=file,
                    name=name,
                    split=split,
                    layout=Layout.of(parquet, file),
                    captions=self.captions,
                    unnamed=self.unnamed,
                    joined=joins.load(part.joined) if self.tables else None,
                )
                begin, end = part.rows or (0, parquet.metadata.num_rows)
                yield from rows.read(parquet, begin, end)
        except Damaged as error:
            fault = f"the Parquet file is damaged ({error})"
            yield Rejected(key=name, file=str(file), split=split, reason=fault)

    def _files(self) -> Iterator[tuple[Path, bool]]:
        """(file, whether it was named itself)."""
        for source in self.sources:
            if not source.exists():
                raise UsageError(f"{source}: there is no such file or folder")
            if not source.is_dir():
                yield source, True
                continue
            for path in _parquet_below(source):
                below = path.relative_to(source).parts
                if not any(name.startswith((".", "_")) for name in below):
                    yield path, False

    def _name(self, file: Path) -> str:
        """The file as seen from the folder above what was named."""
        for source in self.sources:
            if file == source:
                return file.name
            if file.is_relative_to(source):
                return f"{absolute(source).name}/{file.relative_to(source).as_posix()}"
        return str(file)

    def _check_names(self, file: Path, layout: "Layout") -> None:
        if self.captions and self.captions not in layout.columns:
            raise UsageError(
                f"--captions {self.captions}: {file} has no such column of texts (there are"
                f" {', '.join(layout.columns)})"
            )
        if self.tables:
            if layout.key is None:
                raise UsageError(
                    f"{file}: no column holds the keys of the pictures, such as 'uuid', by which"
                    " --tables could be joined"
                )
        elif layout.size:
            if not (name_columns(layout.columns) or self.captions):
                raise UsageError(
                    f"{file}: pictures of distributed-downloader without their taxonomy; name the"
                    " table that has it: --tables catalog.parquet"
                )
        elif not (layout.names or layout.label or self.captions):
            raise UsageError(
                f"{file}: nothing names the organisms; it takes a column of taxonomy (kingdom …"
                " species, scientificName), a label with its names, --tables TABLE, or, for the"
                f" pictures' own captions, --captions COLUMN (there are"
                f" {', '.join(layout.columns) or 'none'})"
            )


def _parquet_below(folder: Path) -> list[Path]:
    if is_remote(folder):
        names = buckets.sizes_below(folder)
        return [folder / name for name in names if name.lower().endswith(".parquet")]
    found = folder.rglob("*.[pP][aA][rR][qQ][uU][eE][tT]")
    return sorted((path for path in found if path.is_file()), key=str)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows of a file; see `ParquetSource.read`."""

    file: Path
    name: str
    split: str
    layout: Layout
    captions: str
    unnamed: bool
    joined: Mapping[str, Mapping[str, str]] | None

    def read(self, parquet: pq.ParquetFile, begin: int, end: int) -> Iterator[Picture | Rejected]:
        """Gives the pictures of rows `begin` to `end`, the latter excluded."""
        first = 0
        for group in range(parquet.num_row_groups):
            stop = first + parquet.metadata.row_group(group).num_rows
            if first < end and stop > begin:
                row, last, fault = first, min(stop, end), "fewer rows than it says"
                batches = self._batches(parquet, group)
                while row < last:
                    try:
                        batch = next(batches, None)
                    except (pa.ArrowException, OSError, ValueError) as error:
                        batch, fault = None, reason(error)
                    if batch is None:
                        break
                    for i in range(max(begin - row, 0), min(len(batch), last - row)):
                        yield self._picture(batch, i, row + i)
                    row += len(batch)
                for lost in range(max(row, begin), last):
                    yield self._rejected(lost, f"the Parquet file is damaged ({fault})")
            first = stop

    def _batches(self, parquet: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
        layout, rows = self.layout, parquet.metadata.row_group(group)
        wanted = {layout.picture, *layout.columns, *([layout.size] if layout.size else [])}
        size = max(1, min(256, _BYTES_A_BATCH * rows.num_rows // max(1, rows.total_byte_size)))
        return parquet.iter_batches(
            size, row_groups=[group], columns=sorted(wanted), use_threads=False
        )

    def _rejected(self, row: int, fault: str, key: str = "") -> Rejected:
        place = f"{self.name}:{row}"
        return Rejected(key=key or place, file=f"{self.file}:{row}", split=self.split, reason=fault)

    def _picture(self, batch: pa.RecordBatch, i: int, row: int) -> Picture | Rejected:
        layout, own = self.layout, {}
        for column in layout.columns:
            try:
                value = batch.column(column)[i].as_py()
            except (ValueError, OverflowError, pa.ArrowException):
                return self._rejected(row, f"a text is not valid UTF-8 (column {column})")
            names = layout.classes.get(column)
            if names and isinstance(value, int):
                value = names[value] if 0 <= value < len(names) else None
            own[column] = text_of(value)
        raw_key = own.get(layout.key, "") if layout.key else ""
        key = printable(clean(raw_key)) or f"{self.name}:{row}"
        split = next((own[name] for name in own if normal(name) in SPLIT_COLUMNS), "")
        split = split_name(split) or self.split
        joined = (self.joined or {}).get(raw_key, {})
        label = own.pop(layout.label) if layout.label else ""
        besides = {normal(layout.key)} if layout.key else set()
        what = describe(joined, own, _row_of(label), captions=self.captions, besides=besides)
        fault, image = "", b""
        if not (self.unnamed or what.is_named):
            fault = NO_NAME
            if self.joined is not None and not joined:
                fault += " (its key is not in the catalogue)"
        else:
            try:
                image = picture_in(batch, i, layout, self.file)
            except Unreadable as error:
                fault = str(error)
        if fault:
            return self._rejected(row, fault, key)
        return Picture(file=f"{self.file}:{row}", split=split, record=what.record(key, image))


def picture_in(batch: pa.RecordBatch, i: int, layout: Layout, file: Path) -> bytes:
    """The encoded picture in row `i` of a batch of `file`.

    Raises:
      Unreadable: there is none.
    """
    value = batch.column(layout.picture)[i].as_py()
    if layout.size:
        return _png(value or b"", batch.column(layout.size)[i].as_py())
    if not layout.is_struct:
        if value is None:
            raise Unreadable("no picture in the row")
        return value
    value = value or {}
    if value.get("bytes") is not None:
        return value["bytes"]
    if not value.get("path"):
        raise Unreadable("no picture in the row")
    try:
        return read_below(file.parent, value["path"])
    except Unreadable as error:
        raise Unreadable(f"no picture in the row ({error})") from error


def _row_of(label: str) -> dict[str, str]:
    """The name that a label is, understood as the name of a folder would be."""
    if not label:
        return {}
    name = named((label,))
    lineage = dict(zip(RANKS, name.taxon.ranks, strict=True))
    names = {"scientificName": name.scientific_name, "vernacularName": name.vernacular_name}
    return lineage | names


def _png(pixels: bytes, size: Any) -> bytes:
    """Pixels as distributed-downloader keeps them (rows from the top, blue first) as a PNG."""
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError) as error:
        raise Unreadable("the pixels have no size") from error
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise Unreadable(f"the pixels have an impossible size ({height} x {width})")
    if len(pixels) != height * width * 3:
        raise Unreadable(f"the pixels do not fit their size ({len(pixels)}, {height} x {width})")
    array = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)[..., ::-1]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(file, "PNG", compress_level=1)
    return file.getvalue()
