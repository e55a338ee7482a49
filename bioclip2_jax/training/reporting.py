"""`--report wandb`: the metrics of a run also go to Weights & Biases, under open_clip's names.

Names: https://github.com/mlfoundations/open_clip/blob/main/src/open_clip_train/train.py. Whatever
happens there, training goes on: all of it is done by a thread of its own.
"""

import argparse
import importlib.util
import os
import queue
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from bioclip2_jax import files
from bioclip2_jax.errors import UsageError, UserError, reason

_CLOSE_SECONDS = 60.0  # for what is still to be sent at the end
_ID_FILE = "wandb.json"  # by which a run that goes on is the same run there
_NAMES = {"learning_rate": "lr", "step_seconds": "batch_time", "replay_loss": "continual_loss"}


def take_flag(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Takes `--report wandb` out of a command line.

    Raises:
      UsageError: it names something else, or the package is missing.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--report", nargs="?", const="")
    options, rest = parser.parse_known_args(arguments)
    if options.report not in (None, "wandb"):
        raise UsageError(f"--report={options.report}: write --report wandb")
    if options.report and not importlib.util.find_spec("wandb"):
        raise UsageError('--report wandb needs `pip install "bioclip2-jax[wandb]"`')
    return options.report, rest


def renamed(row: dict[str, float]) -> dict[str, float]:
    """A row of `metrics.jsonl` as open_clip would log it; what it does not know keeps its name."""
    named = {_NAMES.get(name, name): value for name, value in row.items()}
    named["data_time"] = named.pop("data_wait_fraction") * row["step_seconds"]
    named["samples_per_second_per_gpu"] = row["samples_per_second"] / jax.device_count()
    named["scale"] = row["logit_scale"]
    return {f"train/{name}": value for name, value in named.items()}


class Wandb:
    """The run there, begun or gone on with."""

    def __init__(self, workdir: Path, recipe: dict[str, Any]):
        """`recipe`: is shown as the run's settings."""
        self._rows: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(workdir, recipe), daemon=True)
        self._thread.start()

    def write(self, step: int, row: dict[str, float]) -> None:
        """Hands over the metrics of one step, and returns at once."""
        if self._thread.is_alive():
            self._rows.put((step, renamed(row)))

    def close(self) -> None:
        """Waits for what is on its way, but not for ever."""
        self._rows.put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            _warn(f"no answer in {_CLOSE_SECONDS:.0f} s")

    def _work(self, workdir: Path, recipe: dict[str, Any]) -> None:
        try:
            self._send(workdir, recipe)
        except Exception as error:  # of whatever kind: it may not stop a run
            _warn(reason(error))

    def _send(self, workdir: Path, recipe: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "bioclip2"),
            name=os.environ.get("WANDB_NAME", workdir.name),
            id=_own_id(workdir),
            resume="allow",
            dir=None if files.is_remote(workdir) else str(workdir),
            config=recipe,
            settings=wandb.Settings(silent=True, console="off"),
        )
        if run.url:
            print(f"wandb: {run.url}", file=sys.stderr, flush=True)
        while item := self._rows.get():
            step, row = item
            if step >= run.step:  # steps that are repeated after a kill are there already
                run.log({**row, "step": step}, step=step)
        run.finish()


def _own_id(workdir: Path) -> str:
    path = workdir / _ID_FILE
    try:
        return str(files.read_json_object(path)["id"])
    except (UserError, KeyError):
        own = uuid.uuid4().hex[:12]
        files.write_json(path, {"id": own}, indent=None)
        return own


def _warn(what: str) -> None:
    print(
        f"warning: wandb: {what}; training goes on, and metrics.jsonl has all",
        file=sys.stderr,
        flush=True,
    )
