"""Training: `python -m bioclip2_jax.train --config=configs/X.py --workdir=DIR [--config.a.b=V]`.

Reads top to bottom: settings, devices, data, state, resume, loop. A run started again with the
same command goes on from its newest checkpoint and repeats the uninterrupted run exactly.
"""

import contextlib
import dataclasses
import difflib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from bioclip2_jax import checkpoint, metrics, sharding, train_step
from bioclip2_jax import config as config_lib
from bioclip2_jax.convert.description import Preprocess, read_description, write_description
from bioclip2_jax.convert.sources import MODEL_FILE, open_source
from bioclip2_jax.data import pipeline
from bioclip2_jax.errors import UsageError, UserError, exit_on_user_error
from bioclip2_jax.loading import read_params
from bioclip2_jax.models.presets import PRESETS, ClipConfig


def main(argv: Sequence[str]) -> None:
    """Runs or resumes one training.

    Raises:
      UsageError: a wrong flag or config value.
      UserError: unusable data or checkpoint, or a loss that is no longer finite.
    """
    # ---- Settings
    config, workdir = config_lib.parse_arguments(argv)
    model = model_sizes(config, workdir)
    check(config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--workdir={workdir}: cannot be made ({error.strerror})") from error

    # ---- Devices
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    for name in ("batch_size", "replay_batch_size"):
        size, divisor = config.train[name], sharding.batch_divisor(mesh)
        if size % divisor:
            raise UsageError(
                f"config.train.{name}={size} cannot be split over {divisor} devices; use a"
                f" multiple, for example {max(size // divisor, 1) * divisor}"
            )

    # ---- Data, from the step of the newest checkpoint on
    saved = checkpoint.latest_step(workdir)
    start = saved or 0
    if start >= config.train.steps:
        print(f"{workdir}: all {start} steps are done", file=sys.stderr)
        return
    batches = pipeline.batches(
        config, model.vision.image_size, start, jax.process_index(), jax.process_count()
    )

    # ---- State
    abstract = jax.eval_shape(lambda: train_step.init_state(config, model))
    shardings = train_step.state_shardings(abstract, mesh)
    if saved is not None:
        state = restore(workdir, start, abstract, shardings)
        print(f"{workdir}: going on after step {start}", file=sys.stderr)
    else:
        state = initial_state(config, model, abstract, shardings)
    (workdir / "done.json").unlink(missing_ok=True)  # a finished run may be made longer
    for change in config_lib.save(config, workdir):
        print(f"note: {change} in an earlier start of this run", file=sys.stderr)
    save_model_description(config, model, workdir)

    # ---- Loop
    step_function = train_step.make_train_step(config, model, mesh, shardings)
    loop(config, model, workdir, mesh, state, start, step_function, batches)


def loop(
    config: ConfigDict,
    model: ClipConfig,
    workdir: Path,
    mesh: Mesh,
    state: train_step.TrainState,
    start: int,
    step_function: Callable,
    batches: Iterator[dict[str, np.ndarray]],
) -> None:
    """Takes the steps `start` ... `config.train.steps`, logs, and saves checkpoints.

    Metrics are read one step late, so that the host never makes the device wait.

    Raises:
      UserError: the loss or a gradient is not finite; the last good checkpoint is kept.
    """
    train = config.train
    whole = NamedSharding(mesh, sharding.BATCH)
    writer = metrics.MetricsWriter(workdir, start, train.steps)
    saver = checkpoint.open_writer(workdir, train.keep_checkpoints)
    clock = Clock(config, model)
    pending = None
    with stop_on_signal() as stop, contextlib.closing(writer), contextlib.closing(saver):
        for done in range(start + 1, train.steps + 1):
            with clock.waiting():
                batch = next(batches)
            text_length = batch["tokens"].shape[1]
            batch = {k: jax.make_array_from_process_local_data(whole, v) for k, v in batch.items()}
            state, values = step_function(state, batch)
            if pending:
                finish_step(config, workdir, writer, clock, *pending)
            pending = (done, values, text_length)
            stopping = bool(stop)  # looked at once: a signal may come at any moment
            if stopping or done == train.steps or done % train.checkpoint_every == 0:
                finish_step(config, workdir, writer, clock, *pending)
                pending = None
                rest = {"step": state.step, "opt_state": state.opt_state}
                checkpoint.save(saver, done, state.params, rest)
            if stopping and done < train.steps:
                print(f"{workdir}: stopped and saved after step {done}", file=sys.stderr)
                return
    partial = workdir / "done.tmp"
    partial.write_text(json.dumps({"step": train.steps}) + "\n", encoding="utf-8")
    os.replace(partial, workdir / "done.json")


def finish_step(
    config: ConfigDict,
    workdir: Path,
    writer: metrics.MetricsWriter,
    clock: "Clock",
    step: int,
    values: dict[str, jax.Array],
    text_length: int,
) -> None:
    """Waits for the metrics of one step, refuses what is not finite, logs every so often."""
    row = {name: float(np.asarray(value)) for name, value in values.items()}
    if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
        kept = checkpoint.latest_step(workdir)
        raise UserError(
            f"step {step}: the loss is {row['loss']} and the gradient norm"
            f" {row['gradient_norm']}; stopped, the last good checkpoint is step {kept}."
            " Lower config.train.learning_rate or lengthen config.train.warmup_steps"
        )
    clock.tick(text_length)
    if step % config.train.log_every == 0 or step == config.train.steps:
        writer.write(step, row | clock.read())


class Clock:
    """Speed since the last logged step, and how much of the time went into waiting for data."""

    def __init__(self, config: ConfigDict, model: ClipConfig):
        """Starts at once; the first reading includes compilation."""
        self._config, self._model = config, model
        self._peak = metrics.peak_flops()
        self._born = self._start = time.perf_counter()
        self._waited = self._flops = 0.0
        self._steps = 0
        self._first_step: float | None = None

    def waiting(self) -> "Clock":
        """A context whose duration counts as data wait."""
        return self

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *unused: object) -> None:
        self._waited += time.perf_counter() - self._entered

    def tick(self, text_length: int) -> None:
        """Counts one finished step."""
        self._steps += 1
        self._flops += train_step.train_flops_per_step(self._config, self._model, text_length)
        if self._first_step is None:
            self._first_step = time.perf_counter() - self._born

    def read(self) -> dict[str, float]:
        """Samples (both streams) per second, seconds a step, share of data wait, FLOP/s, MFU."""
        elapsed = time.perf_counter() - self._start
        pairs = self._config.train.batch_size + self._config.train.replay_batch_size
        row = {
            "samples_per_second": self._steps * pairs / elapsed,
            "step_seconds": elapsed / self._steps,
            "data_wait_fraction": min(self._waited / elapsed, 1.0),
            "model_tflops_per_second": self._flops / elapsed / 1e12,
            "first_step_seconds": self._first_step,
        }
        if self._peak:
            row["mfu"] = self._flops / elapsed / self._peak
        self._start, self._waited, self._flops, self._steps = time.perf_counter(), 0.0, 0.0, 0
        return row


def model_sizes(config: ConfigDict, workdir: Path) -> ClipConfig:
    """The sizes of `config.model.name`: a preset's, or with "init" those of `config.init`.

    Raises:
      UsageError: there is no such preset; names the nearest. Or "init" without `config.init`.
      UserError: `config.init` cannot be opened.
    """
    name = config.model.name
    if name == "init":
        if not config.init:
            raise UsageError("config.model.name='init' takes the sizes of config.init: set that")
        described = workdir / MODEL_FILE  # of the run that is resumed
        if described.is_file():
            return read_description(described)[0]
        return open_source(config.init).config
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise UsageError(
            f"config.model.name={name!r} is not one of {', '.join(PRESETS)}, init; did you mean"
            f" {near}?"
        )
    return PRESETS[name]


def check(config: ConfigDict) -> None:
    """Refuses values that no run can be made of.

    Raises:
      UsageError: names the key.
    """
    for key in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
        if config.train[key] < 1:
            raise UsageError(f"config.train.{key}={config.train[key]} must be at least 1")
    if not config.data.dir:
        raise UsageError("config.data.dir is empty: name a folder made by `bioclip2 prepare`")
    if config.train.replay_batch_size and not config.data.replay_dir:
        raise UsageError(
            "config.train.replay_batch_size is set but config.data.replay_dir is empty; name a"
            " folder made by `bioclip2 prepare`, or set the size to 0"
        )
    if config.model.dtype not in ("float32", "bfloat16"):
        raise UsageError(f"config.model.dtype={config.model.dtype!r}: use float32 or bfloat16")
    if not 0 < config.train.patch_keep <= 1:
        raise UsageError(f"config.train.patch_keep={config.train.patch_keep} must be in (0, 1]")


def initial_state(
    config: ConfigDict,
    model: ClipConfig,
    abstract: train_step.TrainState,
    shardings: train_step.TrainState,
) -> train_step.TrainState:
    """Random weights, or those of `config.init`; made directly where they belong on the mesh.

    Raises:
      UserError: `config.init` is a model of another shape.
    """
    params = None
    if config.init:
        params = starting_params(config, model)
        params = jax.device_put(params, shardings.params)
    make = jax.jit(lambda p: train_step.init_state(config, model, p), out_shardings=shardings)
    return make(params)


def starting_params(config: ConfigDict, model: ClipConfig) -> dict:
    """The weights of `config.init`, on the host; positions are resized to the model's image size.

    With replay both projections start from the same weights, as in the original, unless the model
    brings two.

    Raises:
      UserError: it cannot be opened, or is a model of another shape.
    """
    source = open_source(config.init)
    size = model.vision.image_size
    vision = dataclasses.replace(source.config.vision, image_size=size)
    if dataclasses.replace(source.config, vision=vision) != model:
        raise UserError(
            f"config.init={config.init}: its weights are not of a {config.model.name} model but of"
            f" {source.config}; config.model.name=init takes its sizes"
        )
    if source.config != model:
        source = open_source(config.init, image_size=size)
    params = read_params(source)
    image = params["image"]
    replay_projection = image.pop("replay_projection", image["projection"])
    if config.train.replay_batch_size:
        image["replay_projection"] = replay_projection
    return params


def restore(
    workdir: Path, step: int, abstract: train_step.TrainState, shardings: train_step.TrainState
) -> train_step.TrainState:
    """The state at a checkpoint, laid out on this run's mesh whatever mesh wrote it."""
    target = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        shardings,
    )
    rest = {"step": target.step, "opt_state": target.opt_state}
    params, rest = checkpoint.restore(workdir, step, target.params, rest)
    return train_step.TrainState(rest["step"], params, rest["opt_state"])


def save_model_description(config: ConfigDict, model: ClipConfig, workdir: Path) -> None:
    """Writes `WORKDIR/model.json`, in the form of `open_clip_config.json`, for every reader."""
    data = config.data
    preprocess = Preprocess(
        model.vision.image_size,
        tuple(data.mean),
        tuple(data.std),
        data.resize_mode,
        data.interpolation,
    )
    description = write_description(model, preprocess)
    partial = workdir / "model.tmp"
    partial.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, workdir / MODEL_FILE)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list that becomes non-empty on SIGTERM or Ctrl-C; a second signal ends at once."""
    caught: list[int] = []

    def handler(number: int, _frame: object) -> None:
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield caught
    finally:
        for number, previous in zip(numbers, before, strict=True):
            signal.signal(number, previous)


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
