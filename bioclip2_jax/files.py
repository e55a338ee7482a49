"""Files of ours, written whole or not at all and read with one sentence where that fails.

Paths are local or in a bucket (`gs://…`), by etils.epath. What a user hands in as a table is read
by `data.tables`; files that grow, such as metrics.jsonl, are written by their owners.
"""

import base64
import contextlib
import csv
import errno
import hashlib
import importlib.util
import io
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar, cast

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
        return read_bytes(path).decode("utf-8-sig")
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


# ---- Buckets, where files are fetched and put whole


Given = TypeVar("Given")
Made = TypeVar("Made")
_AT_ONCE = 16  # what is asked of a bucket: each answer takes it a twentieth of a second


def absolute(path: Path) -> Path:
    """The whole path; the method of a path in a bucket puts it below the current folder."""
    return path if is_remote(path) else path.absolute()


@contextlib.contextmanager
def reaching(path: epath.PathLike) -> Iterator[None]:
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
      UserError: as `reaching`.
    """
    with reaching(path) if is_remote(path) else contextlib.nullcontext():
        return epath.Path(path).read_bytes()


def open_bytes(path: epath.PathLike) -> IO[bytes]:
    """Opens a file for reading; of a bucket it is fetched in pieces, as they are wanted.

    Raises:
      OSError, UserError: as `read_bytes`.
    """
    with reaching(path) if is_remote(path) else contextlib.nullcontext():
        return cast(IO[bytes], epath.Path(path).open("rb"))


def below(folder: epath.PathLike) -> dict[str, int]:
    """Names of all objects below a folder of a bucket, sorted, and their sizes in bytes."""
    return {name: int(info["size"]) for name, info in _objects(folder).items()}


def matching(pattern: str) -> list[str]:
    """The objects that a pattern with a bucket in front means, sorted."""
    with reaching(pattern):
        client, name = _client(pattern)
        return sorted(f"gs://{found}" for found in client.glob(name))


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
      UserError: as `reaching`.
    """
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="bioclip2-") as folder:
        yield fetch(path, Path(folder))


def fetch(path: epath.PathLike, folder: Path) -> Path:
    """Copies a file of a bucket into a local folder; see `fetched`."""
    local = folder / os.path.basename(os.fspath(path))
    with reaching(path):
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
      UserError: as `reaching`.
    """
    client, root = _client(target)
    if source.is_file():
        with reaching(target):
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
    with reaching(target):
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
    with reaching(folder):
        client, root = _client(folder)
        client.invalidate_cache()  # others write, too
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
