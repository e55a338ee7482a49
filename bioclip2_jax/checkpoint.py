"""Checkpoints on disk: `WORKDIR/checkpoints/<step>/{params,training}`, written by Orbax.

A converted model has the same layout with one step and no `training`.
`params` is a nested dict with names of our own (see `models/clip.py`), so that a reader needs
neither Flax nor the optimizer. Orbax writes into a temporary folder and renames it, hence a
folder named by a number is complete.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bioclip2_jax.errors import UserError

FOLDER = "checkpoints"
_TRAINED = "params"  # Orbax item of the parameters in a run's checkpoints
_CONVERTED = "state"  # and in one made by `save_leaves`, named so by Orbax


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


def save_leaves(folder: Path, leaves: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes a model alone, parameter by parameter, so that no more than one is in memory.

    Args:
      folder: the checkpoint's, new; what is there is not complete before this returns.
      leaves: (name as `a/b/c`, array).
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    context = ocp.Context()
    context.array.saving.use_compression = False  # noise does not shrink, and it takes a copy
    with context:
        for name, leaf in leaves:
            for key in reversed(name.split("/")):
                leaf = {key: leaf}
            ocp.partial.save(folder.absolute(), leaf)
            del leaf
        ocp.partial.finalize(folder.absolute())


def stored_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Name (`a/b/c`) → shape of the parameters in one checkpoint folder.

    Raises:
      UserError: the folder holds no readable checkpoint.
    """
    return {name: tuple(leaf.shape) for name, leaf in _stored(folder)[1].items()}


def restore_params(folder: str | Path) -> dict:
    """The model of one checkpoint folder as numpy arrays, on any device or none.

    Raises:
      UserError: the folder holds no readable checkpoint.
    """
    return _load(folder, lambda name, leaf: np.empty(leaf.shape, leaf.dtype))


def read_leaf(folder: str | Path, name: str) -> np.ndarray:
    """One parameter (`a/b/c`) of a checkpoint folder as a numpy array.

    Raises:
      UserError: it cannot be read.
    """

    def wanted(key: str, leaf: Any) -> Any:
        return np.empty(leaf.shape, leaf.dtype) if key == name else ocp.PLACEHOLDER

    found = _load(folder, wanted)
    for key in name.split("/"):
        found = found[key]
    return found


def _load(folder: str | Path, wanted: Callable[[str, Any], Any]) -> dict:
    item, stored = _stored(folder)
    tree: dict = {}
    for name, leaf in stored.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = wanted(name, leaf)
    try:
        return ocp.load_checkpointables(Path(folder).absolute(), {item: tree})[item]
    except Exception as error:
        raise UserError(f"{folder}: unreadable checkpoint ({_first_line(error)})") from error


def _stored(folder: str | Path) -> tuple[str, dict]:
    """The item that holds the parameters, and their metadata by name."""
    try:
        metadata = ocp.checkpointables_metadata(Path(folder).absolute()).metadata
        item = _TRAINED if _TRAINED in metadata else _CONVERTED
        leaves = jax.tree_util.tree_leaves_with_path(metadata[item])
        return item, {"/".join(key.key for key in path): leaf for path, leaf in leaves}
    except Exception as error:
        raise UserError(f"{folder}: unreadable checkpoint ({_first_line(error)})") from error


def _require_equal(folder: Path, params: dict) -> None:
    def flat(tree: dict) -> dict[str, tuple]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {"/".join(k.key for k in path): (*leaf.shape,) for path, leaf in leaves}

    if _stored(folder)[0] == _CONVERTED:
        raise UserError(
            f"{folder}: a converted model, not a training run to resume; train in another --workdir"
            f" with --config.init={folder.parent.parent}"
        )
    stored, wanted = stored_shapes(folder), flat(params)
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
