"""Goodput: the share of the time since the very first start of a run that went into steps.

In a step is the time from the end of one to the end of the next, waiting for its data included. Not
in a step are: before a start and between two, starting up, compiling, standing still for a
checkpoint, and the steps that a kill made vain. `WORKDIR/goodput.json` keeps what a start needs of
those before it.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from bioclip2_jax import STARTED, files
from bioclip2_jax.workers import processes

_FILE = "goodput.json"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of a run.

    Attributes:
      started: when its first process was started, in seconds since 1970.
      seconds_in_steps: of all starts, at each checkpoint.
    """

    started: float
    seconds_in_steps: dict[int, float]


def begin(workdir: Path) -> None:
    """Puts down when a run was started first; what is not readable is begun anew."""
    if processes.is_main() and _read(workdir) is None:
        started = time.time() - (time.perf_counter() - STARTED)
        _write(workdir, Kept(started=started, seconds_in_steps={}))


class Goodput:
    """Counts from the first step of this start on, whose compilation is its beginning."""

    def __init__(self, workdir: Path, done: int):
        """`done`: finished updates at the checkpoint that the run goes on from."""
        self._workdir = workdir
        kept = _read(workdir) or Kept(started=time.time(), seconds_in_steps={})
        before = {
            step: kept.seconds_in_steps[step] for step in kept.seconds_in_steps if step <= done
        }
        self._kept = replace(kept, seconds_in_steps=before)
        self._seconds = before[max(before)] if before else 0.0
        self._since: float | None = None  # on the clock of `perf_counter`

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What is done here, while no step is under way, is not in a step."""
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        self._since = ended if self._since is None else self._since + ended - began

    def step(self) -> None:
        """A step is finished."""
        now = time.perf_counter()
        if self._since is not None:
            self._seconds += now - self._since
        self._since = now

    def share(self) -> float:
        """Of the time until now."""
        return min(self._seconds / max(time.time() - self._kept.started, 1e-9), 1.0)

    def save(self, step: int) -> None:
        """Keeps the count for a start that goes on from the checkpoint of this step."""
        self._kept.seconds_in_steps[step] = round(self._seconds, 3)
        if processes.is_main():
            _write(self._workdir, self._kept)


def _read(workdir: Path) -> Kept | None:
    try:
        return msgspec.json.decode((workdir / _FILE).read_bytes(), type=Kept)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write(workdir: Path, kept: Kept) -> None:
    files.write_bytes(workdir / _FILE, msgspec.json.encode(kept))
