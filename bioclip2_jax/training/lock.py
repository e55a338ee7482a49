"""One training a folder: `WORKDIR/running.json` names the process that trains there.

It beats every few seconds. A lock whose process has died is taken over: on the same machine at
once, on another one when it has been silent for two minutes, so that a job that a scheduler starts
again elsewhere goes on. In a bucket every write demands that the object still is the one that was
read or written last.
"""

import contextlib
import datetime
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.workers import processes

BEAT_SECONDS = 10.0
SILENT_SECONDS = 120.0
LOCK_FILE = "running.json"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who trains.

    Attributes:
      token: of this training alone.
      host, process: where process 0 of it runs.
      born: what tells that process from a later one of the same number; "" where nothing does.
      since, beat: seconds since 1970.
    """

    token: str
    host: str
    process: int
    born: str
    since: float
    beat: float

    def is_dead(self) -> bool:
        """Whether it is certain that the process is gone."""
        if self.host != socket.gethostname():
            return time.time() - self.beat > SILENT_SECONDS
        return _born(self.process) != self.born if self.born else not _exists(self.process)

    def __str__(self) -> str:
        since = datetime.datetime.fromtimestamp(self.since).astimezone()
        return f"process {self.process} on {self.host}, since {since:%Y-%m-%d %H:%M:%S %z}"


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds the lock of a folder until the end of the block; process 0 does, for all.

    Raises:
      UserError: another training is at work there, or has taken the lock.
    """
    if not processes.is_main():
        yield
        return
    own = Holder(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        process=os.getpid(),
        born=_born(os.getpid()),
        since=time.time(),
        beat=time.time(),
    )
    path = workdir / LOCK_FILE
    with files.reaching(workdir):
        lock = _InBucket(path) if files.is_remote(path) else _OnDisk(path)
        _take(lock, path, own)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(lock, path, own, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if (holder := lock.read()) and holder.token == own.token:
            lock.remove()


class Lock(Protocol):
    """The file, wherever it lies."""

    def create(self, own: Holder) -> bool:
        """Whether the lock was free and is ours."""
        ...

    def read(self) -> Holder | None:
        """Its holder; None where there is none or what is there cannot be read."""
        ...

    def take_over(self, dead: Holder, own: Holder) -> bool:
        """Whether it still was that of `dead`, which was read last, and is ours."""
        ...

    def beat(self, own: Holder) -> None:
        """Writes our own lock anew, which was read last; may raise where that fails."""
        ...

    def remove(self) -> None:
        """Removes what was read last."""
        ...


def _take(lock: Lock, path: Path, own: Holder) -> None:
    watched: Holder | None = None
    damaged = 0
    while not lock.create(own):
        holder = lock.read()
        if holder is None:  # let go just now, or not written yet, or cut off by a crash
            damaged += 1
            if damaged == 10:
                lock.remove()
            time.sleep(0.5)
            continue
        if holder.token == own.token:  # the answer to our own writing was lost
            return
        if holder.is_dead():
            processes.say(f"{path}: the training that held it is gone ({holder}); taken over")
            if lock.take_over(holder, own):
                return
            continue
        beats = watched is not None and watched.token == holder.token and watched != holder
        if beats or holder.host == own.host:
            raise UserError(
                f"{path.parent}: another training is at work there ({holder}); wait for it or stop"
                " it, or name another --workdir"
            )
        if watched is None:
            processes.say(f"{path}: waiting to see whether its holder lives ({holder})")
        watched = holder
        time.sleep(BEAT_SECONDS / 4)


def _beat(lock: Lock, path: Path, own: Holder, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        # A full disk ends the run where it is told better; a bucket may be out of reach for a time.
        with contextlib.suppress(Exception):
            holder = lock.read()
            if holder and holder.token != own.token:
                # This process was asleep for minutes: what it writes now would be in the way.
                processes.say(
                    f"{path.parent}: {holder} has taken this training over; this one ends"
                )
                os._exit(1)
            lock.beat(replace(own, beat=time.time()))


class _OnDisk:
    """See `Lock`."""

    def __init__(self, path: Path):
        self._path = path

    def create(self, own: Holder) -> bool:
        try:
            with self._path.open("xb") as file:
                file.write(msgspec.json.encode(own))
        except FileExistsError:
            return False
        return True

    def read(self) -> Holder | None:
        return _read(self._path)

    def take_over(self, dead: Holder, own: Holder) -> bool:
        aside = self._path.with_name(f".{dead.token}-{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            self._path.rename(aside)
            moved = _read(aside)
            if moved and moved.token != dead.token and self.create(moved):
                processes.say(f"{self._path}: {moved} was faster")
            aside.unlink()
        return self.create(own)

    def beat(self, own: Holder) -> None:
        files.write_bytes(self._path, msgspec.json.encode(own))

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


class _InBucket:
    """See `Lock`. The object's generation, which every write changes, says whether it is ours."""

    def __init__(self, path: Path):
        from google.cloud import storage

        bucket, _, self._name = os.fspath(path).removeprefix("gs://").partition("/")
        self._bucket = storage.Client(project=None).bucket(bucket)
        self._generation = 0  # of the object that was read or written last; 0: there is none

    def create(self, own: Holder) -> bool:
        # Looked for as well: what stands in for Google's buckets in tests knows no generations.
        return self._bucket.get_blob(self._name) is None and self._write(own, generation=0)

    def read(self) -> Holder | None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        self._generation = 0
        found: Any = self._bucket.get_blob(self._name)
        if found is None:
            return None
        self._generation = found.generation
        try:
            return _decode(found.download_as_bytes(if_generation_match=found.generation))
        except (NotFound, PreconditionFailed):  # it has just changed
            return None

    def take_over(self, dead: Holder, own: Holder) -> bool:
        return self._write(own, self._generation)

    def beat(self, own: Holder) -> None:
        self._write(own, self._generation)  # or another one has it, as is read the next time

    def remove(self) -> None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with contextlib.suppress(NotFound, PreconditionFailed):
            self._bucket.blob(self._name).delete(if_generation_match=self._generation)

    def _write(self, holder: Holder, generation: int) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        blob: Any = self._bucket.blob(self._name)
        try:
            blob.upload_from_string(msgspec.json.encode(holder), if_generation_match=generation)
        except PreconditionFailed:
            return False
        return True


def holder_of(workdir: Path) -> Holder | None:
    """Who trains in a folder, or did when it died; None where nobody does."""
    return _read(workdir / LOCK_FILE)


def _read(path: Path) -> Holder | None:
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return None


def _decode(content: bytes) -> Holder | None:
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(content, type=Holder)


def _born(process: int) -> str:
    """When a process of this machine was started, in ticks since this boot."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{boot}-{fields[19]}"


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
