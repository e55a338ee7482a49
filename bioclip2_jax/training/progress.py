"""Where the numbers of a training run go: a console bar, `metrics.jsonl`, TensorBoard."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from bioclip2_jax import STARTED, files
from bioclip2_jax.training.goodput import Goodput
from bioclip2_jax.training.hardware import chip_of
from bioclip2_jax.training.reporting import Wandb
from bioclip2_jax.training.tensorboard import Board


class Clock:
    """Speed since the last logged step, and how much of the time went into waiting for data."""

    def __init__(self, pairs_per_step: int, goodput: Goodput):
        """Starts at once; the first reading includes compilation."""
        self._pairs, self._goodput = pairs_per_step, goodput
        chip = chip_of(jax.devices()[0].device_kind)
        self._peak = chip and chip.flops * jax.device_count()
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
        self._goodput.step()
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
            "goodput": self._goodput.share(),
        }
        if self._peak:
            row["mfu"] = self._flops / elapsed / self._peak
        self._start, self._waited, self._flops, self._steps = time.perf_counter(), 0.0, 0.0, 0
        return row


def open_writer(
    workdir: Path, start: int, stop: int, report: dict[str, Any] | None = None
) -> contextlib.AbstractContextManager["MetricsWriter | None"]:
    """A `MetricsWriter` in process 0, None in the others."""
    if jax.process_index():
        return contextlib.nullcontext()
    return contextlib.closing(MetricsWriter(workdir, start, stop, report))


class MetricsWriter:
    """Appends one row a logged step; on resume first drops the rows past the checkpoint.

    In a bucket rows are seen by others now and then, and after `flush`.
    """

    def __init__(self, workdir: Path, start: int, stop: int, report: dict[str, Any] | None = None):
        """Opens everything.

        Args:
          workdir: of the run.
          start: finished updates at the checkpoint.
          stop: updates of the whole run.
          report: the recipe, if Weights & Biases shall have the run; else None.
        """
        path = workdir / "metrics.jsonl"
        if path.exists():
            _drop_rows_after(path, start)
        self._file, self._pace = files.appending(path), files.Pace(path)
        self._board = Board(workdir / "tensorboard", start + 1)
        self._wandb = Wandb(workdir, report) if report is not None else None
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
        self._file.write((json.dumps({"step": step} | row) + "\n").encode())
        if self._pace.is_due():
            self._file.flush()
        self._board.write(step, row)
        if self._wandb:
            self._wandb.write(step, row)
        self._bar.n = step
        shown = {name: f"{row[name]:.4g}" for name in ("loss", "accuracy", "samples_per_second")}
        self._bar.set_postfix(shown)
        if self._bar.disable:
            text = " ".join(f"{name} {value}" for name, value in shown.items())
            print(f"step {step} {text}", file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Before a checkpoint: what it goes on from is not written again."""
        self._file.flush()
        self._board.flush()

    def close(self) -> None:
        """Flushes everything; all is closed even where the disk is full."""
        with contextlib.ExitStack() as stack:
            if self._wandb:
                stack.callback(self._wandb.close)
            for one in (self._bar, self._board, self._file):
                stack.callback(one.close)


def _drop_rows_after(path: Path, step: int) -> None:
    """Keeps the rows up to `step`; lines that are none, such as one cut off by a crash, go too."""
    kept = []
    for line in files.read_text(path).splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    files.write_text(path, "".join(kept))
