"""Files in buckets, which are fetched and put whole; see `files` for what is written there.

A bucket that does not answer is never taken for a file that is not there or is damaged.
"""

import base64
import contextlib
import errno
import fnmatch
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from etils import epath

from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.files import is_remote

Given = TypeVar("Given")
Made = TypeVar("Made")
_PIECE = 1 << 18
_AT_ONCE = 16  # what is asked of a bucket: each answer takes it a twentieth of a second


@contextlib.contextmanager
def _asking(path: epath.PathLike) -> Iterator[None]:
    """Tells a bucket that does not answer from a file that is not there.

    Raises:
      FileNotFoundError: there is no such object.
      UserError: anything else went wrong, of which nobody must conclude that a file is damaged.
    """
    try:
        yield
    except FileNotFoundError as error:  # whose own words are the bucket's
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except UserError:
        raise
    except Exception as error:  # the client's, of its three libraries
        raise UserError(
            f"{path}: the bucket does not answer ({reason(error)}); the same command goes on"
        ) from error


def read_bytes(path: epath.PathLike) -> bytes:
    """What a file holds.

    Raises:
      OSError: it is not there or, on this machine, cannot be read.
      UserError: a bucket does not answer.
    """
    with _asking(path) if is_remote(path) else contextlib.nullcontext():
        return epath.Path(path).read_bytes()


def open_bytes(path: epath.PathLike) -> IO[bytes]:
    """Opens a file for reading; of a bucket it is fetched in pieces, as they are wanted.

    Raises:
      OSError, UserError: as `read_bytes`.
    """
    if not is_remote(path):
        return open(path, "rb")
    return io.BufferedReader(_Object(path), _PIECE)


class _Object(io.RawIOBase):
    """The client's own file, which lacks what many readers ask of one, with our errors."""

    def __init__(self, path: epath.PathLike):
        self._path = path
        with _asking(path):
            self._file: Any = epath.Path(path).open("rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _asking(self._path):
            return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def sizes_below(folder: epath.PathLike) -> dict[str, int]:
    """Names of all objects below a folder of a bucket, sorted, and their sizes in bytes."""
    return {name: int(info["size"]) for name, info in _objects(folder).items()}


def matching(pattern: str) -> list[str]:
    """The objects that a pattern with a bucket in front means, sorted."""
    with _asking(pattern):
        client, name = _client(pattern)
        return sorted(f"gs://{found}" for found in client.glob(name))


def named(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder, here or in a bucket, under names of a pattern; sorted.

    The method `glob` of a path in a bucket takes "[" in the folder's own name for a pattern, too.
    """
    inside = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in inside if fnmatch.fnmatchcase(path.name, pattern))


def size(path: Path) -> int:
    """Bytes of a file.

    Raises:
      OSError, UserError: as `read_bytes`.
    """
    if not is_remote(path):
        return path.stat().st_size
    with _asking(path):
        client, name = _client(path)
        return int(client.info(name)["size"])


def version(path: epath.PathLike) -> list[int]:
    """What shows that an object is another, [0] where there is none."""
    try:
        with _asking(path):
            client, name = _client(path)
            return [int(client.info(name)["generation"])]
    except FileNotFoundError:
        return [0]


def each(function: Callable[[Given], Made], items: Sequence[Given]) -> Iterator[Made]:
    """`map` for what waits for a bucket: some at a time, in order."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(items), 2 * _AT_ONCE):
            yield from pool.map(function, items[start : start + 2 * _AT_ONCE])


@contextlib.contextmanager
def fetched(path: epath.PathLike) -> Iterator[Path]:
    """A file on this machine: itself or, of a bucket, a copy in TMPDIR that goes at the end.

    Raises:
      OSError: it is not there, or there is no room.
      UserError: a bucket does not answer.
    """
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="bioclip2-") as folder:
        yield fetch(path, Path(folder))


def fetch(path: epath.PathLike, folder: Path) -> Path:
    """Copies a file of a bucket into a local folder; see `fetched`."""
    local = folder / os.path.basename(os.fspath(path))
    with _asking(path):
        client, name = _client(path)
        size = client.info(name)["size"]
        client.get_file(name, str(local))
        if local.stat().st_size != size:
            raise UserError(f"{path}: {local.stat().st_size} of {size} bytes came; try again")
    return local


def upload(source: Path, target: Path, *, last: Sequence[str] = ()) -> None:
    """Puts a local file, or all files of a folder, into a bucket.

    A call that was interrupted is gone on with: an object that is there with the same bytes stays.

    Args:
      source: what is put; stays as it is.
      target: its name there. What else lies below stays, too.
      last: names of the files without which no reader takes the folder for complete. Older ones
        are removed before anything is put, new ones put when all else is there, in this order.

    Raises:
      UserError: a bucket does not answer.
    """
    client, root = _client(target)
    if source.is_file():
        with _asking(target):
            client.put_file(str(source), root)
        return
    there = {name: info.get("md5Hash") for name, info in _objects(target).items()}

    def is_there(name: str) -> bool:
        return name in there and there[name] == _md5(source / name)

    def put(name: str) -> None:
        client.put_file(str(source / name), f"{root}/{name}")

    names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    todo = [n for n, done in zip(names, each(is_there, names), strict=True) if not done]
    marks = [name for name in last if name in names]
    with _asking(target):
        if todo:
            for name in there.keys() & {*marks}:
                client.rm_file(f"{root}/{name}")
            for _ in each(put, sorted({*todo} - {*marks})):
                pass
            for name in marks:
                put(name)


def _md5(path: Path) -> str:
    """As buckets write it."""
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()


def _objects(folder: epath.PathLike) -> dict[str, dict[str, Any]]:
    with _asking(folder):
        client, root = _client(folder)
        found = client.find(root, detail=True)
    start = f"{root}/"
    return {
        name.removeprefix(start): info
        for name, info in sorted(found.items())
        if name.startswith(start) and not name.endswith("/")  # which some tools make for folders
    }


def _client(path: epath.PathLike) -> tuple[Any, str]:
    """gcsfs, which epath asks as well, and its name for a path."""
    import fsspec

    return fsspec.filesystem("gs"), os.fspath(path).partition("://")[2].rstrip("/")
