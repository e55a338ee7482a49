"""The files of a Darwin Core Archive, in a folder or in a zip, and the pictures that rows name."""

import posixpath
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.files import is_remote
from bioclip2_jax.prepare.dwca_meta import DwcTable, Line, lines_of, read_meta
from bioclip2_jax.prepare.local_files import Unreadable, read_below
from bioclip2_jax.prepare.tar_members import printable
from bioclip2_jax.prepare.tars import MAX_PICTURE

_META = "meta.xml"
_MEDIA = "media"  # where pictures lie, if not in the archive itself
_MAX_RATIO = 200  # of a table's size to its packed size; text packs by a tenth of that
# What damaged or strange zips raise.
_DAMAGES = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
_MISSING = "the picture is not on this machine; download it, for example with img2dataset"


@dataclass(frozen=True)
class Archive:
    """An opened archive.

    Attributes:
      path: of the folder or zip.
      zip: of it, if it is one.
      top: the folder in the zip that has meta.xml, with a slash behind it.
    """

    path: Path
    zip: zipfile.ZipFile | None = None
    top: str = ""

    def tables(self) -> tuple[DwcTable, DwcTable | None]:
        """The core and the table of media, their columns known."""
        with self._open(_META) as file:
            core, media = read_meta(file.read((1 << 20) + 1), f"{self.path}/{_META}")
        for table in filter(None, (core, media)):
            next(self.lines(table), None)
        return core, media

    def lines(self, table: DwcTable) -> Iterator[Line]:
        """The rows of a table."""
        for name in table.files:
            with self._open(name) as stream:
                yield from lines_of(table, stream, f"{self.path}/{name}")

    def picture(self, names: Sequence[str], folder: Path | None) -> bytes:
        """Reads the first of the files that is there.

        Args:
          names: relative ones, the likeliest first.
          folder: to look in; None: media/, then the archive itself.

        Raises:
          Unreadable: none is there, or it is not to be trusted.
        """
        if folder is None and self.zip:
            return self._packed_picture(names)
        for base in (folder,) if folder else (self.path / _MEDIA, self.path):
            for name in names:
                try:
                    is_there = (base / name).is_file()
                except (OSError, ValueError):  # no name at all: too long, or with a NUL
                    continue
                if is_there:
                    return read_below(base, name)
        raise Unreadable(f"{_MISSING} ({printable(names[0])})" if names else "no picture is named")

    def _packed_picture(self, names: Sequence[str]) -> bytes:
        assert self.zip
        for base in (f"{self.top}{_MEDIA}", self.top):
            for name in names:
                path = posixpath.normpath(posixpath.join(base, name))
                if path.startswith(("../", "/")):
                    raise Unreadable(f"its file lies outside the archive ({printable(name)})")
                info = self.zip.NameToInfo.get(path)
                if info and not info.is_dir():
                    if stat.S_ISLNK(info.external_attr >> 16) or info.flag_bits & 1:
                        raise Unreadable("its file in the zip is a link or has a password")
                    if info.file_size > MAX_PICTURE:
                        raise Unreadable(f"its file is too large ({info.file_size} bytes)")
                    try:
                        with self.zip.open(info) as file:
                            return file.read(info.file_size)
                    except _DAMAGES as error:
                        raise Unreadable(f"cannot be read ({reason(error)})") from error
        raise Unreadable(f"{_MISSING} ({printable(names[0])})" if names else "no picture is named")

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        try:
            if self.zip:
                info = self.zip.getinfo(self.top + name)
                if info.file_size > max(MAX_PICTURE, _MAX_RATIO * info.compress_size):
                    raise UserError(
                        f"{self.path}: {printable(name)} claims to unpack to"
                        f" {info.file_size} bytes from {info.compress_size}"
                    )
                file = self.zip.open(info)
            else:
                path = self.path / name
                if is_remote(path):
                    is_inside = ".." not in name.split("/")
                else:
                    is_inside = path.resolve().is_relative_to(self.path.resolve())
                if not is_inside:
                    raise UserError(f"{self.path}: {printable(name)} lies outside the archive")
                file = buckets.open_bytes(path)
            with file:
                yield file
        except (KeyError, *_DAMAGES) as error:
            what = getattr(error, "strerror", None) or reason(error)
            raise UserError(f"{self.path}: {printable(name)} cannot be read ({what})") from error


@contextmanager
def opened(path: Path, copy: Path | None = None) -> Iterator[Archive]:
    """Opens an archive; `copy` is where a zip lies that `path` says to be in a bucket.

    Raises:
      UsageError: it is not there, or none.
    """
    with ExitStack() as stack:
        if path.is_dir():
            if not (path / _META).is_file():
                raise UsageError(
                    f"{path}: no {_META} is in this folder, so it is no Darwin Core"
                    " Archive; for a table with pictures take prepare folder"
                )
            yield Archive(path)
            return
        try:
            packed = stack.enter_context(zipfile.ZipFile(copy or path))
        except (OSError, zipfile.BadZipFile) as error:
            what = getattr(error, "strerror", None) or reason(error)
            raise UsageError(
                f"{path}: cannot be opened as a Darwin Core Archive ({what})"
            ) from error
        metas = [name for name in packed.namelist() if posixpath.basename(name) == _META]
        if not metas:
            raise UsageError(f"{path}: this zip has no {_META}, so it is no Darwin Core Archive")
        yield Archive(path, packed, min(metas, key=len).removesuffix(_META))


def names_of(row: Mapping[str, str], columns: Sequence[str], shared: Collection[str]) -> list[str]:
    """The names that the file of a picture may have, the likeliest first.

    Of a web address its last parts: "http://x/photos/7/a.jpg" may be photos/7/a.jpg, 7/a.jpg or
    a.jpg.

    Args:
      row: of a picture.
      columns: that may name it.
      shared: last parts that several addresses have, which is why they name no picture.
    """
    names: list[str] = []
    for address in filter(None, (row.get(column) for column in columns)):
        path = unquote(_path(address))
        if "://" not in address[:12]:
            names += [_path(address), path]
        parts = [part for part in path.split("/")[-3:] if part]
        tails = ["/".join(parts[i:]) for i in range(len(parts))]
        names += (tail for tail in tails if tail not in shared)
    return list(dict.fromkeys(names))


def last_part(address: str) -> str:
    """What a file of an address would be called."""
    return unquote(_path(address)).rpartition("/")[2]


def _path(address: str) -> str:
    try:
        return urlsplit(address).path if "://" in address[:12] else address.replace("\\", "/")
    except ValueError:  # no address at all
        return ""
