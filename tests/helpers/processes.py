"""Training programs as a scheduler starts them: one or several processes, watched and killed."""

import contextlib
import functools
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp
from PIL import Image

from bioclip2_jax import train
from bioclip2_jax.data.records import make_record
from bioclip2_jax.files import absolute, place
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.training import sharding
from bioclip2_jax.training.step import StepSettings, TrainState
from bioclip2_jax.weights import checkpoint

ROOT = Path(__file__).parents[2]
_KINGDOMS = ("Animalia", "Plantae", "Fungi")
# Long enough that a signal, which JAX looks for once a second, comes before the end of a slow run;
# learning gently, so that the last bits of a sum do not grow. Whoever takes the same numbers as
# another test takes what that one has compiled, and the number of steps is one of them.
LONG = {"steps": 40, "batch_size": 8, "checkpoint_every": 1000, "learning_rate": 1e-4}


def arguments(
    workdir: Path | str, data: Path | str, *flags: str, recipe: str = "smallest", **changes: object
) -> list[str]:
    """A small run of 12 steps; `changes` are keys of `config.train`, `flags` anything.

    Compiled steps are kept in the cache of all tests, or without one in the workdir. The recipe
    "slowly" and those made of it are for processes only.
    """
    settings = {"steps": 12, "batch_size": 16, "checkpoint_every": 4, "log_every": 1}
    settings |= {"warmup_steps": 3} | changes
    return [
        f"--config={Path(__file__).with_name(recipe)}.py",
        f"--workdir={workdir}",
        f"--config.data.dir={data}",
        f"--config.compile_cache={os.environ.get('JAX_COMPILATION_CACHE_DIR', 'compile_cache')}",
        *(f"--config.train.{key}={value}" for key, value in settings.items()),
        *flags,
    ]


def short_data(folder: Path) -> Path:
    """48 pictures whose captions all have one length, so that one program is compiled."""
    rng = np.random.default_rng(0)

    def examples():
        for number in range(48):
            kingdom = number % 3
            pixels = np.clip(rng.normal(60 + 60 * kingdom, 30, (36, 36, 3)), 0, 255)
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
            yield make_record(
                key=f"train-{number}",
                image=buffer.getvalue(),
                taxon=Taxon(_KINGDOMS[kingdom]),
                vernacular_name="",
                source="test",
                licence="CC0-1.0",
                dataset_name="one",
                labels={},
            )

    write_dataset({"train": examples()}, folder, name="short", description="Noise.")
    return folder


def start(args: list[str], devices: int = 1) -> subprocess.Popen:
    """One process with so many fake CPU devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, "-m", "bioclip2_jax.train", *args],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_together(count: int, args: list[str], devices: int = 1) -> list[subprocess.Popen]:
    """The processes of one run."""
    return [start(args, devices)] if count == 1 else start_each([args] * count, devices)


def start_each(arguments: list[list[str]], devices: int = 1) -> list[subprocess.Popen]:
    """The processes of one run, each called with its own arguments."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = [f"--coordinator=localhost:{port}", f"--num-processes={len(arguments)}"]
    return [
        start([*args, *flags, f"--process-id={index}"], devices)
        for index, args in enumerate(arguments)
    ]


def finish(processes: list[subprocess.Popen], timeout: float = 900) -> tuple[list[int], list[str]]:
    """Exit codes and standard errors; kills what is left after the timeout."""
    try:
        messages = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        kill(processes)
    return [process.returncode for process in processes], messages


def kill(processes: list[subprocess.Popen]) -> None:
    """SIGKILL to all that still run, and waits for their end."""
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()
        process.stderr.close()


def run_together(count: int, args: list[str], devices: int = 1) -> list[str]:
    """Runs to the end; returns the standard errors."""
    codes, messages = finish(start_together(count, args, devices))
    assert codes == [0] * count, "\n".join(messages)
    return messages


_steps: dict[tuple, jax.stages.Wrapped] = {}


def run_here(args: list[str], devices: int = 1) -> None:
    """Runs to the end on the first devices of this process, which takes no start of another.

    As many processes of one device each compute the same, to the bit. What an earlier run of the
    same settings has compiled is used again.
    """
    mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:devices])
    make = train.make_train_step  # perhaps a test's own

    def make_once(settings: StepSettings, model: ClipConfig, mesh: Mesh, shardings: TrainState):
        key = make, settings, model, mesh
        if key not in _steps:
            _steps[key] = make(settings, model, mesh, shardings)
        return _steps[key]

    with (
        mock.patch.object(sharding, "make_mesh", mesh),
        mock.patch.object(train, "make_train_step", make_once),
    ):
        train.main(args)


def children(process: int) -> list[int]:
    """Processes that it has started and that still run, by Linux's /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(parent) == process and state != "Z":
                found.append(int(entry.name))
    return sorted(found)


def wait_until(condition: Callable[[], object], processes: list[subprocess.Popen]) -> None:
    """Waits for a condition, or fails when a process has ended or a quarter of an hour is over."""
    deadline = time.time() + 900
    while not condition():
        assert time.time() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.02)


def rows(workdir: Path | str) -> list[dict]:
    """The logged metrics, one row for every step; a last line that is being written is left out."""
    path = place(workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    return found


def losses(workdir: Path | str) -> list[float]:
    """The logged losses, from step 1 on."""
    return [row["loss"] for row in rows(workdir)]


def state_at(workdir: Path | str, step: int) -> dict:
    """All arrays of a checkpoint: parameters, Adam's moments, counters."""
    folder = str(absolute(checkpoint.step_dir(workdir, step)))
    stored = ocp.checkpointables_metadata(folder).metadata
    wanted = {name: stored[name] for name in ("params", "training")}
    wanted = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), wanted)
    return ocp.load_checkpointables(folder, wanted)


@functools.cache
def parameters(workdir: Path | str, step: int) -> dict:
    """The model at a checkpoint."""
    return checkpoint.restore_params(checkpoint.step_dir(workdir, step))
