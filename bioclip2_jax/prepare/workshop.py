"""The hidden folder beside a dataset's own in which it is made, and from which a call goes on."""

import collections
import contextlib
import dataclasses
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bioclip2_jax import __version__, files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare import settle, shards, spool
from bioclip2_jax.prepare.hygiene import Corrections
from bioclip2_jax.prepare.settle import Plan
from bioclip2_jax.prepare.shards import ShardTask
from bioclip2_jax.prepare.source import COUNTS_FILE, REMARK_FILE, Part, Source
from bioclip2_jax.prepare.spool import ReadTask
from bioclip2_jax.workers.tasks import Runner

_MOST_TASKS = 1024  # of reading: a shard is made from the spools of all of them


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be made of a source.

    Attributes:
      out: the dataset folder.
      name: of the dataset, used in the file names of the shards.
      description: a sentence for the metadata; "" names the datasets that the records are of.
      overwrite: replace an earlier dataset, and forget unfinished conversions of others.
      corrections: of names.
      runner: where tasks run.
      can_go_on: whether another call can read the source again.
    """

    source: Source
    out: Path
    name: str
    description: str = ""
    overwrite: bool = False
    corrections: Corrections | None = None
    runner: Runner = Runner()
    can_go_on: bool = True


class NothingLeft(UserError):
    """No usable picture is left."""


class Workshop:
    """The folder of an unfinished conversion: its parts, spools, decisions and shards."""

    def __init__(self, path: Path, order: Order):
        """Nothing is made before `open`."""
        self.path, self.order = path, order
        # Two calls with one digest do the same.
        fixed = (__version__, order.source, order.name, order.description, order.corrections)
        self.digest = hashlib.sha256(repr(fixed).encode()).hexdigest() if order.can_go_on else ""

    def open(self) -> None:
        """Makes the folder, or finds it as this very conversion left it.

        Raises:
          UsageError: it is of another conversion.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        order = self.order
        if self.path.exists():
            mark = self.path / "digest"
            if order.can_go_on and mark.is_file() and mark.read_text() == self.digest:
                return
            if order.can_go_on and not order.overwrite:
                raise UsageError(
                    f"{self.path} holds an unfinished conversion of other sources or settings;"
                    " repeat that call, or remove the folder"
                )
            shutil.rmtree(self.path)
        with self._first(self.path) as folder:
            files.write_text(folder / "digest", self.digest)

    @staticmethod
    @contextlib.contextmanager
    def _first(folder: Path) -> Iterator[Path]:
        """A folder to fill that gets its name at the end, unless another share was faster."""
        own = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
        own.mkdir()
        try:
            yield own
            with contextlib.suppress(OSError):
                own.rename(folder)
        finally:
            shutil.rmtree(own, ignore_errors=True)

    @contextlib.contextmanager
    def removed_if_useless(self, others: Callable[[], Sequence[int]] = tuple) -> Iterator[None]:
        """Removes the folder after an error that no further call, or share, can go on from."""
        try:
            yield
        except BaseException as error:
            is_begun = self.order.can_go_on and (self.path / "manifest.json").exists()
            if (not is_begun or isinstance(error, NothingLeft)) and not others():
                shutil.rmtree(self.path)
            raise

    def reads(self) -> list[ReadTask]:
        """The tasks of the first half; the source is asked for its parts once.

        Raises:
          UserError: the source cannot be used, or has changed since.
        """
        manifest = self.path / "manifest.json"
        if not manifest.exists():
            folder = self.path / "parts"
            with self._first(folder) as own:
                parts = [_moved(part, own, folder) for part in self.order.source.parts(own)]
            seen = buckets.each(_seen, [part.file for part in parts])
            pairs = zip(parts, seen, strict=True)
            rows = [dataclasses.asdict(part) | {"seen": version} for part, version in pairs]
            files.write_json(manifest, rows, indent=None)
        parts = []
        rows = files.read_json(manifest)
        for row, seen in zip(rows, buckets.each(_seen, [row["file"] for row in rows]), strict=True):
            if row.pop("seen") != seen:
                raise UserError(
                    f"{row['file']}: changed since this conversion began; remove {self.path} to"
                    " begin again"
                )
            parts.append(Part(**row | {"rows": row["rows"] and tuple(row["rows"])}))
        (self.path / "read").mkdir(exist_ok=True)
        size = -(-len(parts) // _MOST_TASKS) or 1
        return [
            ReadTask(
                number=number,
                parts=tuple(parts[start : start + size]),
                source=self.order.source,
                corrections=self.order.corrections,
                folder=self.path / "read",
            )
            for number, start in enumerate(range(0, len(parts), size))
        ]

    def remark(self) -> str:
        """What the source says when it has listed its parts; "" for nothing."""
        path = self.path / "parts" / REMARK_FILE
        return files.read_text(path).strip() if path.exists() else ""

    def joined(self) -> dict[str, int]:
        """How many pictures the tables that were joined know; {} for no tables."""
        path = self.path / "parts" / "joined" / COUNTS_FILE
        return files.read_json_object(path) if path.exists() else {}

    def plan(self, reads: Sequence[ReadTask]) -> Plan:
        """What the shards will hold, when all is read.

        Raises:
          UserError: no usable picture is left.
        """
        plan = settle.settle(reads, self.path / "settled")
        if not plan.shards:
            raise NothingLeft(_nothing_left(self.order.out, reads))
        return plan

    def shards(self, reads: Sequence[ReadTask], plan: Plan) -> list[ShardTask]:
        """The tasks of the second half."""
        for folder in ("dataset", "totals"):
            (self.path / folder).mkdir(exist_ok=True)
        of_split = collections.Counter(shard.split for shard in plan.shards)
        return [
            ShardTask(
                shard=shard,
                # Their parts, which may be many, are of no more use.
                reads=tuple(dataclasses.replace(read, parts=()) for read in reads),
                settled=self.path / "settled",
                splits=tuple(plan.splits),
                labels=tuple(plan.labels),
                path=self.path
                / "dataset"
                / shards.file_name(self.order.name, shard, of_split[shard.split]),
                totals=self.path / "totals" / f"{shard.split}-{shard.number:05d}.json",
            )
            for shard in plan.shards
        ]


def _moved(part: Part, before: Path, after: Path) -> Part:
    """A part whose files move with their folder."""
    moved = (
        str(after / Path(name).relative_to(before)) if Path(name).is_relative_to(before) else name
        for name in (part.file, part.joined)
    )
    return dataclasses.replace(part, **dict(zip(("file", "joined"), moved, strict=True)))


def _seen(file: str) -> list[int] | None:
    """What shows that a file is another; None where the part is no file."""
    if files.is_remote(file):
        return buckets.version(file)
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(file)
        return [status.st_size, status.st_mtime_ns]
    return None


def _nothing_left(out: Path, reads: Sequence[ReadTask]) -> str:
    count = sum(spool.read_counts(task).inputs for task in reads)
    first = next((rejected for task in reads for rejected in spool.read_aside(task)), None)
    if first is None:
        return f"no usable picture is left for {out}: there are none"
    return (
        f"no usable picture is left for {out}: {count} were set aside, the first of them"
        f" {first.file or first.key}: {first.reason}"
    )
