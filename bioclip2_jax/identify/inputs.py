"""What is to be named: pictures wherever they lie, numbered in one order, or kept features."""

import bisect
import codecs
import contextlib
import glob
import hashlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from bioclip2_jax import files
from bioclip2_jax.data import buckets, folders, images, tables
from bioclip2_jax.data.images import BadImage
from bioclip2_jax.errors import UsageError, reason
from bioclip2_jax.features import store
from bioclip2_jax.identify import archives
from bioclip2_jax.identify.archives import Part
from bioclip2_jax.prepare.tar_members import is_header
from bioclip2_jax.prepare.tars import tar_files

_PACKED = (".tar", ".tar.gz", ".tgz", ".zip", ".parquet")


class Inputs:
    """Numbered pictures of all places.

    Attributes:
      count: how many.
      others: files beside them that are no pictures.
    """

    def __init__(self, parts: Sequence[Part]):
        """In this order."""
        self._parts = [part for part in parts if part.count]
        self._starts = [0, *itertools.accumulate(part.count for part in self._parts)]
        self.count = self._starts[-1]
        self.others = [name for part in parts for name in part.others]

    def read(self, number: int) -> bytes:
        """The encoded picture. Safe to call from threads.

        Raises:
          BadImage, OSError: it cannot be had.
          UserError: a bucket does not answer.
        """
        part, index = self._find(number)
        try:
            return part.read(index)
        except ValueError as error:  # a zero byte in a name
            raise BadImage(reason(error)) from error

    def look(self, number: int, *, use_truncated: bool) -> images.Seen:
        """The decoded picture.

        Raises:
          BadImage, OSError, UserError: as `read` and `images.read`.
        """
        return self.see(number, self.read(number), use_truncated=use_truncated)

    def see(self, number: int, data: bytes, *, use_truncated: bool) -> images.Seen:
        """The same of its encoded picture."""
        return images.read(data, use_truncated=use_truncated)

    def names(self) -> Iterator[str]:
        """What all are called, as far as it is known before they are read."""
        return (part.name(index) for part in self._parts for index in range(part.count))

    def capture(self, number: int) -> None:
        """Nobody asks when it was taken; see `captured.Captured`."""

    def box(self, number: int) -> None:
        """No part of it is meant."""

    def name(self, number: int) -> str:
        """What it is called in the output; to be asked once, after it was read."""
        part, index = self._find(number)
        return part.name(index)

    def listing(self) -> str:
        """In few letters; two that are alike hold the same pictures."""
        digest = hashlib.sha256()
        for part in self._parts:
            for line in part.listing:
                digest.update(line.encode("utf-8", "surrogateescape") + b"\0")
        return f"{self.count:,} pictures with checksum {digest.hexdigest()[:12]}"

    def _find(self, number: int) -> tuple[Part, int]:
        which = bisect.bisect_right(self._starts, number) - 1
        return self._parts[which], number - self._starts[which]


@contextlib.contextmanager
def opened(
    arguments: Sequence[str], listed: Sequence[str] = (), split: str | None = None
) -> Iterator[Inputs | store.Store]:
    """The pictures that somebody has named, or the feature store, which stands alone.

    Args:
      arguments: files, folders, patterns (also "{00..17}"), archives (tar, zip), Parquet, datasets.
      listed: the same, but for patterns.
      split: of the datasets; None for all.

    Raises:
      UsageError: a folder or pattern without any picture, or a store among other things.
      UserError: a folder cannot be read, or a dataset is damaged.
    """
    named = [*arguments, *listed]
    stores = [name for name in named if _is_store(name)]
    if stores and len(named) > 1:
        raise UsageError(f"{stores[0]}: a feature store is named alone, without anything beside it")
    if stores:
        yield store.read(stores[0])
        return
    with ExitStack() as stack:
        parts: list[Part] = []
        plain: list[str] = []  # files one after the other are one part

        def add(found: Sequence[str], others: Sequence[str] = ()) -> None:
            others = list(others)
            for path in found:
                kind = _kind(path)
                if not kind:
                    plain.append(path)
                    continue
                parts.append(_of_files(plain))
                plain.clear()
                try:
                    parts.append(_packed(path, kind, stack))
                except UsageError:
                    if len(found) == 1:
                        raise
                    others.append(path)  # such as errors.parquet beside successes.parquet
            parts.append(_of_files(plain, others))
            plain.clear()

        for argument in arguments:
            if split or _is_dataset(argument):
                parts += archives.of_dataset(files.place(argument), split)
            else:
                add(*_expanded(argument))
        names: list[str] = []
        for name in listed:
            names += _below(name)[0] if files.place(name).is_dir() else [name]
        add(names)
        found = Inputs(parts)
        if not found.count:
            raise UsageError(f"{named[0] if named else '--list'}: no picture in it")
        yield found


def read_list(path: str) -> list[str]:
    """The names in a list, one a line; "-" is standard input. They need not be UTF-8.

    Raises:
      UsageError: it cannot be read, or there is none.
      UserError: it is a workbook.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else files.place(path).read_bytes()
    except OSError as error:
        raise UsageError(f"--list {path}: cannot be read ({error.strerror})") from error
    tables.refuse_workbook(path, data[:4])
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    lines = data.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").split(b"\n")
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not names:
        raise UsageError(f"--list {path}: no name in it; write one picture a line")
    return names


def _expanded(argument: str) -> folders.Files:
    """The files that an argument means."""
    if files.is_remote(argument):
        place = files.place(argument)
        if place.is_dir():
            return _below(argument)
        if glob.has_magic(argument) and not place.exists():
            return _some(argument, buckets.matching(argument))
        return folders.Files(pictures=[argument], others=[])
    if os.path.isdir(argument):
        return _below(argument)
    if not os.path.lexists(argument):
        if glob.has_magic(argument):
            found = glob.iglob(argument, recursive=True)
            return _some(argument, sorted(path for path in found if os.path.isfile(path)))
        if "{" in argument:
            return folders.Files(pictures=tar_files([argument]), others=[])
    return folders.Files(pictures=[argument], others=[])


def _below(folder: str) -> folders.Files:
    """The pictures below a folder or, if there are none, what holds pictures there."""
    place = files.place(folder)
    pictures, others = folders.files_below(place, any_name=True)
    if not pictures:
        pictures = [name for name in others if name.lower().endswith(_PACKED)]
        others = [name for name in others if not name.lower().endswith(_PACKED)]
    return _some(folder, [str(place / name) for name in pictures], others)


def _some(argument: str, found: list[str], others: Sequence[str] = ()) -> folders.Files:
    if not found:
        remark = f"; {folders.remark(others)}" if others else ""
        raise UsageError(f"{argument}: no picture here{remark}")
    return folders.Files(pictures=found, others=list(others))


def _is_store(argument: str) -> bool:
    place = files.place(argument)
    return any((place / name).is_file() for name in {store.ABOUT, "embedding.json"})


def _is_dataset(argument: str) -> bool:
    """Whether a folder is a dataset, or the one above its version."""
    place = files.place(argument)
    if not place.is_dir():
        return False
    return bool((place / "features.json").is_file() or [*place.glob("*/features.json")])


def _kind(path: str) -> str:
    """What a file is by its first bytes, or in a bucket by its name; "" for a picture."""
    lower = path.lower()
    if os.path.splitext(lower)[1] in images.suffixes():
        return ""
    if files.is_remote(path):
        return next((kind for kind in _PACKED if lower.endswith(kind)), "").replace("gz", "")
    try:
        if not os.path.isfile(path):
            return ""
        with open(path, "rb") as file:
            start = file.read(512)
    except (OSError, ValueError):
        return ""
    if start.startswith(b"PK\x03\x04") or start.startswith(b"PK\x05\x06"):
        return ".zip"
    if start.startswith(b"PAR1"):
        return ".parquet"
    return ".tar" if is_header(start) or start.startswith(b"\x1f\x8b") else ""


def _packed(path: str, kind: str, stack: ExitStack) -> Part:
    """The pictures of an archive; one that cannot be read is as a picture that cannot."""
    shown = _utf8(path)
    try:
        local = stack.enter_context(buckets.fetched(path))
        if kind == ".zip":
            return archives.of_zip(local, shown, stack)
        if kind == ".parquet":
            return archives.of_parquet(local, shown)
        return archives.of_tar(local, shown, stack)
    except OSError as error:
        return archives.unreadable(shown, error.strerror or reason(error))
    except archives.DamagedArchive as error:
        return archives.unreadable(shown, str(error))


def _of_files(paths: Sequence[str], others: Sequence[str] = ()) -> Part:
    paths = list(paths)
    return Part(
        count=len(paths),
        name=lambda index: _utf8(paths[index]),
        read=lambda index: buckets.read_bytes(files.place(paths[index])),
        listing=[f"{path} {_size(path)}" for path in paths],
        others=list(others),
    )


def _size(path: str) -> int:
    """Which tells pictures that were replaced under the same names; of a bucket it is not asked."""
    with contextlib.suppress(OSError, ValueError):
        return 0 if files.is_remote(path) else os.stat(path).st_size
    return 0


def _utf8(path: str) -> str:
    """A name that any file can take; bytes that are no UTF-8 with backslashes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
