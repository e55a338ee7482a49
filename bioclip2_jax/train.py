"""Training: `python -m bioclip2_jax.train --config=configs/X.py --workdir=DIR [--config.a.b=V]`.

Reads top to bottom: settings, devices, state, data, loop. A run started again with the same
command goes on from its newest checkpoint and repeats the uninterrupted run exactly. Several
processes share one --workdir; `workers.processes` says how they find each other.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bioclip2_jax import files
from bioclip2_jax.data import pipeline
from bioclip2_jax.data.feeding import Arrays, Feed
from bioclip2_jax.errors import UsageError, UserError, exit_on_user_error
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.training import (
    goodput,
    lock,
    preflight,
    progress,
    ranges,
    recipe,
    reporting,
    resume,
    sharding,
    start,
    tracing,
    watchdog,
    xla_flags,
)
from bioclip2_jax.training.nonfinite import Nonfinite
from bioclip2_jax.training.step import (
    TrainState,
    check_split,
    init_state,
    make_train_step,
    train_flops_per_step,
)
from bioclip2_jax.training.unreadable import Unreadable
from bioclip2_jax.weights import checkpoint
from bioclip2_jax.workers import platforms, processes

DONE_FILE = "done.json"  # written last: no more checkpoints will come


def main(argv: Sequence[str]) -> None:
    """Runs or resumes one training, as one process of several if the flags or the machine say so.

    Raises:
      UsageError: a wrong flag or config value.
      UserError: unusable data or checkpoint, too many unreadable records, a full disk, or a loss
        that is no longer finite.
    """
    group, argv = processes.take_flags(argv)
    report, argv = reporting.take_flag(argv)
    config, workdir = recipe.parse_arguments(argv)
    with files.reaching(workdir):
        notes = recipe.keep_as_begun(config, workdir)
    settings = recipe.compose(config)
    settings.data.check()
    xla_flags.set_flags(settings.step.execution.attention)
    # Long after the watchdogs of all, which leave the stacks of their threads behind.
    processes.start(group, silent_seconds=max(600, round(180 * settings.stuck_minutes)))
    with processes.together(), naming_full_disk(workdir), alone_in(workdir):
        for note in notes:
            processes.say(f"note: {note}")
        run(settings, workdir, report=report)


@dataclass(frozen=True)
class Run:
    """One training on its devices.

    Attributes:
      start: finished updates at the checkpoint it goes on from.
      watchdog: to be told of every finished step.
      goodput: to be told of what is not in a step.
      report: "wandb", or None.
    """

    settings: recipe.Settings
    model: ClipConfig
    workdir: Path
    mesh: Mesh
    start: int
    watchdog: watchdog.Watchdog
    goodput: goodput.Goodput
    report: str | None


def run(settings: recipe.Settings, workdir: Path, report: str | None = None) -> None:
    """The training itself, from the settings to the last checkpoint.

    Args:
      settings, workdir: of the run.
      report: "wandb": metrics also go there.

    Raises:
      UsageError, UserError: see `main`.
    """
    # ---- Folders, model
    preflight.check_same_folders(settings, workdir)
    goodput.begin(workdir)
    for note in preflight.repeats(settings):
        processes.say(f"note: {note}")
    model = start.model_sizes(settings, workdir)
    if settings.compile_cache:
        jax.config.update("jax_compilation_cache_dir", str(start.cache_folder(settings, workdir)))

    if settings.step.level_weight:
        texts = pipeline.count_level_texts(settings.data)
        settings = replace(settings, step=replace(settings.step, level_texts=texts))

    # ---- Devices
    mesh = sharding.make_mesh(**vars(settings.mesh))
    check_split(settings.step, mesh)
    execution, device = settings.step.execution, mesh.devices.flat[0]
    ranges.check_devices(
        execution.attention,
        execution.dtype,
        device.platform,
        fp8=execution.fp8,
        kind=device.device_kind,
        capability=getattr(device, "compute_capability", ""),
    )

    # ---- State: of the newest sound checkpoint, or new
    abstract = jax.eval_shape(lambda: init_state(settings.step, model))
    shardings = sharding.tree_shardings(abstract, mesh)
    newest = resume.newest_sound_step(workdir)
    if newest is not None and newest >= settings.steps:
        if processes.is_main():
            start.check_same_model(model, workdir)
            save_facts(settings, model, workdir, finished=newest)
        processes.say(f"{workdir}: all {newest} steps are done")
        return
    preflight.check_space(abstract, workdir)
    state, done = resume.restore_newest(workdir, newest, abstract, shardings)
    if state is None:
        state = start.initial_state(settings, model, shardings)
    else:
        processes.say(f"{workdir}: going on after step {done}")
    if processes.is_main():
        for note in preflight.moves(settings, workdir, done):
            processes.say(f"note: {note}")
        save_facts(settings, model, workdir, finished=None)

    # ---- Data, from that step on; each process reads what its devices hold
    slices, num_slices = sharding.local_slices(mesh)
    batches = pipeline.batches(
        settings.data, model.vision.image_size, done, slices=slices, num_slices=num_slices
    )

    # ---- Loop
    dog = watchdog.Watchdog(settings.stuck_minutes)
    good = goodput.Goodput(workdir, done)
    step = CompiledStep(make_train_step(settings.step, model, mesh, shardings), dog, good)
    this = Run(
        settings=settings,
        model=model,
        workdir=workdir,
        mesh=mesh,
        start=done,
        watchdog=dog,
        goodput=good,
        report=report,
    )
    with dog.watching(), contextlib.closing(batches):
        loop(this, state, step, batches)


def save_facts(
    settings: recipe.Settings, model: ClipConfig, workdir: Path, finished: int | None
) -> None:
    """Writes what readers of a run go by: its recipe, its model, and whether it is finished.

    After every start all three are right, wherever an earlier one was killed.

    Args:
      settings, model, workdir: of the run.
      finished: the last of all its steps; None: more are to come.
    """
    for change in recipe.save(settings, workdir):
        processes.say(f"note: {change} in an earlier start of this run")
    start.save_description(settings, model, workdir)
    if finished is None:
        (workdir / DONE_FILE).unlink(missing_ok=True)  # a finished run may be made longer
    else:
        files.write_json(workdir / DONE_FILE, {"step": finished}, indent=None)


class Pending(NamedTuple):
    """An update whose numbers are still on their way from the device."""

    step: int
    metrics: dict[str, jax.Array]
    flops: float


def loop(run: Run, state: TrainState, step: "CompiledStep", batches: Feed) -> None:
    """Takes the steps that are left, logs, and saves checkpoints.

    Metrics are read one step late, so that the host never makes the device wait.

    Raises:
      UserError: the loss or a gradient is not finite, or too many records cannot be read; the last
        good checkpoint is kept. Or a worker of `batches` is gone; the last step is saved.
    """
    settings, workdir = run.settings, run.workdir
    saver = checkpoint.Writer(workdir, settings.keep_checkpoints)
    pairs = settings.step.batch_size + settings.step.replay_batch_size
    clock = progress.Clock(pairs, run.goodput)
    tracer = tracing.Trace(settings.profile, workdir)
    unreadable, nonfinite = Unreadable(settings.data), Nonfinite(settings, workdir)
    report = settings.recipe if run.report else None

    def finish(pending: Pending) -> None:
        finish_step(
            run, pending, clock=clock, unreadable=unreadable, nonfinite=nonfinite, writer=writer
        )
        tracer.finished(pending.step)

    pending = None
    with (
        processes.stop_on_signal(run.start) as asked_to_stop,
        progress.open_writer(workdir, run.start, settings.steps, report) as writer,
        contextlib.closing(saver),
        contextlib.closing(tracer),
    ):
        for done in range(run.start + 1, settings.steps + 1):
            with clock.waiting():
                batch = next(batches)
            unreadable.take_from(batch)
            flops = flops_of(run, batch)
            with tracer.around(done):
                state, metrics = step(state, sharding.global_batch(run.mesh, batch))
            if pending:
                finish(pending)
            pending = Pending(step=done, metrics=metrics, flops=flops)
            # Once: a signal may come at any moment.
            stopping = asked_to_stop(done, wanted=bool(batches.failure))
            if stopping or done == settings.steps or done % settings.checkpoint_every == 0:
                finish(pending)
                pending = None
                with run.goodput.apart():
                    if writer:
                        writer.flush()
                    resume.save(saver, done, state)
                run.goodput.save(done)
            if stopping and done < settings.steps:
                saver.wait(obeying=False)  # this is what was told
                complete = processes.all_true(not batches.failure)  # all that there is is saved
                processes.say(f"{workdir}: stopped and saved after step {done}")
                if not complete:
                    which = batches.failure or "another process has lost a worker of its loader"
                    raise UserError(f"{which}; start again with the same command")
                return
    if processes.is_main():
        files.write_json(workdir / DONE_FILE, {"step": settings.steps}, indent=None)


def flops_of(run: Run, batch: Arrays) -> float:
    """Of the step that takes this batch, of all processes together."""
    lengths = {name: batch[name].shape[-1] for name in ("tokens", "level_tokens") if name in batch}
    return train_flops_per_step(
        run.settings.step,
        run.model,
        lengths["tokens"],
        level_length=lengths.get("level_tokens"),
        devices=run.mesh.size,
    )


class CompiledStep:
    """The step, compiled whenever a batch of another text length comes, and saying so."""

    def __init__(self, step: jax.stages.Wrapped, dog: watchdog.Watchdog, good: goodput.Goodput):
        """`step`: of `make_train_step`; `dog` and `good` do not count what the compiler takes."""
        self._step, self._dog, self._good = step, dog, good
        self._compiled: dict[tuple, Callable] = {}

    def __call__(
        self, state: TrainState, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """See `make_train_step`."""
        shapes = tuple(value.shape for value in batch.values())
        if shapes not in self._compiled:
            before = time.perf_counter()
            with self._dog.paused(), self._good.apart():
                self._compiled[shapes] = self._step.lower(state, batch).compile()
            seconds, length = time.perf_counter() - before, batch["tokens"].shape[1]
            processes.say(f"compiled for captions of {length} tokens in {seconds:.1f} s")
        return self._compiled[shapes](state, batch)


def finish_step(
    run: Run,
    pending: Pending,
    *,
    clock: progress.Clock,
    unreadable: Unreadable,
    nonfinite: Nonfinite,
    writer: progress.MetricsWriter | None,
) -> None:
    """Waits for the metrics of one step, refuses what is not finite, logs every so often.

    Raises:
      UserError: the loss or a gradient is not finite, or too many records cannot be read.
    """
    step = pending.step
    row = {name: float(np.asarray(value)) for name, value in pending.metrics.items()}
    unreadable.count(step, int(row["unreadable"]))
    is_skipped = nonfinite.is_skipped(step, row)
    run.watchdog.step(step)
    clock.tick(pending.flops)
    is_logged = step % run.settings.log_every == 0 or step == run.settings.steps
    if writer and is_logged and not is_skipped:
        row["unreadable"] = unreadable.since_row()
        writer.write(step, row | clock.read())


@contextlib.contextmanager
def alone_in(workdir: Path) -> Iterator[None]:
    """Makes the folder of a run, where nobody else trains until the end of the block.

    Raises:
      UsageError: it cannot be made.
      UserError: somebody does.
    """
    try:
        files.make_folder(workdir)
    except OSError as error:
        raise UsageError(f"--workdir={workdir}: cannot be made ({error.strerror})") from error
    with lock.held(workdir):
        yield


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
    platforms.settle()
    exit_on_user_error(lambda: main(sys.argv[1:]))
