"""Pictures in Parquet: Hugging Face's, distributed-downloader's, and others with encoded bytes.

Row groups are read a few rows at a time, so that memory is that of the file's largest page.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bioclip2_jax.data.images import MAX_PIXELS
from bioclip2_jax.data.tables import SPLIT_COLUMNS, normal, split_name
from bioclip2_jax.errors import UsageError, reason
from bioclip2_jax.prepare import joins
from bioclip2_jax.prepare.columns import (
    describe,
    name_columns,
    row_of_label,
    split_in,
    text_of,
)
from bioclip2_jax.prepare.joined_tables import is_parquet
from bioclip2_jax.prepare.local_files import Unreadable, printable, read_below
from bioclip2_jax.prepare.parquet_layout import Damaged, Layout, opened
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.text.taxonomy import clean

_ROWS_A_PART = 10_000
_BYTES_A_PART = 512 << 20
_SLICES_A_GROUP = 16  # each reads over those before it
_BYTES_A_BATCH = 16 << 20


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Parquet files with a column of pictures.

    Attributes:
      sources: files, and folders of them.
      captions: the column of the pictures' own captions.
      tables: catalogues and the like that are joined by the pictures' keys, see `joins.join`.
    """

    sources: tuple[Path, ...]
    captions: str = ""
    tables: tuple[Path, ...] = ()

    def parts(self, folder: Path) -> Sequence[Part]:
        """Slices of the files."""
        parts, why_not = [], ""
        for file, is_named in self._files():
            try:
                with opened(file) as parquet:
                    layout = Layout.of(parquet, file)
                    parts += list(_slices(file, parquet.metadata))
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
            self._check_names(file, layout)
        if not parts:
            raise UsageError(why_not or f"{self.sources[0]}: there is no Parquet file in it")
        if not self.tables:
            return parts
        return joins.join(parts, _keys(parts), tables=self.tables, folder=folder / "joined")

    def read(self, part: Part) -> Iterator[Picture | Rejected]:
        """The pictures of a slice; of a damaged file one, and of a damaged part every row."""
        file = Path(part.file)
        name = self._name(file)
        split = split_in(name) or "train"
        try:
            with opened(file) as parquet:
                rows = _Rows(
                    file=file,
                    name=name,
                    split=split,
                    layout=Layout.of(parquet, file),
                    captions=self.captions,
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
            for path in sorted(source.rglob("*.[pP][aA][rR][qQ][uU][eE][tT]"), key=str):
                below = path.relative_to(source).parts
                if path.is_file() and not any(name.startswith((".", "_")) for name in below):
                    yield path, False

    def _name(self, file: Path) -> str:
        """The file as seen from the folder above what was named."""
        for source in self.sources:
            if file == source:
                return file.name
            if file.is_relative_to(source):
                return f"{source.absolute().name}/{file.relative_to(source).as_posix()}"
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
                    " --catalog could be joined"
                )
        elif layout.size:
            if not (name_columns(layout.columns) or self.captions):
                raise UsageError(
                    f"{file}: pictures of distributed-downloader without their taxonomy; name the"
                    " table that has it: --catalog catalog.parquet"
                )
        elif not (layout.names or layout.label or self.captions):
            raise UsageError(
                f"{file}: nothing names the organisms; it takes a column of taxonomy (kingdom …"
                " species, scientificName), a label with its names, --catalog TABLE, or, for the"
                f" pictures' own captions, --captions COLUMN (there are"
                f" {', '.join(layout.columns) or 'none'})"
            )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows of a file; see `ParquetSource.read`."""

    file: Path
    name: str
    split: str
    layout: Layout
    captions: str
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
        what = describe(joined, own, row_of_label(label), captions=self.captions, besides=besides)
        fault, image = "", b""
        if not what.is_named:
            fault = "neither caption nor taxon"
            if self.joined is not None and not joined:
                fault += " (its key is not in the catalogue)"
        else:
            try:
                image = self._image(batch, i)
            except Unreadable as error:
                fault = str(error)
        if fault:
            return self._rejected(row, fault, key)
        return Picture(file=f"{self.file}:{row}", split=split, record=what.record(key, image))

    def _image(self, batch: pa.RecordBatch, i: int) -> bytes:
        value = batch.column(self.layout.picture)[i].as_py()
        if self.layout.size:
            return _png(value or b"", batch.column(self.layout.size)[i].as_py())
        if not self.layout.is_struct:
            if value is None:
                raise Unreadable("no picture in the row")
            return value
        value = value or {}
        if value.get("bytes") is not None:
            return value["bytes"]
        if not value.get("path"):
            raise Unreadable("no picture in the row")
        try:
            return read_below(self.file.parent, value["path"])
        except Unreadable as error:
            raise Unreadable(f"no picture in the row ({error})") from error


def _slices(file: Path, metadata: pq.FileMetaData) -> Iterator[Part]:
    """Parts of whole row groups that are small, and of slices of such as are large."""
    if metadata.num_rows > file.stat().st_size:
        raise Damaged(f"it says that it has {metadata.num_rows} rows")
    begin, end, size = 0, 0, 0
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        rows, group_size = group.num_rows, group.total_byte_size
        if end > begin and (end - begin + rows > _ROWS_A_PART or size + group_size > _BYTES_A_PART):
            yield Part(file=str(file), rows=(begin, end))
            begin, size = end, 0
        count = max(-(-rows // _ROWS_A_PART), -(-group_size // _BYTES_A_PART))
        count = min(count, _SLICES_A_GROUP, rows)
        for i in range(1, count):
            yield Part(file=str(file), rows=(begin, end + rows * i // count))
            begin = end + rows * i // count
        end, size = end + rows, size + group_size
    if end > begin:
        yield Part(file=str(file), rows=(begin, end))


def _keys(parts: Sequence[Part]) -> Iterator[tuple[int, list[str]]]:
    """(number of the part, some of its keys); none of what is damaged."""
    for number, part in enumerate(parts):
        if part.rows is None:
            continue
        file, first = Path(part.file), 0
        with opened(file) as parquet:
            key = Layout.of(parquet, file).key
            for group in range(parquet.num_row_groups):
                stop = first + parquet.metadata.row_group(group).num_rows
                begin, end = max(part.rows[0], first), min(part.rows[1], stop)
                if begin < end:
                    with contextlib.suppress(pa.ArrowException, OSError):
                        column = parquet.read_row_group(group, columns=[key]).column(0)
                        yield number, _texts(column.slice(begin - first, end - begin))
                first = stop


def _texts(column: pa.ChunkedArray) -> list[str]:
    texts = []
    for cell in column:
        with contextlib.suppress(UnicodeDecodeError):
            texts.append(text_of(cell.as_py()))
    return texts


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
