"""The end of a conversion: what lies beside the shards, and the rename that makes it appear."""

import collections
import contextlib
import csv
import dataclasses
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare import settle, shards, spool
from bioclip2_jax.prepare.catalogue import Whole
from bioclip2_jax.prepare.hygiene import Conflict, conflicts
from bioclip2_jax.prepare.settle import Plan
from bioclip2_jax.prepare.shards import ShardTask
from bioclip2_jax.prepare.spool import ReadTask
from bioclip2_jax.prepare.workshop import Workshop

QUARANTINE_FILE, SUMMARY_FILE, CONFLICTS_FILE = "quarantine.csv", "summary.json", "conflicts.csv"
_LAST = "features.json"  # by which readers know a dataset
_QUARANTINE_COLUMNS = ("key", "file", "split", "reason")
_OURS = re.compile(
    r"LICENSE|(features|dataset_info|captions|lanes|summary)\.json|(taxa|quarantine|conflicts)\.csv"
    r"|.*\.array_record-.*"
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a dataset was made of; `summary.json`.

    Attributes:
      records: in all splits.
      set_aside: pictures that are in none.
      inputs: pictures of the source, the sum of both.
      splits: split → records.
      by_reason: why pictures were set aside → how many.
      by_rank: the deepest known rank → records.
      captions_that_differ: why captions of the source differ from ours → how many.
      licences, sources, datasets: → records; the commonest ones.
      joined: of tables about the pictures: "keys" of pictures, and those that are "missing" there.
    """

    records: int
    set_aside: int
    inputs: int
    splits: dict[str, int]
    by_reason: dict[str, int]
    by_rank: dict[str, int]
    captions_that_differ: dict[str, int]
    licences: dict[str, int]
    sources: dict[str, int]
    datasets: dict[str, int]
    joined: dict[str, int]

    def __str__(self) -> str:
        """One line for the command line."""
        parts = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        see = f" (see {QUARANTINE_FILE})" if self.set_aside else ""
        return f"{self.records} images ({parts}), {self.set_aside} set aside{see}"


def publish(
    workshop: Workshop,
    out: Path,
    reads: Sequence[ReadTask],
    plan: Plan,
    todo: Sequence[ShardTask],
) -> Summary:
    """Writes what lies beside the shards and gives the dataset its name.

    Args:
      workshop: where everything lies.
      out: the name.
      reads, todo: the tasks of both halves, done.
      plan: what was settled between them.
    """
    folder, order = workshop.path / "dataset", workshop.order
    for path in folder.glob(".*"):  # half a shard of a process that was killed elsewhere
        path.unlink()
    whole = Whole(shards.totals_of(todo))
    splits = list(dict.fromkeys(shard.split for shard in plan.shards))
    whole.write(folder, splits)
    names = sorted(set(whole.counts["datasetName"]) - {""})
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    shards.write_metadata(
        folder,
        plan.shards,
        plan.labels,
        description=order.description or f"Pictures of organisms: {', '.join(names[:12])}{more}.",
        licence=whole.licence(),
    )
    columns = [field.name for field in dataclasses.fields(Conflict)]
    files.write_csv(folder / CONFLICTS_FILE, map(vars, conflicts(whole.taxa)), columns)
    by_reason = collections.Counter[str]()
    with files.writing(folder / QUARANTINE_FILE) as file:
        by_reason.update(_write_quarantine(file, reads, workshop.path / "settled"))
    summary = Summary(
        records=sum(whole.records.values()),
        set_aside=sum(by_reason.values()),
        inputs=plan.inputs,
        splits={split: whole.records[split] for split in splits},
        by_reason=dict(by_reason.most_common()),
        by_rank=whole.by_rank(),
        captions_that_differ=plan.captions,
        licences=_commonest(whole.counts["licence"]),
        sources=_commonest(whole.counts["source"]),
        datasets=_commonest(whole.counts["datasetName"]),
        joined=workshop.joined(),
    )
    values = dataclasses.asdict(summary) | {"made_from": workshop.digest}
    files.write_json(folder / SUMMARY_FILE, values)
    if out.exists():
        out.rename(workshop.path / "replaced")
    folder.rename(out)
    return summary


def _write_quarantine(
    file: IO[bytes], reads: Sequence[ReadTask], settled: Path
) -> collections.Counter[str]:
    """Writes what was set aside, in the order of the source, then the repeats; counts by reason."""
    by_reason = collections.Counter[str]()
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_QUARANTINE_COLUMNS)
    aside = (rejected for task in reads for rejected in spool.read_aside(task))
    for rejected in itertools.chain(aside, settle.repeats(reads, settled)):
        writer.writerow(dataclasses.astuple(rejected))
        by_reason[rejected.reason.partition(" (")[0]] += 1
    text.detach()
    return by_reason


def _commonest(counts: collections.Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:1000])


def check_free(out_dir: Path, overwrite: bool) -> None:
    """Refuses a place that is taken.

    Raises:
      UsageError: by a file, by other files than a dataset's, or by a dataset.
    """
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise UsageError(f"--out {out_dir} is a file; name a folder")
    names = {path.name for path in out_dir.iterdir()}
    if not names:
        return
    others = sorted(name for name in names if not _OURS.fullmatch(name))
    # Into a bucket the last file comes last: without it an upload was interrupted.
    is_unfinished = files.is_remote(out_dir) and _LAST not in names
    if others or (_LAST not in names and not is_unfinished):
        raise UsageError(
            f"--out {out_dir} holds other files ({(others or sorted(names))[0]}); name a new or"
            " empty folder"
        )
    if not overwrite and not is_unfinished:
        raise UsageError(f"--out {out_dir} already holds a dataset; add --overwrite to replace it")


def upload(folder: Path, out: Path) -> None:
    """Puts a dataset into a bucket, what readers look for last, and removes what an earlier left.

    Raises:
      UserError: the bucket refuses; called again, this goes on.
    """
    buckets.upload(folder, out, last=(SUMMARY_FILE, _LAST))
    for name in buckets.sizes_below(out):
        if not (folder / name).exists():
            (out / name).unlink()


def read_summary(folder: Path) -> Summary:
    """What `summary.json` says.

    Raises:
      UserError: it is missing or damaged.
    """
    values = files.read_json_object(folder / SUMMARY_FILE)
    return Summary(**{field.name: values[field.name] for field in dataclasses.fields(Summary)})


def is_made_from(out: Path, digest: str) -> bool:
    """Whether a dataset is that of a conversion; see `Workshop.digest`."""
    with contextlib.suppress(UserError):
        return files.read_json_object(out / SUMMARY_FILE).get("made_from") == digest
    return False
