"""One training a folder: `WORKDIR/running.json` names the process that trains there.

It beats every few seconds. A lock whose process has died is taken over: on the same machine at
once, on another one when it has been silent for two minutes, so that a job that a scheduler starts
again elsewhere goes on.
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
    _take(path, own)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, own, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if (holder := _read(path)) and holder.token == own.token:
            path.unlink(missing_ok=True)


def _take(path: Path, own: Holder) -> None:
    watched: Holder | None = None
    damaged = 0
    while not _create(path, own):
        holder = _read(path)
        if holder is None:  # let go just now, or not written yet, or cut off by a crash
            damaged += 1
            if damaged == 10:
                path.unlink(missing_ok=True)
            time.sleep(0.5)
            continue
        if holder.is_dead():
            processes.say(f"{path}: the training that held it is gone ({holder}); taken over")
            _remove(path, holder)
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


def _create(path: Path, own: Holder) -> bool:
    """Whether the lock was free and is ours."""
    try:
        with path.open("xb") as file:
            file.write(msgspec.json.encode(own))
    except FileExistsError:
        return False
    return True


def _remove(path: Path, dead: Holder) -> None:
    """Removes the lock of a dead holder, unless somebody else has taken it over meanwhile."""
    aside = path.with_name(f".{dead.token}-{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        moved = _read(aside)
        if moved and moved.token != dead.token and _create(path, moved):
            processes.say(f"{path}: {moved} was faster")
        aside.unlink()


def _beat(path: Path, own: Holder, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        holder = _read(path)
        if holder and holder.token != own.token:
            # This process was asleep for minutes: whatever it writes now would be in the way.
            processes.say(f"{path.parent}: {holder} has taken this training over; this one ends")
            os._exit(1)
        with contextlib.suppress(OSError):  # a full disk ends the run where it is told better
            files.write_bytes(path, msgspec.json.encode(replace(own, beat=time.time())))


def holder_of(workdir: Path) -> Holder | None:
    """Who trains in a folder, or did when it died; None where nobody does."""
    return _read(workdir / LOCK_FILE)


def _read(path: Path) -> Holder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


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
