"""Saves the state of a run, and goes on from the newest sound one, the same for all processes.

Damaged ones are moved to `WORKDIR/damaged` and named, but only once an older one is found good:
where none can be read, something else is wrong, and nothing is touched.
"""

from pathlib import Path

import jax

from bioclip2_jax.errors import UserError
from bioclip2_jax.training.step import TrainState
from bioclip2_jax.weights import checkpoint, seal
from bioclip2_jax.workers import processes


def save(writer: checkpoint.Writer, step: int, state: TrainState) -> None:
    """Has the state after `step` updates written, in the background.

    Raises:
      UserError: this or the earlier save cannot be written, such as on a full disk.
    """
    writer.save(step, *_parts(state))


def newest_sound_step(workdir: Path, before: int | None = None) -> int | None:
    """The newest step whose files are what was written; process 0 looks and decides.

    Args:
      workdir: of the run.
      before: only steps below it.

    Raises:
      UserError: there are checkpoints, and all are damaged.
    """
    newest_sound = -1
    if processes.is_main():
        damaged = {}
        steps = [step for step in checkpoint.steps(workdir) if before is None or step < before]
        while steps and (what := seal.damage(checkpoint.step_dir(workdir, steps[-1]))):
            damaged[steps.pop()] = what
        if steps:
            newest_sound = steps[-1]
            _leave_out(workdir, damaged, newest_sound)
        elif damaged and before is None:
            newest, what = next(iter(damaged.items()))
            raise UserError(
                f"{checkpoint.step_dir(workdir, newest)}: damaged checkpoint ({what}), and no older"
                " one is sound; bring back a copy, or start in another --workdir"
            )
    newest_sound = processes.agree(newest_sound)
    return None if newest_sound < 0 else newest_sound


def restore_newest(
    workdir: Path, newest: int | None, abstract: TrainState, shardings: TrainState
) -> tuple[TrainState | None, int]:
    """The state at `newest`, or before it where that cannot be read, laid out on this run's mesh.

    Returns:
      The state, or None without a checkpoint, and its step, or 0.

    Raises:
      UserError: none of the checkpoints can be read, or they are of another model.
    """
    if newest is None:
        return None, 0
    step: int | None = newest
    failed: dict[int, UserError] = {}
    while step is not None:
        state = None
        try:
            state = _restore(workdir, step, abstract, shardings)
        except UserError as error:
            failed[step] = error
        if processes.all_true(state is not None):
            if processes.is_main():
                _leave_out(workdir, {bad: str(error) for bad, error in failed.items()}, step)
            return state, step
        failed.setdefault(step, UserError("another process cannot read it"))
        step = newest_sound_step(workdir, before=step)
    raise failed[newest]


def _restore(workdir: Path, step: int, abstract: TrainState, shardings: TrainState) -> TrainState:
    target = jax.tree.map(lambda leaf, where: leaf.update(sharding=where), abstract, shardings)
    model, rest = checkpoint.restore(workdir, step, *_parts(target))
    if target.averaged is None:
        return TrainState(params=model, **rest)
    return TrainState(averaged=model, **rest)


def _parts(state: TrainState) -> tuple[dict, dict]:
    """The model, for every reader, and what a checkpoint keeps for a resumed run alone."""
    rest = {"step": state.step, "opt_state": state.opt_state}
    if state.maxima is not None:
        rest["maxima"] = state.maxima
    if state.averaged is None:
        return state.params, rest
    return state.averaged, rest | {"params": state.params}


def _leave_out(workdir: Path, damaged: dict[int, str], used: int) -> None:
    for step, what in damaged.items():
        folder = checkpoint.step_dir(workdir, step)
        place = checkpoint.set_aside(workdir, step)
        processes.say(
            f"{folder}: damaged checkpoint ({what}), moved to {place}; step {used} is used"
        )
