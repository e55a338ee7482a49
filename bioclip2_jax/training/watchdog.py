"""Ends a process that is stuck, so that a launcher can start it again: exit code 4.

A host that stops without dying makes the others wait for its part of a sum for ever. Nothing is
lost by leaving: the next start goes on from the newest checkpoint.
"""

import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator

STUCK = 4  # exit code: start again with the same command
_STEPS = 20  # as many median steps may pass without one
_REMEMBERED = 100  # steps


class Watchdog:
    """Looks once a second whether steps still come."""

    def __init__(self, minutes: float):
        """`minutes`: that a step may take, or 20 times the median one if that is longer."""
        self._least, self._limit = 60 * minutes, 60 * minutes
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)
        self._last, self._what = time.monotonic(), "the first step"
        self._pauses = 0

    def step(self, number: int) -> None:
        """A step is finished."""
        now = time.monotonic()
        self._durations.append(now - self._last)
        self._limit = max(self._least, _STEPS * statistics.median(self._durations))
        self._last, self._what = now, f"step {number + 1}"

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done here may take as long as it likes, such as compiling."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            self._last = time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator["Watchdog"]:
        """Watches until the end of the block."""
        self._last = time.monotonic()
        stop = threading.Event()
        thread = threading.Thread(target=self._watch, args=(stop,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            waited = time.monotonic() - self._last
            if waited > self._limit and not self._pauses:
                self._leave(waited)

    def _leave(self, waited: float) -> None:
        faulthandler.dump_traceback(all_threads=True)
        print(
            f"bioclip2: error: stuck: {self._what} has not come for {waited / 60:.1f} minutes;"
            " where each thread waits stands above, and the same command goes on from the newest"
            " checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(STUCK)
