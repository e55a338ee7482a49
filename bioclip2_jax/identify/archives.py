"""Pictures inside other files, each read when its turn comes: tar, zip, Parquet, a dataset.

Nothing is unpacked to disk but what gzip holds: it can be read from its start alone.
"""

import bisect
import itertools
import os
import tempfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax import files
from bioclip2_jax.data import dataset, folders
from bioclip2_jax.data.images import BadImage
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.prepare.columns import text_of
from bioclip2_jax.prepare.local_files import Unreadable
from bioclip2_jax.prepare.parquet import picture_in
from bioclip2_jax.prepare.parquet_layout import Damaged, Layout, opened
from bioclip2_jax.prepare.tar_members import End, Stream, members, printable
from bioclip2_jax.prepare.tars import MAX_PICTURE

_BYTES_A_BATCH = 4 << 20
_BATCHES = 2 * (os.cpu_count() or 1) + 2  # in memory: threads ask out of turn


class DamagedArchive(Exception):
    """Nothing of an archive can be read; the message is the reason."""


@dataclass(frozen=True)
class Part:
    """Numbered pictures of one place.

    Attributes:
      count: how many.
      name: number → name for people, at the latest known once the picture was read.
      read: number → the encoded picture; raises `BadImage` or OSError. Safe to call from threads.
      listing: what tells them from others: names and sizes.
      others: names of files that are no pictures.
    """

    count: int
    name: Callable[[int], str]
    read: Callable[[int], bytes]
    listing: list[str]
    others: list[str]


@dataclass(frozen=True)
class _Member:
    """A picture of an archive: where its bytes are, or why there are none."""

    name: str
    size: int = 0
    offset: int = 0
    fault: str = ""


def unreadable(shown: str, fault: str) -> Part:
    """An archive that cannot be read, as one picture."""
    return _of_members(shown, [_Member(name="", fault=fault)], [], lambda member: b"")


def of_tar(path: Path, shown: str, stack: ExitStack) -> Part:
    """The pictures of a tar, packed by gzip or not. What cannot be read of it is the last of them.

    Args:
      path: of a local file.
      shown: what it is called.
      stack: closes it.

    Raises:
      OSError: it cannot be read.
    """
    file = stack.enter_context(path.open("rb"))
    stream, source = Stream(file), file
    is_packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if is_packed:
        source = stack.enter_context(_temporary())
    found, others = [], []
    try:
        for name, size, fault in members(stream):
            if not folders.is_picture_name(name.rpartition("/")[2]):
                others.append(name)
                continue
            if size > MAX_PICTURE and not fault:
                fault = f"the file is too large ({size:,} bytes)"
            offset = stream.position
            if is_packed and not fault:
                offset = source.tell()
                source.write(stream.read(size))
            found.append(_Member(name=printable(name), size=size, offset=offset, fault=fault))
    except End as end:
        start = "the archive ends early" if stream.members else "no tar archive"
        found.append(_Member(name="", fault=f"{start} ({end})"))
    if is_packed:
        source.flush()

    def data(member: _Member) -> bytes:
        read = os.pread(source.fileno(), member.size, member.offset)
        if len(read) < member.size:
            raise BadImage("the archive ends early")
        return read

    return _of_members(shown, found, others, data)


def _temporary() -> AbstractContextManager[IO[bytes]]:
    return tempfile.TemporaryFile(prefix="bioclip2-")


def of_zip(path: Path, shown: str, stack: ExitStack) -> Part:
    """The pictures of a zip; the arguments as of `of_tar`.

    Raises:
      OSError: it cannot be read.
      DamagedArchive: the message is the reason.
    """
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DamagedArchive(f"a damaged zip ({reason(error)})") from error
    infos, found, others = [], [], []
    for info in archive.infolist():
        if info.is_dir():
            continue
        if not folders.is_picture_name(info.filename.rpartition("/")[2]):
            others.append(info.filename)
            continue
        fault = "it is encrypted; unpack the archive first" if info.flag_bits & 1 else ""
        if info.file_size > MAX_PICTURE:
            fault = f"the file is too large ({info.file_size:,} bytes)"
        name = printable(info.filename)
        found.append(_Member(name=name, size=info.file_size, offset=len(infos), fault=fault))
        infos.append(info)

    def data(member: _Member) -> bytes:
        try:
            with archive.open(infos[member.offset]) as file:
                return file.read(MAX_PICTURE)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise BadImage(f"cannot be unpacked ({reason(error)})") from error

    return _of_members(shown, found, others, data)


def _of_members(
    shown: str, found: list[_Member], others: list[str], data: Callable[[_Member], bytes]
) -> Part:
    def read(index: int) -> bytes:
        if found[index].fault:
            raise BadImage(found[index].fault)
        return data(found[index])

    names = [f"{shown}/{member.name}".rstrip("/") for member in found]
    listing = [f"{name} {member.size}" for name, member in zip(names, found, strict=True)]
    return Part(len(found), names.__getitem__, read, listing, others)


def of_parquet(path: Path, shown: str) -> Part:
    """The pictures of a Parquet file, named by its keys.

    Args:
      path: of a local file.
      shown: what it is called.

    Raises:
      UsageError: no column holds pictures.
      DamagedArchive: the message is the reason.
    """
    try:
        parquet = opened(path)
    except Damaged as error:
        raise DamagedArchive(f"a damaged Parquet file ({error})") from error
    rows = _Rows(parquet, Layout.of(parquet, Path(shown)), path)
    names = [f"{shown}/{key}" if key else f"{shown}:{row}" for row, key in enumerate(rows.keys())]
    listing = [*names, str(path.stat().st_size)]
    return Part(len(names), names.__getitem__, rows.read, listing, [])


class _Rows:
    """The rows of a Parquet file in any order; in theirs, each is read once."""

    def __init__(self, parquet: pq.ParquetFile, layout: Layout, path: Path):
        self._parquet, self._layout, self._path = parquet, layout, path
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        self._starts = [0]
        for group in groups:
            self._starts.append(self._starts[-1] + group.num_rows)
        share = (_BYTES_A_BATCH * g.num_rows // max(1, g.total_byte_size) for g in groups)
        self._sizes = [max(1, min(256, rows)) for rows in share]
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], pa.RecordBatch] = OrderedDict()
        self._group, self._next = -1, 0  # which batch comes next, and of which group
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._faults: dict[int, tuple[int, str]] = {}  # group → its first batch that is lost

    def keys(self) -> Iterator[str]:
        """The key of each row, "" where it has none that can be read."""
        layout = self._layout
        column = layout.key or (f"{layout.picture}.path" if layout.is_struct else "")
        for group, size in enumerate(b - a for a, b in itertools.pairwise(self._starts)):
            cells: list[object] = []
            try:
                if column:
                    cells = self._parquet.read_row_group(group, [column]).column(0).to_pylist()
            except (pa.ArrowException, OSError, ValueError):
                cells = []
            if not layout.key:
                cells = [cell.get("path") if isinstance(cell, dict) else None for cell in cells]
            cells += [None] * (size - len(cells))
            yield from (printable(text_of(cell)) for cell in cells)

    def read(self, row: int) -> bytes:
        """The encoded picture of a row.

        Raises:
          BadImage: there is none, or the file is damaged.
        """
        group = bisect.bisect_right(self._starts, row) - 1
        number, inside = divmod(row - self._starts[group], self._sizes[group])
        with self._lock:
            batch = self._batch(group, number)
        try:
            return picture_in(batch, inside, self._layout, self._path)
        except Unreadable as error:
            raise BadImage(str(error)) from error

    def _batch(self, group: int, number: int) -> pa.RecordBatch:
        if (group, number) in self._held:
            return self._held[group, number]
        if number >= self._faults.get(group, (number + 1, ""))[0]:
            raise BadImage(f"the Parquet file is damaged ({self._faults[group][1]})")
        if group != self._group or number < self._next:
            layout = self._layout
            columns = [layout.picture, *([layout.size] if layout.size else [])]
            self._group, self._next = group, 0
            self._batches = self._parquet.iter_batches(
                self._sizes[group], row_groups=[group], columns=columns, use_threads=False
            )
        while self._next <= number:
            try:
                batch = next(self._batches)
            except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
                self._faults[group] = self._next, reason(error)
                return self._batch(group, number)
            self._held[group, self._next] = batch
            self._next += 1
            if len(self._held) > _BATCHES:
                self._held.popitem(last=False)
        return self._held[group, number]


def of_dataset(path: Path, split: str | None) -> list[Part]:
    """The splits of a dataset made by `prepare`; a picture is called by its key.

    Raises:
      UserError: no such split, or a damaged dataset.
    """
    counts = dataset.splits(path)
    names = [split] if split else sorted(counts)
    return [_of_split(path, name) for name in names if split or counts[name]]


def _of_split(path: Path, split: str) -> Part:
    source, keys = dataset.open_split(path, split), {}

    def read(index: int) -> bytes:
        (record,) = source.read([index])
        if isinstance(record, UserError):
            raise BadImage(str(record))
        keys[index] = record["key"]
        return record["image"]

    def name(index: int) -> str:
        return keys.pop(index, f"record {index} of split {split}")

    about = files.read_text(dataset.dataset_folder(path) / "dataset_info.json")
    return Part(len(source), name, read, [about, split], [])
