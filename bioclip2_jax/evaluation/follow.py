"""Which checkpoints of a run are to be evaluated, which are already, and their curves.

A result is done when its JSON is there, made with the settings that bear on it; it is written last
and whole, so a restart after any kind of end repeats at most the task that was under way.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.search_schema import RetrievalResult
from bioclip2_jax.evaluation.subject import Job
from bioclip2_jax.evaluation.tasks import TASKS, bearing
from bioclip2_jax.files import absolute, below, place
from bioclip2_jax.weights import checkpoint

POLL_SECONDS = 2.0
REMOVAL_SECONDS = 10.0
_NO_FIGURE = ("step", "k", "chance")  # alike at every checkpoint


# ---- Checkpoints


def chosen_steps(workdir: str | Path, step: str) -> list[int]:
    """The checkpoints that "latest", "all" or a number stands for.

    Raises:
      UsageError: there is no such checkpoint, or none at all.
    """
    steps = checkpoint.steps(workdir)
    if not steps:
        raise UsageError(
            f"{workdir}: no checkpoint here; give the --workdir of a training run, or --follow to"
            " wait for its first one"
        )
    if step in ("latest", "all"):
        return steps[-1:] if step == "latest" else steps
    if checkpoint.step_named(step) not in steps:
        shown = ", ".join(map(str, steps))
        raise UsageError(f"--step {step}: not one of latest, all, {shown}")
    return [int(step)]


def new_checkpoints(
    workdir: str | Path, timeout: float | None, say: Callable[[str], None] = print
) -> Iterator[int]:
    """Yields every checkpoint once, oldest first, until `WORKDIR/done.json` or the timeout."""
    seen: set[int] = set()
    last_new = time.monotonic()
    while True:
        # In this order: a checkpoint written just before the end is still found.
        finished = (place(workdir) / "done.json").exists()
        fresh = checkpoint.steps(workdir, known=seen)
        for step in fresh:
            seen.add(step)
            yield step
            last_new = time.monotonic()
        if finished and not fresh:
            return
        if timeout is not None and time.monotonic() - last_new > timeout:
            say(f"{workdir}: no new checkpoint for {timeout:g} s; stopped waiting")
            return
        if not fresh:
            time.sleep(POLL_SECONDS if timeout is None else min(POLL_SECONDS, timeout / 4))


def is_going(workdir: str | Path, step: int) -> bool:
    """Whether a checkpoint is gone, or will be in a moment: its files go before its folder."""
    end = time.monotonic() + REMOVAL_SECONDS
    while step in checkpoint.steps(workdir):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


# ---- Results that are there


def is_done(folder: Path, job: Job) -> bool:
    """Whether a folder of results holds the job's, made with the settings that bear on it."""
    path = folder / job.folder / f"{job.task}.json"
    try:
        made = schema.read(path, TASKS[job.task].result).settings
    except UserError:
        return False
    return bearing(job.task, made) == bearing(job.task, job.settings)


def apart(folder: Path, job: Job) -> Job:
    """The job, in a folder of its set's name where the result of another set has its place."""
    name = job.folder or (absolute(job.root).name if job.root else job.name)
    names = (f"{name}-{number}" for number in itertools.count(2))
    places = itertools.chain([job.folder], [] if job.folder else [name], names)
    return replace(job, folder=next(each for each in places if not _is_taken(folder / each, job)))


def _is_taken(folder: Path, job: Job) -> bool:
    """Whether a folder holds the result of the job's task on another set."""
    try:
        made = schema.read(folder / f"{job.task}.json", TASKS[job.task].result).settings
    except UserError:
        return False
    ours, theirs = (bearing(job.task, settings) for settings in (job.settings, made))
    of_the_set = ("data", "annotations", "queries")
    return any(ours[name] != theirs[name] for name in of_the_set if name in ours)


# ---- Curves


@contextlib.contextmanager
def curves(home: Path, board: Path) -> Iterator[Callable[[Path], None]]:
    """The results of a run in TensorBoard, as `eval/TASK/FIGURE` at the step of the checkpoint.

    They have a folder of their own below the run's: there a trainer that starts again hides what
    it logged after its checkpoint, which for results would be wrong, and TensorBoard reads only
    the newest file of a folder. Each start writes all results that are there anew.

    Args:
      home: of the results, a folder a step.
      board: TensorBoard's folder to write in.

    Yields:
      What draws the result in a file, if it is one.
    """
    from bioclip2_jax.training.tensorboard import Board

    def draw(path: Path) -> None:
        if path.stem not in TASKS:
            return
        try:
            result = schema.read(path, TASKS[path.stem].result)
        except UserError:
            return
        step, *set_name, _ = path.relative_to(home).parts
        if result.step is None or step != str(result.step):
            return  # a result of another model, put here by hand
        writer.write(result.step, figures(result), "/".join(("eval", *set_name, path.stem)))

    def draw_now(path: Path) -> None:
        draw(path)
        writer.flush()

    with contextlib.closing(Board(board, 0)) as writer:
        named = [checkpoint.step_named(path.name) for path in buckets.named(home, "*")]
        for step in sorted(step for step in named if step is not None):
            folder = home / str(step)
            for name in below(folder, leave_out=("features",)):
                if name.endswith(".json"):
                    draw(folder / name)
        writer.flush()
        yield draw_now


def figures(result: schema.Result) -> dict[str, float]:
    """The numbers of a result that are worth a curve: name → value."""
    row = {
        name: float(value)
        for name, value in vars(result).items()
        if isinstance(value, int | float) and name not in _NO_FIGURE and "num_" not in name
    }
    if isinstance(result, schema.SpeciesResult):
        tops = ((rank, values.top1) for rank, values in result.ranks.items())
        row |= {f"top1_{rank}": top1 for rank, top1 in tops if top1 is not None}
    if isinstance(result, schema.ZeroShotResult) and result.calibration:
        row["ece"] = result.calibration.ece
    if isinstance(result, RetrievalResult):
        row = {
            f"{direction}/{name}": value
            for direction in ("text_to_image", "image_to_text")
            for name, value in getattr(result, direction).figures.items()
        }
    return row
