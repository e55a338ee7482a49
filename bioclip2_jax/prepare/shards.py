"""The second half of a conversion: ArrayRecord shards, each by one task, and their metadata.

The files are those of TFDS, which reads them; examples are serialised here, at half the cost of
what protobuf makes of a map, in the order of its names, so that equal records are equal bytes.
"""

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from bioclip2_jax import files
from bioclip2_jax.data.dataset import LANES_FILE
from bioclip2_jax.data.records import TEXT_FIELDS, Record
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.prepare import settle, spool
from bioclip2_jax.prepare.catalogue import Catalogue, Totals
from bioclip2_jax.prepare.settle import Shard
from bioclip2_jax.prepare.spool import ReadTask

# A record a chunk, for random access; packed pictures are no smaller when packed again.
OPTIONS = "group_size:1,uncompressed"
_REPEATED = tuple(name for name in TEXT_FIELDS if name != "key")  # in many records
_BYTES_AT_A_TIME, _RECORDS_AT_A_TIME = 64 << 20, 1024  # in memory


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A shard to be written to `path`, and what it holds in all to `totals`.

    Attributes:
      reads: the tasks of the first half.
      settled: the folder of what was settled.
      splits: `Plan.splits`.
      labels: that each record has, empty where it has none.
    """

    shard: Shard
    reads: tuple[ReadTask, ...]
    settled: Path
    splits: tuple[str, ...]
    labels: tuple[str, ...]
    path: Path
    totals: Path

    def is_done(self) -> bool:
        """Whether both files are there."""
        return self.totals.exists()


def write_shard(task: ShardTask) -> int:
    """Writes a shard; the number of its records.

    Raises:
      UserError: the disk refuses.
    """
    shard = task.shard
    entries = settle.entries_between(task.reads, task.splits, shard.start, shard.stop)
    entries = entries.select(entries.rows["split"] == task.splits.index(shard.split))
    numbers = settle.numbers_of(task.reads, task.settled, entries)
    entries, numbers = entries.select(numbers > 0), numbers[numbers > 0]
    catalogue = Catalogue()
    with files.replacing(task.path) as partial, _refusals(task.path):
        writer = ArrayRecordWriter(partial, OPTIONS)
        for record, number in zip(_records(task.reads, entries), numbers.tolist(), strict=True):
            if number > 1:
                record["key"] += f"#{number}"
            catalogue.add(record)
            writer.write(serialised(record, task.labels))
        writer.close()
    catalogue.totals().write(task.totals)
    return len(numbers)


def _records(reads: Sequence[ReadTask], entries: settle.Entries) -> Iterator[Record]:
    """The records of entries, some megabytes at a time, each spool from its start to its end."""
    ends = np.cumsum(entries.rows["size"], dtype=np.int64) // _BYTES_AT_A_TIME
    ends += np.arange(len(ends)) // _RECORDS_AT_A_TIME
    for part in np.split(np.arange(len(ends)), np.flatnonzero(np.diff(ends)) + 1):
        held: dict[int, Record] = {}
        for number in np.unique(entries.tasks[part]):
            own = part[entries.tasks[part] == number]
            with reads[number].path("spool").open("rb") as file:
                own = own[np.argsort(entries.rows["offset"][own])]
                rows = entries.rows[own]
                places = (own.tolist(), rows["offset"].tolist(), rows["size"].tolist())
                for place, offset, size in zip(*places, strict=True):
                    held[place] = spool.entry_at(file, offset, size)
        for place in part.tolist():
            yield held.pop(place)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """array_record tells of a full disk in its own way."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be written ({reason(error)})") from error


def serialised(record: Record, labels: Sequence[str]) -> bytes:
    """A record as TFDS stores it, a `tf.train.Example`: each label as "labels/NAME"."""
    features = {name: _text_feature(name, record[name]) for name in _REPEATED}
    features["key"] = _feature("key", record["key"].encode("utf-8"))
    features["image"] = _feature("image", record["image"])
    for label in labels:
        name = f"labels/{label}"
        features[name] = _text_feature(name, record["labels"].get(label, ""))
    parts = [features[name] for name in sorted(features)]
    return b"".join((_head(sum(map(len, parts))), *parts))


@functools.lru_cache(1 << 14)
def _text_feature(name: str, text: str) -> bytes:
    return _feature(name, text.encode("utf-8"))


def _feature(name: str, value: bytes) -> bytes:
    """An entry of the map: its field 1 is the name, 2 the feature, a list of one value."""
    key = name.encode("utf-8")
    key = _head(len(key)) + key
    value_head = _head(len(value))
    list_head = _head(len(value_head) + len(value))
    feature_head = _head(len(list_head) + len(value_head) + len(value), b"\x12")
    heads = b"".join((key, feature_head, list_head, value_head))
    return b"".join((_head(len(heads) + len(value)), heads, value))


@functools.lru_cache(1 << 14)
def _head(length: int, tag: bytes = b"\n") -> bytes:
    """What stands before so many bytes of a field: its tag (that of field 1), and the length."""
    digits = bytearray(tag)
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    return bytes((*digits, length))


# ---- Metadata


def file_name(name: str, shard: Shard, count: int) -> str:
    """The name of a shard in a dataset `name` whose split has `count` of them."""
    return f"{safe_name(name)}-{shard.split}.array_record-{shard.number:05d}-of-{count:05d}"


def safe_name(name: str) -> str:
    """A name of a dataset as TFDS wants it."""
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_") or "dataset"


def write_metadata(
    folder: Path, shards: Sequence[Shard], labels: Sequence[str], *, description: str, licence: str
) -> None:
    """Writes TFDS's description of the shards beside them, and their lanes."""
    # Bytes rather than tfds.features.Image: pictures stay as they came, in any format, and
    # `images.decode` is the only decoder.
    features: dict[str, Any] = {name: tfds.features.Text() for name in TEXT_FIELDS}
    features["image"] = tfds.features.Tensor(shape=(), dtype=np.object_)
    if labels:
        features["labels"] = {name: tfds.features.Text() for name in labels}
    splits, lanes = [], {}
    for split in dict.fromkeys(shard.split for shard in shards):
        paths = folder.glob(f"*-{split}.array_record-*")
        lengths = [shard.records for shard in shards if shard.split == split]
        lanes[split] = settle.lanes_of(len(lengths))
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=sum(path.stat().st_size for path in paths),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_infos=splits,
        check_data=False,
        version="1.0.0",
        description=description,
        license=licence,
    )
    files.write_json(folder / LANES_FILE, {"lanes": lanes}, indent=None)


def totals_of(tasks: Sequence[ShardTask]) -> Iterator[tuple[str, Totals]]:
    """(split, what it holds in all) of each shard that is done."""
    for task in tasks:
        yield task.shard.split, Totals.read(task.totals)
