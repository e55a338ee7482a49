"""Records that cannot be read: named, counted, and the end of a run if they are too many."""

import collections
import sys

import numpy as np

from bioclip2_jax.data import pipeline
from bioclip2_jax.errors import UserError

WINDOW = 10_000  # records


class Unreadable:
    """What a run met of them since it was started; a restart counts anew."""

    def __init__(self, settings: pipeline.DataSettings):
        """`settings`: of the batches."""
        self._settings = settings
        self._steps: collections.deque[tuple[int, int]] = collections.deque()
        self._first = ""
        self._since_row = 0

    def take_from(self, batch: dict[str, np.ndarray]) -> None:
        """Takes the indices of those in this process's part of a batch out of it.

        The first one that a process meets is named on its console.
        """
        for stream in pipeline.STREAMS:
            rows = batch.pop(stream + "unreadable", np.empty(0, np.int64))
            met = rows[rows >= 0]
            if len(met) and not self._first:
                self._first = pipeline.why_unreadable(self._settings, stream, int(met[0]))
                print(
                    f"note: {self._first}; such records weigh nothing, metrics.jsonl counts them",
                    file=sys.stderr,
                    flush=True,
                )

    def count(self, step: int, unreadable: int) -> None:
        """Counts those of one step over all processes.

        Raises:
          UserError: they are more than `max_unreadable` of the last 10,000 records, or of the last
            step where that has more.
        """
        settings = self._settings
        self._since_row += unreadable
        self._steps.append((settings.batch_size + settings.replay_batch_size, unreadable))
        while sum(records for records, _ in self._steps) - self._steps[0][0] >= WINDOW:
            self._steps.popleft()
        records, bad = (sum(column) for column in zip(*self._steps, strict=True))
        if bad > settings.max_unreadable * max(records, WINDOW):
            named = self._first or "other processes name some above"
            raise UserError(
                f"step {step}: {bad} of the last {records} records cannot be read, more than"
                f" config.data.max_unreadable={settings.max_unreadable} allows; raise it or prepare"
                f" the dataset again: {named}"
            )

    def since_row(self) -> int:
        """How many were counted since this was asked last."""
        count, self._since_row = self._since_row, 0
        return count
