"""Updates whose loss or gradient is no finite number: skipped and told, or the end of a run."""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from bioclip2_jax import files
from bioclip2_jax.data import pipeline
from bioclip2_jax.errors import UserError
from bioclip2_jax.training.recipe import Settings
from bioclip2_jax.weights import checkpoint
from bioclip2_jax.workers import processes

LOG_FILE = "nonfinite.jsonl"
_HIGH_RATE = 2e-3  # above it no published recipe of CLIP's trains
_FULL_SCALE = 99.0  # logit_scale is held at 100


class Nonfinite:
    """Counts those since this start of the run.

    Attributes:
      skipped: how many there were.
    """

    def __init__(self, settings: Settings, workdir: Path):
        """`settings`, `workdir`: of the run."""
        self._settings, self._workdir = settings, workdir
        self.skipped = 0

    def is_skipped(self, step: int, row: Mapping[str, float]) -> bool:
        """Whether an update was left out; a line in `WORKDIR/nonfinite.jsonl` names its records.

        Args:
          step: number of the update, counted from 1.
          row: its metrics.

        Raises:
          UserError: one more than `config.train.skip_nonfinite` allows.
        """
        if math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]):
            return False
        self.skipped += 1
        allowed = self._settings.step.skip_nonfinite
        if processes.is_main():
            self._log(step, row)
        what = f"step {step}: the loss is {row['loss']} and the gradient norm"
        what += f" {row['gradient_norm']}"
        see = f"{self._workdir / LOG_FILE} names the records"
        if self.skipped <= allowed:
            processes.say(f"note: {what}; skipped ({self.skipped} of {allowed}), {see}")
            return True
        kept = checkpoint.latest_step(self._workdir)
        raise UserError(
            f"{what}; stopped, the last good checkpoint is step {kept}. {self._cause(row)}; {see}"
        )

    def _cause(self, row: Mapping[str, float]) -> str:
        rate, optimizer = row["learning_rate"], self._settings.step.optimizer
        if rate > _HIGH_RATE or optimizer.warmup_steps < 10:
            return (
                f"The likely cause is the learning rate, {rate:g} here: lower"
                " config.train.learning_rate or lengthen config.train.warmup_steps"
            )
        if row["logit_scale"] > _FULL_SCALE:
            return (
                f"The likely cause is the scale of the logits, {row['logit_scale']:.4g}, at its"
                " limit: lower config.train.learning_rate or set config.train.clip_gradients=1.0"
            )
        if row["unreadable"]:
            return f"Of its records {row['unreadable']:.0f} could not be read"
        return (
            "The rate and the scale are usual ones, so look at its records; or set"
            " config.train.clip_gradients=1.0, config.train.skip_nonfinite or"
            " config.model.dtype=float32"
        )

    def _log(self, step: int, row: Mapping[str, float]) -> None:
        keys = pipeline.keys_of_step(self._settings.data, step - 1)
        numbers = {name: repr(row[name]) for name in ("loss", "gradient_norm", "logit_scale")}
        with contextlib.closing(files.appending(self._workdir / LOG_FILE)) as file:
            file.write((json.dumps({"step": step} | numbers | {"keys": keys}) + "\n").encode())
