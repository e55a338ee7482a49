"""Checkpoints on disk: `WORKDIR/checkpoints/<step>/{params,training}`, written by Orbax.

A converted model has the same layout with one step and no `training`.
`params` is a nested dict with names of our own (see `models/clip.py`), so that a reader needs
neither Flax nor the optimizer. On a disk Orbax writes into a temporary folder and renames it, hence
a folder named by a number is complete. In a bucket it writes there and then `commit_success.txt`:
complete is what has that file. `seal` tells whether it still is what was written.
"""

import collections
import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import unflatten_dict
from orbax.checkpoint import v1 as ocp

from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.files import absolute, below, is_remote, make_folder, place
from bioclip2_jax.weights import seal
from bioclip2_jax.weights.layout import flatten
from bioclip2_jax.workers import processes

FOLDER = "checkpoints"
_TRAINED = "params"  # Orbax item of the parameters in a run's checkpoints
_CONVERTED = "state"  # and in one made by `save_leaves`, named so by Orbax
_ASKED = 3  # times for metadata, of which Orbax says nothing where a bucket has not answered
_PART_BYTES = 2**24  # of a model written in parts: each takes Orbax a tenth of a second


def steps(workdir: str | Path, known: Container[int] = ()) -> list[int]:
    """Steps of the complete checkpoints of a training run, ascending.

    Args:
      workdir: of the run.
      known: steps to leave out, which in a bucket saves a question each.
    """
    folder = place(workdir) / FOLDER
    try:
        named = [step_named(path.name) for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = sorted(step for step in named if step is not None and step not in known)
    return [step for step in found if not is_remote(folder) or _is_committed(folder / str(step))]


def _is_committed(folder: Path) -> bool:
    return (folder / seal.COMMITTED).exists()


def step_named(name: str) -> int | None:
    """The step that a folder has its name from; None for other names, such as "007" and "²"."""
    return int(name) if re.fullmatch("0|[1-9][0-9]*", name) else None


def latest_step(workdir: str | Path) -> int | None:
    """The newest complete checkpoint's step, or None."""
    return max(steps(workdir), default=None)


def step_dir(workdir: str | Path, step: int) -> Path:
    """The folder of one checkpoint."""
    return place(workdir) / FOLDER / str(step)


class Writer:
    """Saves in the background, one checkpoint at a time, and keeps the newest `keep`.

    All processes of a run call all methods, in the same order.
    """

    def __init__(self, workdir: str | Path, keep: int):
        """Removes what an interrupted save left behind."""
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax narrates every save
        self._folder = absolute(workdir) / FOLDER
        self._step: int | None = None  # being written
        self._response: ocp.AsyncResponse | None = None
        context = ocp.Context()
        # Called by one process, when all files are there and the checkpoint is not complete yet.
        # Orbax copies the options deeply: a bound method would take a copy of this writer along.
        context.async_options.post_finalization_callback = lambda: self._seal()
        policy = ocp.training.preservation_policies.LatestN(keep)
        with self._explained():
            if is_remote(self._folder) and jax.process_index() == 0:
                _remove_incomplete(self._folder)
            self._checkpointer = ocp.training.Checkpointer(
                str(self._folder),
                context=context,
                preservation_policy=policy,  # pyright: ignore[reportArgumentType]
                cleanup_tmp_directories=True,
            )

    def save(self, step: int, params: dict, training: Any) -> None:
        """Copies the state to the host and writes it in the background, after any earlier save.

        Args:
          step: finished updates.
          params: the model, a nested dict of arrays.
          training: what only a resumed run needs (optimizer state, step counter).

        Raises:
          UserError: this or the earlier save cannot be written, such as on a full disk.
        """
        self.wait()
        self._step = step
        with self._explained():
            self._response = self._checkpointer.save_checkpointables_async(
                step,
                {"params": params, "training": training},
                force=True,
                custom_metadata=seal.MARK,
            )

    def wait(self, *, obeying: bool = True) -> None:
        """Returns when the last save is complete; see `processes.wait_for`.

        Args:
          obeying: whether a signal ends the waiting.

        Raises:
          UserError: it cannot be written.
        """
        if self._response is None:
            return
        response, self._response = self._response, None
        with self._explained():
            what = f"the checkpoint of step {self._step}"
            processes.wait_for(response.result, what, self._missing, obeying=obeying)
            if jax.process_index() == 0:
                seal.complete(self._folder / str(self._step))

    def close(self) -> None:
        """Finishes the last save.

        Raises:
          UserError: it cannot be written.
        """
        self.wait()
        with self._explained():
            self._checkpointer.close()

    def _missing(self) -> list[int]:
        """Processes whose part of the save is not written."""
        written = collections.Counter(
            path.parent.name
            for folder in (f"{self._step}", f"{self._step}.orbax-checkpoint-tmp*")
            for path in self._folder.glob(f"{folder}/*/ocdbt.process_*/manifest.ocdbt")
        )
        names = enumerate(f"ocdbt.process_{index}" for index in range(jax.process_count()))
        return [index for index, name in names if written[name] < 2]  # params and training

    def _seal(self) -> None:
        pending = self._folder / str(self._step)
        if not is_remote(pending):
            (pending,) = self._folder.glob(f"{self._step}.orbax-checkpoint-tmp*")
        seal.write(pending)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            what = "this folder" if self._step is None else f"the checkpoint of step {self._step}"
            if is_full_disk(error):
                raise UserError(
                    f"{self._folder}: the disk is full, {what} could not be written; make room and"
                    " start again with the same command, earlier checkpoints are whole"
                ) from error
            raise UserError(
                f"{self._folder}: {what} could not be written ({reason(error)})"
            ) from error


def restore(workdir: str | Path, step: int, params: dict, training: Any) -> tuple[dict, Any]:
    """Reads a checkpoint into the shapes, dtypes and shardings of the given abstract trees.

    Every process reads what its devices hold and waits for no other.

    Raises:
      UserError: unreadable, or made by another model; names every tensor that differs.
    """
    folder = step_dir(workdir, step)
    _require_equal(folder, params)
    context, this = ocp.Context(), jax.process_index()
    if jax.process_count() > 1:
        context.multiprocessing.primary_host = this
        context.multiprocessing.active_processes = {this}
        context.multiprocessing.barrier_sync_key_prefix = f"load{this}"
    with context:
        trees = _load(folder, {"params": params, "training": training})
    return trees["params"], trees["training"]


def set_aside(workdir: str | Path, step: int) -> Path:
    """Moves a checkpoint to `WORKDIR/damaged`, where no reader looks, and returns its new place.

    In a bucket, which cannot rename, it is copied; an end in the middle leaves it where it was.
    """
    home, folder = place(workdir) / "damaged", step_dir(workdir, step)
    make_folder(home)
    names = (f"{step}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 10_000))))
    aside = next(home / name for name in names if not (home / name).exists())
    if not is_remote(folder):
        return folder.rename(aside)
    for name in below(folder):
        epath.Path(folder / name).copy(aside / name)
    (folder / seal.COMMITTED).unlink(missing_ok=True)  # first, or it would seem complete
    epath.Path(folder).rmtree(missing_ok=True)
    return aside


def _remove_incomplete(folder: Path) -> None:
    """Takes what a killed save left in a bucket away; Orbax knows only some of that."""
    with contextlib.suppress(FileNotFoundError):
        for path in list(folder.iterdir()):
            if step_named(path.name) is not None and not _is_committed(path):
                epath.Path(path).rmtree(missing_ok=True)


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error came of a full disk or quota; TensorStore says so only in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            return True
        error = error.__cause__ or error.__context__
    return False


def save_leaves(folder: Path, leaves: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes a model alone, so that no more than one large parameter is in memory.

    Args:
      folder: the checkpoint's, new; what is there is not complete before this returns.
      leaves: (name as `a/b/c`, array).
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    context = ocp.Context()
    context.array.saving.use_compression = False  # noise does not shrink, and it takes a copy
    part: dict[str, np.ndarray] = {}

    def save_part() -> None:
        ocp.partial.save(str(folder.absolute()), unflatten_dict(part, sep="/"))
        part.clear()

    with context:
        for name, leaf in leaves:
            part[name] = leaf
            del leaf  # before the next is made
            if sum(kept.nbytes for kept in part.values()) >= _PART_BYTES:
                save_part()
        if part:
            save_part()
        ocp.partial.finalize(str(folder.absolute()))


def stored_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Name (`a/b/c`) → shape of the parameters in one checkpoint folder, whose files are checked.

    Raises:
      UserError: the folder holds no readable checkpoint, or its files are not what was written.
    """
    what = seal.damage(place(folder), below=f"{_TRAINED}/")
    if what:
        raise UserError(f"{folder}: unreadable checkpoint ({what})")
    return {name: tuple(leaf.shape) for name, leaf in _stored(folder)[1].items()}


def restore_params(folder: str | Path) -> dict:
    """The model of one checkpoint folder as numpy arrays, on any device or none.

    Raises:
      UserError: the folder holds no readable checkpoint.
    """
    item, stored = _stored(folder)
    arrays = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in stored.items()}
    return _load(folder, {item: unflatten_dict(arrays, sep="/")})[item]


def leaf_reader(folder: str | Path) -> Callable[[str], np.ndarray]:
    """A function that reads one parameter (`a/b/c`) of a checkpoint folder as a numpy array.

    It and what it returns raise UserError for what cannot be read.
    """
    item, stored = _stored(folder)

    def read(name: str) -> np.ndarray:
        wanted: dict[str, Any] = dict.fromkeys(stored, ocp.PLACEHOLDER)
        wanted[name] = np.empty(stored[name].shape, stored[name].dtype)
        return flatten(_load(folder, {item: unflatten_dict(wanted, sep="/")})[item])[name]

    return read


def _load(folder: str | Path, items: dict[str, Any]) -> dict[str, Any]:
    with _naming(folder):
        return ocp.load_checkpointables(str(absolute(folder)), items)


def _stored(folder: str | Path) -> tuple[str, dict]:
    """The item that holds the parameters, and their metadata by name."""
    with _naming(folder):
        for _ in range(_ASKED):
            metadata = ocp.checkpointables_metadata(str(absolute(folder))).metadata
            item = _TRAINED if _TRAINED in metadata else _CONVERTED
            if metadata[item] is not None:
                return item, flatten(metadata[item])
        raise UserError("its metadata cannot be read")


@contextlib.contextmanager
def _naming(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(f"{folder}: unreadable checkpoint ({reason(error)})") from error


def _require_equal(folder: Path, params: dict) -> None:
    item, leaves = _stored(folder)
    if item == _CONVERTED:
        raise UserError(
            f"{folder}: a converted model, not a training run to resume; train in another --workdir"
            f" with --config.init={folder.parent.parent}"
        )
    stored = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    wanted = {name: tuple(leaf.shape) for name, leaf in flatten(params).items()}
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
