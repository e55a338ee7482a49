"""Training: `python -m bioclip2_jax.train --config=configs/X.py --workdir=DIR [--config.a.b=V]`.

Reads top to bottom: settings, devices, state, data, loop. A run started again with the same
command goes on from its newest checkpoint and repeats the uninterrupted run exactly. Several
processes share one --workdir; `distributed` says how they find each other.
"""

import contextlib
import dataclasses
import difflib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bioclip2_jax.data import pipeline
from bioclip2_jax.errors import UsageError, UserError, exit_on_user_error
from bioclip2_jax.models.presets import PRESETS, ClipConfig
from bioclip2_jax.training import progress, resume, sharding, xla_flags
from bioclip2_jax.training import recipe as config_lib
from bioclip2_jax.training import step as train_step
from bioclip2_jax.weights import checkpoint
from bioclip2_jax.weights.description import Preprocess, read_description, write_description
from bioclip2_jax.weights.load import read_params
from bioclip2_jax.weights.open import MODEL_FILE, open_source
from bioclip2_jax.workers import processes as distributed


def main(argv: Sequence[str]) -> None:
    """Runs or resumes one training, as one process of several if the flags or the machine say so.

    Raises:
      UsageError: a wrong flag or config value.
      UserError: unusable data or checkpoint, a full disk, or a loss that is no longer finite.
    """
    processes, argv = distributed.take_flags(argv)
    config, workdir = config_lib.parse_arguments(argv)
    check(config)
    xla_flags.set_flags(config.model.attention)
    distributed.start(processes)
    with distributed.together(), naming_full_disk(workdir):
        run(config, workdir)


def run(config: ConfigDict, workdir: Path) -> None:
    """The training itself, from the settings to the last checkpoint.

    Raises:
      UsageError, UserError: see `main`.
    """
    # ---- Folder, settings
    model = model_sizes(config, workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--workdir={workdir}: cannot be made ({error.strerror})") from error
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", str(workdir / config.compile_cache))

    # ---- Devices
    mesh = sharding.make_mesh(**config.mesh)
    train_step.check(config, mesh)

    # ---- State: of the newest sound checkpoint, or new
    abstract = jax.eval_shape(lambda: train_step.init_state(config, model))
    shardings = train_step.state_shardings(abstract, mesh)
    newest = resume.newest_sound_step(workdir)
    if newest is not None and newest >= config.train.steps:
        distributed.say(f"{workdir}: all {newest} steps are done")
        return
    state, start = resume.restore_newest(workdir, newest, abstract, shardings)
    if state is None:
        state = initial_state(config, model, abstract, shardings)
    else:
        distributed.say(f"{workdir}: going on after step {start}")
    if distributed.is_main():
        (workdir / "done.json").unlink(missing_ok=True)  # a finished run may be made longer
        for change in config_lib.save(config, workdir):
            distributed.say(f"note: {change} in an earlier start of this run")
        save_model_description(config, model, workdir)

    # ---- Data, from that step on; each process reads what its devices hold
    slices, num_slices = sharding.local_slices(mesh)
    batches = pipeline.batches(config, model.vision.image_size, start, slices, num_slices)

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
    saver = checkpoint.Writer(workdir, train.keep_checkpoints)
    clock = progress.Clock(train.batch_size + train.replay_batch_size)
    step_function = CompiledStep(step_function)
    pending = None
    with (
        distributed.stop_on_signal() as asked_to_stop,
        progress.open_writer(workdir, start, train.steps) as writer,
        contextlib.closing(saver),
    ):
        for done in range(start + 1, train.steps + 1):
            with clock.waiting():
                batch = next(batches)
            flops = train_step.train_flops_per_step(config, model, batch["tokens"].shape[1])
            state, values = step_function(state, sharding.global_batch(mesh, batch))
            if pending:
                finish_step(config, workdir, writer, clock, *pending)
            pending = (done, values, flops)
            stopping = asked_to_stop(done - start)  # once: a signal may come at any moment
            if stopping or done == train.steps or done % train.checkpoint_every == 0:
                finish_step(config, workdir, writer, clock, *pending)
                pending = None
                rest = {"step": state.step, "opt_state": state.opt_state}
                saver.save(done, state.params, rest)
            if stopping and done < train.steps:
                saver.wait()
                distributed.say(f"{workdir}: stopped and saved after step {done}")
                return
    if distributed.is_main():
        partial = workdir / "done.tmp"
        partial.write_text(json.dumps({"step": train.steps}) + "\n", encoding="utf-8")
        os.replace(partial, workdir / "done.json")


class CompiledStep:
    """The step, compiled whenever a batch of another text length comes, and saying so."""

    def __init__(self, step_function: Callable):
        """`step_function`: of `train_step.make_train_step`."""
        self._function = step_function
        self._compiled: dict[tuple, Callable] = {}

    def __call__(self, state: train_step.TrainState, batch: dict[str, jax.Array]) -> tuple:
        """See `train_step.make_train_step`."""
        shapes = tuple(value.shape for value in batch.values())
        if shapes not in self._compiled:
            before = time.perf_counter()
            self._compiled[shapes] = self._function.lower(state, batch).compile()
            seconds, length = time.perf_counter() - before, batch["tokens"].shape[1]
            distributed.say(f"compiled for captions of {length} tokens in {seconds:.1f} s")
        return self._compiled[shapes](state, batch)


def finish_step(
    config: ConfigDict,
    workdir: Path,
    writer: progress.MetricsWriter | None,
    clock: progress.Clock,
    step: int,
    values: dict[str, jax.Array],
    flops: float,
) -> None:
    """Waits for the metrics of one step, refuses what is not finite, logs every so often.

    Raises:
      UserError: the loss or a gradient is not finite.
    """
    row = {name: float(np.asarray(value)) for name, value in values.items()}
    if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
        kept = checkpoint.latest_step(workdir)
        raise UserError(
            f"step {step}: the loss is {row['loss']} and the gradient norm"
            f" {row['gradient_norm']}; stopped, the last good checkpoint is step {kept}."
            " Lower config.train.learning_rate or lengthen config.train.warmup_steps"
        )
    clock.tick(flops)
    if writer and (step % config.train.log_every == 0 or step == config.train.steps):
        writer.write(step, row | clock.read())


def model_sizes(config: ConfigDict, workdir: Path | None = None) -> ClipConfig:
    """The sizes of `config.model.name`: a preset's, or with "init" those of `config.init`.

    Raises:
      UsageError: there is no such preset; names the nearest. Or "init" without `config.init`.
      UserError: `config.init` cannot be opened.
    """
    name = config.model.name
    if name == "init":
        if not config.init:
            raise UsageError("config.model.name='init' takes the sizes of config.init: set that")
        if workdir and (workdir / MODEL_FILE).is_file():  # of the run that is resumed
            return read_description(workdir / MODEL_FILE)[0]
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
def naming_full_disk(workdir: Path) -> Iterator[None]:
    """Turns what any write of the run says of a full disk into one sentence."""
    try:
        yield
    except OSError as error:
        if not checkpoint.is_full_disk(error):
            raise
        raise UserError(
            f"{workdir}: the disk is full; make room and start again with the same command,"
            " finished checkpoints are whole"
        ) from error


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
