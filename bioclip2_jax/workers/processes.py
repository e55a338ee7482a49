"""Several processes that train as one: start-up, agreement, stopping together.

A run of one process initialises nothing, and every function here is then trivial.
"""

import argparse
import contextlib
import itertools
import os
import re
import signal
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax._src import distributed  # its key-value store has no public name
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.workers import platforms

_FLAGS = ("coordinator", "num-processes", "process-id")
_START_SECONDS = 600  # machines of one job come up minutes apart
_WAIT_SECONDS = 3600  # process 0 may have terabytes of checkpoints to check
_LEAVE_SECONDS = 20  # all have met before; only a crashed process is late
_TELL_SECONDS = 30.0  # of waiting in silence
_OBEY_SECONDS = 45.0  # from the wish to stop to the end of a process that waits
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"  # where JAX tells all processes of a SIGTERM to one
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"

_barriers = itertools.count()  # a name serves once
_caught: list[int] = []  # signals that ask a process without others to stop


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, and where process 0 listens (HOST:PORT)."""

    coordinator: str
    count: int
    index: int


# ---- Start-up


def take_flags(arguments: Sequence[str]) -> tuple[Processes | None, list[str]]:
    """Takes `--coordinator`, `--num-processes` and `--process-id` out of a command line.

    Returns:
      What they say, None where none is given, and the other arguments.

    Raises:
      UsageError: one is missing, doubled or impossible.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in _FLAGS:
        parser.add_argument(f"--{name}", dest=name, action="append", nargs="?", default=[])
    options, rest = parser.parse_known_args(arguments)
    flags: dict[str, list[str | None]] = vars(options)
    if not any(flags.values()):
        return None, list(arguments)
    missing = " and ".join(f"--{name}" for name, values in flags.items() if not any(values))
    if missing:
        raise UsageError(
            f"{missing}: missing; --coordinator HOST:PORT, --num-processes N and --process-id I go"
            " together"
        )
    for name, values in flags.items():
        if len(values) > 1:
            raise UsageError(f"--{name} is given twice")
    coordinator, count, index = (str(value) for (value,) in flags.values())
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--coordinator={coordinator}: write HOST:PORT, where process 0 can be reached"
        )
    for name, value in zip(_FLAGS[1:], (count, index), strict=True):
        if not value.isdecimal():
            raise UsageError(f"--{name}={value}: not a whole number")
    if int(count) < 1:
        raise UsageError(f"--num-processes={count} must be at least 1")
    if int(index) >= int(count):
        last = int(count) - 1
        raise UsageError(
            f"--process-id={index}: with --num-processes={count} it is one of 0 ... {last}"
        )
    return Processes(coordinator=coordinator, count=int(count), index=int(index)), rest


def start(processes: Processes | None, silent_seconds: int) -> None:
    """Joins the other processes: by the flags, else of a Slurm step or of a TPU pod, else none.

    Args:
      processes: what the flags say.
      silent_seconds: after which JAX ends everybody because of a process that it does not hear of.

    Raises:
      UserError: they cannot be reached.
    """
    options: dict[str, Any] = _slurm_devices()
    if processes:
        options = {
            "coordinator_address": processes.coordinator,
            "num_processes": processes.count,
            "process_id": processes.index,
            "cluster_detection_method": "deactivate",
        }
    if not (processes.count > 1 if processes else is_slurm_step() or is_tpu_pod()):
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=silent_seconds,
            shutdown_timeout_seconds=_LEAVE_SECONDS,
        )
    except Exception as error:
        where = f"--coordinator={processes.coordinator}: " if processes else ""
        raise UserError(
            f"{where}the processes of this run did not meet ({reason(error)})"
        ) from error


def is_slurm_step() -> bool:
    """Whether `srun` started several of us. The batch script alone is one process."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def is_tpu_pod() -> bool:
    """Whether this is one of several hosts of TPUs, by GKE's environment or Google's metadata."""
    platform = (os.environ.get("JAX_PLATFORMS") or "tpu").split(",")[0]
    if platform != "tpu" or not platforms.has_tpu():
        return False
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    slices = os.environ.get("MEGASCALE_NUM_SLICES")
    if not hosts and "TPU_SKIP_MDS_QUERY" not in os.environ:
        hosts = _metadata("worker-network-endpoints")
        match = re.search(r"MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata("tpu-env"))
        slices = slices or (match and match[1])
    return len((hosts or "").split(",")) * int(slices or 1) > 1


def _metadata(name: str) -> str:
    """An attribute of this Google Cloud machine, empty where there is none."""
    request = urllib.request.Request(_METADATA + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _slurm_devices() -> dict[str, list[int]]:
    """JAX gives each Slurm task one GPU; a task that has its node alone takes all of them."""
    alone = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").split("(")[0] == "1"
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return {"local_device_ids": list(range(int(gpus)))} if alone and gpus.isdecimal() else {}


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Runs the training between `start` and the end of the process.

    At a clean end all wait for each other. On an error this process leaves at once, which ends the
    others too: they would wait for its part of the next sum for ever.
    """
    try:
        yield
        barrier("end")
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, UserError):
            print(f"bioclip2: error: {error}", file=sys.stderr, flush=True)
            code = error.exit_code
        else:
            traceback.print_exception(error)
            code = 1
        if is_main():
            time.sleep(1)  # its end is the end of all; let them say the same first
        os._exit(code)


# ---- Agreement


def is_main() -> bool:
    """Whether this process writes what only one may write."""
    return jax.process_index() == 0


def say(message: str) -> None:
    """Prints to standard error, once for all processes."""
    if is_main():
        print(message, file=sys.stderr, flush=True)


def barrier(name: str) -> None:
    """Returns when all processes are here.

    Raises:
      UserError: one did not come in an hour, or has died.
    """
    if jax.process_count() == 1:
        return
    everybody = set(range(jax.process_count()))  # by messages, not by a sum on the devices
    try:
        multihost.sync_global_processes(
            f"{name}-{next(_barriers)}", timeout=_WAIT_SECONDS, processes=everybody
        )
    except Exception as error:
        raise UserError(f"the other processes did not come to {name!r}; start all again") from error


def agree(value: int) -> int:
    """The value of process 0, for all."""
    barrier("agree")
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_true(value: bool) -> bool:
    """Whether it holds in every process."""
    barrier("all_true")
    return bool(np.all(multihost_utils.process_allgather(np.bool_(value))))


# ---- Stopping


class Stop(Protocol):
    """Says whether to save and stop after this step."""

    def __call__(self, step: int, *, wanted: bool) -> bool:
        """`step`: just taken. `wanted`: whether this process has to stop soon."""
        ...


@contextlib.contextmanager
def stop_on_signal(start: int) -> Iterator[Stop]:
    """SIGTERM, Ctrl-C or the wish of one process stops all of them, at the same step.

    Every process asks after every step. A second signal ends a process at once.

    Args:
      start: the steps that were taken before.
    """
    _caught.clear()

    def handler(number: int, _frame: object) -> None:
        _caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    def forward(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)

    def ask(step: int, *, wanted: bool) -> bool:
        return wanted or bool(_caught)

    def ask_all(step: int, *, wanted: bool) -> bool:
        if wanted and not _caught:
            _caught.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return multihost_utils.reached_preemption_sync_point(step) or told_before

    alone = jax.process_count() == 1
    told_before = False
    if alone:
        handlers = {signal.SIGTERM: handler, signal.SIGINT: handler}
    else:  # SIGTERM is JAX's, since `start`
        handlers = {signal.SIGINT: forward}
        # JAX stops at the step after the last one that any process has told it of, and Orbax tells
        # it of the steps it saves: both must count alike. What came before the first is asked for.
        multihost_utils.reached_preemption_sync_point(start)
        barrier("stop_on_signal")
        told_before = bool(agree(is_asked_to_stop()))
    before = {number: signal.signal(number, new) for number, new in handlers.items()}
    try:
        yield ask if alone else ask_all
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def is_asked_to_stop() -> bool:
    """Whether a signal came, to any of the processes."""
    if jax.process_count() == 1:
        return bool(_caught)
    client: Any = distributed.global_state.client
    try:
        return bool(client.key_value_try_get(_NOTICE))
    except Exception:  # there is no such key, or process 0 has left
        return False


def wait_for(
    result: Callable[[float], object],
    what: str,
    missing: Callable[[], Sequence[int]],
    *,
    obeying: bool,
) -> None:
    """Waits for what other processes or a disk have to do; says so after half a minute.

    Args:
      result: returns when it is done; after so many seconds without, raises TimeoutError.
      what: is waited for.
      missing: processes that have not done their part yet, where that is known.
      obeying: whether a signal ends the waiting, and this process, within a minute.
    """
    began = time.monotonic()
    tell_after, leave_at = _TELL_SECONDS, float("inf")
    while True:
        before = time.monotonic()
        try:
            result(1.0)
            return
        except TimeoutError:
            if time.monotonic() - before < 0.9:  # not of the waiting
                raise
        now = time.monotonic()
        if now - began > tell_after:
            absent = missing()
            if is_main() or 0 in absent:
                hosts = f" (host {', '.join(map(str, absent))})" if absent else ""
                words = f"waiting for {what}{hosts}, for {now - began:.0f} s so far"
                print(words, file=sys.stderr, flush=True)
            tell_after *= 2
        if obeying and leave_at == float("inf") and is_asked_to_stop():
            leave_at = now + _OBEY_SECONDS + 5 * is_main()  # whose end is the end of all
        if now > leave_at:
            print(
                f"bioclip2: told to stop while waiting for {what}; ends without it, and the same"
                " command goes on from the newest checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(0)
