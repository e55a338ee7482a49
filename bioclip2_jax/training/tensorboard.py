"""TensorBoard's files, of the training and of evaluations beside it."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import RecordWriter, register_writer_factory

from bioclip2_jax import files

_events: Any = event_pb2  # their classes are made at import, unseen by type checkers
_summaries: Any = summary_pb2


class _Buckets:
    """Opens files in buckets for `RecordWriter`, whose own way logs in otherwise than ours."""

    def open(self, path: str) -> files.Growing:
        return files.Growing(path)


register_writer_factory("gs", _Buckets())


class Board:
    """TensorBoard's file, written at once, or in a bucket now and then.

    tensorboardX's own writer is a thread that a full disk ends, after which training would wait for
    it for ever.
    """

    def __init__(self, folder: Path, step: int):
        """Hides what earlier files of the folder logged from `step` on."""
        files.make_folder(folder)
        self._pace = files.Pace(folder)
        seconds, rest = divmod(time.time_ns(), 10**9)  # readers sort by the former
        name = f"events.out.tfevents.{seconds}.{socket.gethostname()}.{os.getpid()}.{rest:09}"
        self._file = RecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
        session = _events.SessionLog
        self._add(step=step, session_log=session(status=session.START))

    def write(self, step: int, row: dict[str, float], group: str = "train") -> None:
        """Records one row as `GROUP/NAME`."""
        summary = _summaries.Summary
        values = [summary.Value(tag=f"{group}/{name}", simple_value=row[name]) for name in row]
        self._add(step=step, summary=summary(value=values))

    def flush(self) -> None:
        """Makes all of it seen."""
        self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def _add(self, **content: object) -> None:
        self._file.write(_events.Event(wall_time=time.time(), **content).SerializeToString())
        if self._pace.is_due():
            self.flush()
