"""Between the halves of a conversion: which pictures are kept, under which keys, in which shards.

Everything is decided by the indices of the read tasks (`spool.INDEX`), a range of the hashes, or of
the keys, at a time. Equal pictures are one: it stays in test before val before other splits, and
within a split where it came first. Of the pictures of one key the first, in the order of the
source, keeps it; the others get "#2", "#3", … behind it.

In a folder appear, at once: `plan.json`; `00012.npy`, for each entry in the index of task 12 the
number of the picture under its key, 0 where it is not kept; and `repeats`, see `REPEAT`.
"""

import bisect
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data.records import Record
from bioclip2_jax.prepare import spool
from bioclip2_jax.prepare.source import Rejected
from bioclip2_jax.prepare.spool import ReadTask

SHARD_BYTES, SHARD_RECORDS = 256 << 20, 1 << 16  # at most in a shard
_SHARDS_A_LANE, _MOST_LANES = 16, 512  # at least, so that a lane is a sample; and at most
AT_A_TIME = 1 << 16  # entries in memory
_USUAL_SPLITS = ("train", "val", "test")
_HELD_OUT = ("test", "val")  # which keep a picture that others have too

# A picture that was there before, and the one that is kept: their tasks, their entries there, and
# whether both are said to show the same.
REPEAT = np.dtype(
    [
        *(("task", np.uint32), ("offset", np.uint64), ("size", np.uint32)),
        *(("kept_task", np.uint32), ("kept_offset", np.uint64), ("kept_size", np.uint32)),
        ("is_same", np.bool_),
    ]
)
_KEY = np.dtype(
    [("key", np.uint64), ("task", np.uint32), ("place", np.uint32), ("offset", np.uint64)]
)
Hash = tuple[int, int]  # `high` and `low` of an entry
END: Hash = (1 << 64, 0)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The pictures of a split from one hash to before another."""

    split: str
    number: int
    start: Hash
    stop: Hash
    records: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be written.

    Attributes:
      inputs: pictures of the source.
      splits: names of all that a picture was of, in their order.
      labels: names of the labels of all records, sorted.
      captions: why captions differ from ours → how many.
      shards: split by split.
    """

    inputs: int
    splits: list[str]
    labels: list[str]
    captions: dict[str, int]
    shards: list[Shard]


class Entries(NamedTuple):
    """Entries of all tasks in a range of hashes, sorted by hash, task and place in the source.

    Attributes:
      rows: [n] `spool.INDEX`, `split` being the number among all splits.
      tasks: [n] whose index they are of.
      places: [n] where in that index.
    """

    rows: np.ndarray
    tasks: np.ndarray
    places: np.ndarray

    def select(self, chosen: np.ndarray) -> "Entries":
        """Some of them: a mask, or an order."""
        return Entries(*(each[chosen] for each in self))


def settle(tasks: Sequence[ReadTask], folder: Path) -> Plan:
    """Decides for all tasks, which are done; or reads what was decided before."""
    if not folder.exists():
        # Several may get here at once: they decide alike, and the first gives the name.
        with tempfile.TemporaryDirectory(
            prefix=".settled.", dir=folder.parent, ignore_cleanup_errors=True
        ) as workshop:
            _settle(tasks, Path(workshop))
            try:
                Path(workshop).rename(folder)
            except OSError:
                if not folder.exists():
                    raise
    return msgspec.json.decode((folder / "plan.json").read_bytes(), type=Plan)


def _settle(tasks: Sequence[ReadTask], folder: Path) -> None:
    counts = [spool.read_counts(task) for task in tasks]
    splits = sorted({name for each in counts for name in each.splits}, key=_rank_of_split)
    for task in tasks:
        index = spool.read_index(task)
        np.save(folder / f"{task.number:05d}.npy", np.ones(len(index), np.uint32))
    _drop_repeats(tasks, splits, folder)
    _number_keys(tasks, folder)
    captions = sum((Counter(each.captions) for each in counts), Counter())
    plan = Plan(
        inputs=sum(each.inputs for each in counts),
        splits=splits,
        labels=sorted({name for each in counts for name in each.labels}),
        captions=dict(sorted(captions.items())),
        shards=_cut(tasks, splits, folder),
    )
    files.write_bytes(folder / "plan.json", msgspec.json.encode(plan))


def _rank_of_split(split: str) -> tuple[int, str]:
    return (_USUAL_SPLITS.index(split) if split in _USUAL_SPLITS else len(_USUAL_SPLITS), split)


# ---- Entries of many tasks


def verdicts(folder: Path, task: ReadTask, mode: str = "r") -> np.ndarray:
    """What was decided for each entry of a task's index."""
    path = folder / f"{task.number:05d}.npy"
    return np.load(path, mmap_mode=mode if path.stat().st_size > 128 else None)  # pyright: ignore[reportArgumentType]


def entries_between(
    tasks: Sequence[ReadTask], splits: Sequence[str], start: Hash, stop: Hash
) -> Entries:
    """All entries from one hash to before another."""
    found: list[Entries] = []
    for number, task in enumerate(tasks):
        index = spool.read_index(task)
        first, last = (bisect.bisect_left(index, hash_, key=_hash) for hash_ in (start, stop))
        rows = np.array(index[first:last])
        if len(rows):
            names = spool.read_counts(task).splits
            rows["split"] = np.asarray([splits.index(name) for name in names])[rows["split"]]
            places = np.arange(first, last, dtype=np.uint32)
            found.append(Entries(rows, np.full(len(rows), number, np.uint32), places))
    if not found:
        return Entries(np.empty(0, spool.INDEX), *np.empty((2, 0), np.uint32))
    entries = Entries(*map(np.concatenate, zip(*found, strict=True)))
    rows = entries.rows
    return entries.select(np.lexsort((rows["offset"], entries.tasks, rows["low"], rows["high"])))


def _hash(row: Any) -> Hash:
    return int(row["high"]), int(row["low"])


def _by_hash(tasks: Sequence[ReadTask], splits: Sequence[str]) -> Iterator[Entries]:
    """All entries, a range of hashes at a time."""
    total = sum(len(spool.read_index(task)) for task in tasks)
    ranges = -(-total // AT_A_TIME) or 1
    ends = [(number * END[0] // ranges, 0) for number in range(ranges + 1)]
    for start, stop in zip(ends, ends[1:], strict=False):
        yield entries_between(tasks, splits, start, stop)


# ---- Decisions


def _drop_repeats(tasks: Sequence[ReadTask], splits: Sequence[str], folder: Path) -> None:
    others = len(splits)
    preference = [_HELD_OUT.index(name) if name in _HELD_OUT else others for name in splits]
    with (folder / "repeats").open("wb") as file:
        for entries in _by_hash(tasks, splits):
            wish = np.asarray(preference, int)[entries.rows["split"]]
            # Stable: within a preference they keep the order of the source.
            entries = entries.select(np.lexsort((wish, entries.rows["low"], entries.rows["high"])))
            rows = entries.rows
            is_first = np.ones(len(rows), bool)
            is_first[1:] = (rows["high"][1:] != rows["high"][:-1]) | (
                rows["low"][1:] != rows["low"][:-1]
            )
            kept = np.maximum.accumulate(np.where(is_first, np.arange(len(rows)), 0))[~is_first]
            again = entries.select(~is_first)
            repeats = np.empty(len(kept), REPEAT)
            for name, (found, source) in {
                "task": (again.tasks, entries.tasks[kept]),
                "offset": (again.rows["offset"], rows["offset"][kept]),
                "size": (again.rows["size"], rows["size"][kept]),
            }.items():
                repeats[name], repeats[f"kept_{name}"] = found, source
            repeats["is_same"] = again.rows["taxon"] == rows["taxon"][kept]
            file.write(repeats.tobytes())
            _decide(tasks, folder, again.tasks, again.places, np.zeros(len(kept), np.uint32))


def _number_keys(tasks: Sequence[ReadTask], folder: Path) -> None:
    """Through files, so that a range of the keys is in memory at a time."""
    ranges = -(-sum(len(spool.read_index(task)) for task in tasks) // AT_A_TIME)
    paths = [folder / f"keys-{number}" for number in range(ranges)]
    for number, task in enumerate(tasks):
        index = spool.read_index(task)
        places = np.flatnonzero(verdicts(folder, task)).astype(np.uint32)
        keys = np.empty(len(places), _KEY)
        keys["task"], keys["place"] = number, places
        keys["key"], keys["offset"] = index["key"][places], index["offset"][places]
        parts = (keys["key"] >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32)
        for part in np.unique(parts):
            with paths[int(part)].open("ab") as file:
                file.write(keys[parts == part].tobytes())
    for path in filter(Path.exists, paths):
        keys = np.fromfile(path, _KEY)
        path.unlink()
        keys = keys[np.lexsort((keys["offset"], keys["task"], keys["key"]))]
        is_first = np.ones(len(keys), bool)
        is_first[1:] = keys["key"][1:] != keys["key"][:-1]
        own = np.arange(len(keys))
        numbers = own - np.maximum.accumulate(np.where(is_first, own, 0)) + 1
        again = keys[~is_first]
        _decide(tasks, folder, again["task"], again["place"], numbers[~is_first])


def _decide(
    tasks: Sequence[ReadTask],
    folder: Path,
    numbers: np.ndarray,
    places: np.ndarray,
    decided: np.ndarray,
) -> None:
    for number in np.unique(numbers):
        own = numbers == number
        verdicts(folder, tasks[number], "r+")[places[own]] = decided[own]


def _cut(tasks: Sequence[ReadTask], splits: Sequence[str], folder: Path) -> list[Shard]:
    """Shards of equally many records; in a split as many as its bytes, records and lanes need."""
    counts, sizes = np.zeros(len(splits), int), np.zeros(len(splits), int)
    for task in tasks:
        index, is_kept = spool.read_index(task), verdicts(folder, task) > 0
        names = spool.read_counts(task).splits
        own = np.asarray([splits.index(name) for name in names], int)[index["split"][is_kept]]
        counts += np.bincount(own, minlength=len(splits))
        sizes += np.bincount(own, index["size"][is_kept], len(splits)).astype(int)
    ends: list[list[int]] = []  # of the shards of a split: its first record, …, its number of them
    for count, size in zip(counts.tolist(), sizes.tolist(), strict=True):
        wanted = max(-(-size // SHARD_BYTES), -(-count // SHARD_RECORDS))
        lanes = lanes_of(wanted)  # as large as each other, so that none is seen more often
        length, longer = divmod(count, number := min(count, -(-wanted // lanes) * lanes) or 1)
        ends.append([n * length + min(n, longer) for n in range(number + 1)])
    starts: list[list[Hash]] = [[] for _ in splits]
    seen = np.zeros(len(splits), int)
    for entries in _by_hash(tasks, splits):
        kept = entries.select(_kept(tasks, folder, entries))
        for split in range(len(splits)):
            rows = kept.rows[kept.rows["split"] == split]
            places = [end - seen[split] for end in ends[split][:-1]]
            starts[split] += [_hash(rows[place]) for place in places if 0 <= place < len(rows)]
            seen[split] += len(rows)
    return [
        Shard(
            split=name,
            number=number,
            start=(0, 0) if number == 0 else starts[split][number],
            stop=starts[split][number + 1] if number + 2 < len(ends[split]) else END,
            records=ends[split][number + 1] - ends[split][number],
        )
        for split, name in enumerate(splits)
        if counts[split]
        for number in range(len(ends[split]) - 1)
    ]


def lanes_of(shards: int) -> int:
    """How many lanes so many shards are dealt to, a power of two; see `data/order.py`."""
    return min(1 << max(shards // _SHARDS_A_LANE, 1).bit_length() - 1, _MOST_LANES)


def _kept(tasks: Sequence[ReadTask], folder: Path, entries: Entries) -> np.ndarray:
    """[n] bool: the entries that were not dropped."""
    return numbers_of(tasks, folder, entries) > 0


def numbers_of(tasks: Sequence[ReadTask], folder: Path, entries: Entries) -> np.ndarray:
    """[n]: what was decided for each of the entries."""
    decided = np.empty(len(entries.tasks), np.uint32)
    for number in np.unique(entries.tasks):
        own = entries.tasks == number
        decided[own] = verdicts(folder, tasks[number])[entries.places[own]]
    return decided


# ---- What was there before


def repeats(tasks: Sequence[ReadTask], folder: Path) -> Iterator[Rejected]:
    """The pictures that are not kept because an equal one is, by hash."""
    with (folder / "repeats").open("rb") as file:
        for chunk in iter(lambda: file.read(REPEAT.itemsize << 12), b""):
            for row in np.frombuffer(chunk, REPEAT):
                again = _record(tasks[row["task"]], row["offset"], row["size"])
                kept = _record(tasks[row["kept_task"]], row["kept_offset"], row["kept_size"])
                under = "" if row["is_same"] else ", under another name"
                yield Rejected(
                    key=again["key"],
                    file=again["file"],
                    split=again["split"],
                    reason=f"the same picture as another{under}"
                    f" ({kept['file'] or kept['key']} in {kept['split']})",
                )


def _record(task: ReadTask, offset: np.uint64, size: np.uint32) -> Record:
    with task.path("spool").open("rb") as file:
        return spool.entry_at(file, int(offset), int(size))
