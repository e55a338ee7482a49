"""Files of ours, written whole or not at all and read with one sentence where that fails.

Paths are local or in a bucket (`gs://…`), by etils.epath. What a user hands in as a table is read
by `data.tables`; files that grow, such as metrics.jsonl, are written by their owners.
"""

import contextlib
import csv
import errno
import hashlib
import importlib.util
import io
import json
import os
import posixpath
import secrets
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from etils import epath

from bioclip2_jax.errors import UsageError, UserError, reason

_REWRITE_SECONDS = 30.0  # between two times that a file in a bucket is written anew, as it grows
_PART_BYTES = 2**24  # read at a time


# ---- Places


def place(name: epath.PathLike) -> Path:
    """The path that a user says: of this machine, or in a bucket (`gs://bucket/…`).

    Unlike `pathlib.Path(name)`, which would take a bucket for a folder called "gs:". What it
    returns for a bucket has the same methods.

    Raises:
      UsageError: another kind of address, or the client of buckets is not installed.
    """
    scheme, separator, inner = os.fspath(name).partition("://")
    if scheme.startswith("gs:/") or (scheme == "gs" and inner[:1] in ("", "/")):
        raise UsageError(f"{name}: names no bucket; write gs://BUCKET/FOLDER")
    if not separator:
        return Path(name)
    if scheme != "gs":
        raise UsageError(f"{name}: {scheme}:// is not read or written; name a folder or gs://…")
    if not importlib.util.find_spec("gcsfs"):
        raise UsageError(f'{name}: buckets need `pip install "bioclip2-jax[gcs]"`')
    from fsspec import config

    # Or a process would see for ever what was in a folder when it looked first.
    config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)
    return cast(Path, epath.Path(name))


def is_remote(name: epath.PathLike) -> bool:
    """Whether a path is in a bucket, where nothing can be renamed, appended to or mapped."""
    return "://" in os.fspath(name)


def absolute(name: epath.PathLike) -> Path:
    """The same place by its whole name.

    Unlike the method of paths in buckets, which puts them below the working directory.
    """
    return place(name) if is_remote(name) else Path(os.path.abspath(name))


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it. Buckets have none, and a mistyped one is not made.

    Raises:
      OSError: it cannot be made.
    """
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def reaching(name: epath.PathLike) -> Iterator[None]:
    """Turns what a bucket's client says into a sentence, such as of a missing right.

    Raises:
      UserError: names the place.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(name):
            raise
        missing = isinstance(error, FileNotFoundError)  # of which it tells the address alone
        what = "there is no such bucket" if missing else reason(error)
        raise UserError(f"{name}: the bucket cannot be used ({what})") from error


def below(folder: Path, leave_out: Container[str] = ()) -> Iterator[str]:
    """The files below a folder, relative to it with "/", in order; hidden ones are left out.

    Args:
      folder: if it is not there, it has none.
      leave_out: names of folders that are not looked into.
    """
    home = len(os.fspath(folder).removeprefix("gs://"))  # which epath leaves out below
    remote: Any = is_remote(folder) and epath.Path(folder).walk(on_error=_refuse)
    for where, folders, names in remote or os.walk(folder):
        visible = (name for name in folders if name[0] != "." and name not in leave_out)
        folders[:] = sorted(visible)
        inner = os.fspath(where).removeprefix("gs://")[home:].strip("/")
        yield from (posixpath.join(inner, n) for n in sorted(names) if n and n[0] != ".")


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


# ---- Writing


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """A name for a local file to be written that becomes `path` at the end, or leaves no trace.

    Raises:
      OSError: it cannot be written.
    """
    folder, name = os.path.split(os.path.abspath(path))
    # A name that can be nobody's file, and that no second writer has.
    partial = os.path.join(folder, f".{name[:200]}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # else a crash may leave the name and no content
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """A file to write bytes into that takes the name `path` at the end, or leaves no trace.

    Raises:
      OSError: it cannot be written.
    """
    if is_remote(path):  # an object appears whole anyway, and there is no rename
        buffer = io.BytesIO()
        yield buffer
        with reaching(path):
            place(path).write_bytes(buffer.getvalue())
        return
    with replacing(path) as partial, open(partial, "xb") as file:
        yield file


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes a file whole or not at all."""
    with writing(path) as file:
        file.write(data)


def write_text(path: epath.PathLike, text: str) -> None:
    """The same for text, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: epath.PathLike, value: Any, indent: int | None = 1) -> None:
    """The same for what JSON can say."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_csv(
    path: epath.PathLike, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]
) -> None:
    """The same for rows of a table; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class Pace:
    """Says when a file that grows is to be written: on a disk always, in a bucket now and then."""

    def __init__(self, path: epath.PathLike):
        """`path`: of the file."""
        self._pause, self._next = _REWRITE_SECONDS if is_remote(path) else 0.0, 0.0

    def is_due(self) -> bool:
        """Whether it is; then not again for a while."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._pause
        return True


class Growing:
    """A file in a bucket that grows. Nothing can be added to an object: `flush` writes all anew."""

    def __init__(self, path: epath.PathLike):
        """Goes on after what is there."""
        self._path, self._changed = place(path), False
        self._held = io.BytesIO()
        with contextlib.suppress(FileNotFoundError):
            self._held.write(self._path.read_bytes())

    def write(self, data: bytes) -> None:
        """Adds to its end, in this process alone."""
        self._held.write(data)
        self._changed = True

    def flush(self) -> None:
        """Makes all of it seen by others."""
        if self._changed:
            with reaching(self._path):
                self._path.write_bytes(self._held.getvalue())
            self._changed = False

    def close(self) -> None:
        """The same, for the last time."""
        self.flush()


def appending(path: Path) -> "IO[bytes] | Growing":
    """A file to add bytes to.

    Raises:
      OSError: it cannot be opened.
    """
    return Growing(path) if is_remote(path) else path.open("ab")


# ---- Reading


def sha256(path: os.PathLike[str]) -> str:
    """The checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with place(path).open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


def read_text(path: epath.PathLike) -> str:
    """The text of a UTF-8 file, with or without byte order mark.

    Raises:
      UserError: missing, unreadable or not UTF-8.
    """
    try:
        return place(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:  # of a bucket it says less
        raise UserError(f"{path}: cannot be read ({os.strerror(errno.ENOENT)})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or reason(error)})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from error


def read_json(path: epath.PathLike) -> Any:
    """What a JSON file holds.

    Raises:
      UserError: missing, unreadable, or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({reason(error)})") from error


def read_json_object(path: epath.PathLike) -> dict[str, Any]:
    """The same, of files that hold an object.

    Raises:
      UserError: as `read_json`, or another kind of JSON.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object")
    return value


def read_csv(path: epath.PathLike) -> list[dict[str, str]]:
    """The rows of a table that `write_csv` wrote.

    Raises:
      UserError: missing, unreadable, or a row that does not fit the header.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise UserError(f"{path}: row {number} does not fit the header; the file is damaged")
    return rows
