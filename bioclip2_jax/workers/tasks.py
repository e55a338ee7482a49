"""Idempotent tasks: on the cores of this machine, on a Ray cluster, or one share of many machines'.

A task leaves its result under a name of its own, whole or not at all. So it may be done twice
without harm, and is never done again once the name is there.
"""

import contextlib
import fcntl
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bioclip2_jax.errors import UsageError, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

_BEAT_SECONDS = 5.0
_SILENT_SECONDS = 60.0  # after which a share counts as dead; network folders show times late


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Where tasks run.

    Attributes:
      processes: on this machine; 1 runs them in this process.
      ray: address of a Ray cluster, "local" to start one here; None for this machine alone.
      share: (index, count) where several calls, on any machines, share the tasks.
    """

    processes: int = 1
    ray: str | None = None
    share: tuple[int, int] | None = None


def share_of(text: str) -> tuple[int, int]:
    """(index, count) of "I/N", the index counted from 0.

    Raises:
      UsageError: anything else.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise UsageError(f"--task {text}: write I/N with I from 0 to N - 1, for example 0/4")
    return int(match[1]), int(match[2])


def run(
    function: Callable[[Task], Result], tasks: Sequence[Task], runner: Runner
) -> Iterator[Result]:
    """Does the tasks and yields their results as they come.

    Args:
      function: of a module, so that other processes can call it.
      tasks: arguments that can be sent to other processes.
      runner: where; its `share` is for the caller to take.

    Raises:
      UserError: a process died, or Ray is not there. What a task raises ends the others.
    """
    if runner.ray is not None:
        return _on_ray(function, tasks, runner.ray)
    if runner.processes == 1 or len(tasks) < 2:
        return map(function, tasks)
    return _on_cores(function, tasks, min(runner.processes, len(tasks)))


def _on_cores(
    function: Callable[[Task], Result], tasks: Sequence[Task], processes: int
) -> Iterator[Result]:
    # Forked processes would inherit the threads of JAX and of everyone else as locks.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_follow_parent)
    waiting, running = deque(tasks), set[Future]()
    try:
        while waiting or running:
            while waiting and len(running) < 2 * processes:
                running.add(pool.submit(function, waiting.popleft()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise UserError(
            "a process was killed, perhaps for want of memory; the same command goes on from here"
        ) from error
    finally:
        if running:  # an error or the end of this process: do not wait for theirs
            children = multiprocessing.active_children()
            for child in children:
                child.terminate()
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Ends this process with its parent, however that ends; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def _on_ray(
    function: Callable[[Task], Result], tasks: Sequence[Task], address: str
) -> Iterator[Result]:
    try:
        import ray
        from ray.exceptions import RayTaskError
    except ImportError as error:
        raise UsageError(
            "--runner ray needs Ray: pip install 'bioclip2-jax[ray]'; or leave it out"
        ) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise UserError(f"--address {address}: no Ray cluster answers ({error})") from error
    try:
        remote: Any = ray.remote(_in_folder)
        place = os.getcwd()
        waiting, running = deque(tasks), []
        most = 2 * int(ray.cluster_resources().get("CPU", 1)) + 2
        while waiting or running:
            while waiting and len(running) < most:
                running.append(remote.remote(place, function, waiting.popleft()))
            done, running = ray.wait(running)
            for reference in done:
                try:
                    yield ray.get(reference)
                except RayTaskError as error:
                    raise error.cause from error
    finally:
        ray.shutdown()


def _in_folder(folder: str, function: Callable[[Task], Result], task: Task) -> Result:
    """Ray's workers have folders of their own, where relative paths lead nowhere."""
    os.chdir(folder)
    return function(task)


# ---- Shares


class Shares:
    """Which of the calls that share the tasks are at work, told by files that they touch."""

    def __init__(self, folder: Path, index: int):
        """`folder`: one that all of them see."""
        self._folder, self.index = folder, index
        self._own = folder / str(index)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Counts this call as at work until the end of the block."""
        self._folder.mkdir(parents=True, exist_ok=True)
        stop = threading.Event()

        def beat() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):  # the folder goes when all is done
                    self._own.touch()
                stop.wait(_BEAT_SECONDS)

        self._own.touch()
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._own.unlink(missing_ok=True)

    def others(self) -> list[int]:
        """The indices of the other calls at work. Times are the shared folder's own."""
        seen = {}
        for path in self._folder.glob("[0-9]*"):
            with contextlib.suppress(OSError):
                seen[int(path.name)] = path.stat().st_mtime
        now = seen.pop(self.index, time.time())
        return sorted(index for index, beat in seen.items() if now - beat < _SILENT_SECONDS)

    def wait_for(self, are_done: Callable[[], bool]) -> bool:
        """Waits until `are_done` or nobody else is at work; what `are_done` says at last."""
        while not are_done():
            if not self.others():
                return are_done()
            time.sleep(0.5)
        return True


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other calls out of a folder, and removes what killed ones left half-written there.

    Raises:
      UserError: another call is at work.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder}: another process is at work there; wait for it") from error
        for path in folder.glob("**/.*"):  # the names of `files.writing`
            if path.is_file():
                path.unlink()
        yield
