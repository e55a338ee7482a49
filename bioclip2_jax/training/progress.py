"""Where the numbers of a training run go: a console bar, `metrics.jsonl`, TensorBoard."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tqdm import tqdm

from bioclip2_jax import STARTED

# Peak dense bfloat16 FLOP/s of one device by `device_kind`, from the makers' data sheets.
_PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops() -> float | None:
    """Peak bfloat16 FLOP/s of all devices together, or None where it is not known (CPUs)."""
    kind = jax.devices()[0].device_kind
    matches = [name for name in _PEAK_FLOPS if kind.startswith(name)]
    if not matches:
        return None
    return _PEAK_FLOPS[max(matches, key=len)] * jax.device_count()


class Clock:
    """Speed since the last logged step, and how much of the time went into waiting for data."""

    def __init__(self, pairs_per_step: int):
        """Starts at once; the first reading includes compilation."""
        self._pairs = pairs_per_step
        self._peak = peak_flops()
        self._start = time.perf_counter()
        self._waited = self._flops = 0.0
        self._steps = 0
        self._first_step: float | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose duration counts as data wait."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    def tick(self, flops: float) -> None:
        """Counts one finished step of so many model FLOPs."""
        self._steps += 1
        self._flops += flops
        if self._first_step is None:
            self._first_step = time.perf_counter() - STARTED

    def read(self) -> dict[str, float]:
        """Samples (both streams) per second, seconds a step, share of data wait, FLOP/s, MFU.

        `first_step_seconds` is the time from the start of the process to its first finished step.
        """
        elapsed = time.perf_counter() - self._start
        row = {
            "samples_per_second": self._steps * self._pairs / elapsed,
            "step_seconds": elapsed / self._steps,
            "data_wait_fraction": min(self._waited / elapsed, 1.0),
            "model_tflops_per_second": self._flops / elapsed / 1e12,
            "first_step_seconds": self._first_step,
        }
        if self._peak:
            row["mfu"] = self._flops / elapsed / self._peak
        self._start, self._waited, self._flops, self._steps = time.perf_counter(), 0.0, 0.0, 0
        return row


@contextlib.contextmanager
def open_writer(workdir: Path, start: int, stop: int) -> Iterator["MetricsWriter | None"]:
    """A `MetricsWriter` in process 0, None in the others."""
    if jax.process_index():
        yield None
        return
    with contextlib.closing(MetricsWriter(workdir, start, stop)) as writer:
        yield writer


class MetricsWriter:
    """Appends one row a logged step; on resume first drops the rows past the checkpoint."""

    def __init__(self, workdir: Path, start: int, stop: int):
        """`start`: finished updates at the checkpoint; `stop`: updates of the whole run."""
        path = workdir / "metrics.jsonl"
        if path.exists():
            _drop_rows_after(path, start)
        self._file = path.open("a", encoding="utf-8")
        self._board = Board(workdir / "tensorboard", start + 1)
        self._bar = tqdm(
            total=stop,
            initial=start,
            unit="step",
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def write(self, step: int, row: dict[str, float]) -> None:
        """Records the metrics of the update that made `step` updates finished."""
        self._file.write(json.dumps({"step": step} | row) + "\n")
        self._file.flush()
        self._board.write(step, row)
        self._bar.n = step
        shown = {name: f"{row[name]:.4g}" for name in ("loss", "accuracy", "samples_per_second")}
        self._bar.set_postfix(shown)
        if self._bar.disable:
            text = " ".join(f"{name} {value}" for name, value in shown.items())
            print(f"step {step} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flushes everything; all is closed even where the disk is full."""
        with contextlib.closing(self._bar), contextlib.closing(self._board):
            self._file.close()


class Board:
    """TensorBoard's file, written at once.

    tensorboardX's own writer is a thread that a full disk ends, after which training would wait for
    it for ever.
    """

    def __init__(self, folder: Path, step: int):
        """Hides what earlier files of the folder logged from `step` on."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
        self._add(step=step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, row: dict[str, float], group: str = "train") -> None:
        """Records one row as `GROUP/NAME`."""
        values = [Summary.Value(tag=f"{group}/{name}", simple_value=row[name]) for name in row]
        self._add(step=step, summary=Summary(value=values))

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def _add(self, **content: object) -> None:
        self._file.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()


def _drop_rows_after(path: Path, step: int) -> None:
    """Keeps the rows up to `step`; a last line cut off by a crash goes as well."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)
