"""Where answers go: a file that a killed run goes on with, a bucket, or a stream.

Rows are added to `OUTPUT.part`, and `OUTPUT.part.jsonl`, the journal, says what they are: its first
line the settings, then a line a batch with how far the rows are good. Called again, whatever stands
behind the last good batch is cut off. `OUTPUT` appears at the end, by renaming.
"""

import contextlib
import datetime
import fcntl
import io
import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from bioclip2_jax import files
from bioclip2_jax.errors import UsageError, reason

_SYNC_SECONDS = 5.0  # the most that a power cut takes
_PIECE = 1 << 20

Convert = Callable[[IO[bytes], IO[bytes]], None]
Fill = Callable[[IO[bytes], str], None]  # a folder


class Stream:
    """What cannot be gone on with: standard output, a pipe, or a file in a bucket.

    Attributes:
      position: pictures done before this call.
      failed: of them.
      calls: when the run was called, and at which position.
    """

    def __init__(self, path: str, *, grows: bool):
        """`path` is "-" for standard output; what does not grow appears when it is finished."""
        self.position = self.failed = 0
        self.calls = [_call(0)]
        self._path, self._stack = path, contextlib.ExitStack()
        self._file: io.FileIO | None = None
        self._held: IO[bytes] | None = None
        if not grows or files.is_remote(path):
            self._held = self._stack.enter_context(_temporary())
        if files.is_remote(path):
            trial = files.place(f"{path}.part")
            with files.reaching(path):
                trial.write_bytes(b"")
            with contextlib.suppress(Exception):  # who may write need not be allowed to remove
                trial.unlink()
        elif path != "-":
            self._file = self._stack.enter_context(io.FileIO(path, "wb"))

    def begin(self, settings: Mapping[str, str], head: bytes) -> None:
        """As `Resumed.begin`."""
        self.add(head, position=0, failed=0)

    def add(self, rows: bytes, *, position: int, failed: int) -> None:
        """As `Resumed.add`."""
        if self._held:
            self._held.write(rows)
        else:
            self._show(rows)

    def finish(self, convert: Convert | None, *, fill: Fill | None = None) -> None:
        """As `Resumed.finish`."""
        if not self._held:
            return
        self._held.seek(0)
        if fill:
            fill(self._held, self._path)
            return
        if convert:
            with _temporary() as made:
                convert(self._held, made)
                made.seek(0)
                data = made.read()
        else:
            data = self._held.read()
        if files.is_remote(self._path):
            files.write_bytes(self._path, data)
        else:
            self._show(data)

    def close(self) -> None:
        """Closes its files."""
        self._stack.close()

    def _show(self, data: bytes) -> None:
        if self._file:
            _write(self._file, data)
            return
        out = getattr(sys.stdout, "buffer", None)
        if out and not sys.stdout.isatty():
            out.write(data)
            out.flush()
            return
        # Letters that a console lacks must not end the run.
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdout.write(data.decode().encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


class Resumed:
    """A file on a disk; see this module. The attributes are those of `Stream`."""

    def __init__(self, path: str, settings: Mapping[str, str], *, count: int, folder: bool = False):
        """Opens what is there of it.

        Args:
          path: of the file at the end.
          settings: as far as they are known before the model is loaded.
          count: of all pictures.
          folder: whether it is a folder, and `path` has no "/" at its end.

        Raises:
          UsageError: begun with other settings, in use, or no file of ours.
        """
        self.position = self.failed = 0
        self.calls: list[dict[str, Any]] = []
        self._path, self._part, self._journal = path, f"{path}.part", journal_of(path)
        self._count, self._settings = count, dict(settings)
        self._crc = self._bytes = 0
        self._before: dict[str, str] | None = None  # settings of what is there
        self._is_renamed = self._is_done = False
        self._log: io.FileIO | None = None
        self._synced = time.monotonic()
        if os.path.isdir(path) and not folder:
            raise UsageError(f"--output {path}: is a folder; name a file in it")
        was_there = os.path.lexists(self._part)
        self._file = io.FileIO(os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            self._lock()
            if not os.path.exists(self._journal):
                if was_there and os.fstat(self._file.fileno()).st_size:
                    raise UsageError(
                        f"{self._part} is there and was not written by `predict`; move it away, or"
                        " name another --output"
                    )
            else:
                self._read_journal(was_there)
            self._compare()
            self.calls.append(_call(self.position))
        except BaseException:
            self._file.close()
            if not was_there:
                os.unlink(self._part)
            raise

    def begin(self, settings: Mapping[str, str], head: bytes) -> None:
        """Begins, or goes on.

        Args:
          settings: the others.
          head: what the file begins with.

        Raises:
          UsageError: begun with other settings.
        """
        self._settings |= settings
        self._compare()
        self._file.seek(self._bytes)
        self._file.truncate()
        if self._before is None:
            self._log = io.FileIO(self._journal, "wb")
            self._note({"settings": self._settings})
            self.add(head, position=0, failed=0)
        else:
            self._log = io.FileIO(self._journal, "ab")
            _write(self._log, b"\n")  # behind half a line
        self._note({"call": self.calls[-1]})

    def add(self, rows: bytes, *, position: int, failed: int) -> None:
        """Adds rows, and notes that they are good.

        Args:
          rows: of whole batches.
          position: number of pictures done with them.
          failed: of these.
        """
        _write(self._file, rows)
        self._crc, self._bytes = zlib.crc32(rows, self._crc), self._bytes + len(rows)
        if time.monotonic() > self._synced + _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        self.position, self.failed = position, failed
        self._note({"position": position, "bytes": self._bytes, "crc": self._crc, "failed": failed})

    def finish(self, convert: Convert | None, *, fill: Fill | None = None) -> None:
        """Gives the file its name; `convert` makes its contents of the rows, where they are not.

        A folder is filled by `fill`, which may be called again after it was killed.
        """
        os.fsync(self._file.fileno())
        if fill:
            with open(self._part, "rb") as rows:
                fill(rows, self._path)
            os.unlink(self._part)
        elif convert and not self._is_renamed:
            with open(self._part, "rb") as rows, files.writing(self._path) as file:
                convert(rows, file)
            os.unlink(self._part)
        elif not self._is_renamed:
            os.replace(self._part, self._path)
        else:
            os.unlink(self._part)
        os.unlink(self._journal)
        self._is_done = True

    def close(self) -> None:
        """Closes its files; where nothing was done yet, none is left."""
        if not self._is_done and not self.position:
            for path in (self._part, self._journal):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        self._file.close()
        if self._log:
            self._log.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = os.path.samestat(os.stat(self._part), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            is_there = False
        except BlockingIOError:
            is_there = False
        if not is_there:  # or it was finished meanwhile
            raise UsageError(f"{self._part}: another call is writing it; wait for its end")

    def _read_journal(self, was_there: bool) -> None:
        lines = []
        with open(self._journal, "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(line))
        lines = [line for line in lines if isinstance(line, dict)]
        marks = [line for line in lines if "position" in line]
        if not lines or "settings" not in lines[0] or not marks:
            return
        if not was_there:  # renamed, and killed right then?
            last = marks[-1]
            if last["position"] != self._count or not _begins(self._path, last, whole=True):
                return
            self._is_renamed, good = True, last
        else:
            good = next((mark for mark in reversed(marks) if _begins(self._part, mark)), None)
            if good is None:
                return
        self._before = lines[0]["settings"]
        self.calls = [line["call"] for line in lines if "call" in line]
        self.position, self.failed = good["position"], good["failed"]
        self._bytes, self._crc = (0, 0) if self._is_renamed else (good["bytes"], good["crc"])

    def _compare(self) -> None:
        """Whether what is there was made with these settings."""
        before = self._before or {}
        for name, value in self._settings.items():
            if name not in before or before[name] == value:
                continue
            if self._is_renamed:  # it is complete: no matter for this call
                self._before, self._is_renamed = None, False
                self.position = self.failed = 0
                self.calls = [_call(0)]
                return
            raise UsageError(
                f"{self._part} was begun with other settings ({name}: {before[name]}; now {value});"
                " call it with those again, or delete that file to begin anew"
            )

    def _note(self, line: Mapping[str, Any]) -> None:
        assert self._log
        _write(self._log, json.dumps(line).encode() + b"\n")


@contextlib.contextmanager
def opened(
    path: str, settings: Mapping[str, str], *, count: int, grows: bool, folder: bool = False
) -> Iterator[Stream | Resumed]:
    """Opens an output before anything is done for it.

    Args:
      path: "-" for standard output.
      settings: see `Resumed`.
      count: of all pictures.
      grows: whether rows can be added to it as it is.
      folder: whether it is one, see `Resumed.finish`.

    Raises:
      UsageError: it cannot be written, or is of other settings.
    """
    is_special = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    try:
        if path == "-" or files.is_remote(path) or is_special:
            output = Stream(path, grows=grows)
        else:
            output = Resumed(path, settings, count=count, folder=folder)
    except OSError as error:
        why = error.strerror or reason(error)
        raise UsageError(f"--output {path}: cannot be written ({why})") from error
    try:
        yield output
    finally:
        output.close()


def journal_of(path: str) -> str:
    """Where it is told how far an output is; there until it is complete."""
    return f"{path}.part.jsonl"


def _temporary() -> contextlib.AbstractContextManager[IO[bytes]]:
    return tempfile.TemporaryFile(prefix="bioclip2-")


def _call(position: int) -> dict[str, Any]:
    return {"start": now(), "position": position}


def now() -> str:
    """The time, with its zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _begins(path: str, mark: Mapping[str, int], *, whole: bool = False) -> bool:
    """Whether a file begins with, or is, what a line of the journal says."""
    left, crc = mark["bytes"], 0
    try:
        with open(path, "rb") as file:
            while left and (piece := file.read(min(left, _PIECE))):
                left, crc = left - len(piece), zlib.crc32(piece, crc)
            return not left and crc == mark["crc"] and not (whole and file.read(1))
    except OSError:
        return False


def _write(file: IO[bytes], data: bytes) -> None:
    """All of it; a file without buffer may take a part."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
