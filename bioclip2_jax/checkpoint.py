"""Checkpoints on disk: `WORKDIR/checkpoints/<step>/{params,training}`, written by Orbax.

`params` is a nested dict with names of our own (see `models/clip.py`), so that a reader needs
neither Flax nor the optimizer. Orbax writes into a temporary folder and renames it, hence a
folder named by a number is complete.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bioclip2_jax.errors import UserError

FOLDER = "checkpoints"


def steps(workdir: str | Path) -> list[int]:
    """Steps of the complete checkpoints of a training run, ascending."""
    folder = Path(workdir) / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def latest_step(workdir: str | Path) -> int | None:
    """The newest complete checkpoint's step, or None."""
    return max(steps(workdir), default=None)


def step_dir(workdir: str | Path, step: int) -> Path:
    """The folder of one checkpoint."""
    return Path(workdir) / FOLDER / str(step)


def open_writer(workdir: str | Path, keep: int) -> ocp.training.Checkpointer:
    """A writer that keeps the newest `keep` checkpoints. Close it to finish the last save."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save
    return ocp.training.Checkpointer(
        (Path(workdir) / FOLDER).absolute(),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        cleanup_tmp_directories=True,
    )


def save(writer: ocp.training.Checkpointer, step: int, params: dict, training: Any) -> None:
    """Copies the state to the host and writes it in the background, after any earlier save.

    Args:
      writer: from `open_writer`.
      step: finished updates.
      params: the model, a nested dict of arrays.
      training: what only a resumed run needs (optimizer state, step counter).
    """
    checkpointables = {"params": params, "training": training}
    writer.save_checkpointables_async(step, checkpointables, force=True)


def restore(workdir: str | Path, step: int, params: dict, training: Any) -> tuple[dict, Any]:
    """Reads a checkpoint into the shapes, dtypes and shardings of the given abstract trees.

    Raises:
      UserError: unreadable, or made by another model; names every tensor that differs.
    """
    folder = step_dir(workdir, step)
    _require_equal(folder, params)
    try:
        found = ocp.load_checkpointables(folder, {"params": params, "training": training})
    except Exception as error:
        raise UserError(
            f"{folder}: this checkpoint cannot be read ({_first_line(error)}); delete that folder"
            " to resume from the one before"
        ) from error
    return found["params"], found["training"]


def restore_params(folder: str | Path) -> dict:
    """Reads the model of one checkpoint folder as numpy arrays, on any device or none.

    Raises:
      UserError: the folder holds no readable checkpoint.
    """
    shapes = _stored_shapes(folder)
    abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
    try:
        return ocp.load_checkpointables(Path(folder).absolute(), {"params": abstract})["params"]
    except Exception as error:
        raise UserError(f"{folder}: unreadable checkpoint ({_first_line(error)})") from error


def _stored_shapes(folder: str | Path) -> dict:
    try:
        metadata = ocp.checkpointables_metadata(Path(folder).absolute()).metadata
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata["params"]
        )
    except Exception as error:
        raise UserError(f"{folder}: unreadable checkpoint ({_first_line(error)})") from error


def _require_equal(folder: Path, params: dict) -> None:
    def flat(tree: dict) -> dict[str, tuple]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {"/".join(k.key for k in path): (*leaf.shape,) for path, leaf in leaves}

    stored, wanted = flat(_stored_shapes(folder)), flat(params)
    wrong = [
        f"{name}: stored {stored.get(name, 'nothing')}, expected {wanted.get(name, 'nothing')}"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name) != wanted.get(name)
    ]
    if wrong:
        shown = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise UserError(
            f"{folder}: the checkpoint is of another model ({shown}); use another --workdir or the"
            " config it was trained with"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
