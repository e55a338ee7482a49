"""A trace of some steps, for TensorBoard's profiler and for https://ui.perfetto.dev."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from bioclip2_jax import files
from bioclip2_jax.workers import processes

FOLDER = "profile"


class Trace:
    """Traces process 0 from one step to another, into `WORKDIR/profile`."""

    def __init__(self, wanted: Sequence[int], workdir: Path):
        """`wanted`: the first step and how many; empty for none."""
        first, count = wanted or (0, 0)
        self._first, self._last = first, first + count - 1
        self._workdir = workdir
        self._folder: tempfile.TemporaryDirectory | None = None  # while it traces

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """The dispatch of one step."""
        if step == self._first and processes.is_main():
            self._folder = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._folder.name, create_perfetto_trace=True)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def finished(self, step: int) -> None:
        """The device is done with a step."""
        if step >= self._last:
            self.close()

    def close(self) -> None:
        """Writes what was traced, if anything was."""
        if not self._folder:
            return
        folder, self._folder = self._folder, None
        with folder as name:
            jax.profiler.stop_trace()
            home = self._workdir / FOLDER
            for path in sorted(Path(name).rglob("*")):
                if path.is_file():
                    place = home / path.relative_to(name)
                    files.make_folder(place.parent)
                    files.write_bytes(place, path.read_bytes())
        processes.say(f"{home}: the trace; open it with TensorBoard or in https://ui.perfetto.dev")
