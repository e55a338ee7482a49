"""Writes a dataset folder: shards, metadata, and the lists of taxa and of what was set aside.

Nothing is visible under the final name before all of it is there.
"""

import collections
import contextlib
import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from bioclip2_jax import files
from bioclip2_jax.data import images
from bioclip2_jax.data.records import TEXT_FIELDS, Record
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare.catalogue import Catalogue
from bioclip2_jax.prepare.shards import write_shards
from bioclip2_jax.prepare.shuffle import Spool

QUARANTINE_FILE = "quarantine.csv"
_QUARANTINE_COLUMNS = ("key", "file", "split", "reason")
_OURS = re.compile(
    r"LICENSE|(features|dataset_info|captions)\.json|(taxa|quarantine)\.csv|.*\.array_record-.*"
)


@dataclass(frozen=True)
class Rejected:
    """A picture that was set aside, and why."""

    key: str
    file: str
    split: str
    reason: str


@dataclass
class Summary:
    """What a dataset was made of.

    Attributes:
      images: split → number of records.
      rejected: pictures set aside.
    """

    images: dict[str, int] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def __str__(self) -> str:
        kept = sum(self.images.values())
        parts = ", ".join(f"{split} {count}" for split, count in self.images.items())
        aside = f"{len(self.rejected)} set aside"
        return f"{kept} images ({parts}), {aside}" + (
            f" (see {QUARANTINE_FILE})" if self.rejected else ""
        )


def write_dataset(
    splits: Mapping[str, Iterable[Record | Rejected]],
    out_dir: Path,
    *,
    name: str,
    description: str,
    label_names: Sequence[str] = (),
    total: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Streams records into a new dataset folder; each picture is decoded once as a check.

    Records are stored in the order of a hash of their keys, whatever order they come in. Memory
    is bounded, except for 8 bytes and their place in a set for each key.

    Args:
      splits: split → records, read once and in order; a `Rejected` is passed to the quarantine.
      out_dir: the folder to make.
      name: of the dataset, used in the shards' file names.
      description: one sentence for the metadata.
      label_names: every label that any record may carry; absent ones are stored empty.
      total: pictures expected, for the progress bar.
      overwrite: replace an earlier dataset at `out_dir`.

    Returns:
      The counts.

    Raises:
      UsageError: `out_dir` is in use.
      UserError: two records share a key, a split is called "all", no usable picture is left, or
        the disk refuses. Nothing is written then.
    """
    if "all" in splits:
        raise UserError("no split may be called 'all', which means all of them; rename it")
    out_dir = out_dir.resolve()
    _check_free(out_dir, overwrite)
    summary, catalogue = Summary(), Catalogue()
    spools: dict[str, Spool] = {}
    label_names = sorted(label_names)
    try:
        with _workshop(out_dir) as workshop:
            for split, example in _checked(splits, total):
                if isinstance(example, Rejected):
                    summary.rejected.append(example)
                    continue
                catalogue.add(split, example)
                if split not in spools:
                    spools[split] = Spool(workshop / f"spool-{len(spools)}")
                spools[split].add(_stored(example, label_names))
            if not spools:
                raise UserError(_nothing_left(out_dir, summary.rejected))
            summary.images = {split: spool.count for split, spool in spools.items()}
            folder = write_shards(
                spools,
                workshop,
                name=name,
                description=description,
                licence=catalogue.licence(),
                label_names=label_names,
            )
            catalogue.write(folder, list(spools))
            rejected = map(dataclasses.asdict, summary.rejected)
            files.write_csv(folder / QUARANTINE_FILE, rejected, _QUARANTINE_COLUMNS)
            _publish(folder, out_dir, workshop)
    except OSError as error:
        raise UserError(f"{out_dir}: cannot be written ({error.strerror or error})") from error
    return summary


def _stored(record: Record, label_names: Sequence[str]) -> Record:
    """A record as TFDS takes it: every label, or none."""
    row = {column: record[column] for column in (*TEXT_FIELDS, "image")}
    if label_names:
        row["labels"] = {label: record["labels"].get(label, "") for label in label_names}
    return row


def _checked(
    splits: Mapping[str, Iterable[Record | Rejected]], total: int | None
) -> Iterator[tuple[str, Record | Rejected]]:
    """(split, usable record or what was set aside) in order.

    Pictures are decoded in threads, a few ahead of the reader.
    """
    progress = tqdm(total=total, unit="image", file=sys.stderr, disable=not sys.stderr.isatty())
    threads = min(16, os.cpu_count() or 1)
    ahead: collections.deque[tuple[str, Future[Record | Rejected]]] = collections.deque()
    with progress, ThreadPoolExecutor(threads) as pool:

        def finished() -> tuple[str, Record | Rejected]:
            split, example = ahead.popleft()
            progress.update()
            return split, example.result()

        for split, examples in splits.items():
            for example in examples:
                ahead.append((split, pool.submit(_check, split, example)))
                if len(ahead) > 4 * threads:
                    yield finished()
        while ahead:
            yield finished()


def _check(split: str, example: Record | Rejected) -> Record | Rejected:
    if isinstance(example, Rejected):
        return example
    try:
        images.decode(example["image"])
    except images.BadImage as error:
        file = example.get("file", "")
        return Rejected(key=example["key"], file=file, split=split, reason=str(error))
    return example


def _nothing_left(out_dir: Path, rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return f"no usable picture is left for {out_dir}: there are none"
    first = rejected[0]
    return (
        f"no usable picture is left for {out_dir}: {len(rejected)} were set aside, the first of"
        f" them {first.file or first.key}: {first.reason}"
    )


def _check_free(out_dir: Path, overwrite: bool) -> None:
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise UsageError(f"--out {out_dir} is a file; name a folder")
    names = {path.name for path in out_dir.iterdir()}
    if not names:
        return
    others = sorted(name for name in names if not _OURS.fullmatch(name))
    if others or "features.json" not in names:
        raise UsageError(
            f"--out {out_dir} holds other files ({(others or sorted(names))[0]}); name a new or"
            " empty folder"
        )
    if not overwrite:
        raise UsageError(f"--out {out_dir} already holds a dataset; add --overwrite to replace it")


@contextlib.contextmanager
def _workshop(out_dir: Path) -> Iterator[Path]:
    """A temporary folder beside `out_dir`, so that moving there is one rename."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}-", dir=out_dir.parent) as folder:
        yield Path(folder)


def _publish(folder: Path, out_dir: Path, workshop: Path) -> None:
    """Moves the finished folder to its name; an earlier dataset goes only then."""
    if out_dir.exists():
        out_dir.rename(workshop / "replaced")
    folder.rename(out_dir)
