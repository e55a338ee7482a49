"""Files of ours, written whole or not at all and read with one sentence where that fails.

Paths are local or in a bucket (`gs://…`), by etils.epath. What a user hands in as a table is read
by `data.tables`; files that grow, such as metrics.jsonl, are written by their owners.
"""

import contextlib
import csv
import hashlib
import importlib.util
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from etils import epath

from bioclip2_jax.errors import UsageError, UserError, reason


def place(name: epath.PathLike) -> Path:
    """The path that a user says: of this machine, or in a bucket (`gs://bucket/…`).

    Unlike `pathlib.Path(name)`, which would take a bucket for a folder called "gs:". What it
    returns for a bucket has the same methods.

    Raises:
      UsageError: another kind of address, or the client of buckets is not installed.
    """
    scheme, separator, _ = os.fspath(name).partition("://")
    if not separator:
        return Path(name)
    if scheme != "gs":
        raise UsageError(f"{name}: {scheme}:// is not read or written; name a folder or gs://…")
    if not importlib.util.find_spec("gcsfs"):
        raise UsageError(f'{name}: buckets need `pip install "bioclip2-jax[gcs]"`')
    return cast(Path, epath.Path(name))


def is_remote(name: epath.PathLike) -> bool:
    """Whether a path is in a bucket, where nothing can be renamed, appended to or mapped."""
    return "://" in os.fspath(name)


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
        epath.Path(path).write_bytes(buffer.getvalue())
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


def check_local(name: str, place: str) -> None:
    """Refuses an address such as "gs://…", which would become a local folder of that name.

    Raises:
      UsageError: says which option has it.
    """
    if is_remote(place):
        raise UsageError(
            f"{name}={place}: training reads and writes folders only; mount the bucket, or name a"
            " folder on a disk that all machines share"
        )


def sha256(path: os.PathLike[str]) -> str:
    """The checksum of a local file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: epath.PathLike) -> str:
    """The text of a UTF-8 file, with or without byte order mark.

    Raises:
      UserError: missing, unreadable or not UTF-8.
    """
    try:
        return epath.Path(path).read_bytes().decode("utf-8-sig")
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
