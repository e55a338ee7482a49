"""What is checked before a run compiles anything: one folder for all, room for checkpoints."""

import math
import shutil
import time
import uuid
import zlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from bioclip2_jax import files
from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UserError
from bioclip2_jax.training.recipe import Settings, flat
from bioclip2_jax.training.step import TrainState
from bioclip2_jax.workers import processes

# What the order of the pictures is drawn from, beside the step.
_DRAWN_BY = ("seed", "data.dir", "data.replay_dir", "data.split")
_DESCRIBING = ("dataset_info.json", "features.json")
_SEEN_SECONDS = 15.0  # network folders may show a new file late


def check_same_folders(settings: Settings, workdir: Path) -> None:
    """Refuses several processes that do not see the same workdir and data.

    Process 0 writes a file into the workdir that all must find; of the data they compare what
    describes it.

    Raises:
      UserError: names the folder.
    """
    if jax.process_count() == 1:
        return
    token = processes.agree(int(uuid.uuid4()) & 0x7FFFFFFF)
    path = workdir / f".seen-{token}"
    if processes.is_main():
        files.write_text(path, "")
    end = time.monotonic() + _SEEN_SECONDS
    while not (seen := _is_there(path)) and time.monotonic() < end:
        time.sleep(0.2)
    all_see_it = processes.all_true(seen)
    if processes.is_main():
        path.unlink(missing_ok=True)
    if not all_see_it:
        raise UserError(
            f"--workdir={workdir} is not the same folder for all {jax.process_count()} processes;"
            " name one on a disk that they share, or a bucket"
        )
    for key, folder in (("dir", settings.data.dir), ("replay_dir", settings.data.replay_dir)):
        if folder and not _all_equal(_fingerprint(folder)):
            raise UserError(
                f"config.data.{key}={folder} is not the same dataset for all"
                f" {jax.process_count()} processes; copy one to all of them"
            )


def check_space(state: TrainState, workdir: Path) -> None:
    """Refuses a disk without room for two checkpoints: one stays until the next is whole.

    Args:
      state: its shapes.
      workdir: of the run, on a local disk or a mounted one; buckets have no end.

    Raises:
      UserError: says what is needed and what is free.
    """
    if files.is_remote(workdir):
        return
    leaves = jax.tree.leaves(state)
    needed = 2 * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise UserError(
            f"{workdir}: two checkpoints need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are"
            " free; make room or name another --workdir"
        )


def repeats(settings: Settings) -> list[str]:
    """A sentence for each stream whose batch is larger than its split.

    Raises:
      UserError: there is no such dataset.
    """
    data, notes = settings.data, []
    for key, folder, size in (
        ("batch_size", data.dir, data.batch_size),
        ("replay_batch_size", data.replay_dir, data.replay_batch_size),
    ):
        pictures = dataset.splits(folder).get(data.split, size) if size else size
        if size > pictures:
            notes.append(
                f"config.train.{key}={size} is more than the {pictures} pictures of {folder}, split"
                f" {data.split!r}: they repeat within a batch, as negatives of themselves"
            )
    return notes


def moves(settings: Settings, workdir: Path, done: int) -> list[str]:
    """What a run that goes on with other data will meet again, or never: one sentence, or none.

    Args:
      settings: of this start; `WORKDIR/config.json` has those of the last.
      workdir: of the run.
      done: finished updates.

    Raises:
      UserError: what an earlier start saved cannot be read.
    """
    path = workdir / "config.json"
    if not done or not path.exists():
        return []
    before, now = flat(files.read_json_object(path)), flat(settings.recipe)
    parts = [
        f"config.{key} is another: pictures already seen may come again before others come at all"
        for key in _DRAWN_BY
        if before.get(key, now[key]) != now[key]
    ]
    for key, folder in (("batch_size", "dir"), ("replay_batch_size", "replay_dir")):
        was, size = before.get(f"train.{key}", 0), now[f"train.{key}"]
        if was != size and was and now[f"data.{folder}"]:
            what = "come again" if size < was else "are left out"
            parts.append(
                f"config.train.{key} was {was}, is {size}: config.data.{folder} goes on at place"
                f" {done * size} of its order, not at {done * was}, so that"
                f" {done * abs(size - was)} pictures {what}"
            )
    return [f"after step {done}: {'; '.join(parts)}"] if parts else []


def _is_there(path: Path) -> bool:
    if files.is_remote(path):
        return path.exists()
    return path in path.parent.iterdir()  # not from a cache, such as that of NFS


def _all_equal(value: int) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.int32(value)) == value))


def _fingerprint(folder: str) -> int:
    """Of what describes a dataset; 0 for none."""
    try:
        home = dataset.dataset_folder(folder)
        return zlib.crc32(b"".join((home / name).read_bytes() for name in _DESCRIBING)) & 0x7FFFFFFF
    except (UserError, OSError):
        return 0
