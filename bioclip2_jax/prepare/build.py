"""From a source to a dataset folder, in two halves of idempotent tasks; see `spool` and `shards`.

A conversion that was interrupted, by anything, goes on when it is called again, and its bytes are
those of one that never was. Nothing is visible under the final name before all of it is there.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bioclip2_jax import files
from bioclip2_jax.data.records import Record
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare import shards, spool
from bioclip2_jax.prepare.publish import (
    Summary,
    check_free,
    is_made_from,
    publish,
    read_summary,
    upload,
)
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.prepare.workshop import Order, Workshop
from bioclip2_jax.workers import tasks as workers
from bioclip2_jax.workers.tasks import Runner, Shares


def build(order: Order, say: Callable[[str], None] = print) -> Summary | None:
    """Makes the dataset; None where other shares still have to do theirs.

    Raises:
      UsageError: `out` is in use, or an unfinished conversion of another source is.
      UserError: the source cannot be used, no usable picture is left, or the disk refuses. What is
        done is kept, and calling again goes on from there; nothing is kept where there is nothing
        to go on from.
    """
    if files.is_remote(order.out):
        return _build_for_bucket(order, say)
    out, share = order.out.resolve(), order.runner.share
    workshop = Workshop(out.parent / f".{out.name}.preparing", order)
    if share and order.overwrite:
        raise UsageError("--overwrite would hit the other shares' work; remove the dataset before")
    if share and is_made_from(out, workshop.digest):
        return None  # the other shares were faster
    check_free(out, order.overwrite)
    try:
        workshop.open()
        if share:
            shares = Shares(workshop.path / "shares", share[0])
            with shares.at_work(), workshop.removed_if_useless(shares.others):
                return _build_shared(workshop, out, shares, share, say)
        with workers.alone(workshop.path), workshop.removed_if_useless():
            return _build(workshop, out, say)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        if is_made_from(out, workshop.digest):
            shutil.rmtree(workshop.path, ignore_errors=True)


def write_dataset(
    splits: Mapping[str, Iterable[Record | Rejected]],
    out_dir: Path,
    *,
    name: str,
    description: str,
    overwrite: bool = False,
) -> Summary:
    """Makes a dataset folder of records at hand, in this process.

    Args:
      splits: split → records, read once and in order; a `Rejected` is set aside.
      out_dir: the folder to make.
      name: of the dataset, used in the shards' file names.
      description: one sentence for the metadata.
      overwrite: replace an earlier dataset at `out_dir`.

    Raises:
      UsageError: `out_dir` is in use.
      UserError: a split is called "all", no usable picture is left, or the disk refuses. Nothing is
        written then.
    """
    order = Order(
        source=_AtHand(splits),
        out=out_dir,
        name=name,
        description=description,
        overwrite=overwrite,
        can_go_on=False,
    )
    summary = build(order)
    assert summary is not None
    return summary


@dataclass(frozen=True)
class _AtHand:
    splits: Mapping[str, Iterable[Record | Rejected]]

    def parts(self, folder: Path) -> Sequence[Part]:
        del folder
        return [Part(file=split) for split in self.splits]

    def read(self, part: Part) -> Iterator[Picture | Rejected]:
        for example in self.splits[part.file]:
            if isinstance(example, Rejected):
                yield example
            else:
                yield Picture(file=example.get("file", ""), split=part.file, record=example)


def _build_for_bucket(order: Order, say: Callable[[str], None]) -> Summary:
    """Makes the dataset in the cache of this machine, and puts it into the bucket.

    The engine lives on names that appear at once, which a bucket has not. Called again after any
    end, this goes on; readers find the dataset when all of it is there.
    """
    if order.runner.share or order.runner.ray is not None:
        option = "--task" if order.runner.share else "--runner ray"
        raise UsageError(
            f"{option} needs an --out on a disk that all machines share, not {order.out}; copy the"
            " dataset then (`gcloud storage cp --recursive`), or convert on one machine"
        )
    check_free(order.out, order.overwrite)
    name = hashlib.sha256(str(order.out).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "bioclip2_jax" / "prepare" / name
    here = dataclasses.replace(order, out=home / order.out.name)
    say(f"{order.out}: made in {home} (XDG_CACHE_HOME), then uploaded")
    try:
        if not is_made_from(here.out, Workshop(home, here).digest) or not order.can_go_on:
            build(here, say)
        upload(here.out, order.out)
        summary = read_summary(here.out)
        shutil.rmtree(home)
    finally:
        with contextlib.suppress(OSError):
            home.rmdir()  # with nothing in it to go on from
    return summary


# ---- The halves


def _build(workshop: Workshop, out: Path, say: Callable[[str], None]) -> Summary:
    """All of it, in one call."""
    reads = workshop.reads()
    if workshop.remark():
        say(workshop.remark())
    _run(spool.read, reads, workshop.order.runner)
    plan = workshop.plan(reads)
    todo = workshop.shards(reads, plan)
    _run(shards.write_shard, todo, workshop.order.runner)
    return publish(workshop, out, reads, plan, todo)


def _build_shared(
    workshop: Workshop,
    out: Path,
    shares: Shares,
    share: tuple[int, int],
    say: Callable[[str], None],
) -> Summary | None:
    """One share of it. The last one at work does what nobody is left to do, but for reading."""
    index, count = share
    reads = workshop.reads()
    _run(spool.read, reads[index::count], workshop.order.runner)
    if not shares.wait_for(lambda: all(task.is_done() for task in reads)):
        missing = sorted({task.number % count for task in reads if not task.is_done()})
        say(
            f"--task {index}/{count} is read; still to come:"
            f" {', '.join(f'--task {number}/{count}' for number in missing)}"
        )
        return None
    plan = workshop.plan(reads)
    todo = workshop.shards(reads, plan)
    _run(shards.write_shard, todo[index::count], workshop.order.runner)

    def is_made() -> bool:
        return is_made_from(out, workshop.digest)

    shares.wait_for(lambda: is_made() or all(task.is_done() for task in todo))
    while not is_made() and min(shares.others(), default=index) < index:
        shares.wait_for(is_made)
    if is_made():
        return None
    _run(shards.write_shard, todo, workshop.order.runner)
    return publish(workshop, out, reads, plan, todo)


def _run(function: Callable[[Any], int], tasks: Sequence[Any], runner: Runner) -> None:
    """Does what is not done yet, under a progress bar."""
    todo = [task for task in tasks if not task.is_done()]
    unit = "image" if function is spool.read else "record"
    with tqdm(unit=unit, file=sys.stderr, disable=not sys.stderr.isatty()) as progress:
        for number, count in enumerate(workers.run(function, todo, runner), start=1):
            progress.update(count)
            progress.set_postfix_str(f"{number} of {len(todo)} parts")
