"""Many hands fill a batch: it is dealt in parts, to threads of this process or to workers.

Workers are programs of their own (`data/worker.py`), and each makes the same rows always. It ends
with its socket to this process, and the memory of a batch, which both map, has no name: when this
process ends, in whatever way, nothing is left of either. Nor is that memory taken from /dev/shm, of
which containers have little.
"""

import contextlib
import io
import math
import mmap
import os
import selectors
import socket
import struct
import subprocess
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Arrays = dict[str, np.ndarray]
Layout = dict[str, tuple[tuple[int, ...], npt.DTypeLike]]  # name → shape, type

PARTS = 8  # a thread makes of a batch: what others have begun of the next one delays it less
ROWS = 16  # of a part, at least, where two parts a worker allow it: smaller ones cost more a row
DEALT = struct.Struct("=qii")  # to a worker, with the memory: a step, its parts from ... to
MADE = struct.Struct("=qi?")  # from a worker: a step, a part, and whether that could be made
_ALIGNMENT = 64  # bytes; XLA takes arrays so aligned without copying them


class Filler(Protocol):
    """What makes the parts of batches; a worker has one of its own, made from `job`."""

    rows: int  # of the longest array of a batch

    def job(self) -> str:
        """All that a worker has to know."""
        ...

    def layout(self, step: int) -> Layout:
        """The arrays of a batch; names that begin with "_" are for the fillers alone."""
        ...

    def begin(self, step: int, batch: Arrays) -> None:
        """Writes what the fillers of other processes look up in the batch."""
        ...

    def fill(self, step: int, part: int, parts: int, batch: Arrays) -> None:
        """Writes the rows of one of the parts."""
        ...

    def warm_up(self) -> None:
        """Loads what `fill` does at first use."""
        ...


def count_parts(rows: int, workers: int, threads: int) -> int:
    """Parts of a batch: as many for each worker, two or more if it has so many rows."""
    hands = max(workers, 1)
    each = max(min(PARTS * threads, rows // (ROWS * hands)), 2)
    return min(each * hands, -(-rows // hands) * hands)


def slice_of(rows: int, part: int, parts: int, workers: int) -> slice:
    """The rows of a part; some parts have one more than others.

    Those of one worker are neighbours, which come from few lanes (see `data/order.py`).
    """
    place = part % workers * (parts // workers) + part // workers
    return slice(rows * place // parts, rows * (place + 1) // parts)


def map_batch(layout: Layout, memory: int | None = None) -> Arrays:
    """Arrays that lie in the memory of this file descriptor, or in new memory, behind each other.

    It is given back when the last of them is.
    """
    starts, size = {}, 0
    for name, (shape, dtype) in layout.items():
        starts[name] = size
        size += -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
    if memory is not None and os.fstat(memory).st_size < size:
        os.ftruncate(memory, size)
    buffer = mmap.mmap(-1 if memory is None else memory, size)
    return {
        name: np.ndarray(shape, dtype, buffer, starts[name])
        for name, (shape, dtype) in layout.items()
    }


@dataclass
class Batch:
    """One that is being made.

    Attributes:
      memory: the file that it lies in, open until all parts are dealt.
      missing: the parts that are not there yet.
      making: of threads.
    """

    step: int
    arrays: Arrays
    missing: set[int]
    memory: io.FileIO | None = None
    making: list[Future] = field(default_factory=list)


class Feed(ABC):
    """Iterates over batches, in the order of the steps.

    Attributes:
      failure: what became of a worker that is gone, in a few words; else empty. What it owed is
        then made here, slowly: time to save what is done.
    """

    failure = ""

    def __init__(self, filler: Filler, steps: range, *, parts: int, prefetch: int):
        """`prefetch`: batches that may lie in memory, made or not, beside the one taken last.

        Half of one is left out, unless there is only one.
        """
        self._filler, self._parts = filler, parts
        self._step, self._stop = steps.start, steps.stop
        self._ahead = max(parts, prefetch * parts - parts // 2)
        self._dealt = self._step * parts
        self._batches: dict[int, Batch] = {}

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Arrays:
        if self._step >= self._stop:
            self.close()
            raise StopIteration
        self._deal()
        self._begin(self._end(self._step + 1))  # while others make this one
        batch = self._batches[self._step]
        self._finish(batch)
        del self._batches[self._step]
        self._step += 1
        self._deal()
        return {name: rows for name, rows in batch.arrays.items() if not name.startswith("_")}

    def close(self) -> None:
        """Ends all hands. Nothing can be taken afterwards."""
        self._stop = self._step
        self._batches.clear()

    def _end(self, step: int) -> int:
        """Before which part, counted through all batches, those lie that may be made by `step`."""
        return min(self._stop * self._parts, step * self._parts + self._ahead)

    def _deal(self) -> None:
        end = self._end(self._step)
        self._begin(end)
        while self._dealt < end:
            step, first = divmod(self._dealt, self._parts)
            last = min(self._parts, first + end - self._dealt)
            self._hand_out(self._batches[step], range(first, last))
            self._dealt += last - first

    def _begin(self, end: int) -> None:
        """Begins the batches of all parts before this one."""
        for step in range(self._step, -(-end // self._parts)):
            if step not in self._batches:
                self._batches[step] = self._new(step)
                self._filler.begin(step, self._batches[step].arrays)

    def _new(self, step: int) -> Batch:
        layout = self._filler.layout(step)
        return Batch(step, map_batch(layout), set(range(self._parts)))

    def _make(self, batch: Batch, part: int) -> None:
        self._filler.fill(batch.step, part, self._parts, batch.arrays)
        batch.missing.discard(part)

    @abstractmethod
    def _hand_out(self, batch: Batch, parts: range) -> None:
        """Has these parts made, in this order, at some time."""

    @abstractmethod
    def _finish(self, batch: Batch) -> None:
        """Returns when the batch is whole."""


class ThreadFeed(Feed):
    """Batches made by threads of this process."""

    def __init__(self, filler: Filler, steps: range, *, threads: int, prefetch: int):
        """See `Feed`."""
        super().__init__(
            filler, steps, parts=count_parts(filler.rows, 0, threads), prefetch=prefetch
        )
        self._pool = ThreadPoolExecutor(threads)
        filler.warm_up()
        self._begin(self._parts * min(self._step + 1, self._stop))

    def _hand_out(self, batch: Batch, parts: range) -> None:
        batch.making += [self._pool.submit(self._make, batch, part) for part in parts]

    def _finish(self, batch: Batch) -> None:
        for future in batch.making:
            future.result()

    def close(self) -> None:
        """See `Feed.close`."""
        super().close()
        self._pool.shutdown(cancel_futures=True)


class Worker:
    """A program that makes parts; one end of the socket to it.

    Attributes:
      running: whether it has begun.
      gone: whether it has ended.
    """

    def __init__(self, arguments: Sequence[str]):
        """Starts it with these arguments."""
        # It finds the package and the libraries where this process does.
        places = os.pathsep.join(os.path.abspath(place) for place in sys.path)
        self.channel, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bioclip2_jax.data.worker", *arguments],
            stdin=theirs.fileno(),
            env=os.environ | {"PYTHONPATH": places},
        )
        theirs.close()
        self.running = self.gone = False
        self._heard = b""

    def deal(self, step: int, parts: range, memory: io.FileIO) -> None:
        """Has it make those of the parts that are its own."""
        message = DEALT.pack(step, parts.start, parts.stop)
        with contextlib.suppress(OSError):  # it is gone, as `hear` will find
            socket.send_fds(self.channel, [message], [memory.fileno()])

    def hear(self) -> list[tuple[int, int, bool]]:
        """Waits until it says something: step, part, and whether that could be made."""
        try:
            heard = self.channel.recv(2**16)
        except OSError:
            heard = b""
        self.running, self.gone = True, not heard
        self._heard += heard
        whole = len(self._heard) // MADE.size * MADE.size
        messages, self._heard = self._heard[:whole], self._heard[whole:]
        return [message for message in MADE.iter_unpack(messages) if message[0] >= 0]

    def end(self) -> None:
        """Ends it at once: there is nothing that it would have to finish."""
        self.channel.close()
        self.process.kill()
        self.process.wait()


def _end_all(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.end()


class WorkerFeed(Feed):
    """Batches made by workers, part n by worker n modulo their number.

    What a worker cannot make is tried again here, which raises what is wrong.
    """

    def __init__(self, filler: Filler, steps: range, *, workers: int, threads: int, prefetch: int):
        """Starts them; see `Feed`."""
        parts = count_parts(filler.rows, workers, threads)
        super().__init__(filler, steps, parts=parts, prefetch=prefetch)
        self._workers = [Worker([str(number), filler.job()]) for number in range(workers)]
        self._selector = selectors.DefaultSelector()
        for worker in self._workers:
            self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        self._end_workers = weakref.finalize(self, _end_all, self._workers)
        self._begin(self._parts * min(self._step + 1, self._stop))

    def wait_for_workers(self) -> None:
        """Returns when all of them run: each says so before anything else."""
        while not all(worker.running for worker in self._workers):
            self._hear()

    def close(self) -> None:
        """See `Feed.close`."""
        for batch in self._batches.values():
            if batch.memory:
                batch.memory.close()
        super().close()
        self._selector.close()
        self._end_workers()

    def _new(self, step: int) -> Batch:
        memory = io.FileIO(os.memfd_create("bioclip2-batch"), "r+")
        arrays = map_batch(self._filler.layout(step), memory.fileno())
        return Batch(step, arrays, set(range(self._parts)), memory)

    def _hand_out(self, batch: Batch, parts: range) -> None:
        assert batch.memory is not None
        for number, worker in enumerate(self._workers):
            if any(part % len(self._workers) == number for part in parts):
                worker.deal(batch.step, parts, batch.memory)
        if parts.stop == self._parts:
            batch.memory.close()

    def _finish(self, batch: Batch) -> None:
        while True:
            for part in sorted(batch.missing):
                if self._workers[part % len(self._workers)].gone:
                    self._make(batch, part)
            if not batch.missing:
                return
            self._hear()

    def _hear(self) -> None:
        for key, _ in self._selector.select():
            worker: Worker = key.data
            for step, part, made in worker.hear():
                if made:
                    self._batches[step].missing.discard(part)
                else:
                    self._make(self._batches[step], part)
            if worker.gone:
                self._selector.unregister(worker.channel)
                self.failure = f"a worker of the data loader {_end_of(worker.process)}"


def _end_of(process: subprocess.Popen) -> str:
    code = process.wait()
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by signal {-code}, perhaps for want of memory"
