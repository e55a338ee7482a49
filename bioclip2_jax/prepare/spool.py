"""The first half of a conversion: parts of a source are read into spools, each by one task.

Of task 12 remain, in a folder of all tasks:

- `00012.spool`: the usable pictures one behind another, in the order of the source
- `00012.aside`: what was set aside, a line of JSON each
- `00012.npy`: an entry a picture, sorted by the SHA-256 of the picture; see `INDEX`
- `00012.json`: the counts, written last: what says that the task is done
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import images
from bioclip2_jax.data.records import Record, taxon_of
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.prepare.hygiene import Corrections
from bioclip2_jax.prepare.source import Part, Picture, Rejected, Source
from bioclip2_jax.text import captions
from bioclip2_jax.text.names import clean
from bioclip2_jax.text.taxonomy import RANKS

# `high`, `low`: the first 16 bytes of the SHA-256; `key`: 8 bytes of that of the key; `offset`,
# `size`: of the entry in the spool; `split`: its number in `Counts.splits`; `taxon`: a
# checksum of lineage and caption, which tells whether two equal pictures are said to show the same.
INDEX = np.dtype(
    [
        *(("high", np.uint64), ("low", np.uint64), ("key", np.uint64), ("offset", np.uint64)),
        *(("size", np.uint32), ("taxon", np.uint32), ("split", np.uint16)),
    ]
)
_ROW = struct.Struct("<QQQQIIH")  # the same
_HEAD = struct.Struct("<I")  # bytes of JSON
NO_NAME = "neither caption nor taxon"
_PICTURES_AT_A_TIME, _BYTES_AT_A_TIME = 64, 16 << 20


@dataclass(kw_only=True)
class Counts:
    """What a task found.

    Attributes:
      inputs: pictures of the source.
      splits: names, by first appearance.
      labels: names of all labels that a record has.
      captions: why the source's own captions differ from ours → how many do.
    """

    inputs: int = 0
    splits: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    captions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReadTask:
    """Some parts of a source, to be read one after the other into `folder`."""

    number: int
    parts: tuple[Part, ...]
    source: Source
    corrections: Corrections | None
    folder: Path

    def path(self, suffix: str) -> Path:
        """One of the four files."""
        return self.folder / f"{self.number:05d}.{suffix}"

    def is_done(self) -> bool:
        """Whether all four are there."""
        return self.path("json").exists()


def read(task: ReadTask) -> int:
    """Reads the parts; the number of pictures found.

    Raises:
      UserError: a part cannot be read at all.
    """
    counts, rows = Counts(), bytearray()
    found: collections.Counter[str] = collections.Counter()
    with (
        files.writing(task.path("spool")) as spool,
        files.writing(task.path("aside")) as aside,
    ):
        for part in task.parts:
            for given, fault in _with_faults(task.source.read(part)):
                counts.inputs += 1
                example = _checked(given, fault, task.corrections, found)
                if isinstance(example, Rejected):
                    line = json.dumps(dataclasses.asdict(example))
                    aside.write(line.encode() + b"\n")
                    continue
                if example.split not in counts.splits:
                    counts.splits.append(example.split)
                record = example.record
                counts.labels += [name for name in record["labels"] if name not in counts.labels]
                rows += _entry(spool, record, counts.splits.index(example.split))
    index = np.frombuffer(rows, INDEX)
    with files.writing(task.path("npy")) as file:
        np.save(file, index[np.lexsort((index["offset"], index["low"], index["high"]))])
    counts.captions = dict(sorted(found.items()))
    files.write_bytes(task.path("json"), msgspec.json.encode(counts))
    return counts.inputs


def read_counts(task: ReadTask) -> Counts:
    """The counts of a task that is done."""
    return msgspec.json.decode(task.path("json").read_bytes(), type=Counts)


def read_index(task: ReadTask) -> np.ndarray:
    """The index of a task that is done, from the disk as it is needed."""
    # An empty array has no bytes that could be mapped.
    path = task.path("npy")
    return np.load(path, mmap_mode="r" if path.stat().st_size > 1024 else None)


def read_aside(task: ReadTask) -> Iterator[Rejected]:
    """What a task set aside, one by one."""
    with task.path("aside").open(encoding="utf-8") as lines:
        for line in lines:
            yield Rejected(**json.loads(line))


def entry_at(spool: IO[bytes], offset: int, size: int) -> Record:
    """The record of an entry, with the `file` and the `split` that it is of."""
    entry = os.pread(spool.fileno(), size, offset)
    (head,) = _HEAD.unpack_from(entry)
    record = msgspec.json.decode(entry[_HEAD.size : _HEAD.size + head])
    record["image"] = entry[_HEAD.size + head :]
    return record


def split_of(key: str) -> str:
    """A stable split for a picture without one: 80 % train, 10 % val, 10 % test by its key."""
    share = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:4], "big") / 2**32
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def _entry(spool: IO[bytes], record: Record, split: int) -> bytes:
    """Writes a record; its row of the index."""
    texts = msgspec.json.encode({name: text for name, text in record.items() if name != "image"})
    image, offset = record["image"], spool.tell()
    spool.write(b"".join((_HEAD.pack(len(texts)), texts, image)))
    digest = hashlib.sha256(image).digest()
    high, low = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
    named = "|".join([*(record[rank] for rank in RANKS), record["labels"].get("caption", "")])
    key, taxon = hashlib.sha256(record["key"].encode()).digest(), zlib.crc32(named.encode())
    size = _HEAD.size + len(texts) + len(image)
    return _ROW.pack(high, low, int.from_bytes(key[:8], "big"), offset, size, taxon, split)


def _with_faults(
    pictures: Iterator[Picture | Rejected],
) -> Iterator[tuple[Picture | Rejected, str]]:
    """Each picture, and why it cannot be decoded or "".

    Some at a time: a processor's caches do not hold decoders and our texts at once, which costs a
    quarter of the time where they take turns at every picture.
    """
    while some := list(_some(pictures)):
        yield from zip(some, [_undecodable(given) for given in some], strict=True)


def _some(pictures: Iterator[Picture | Rejected]) -> Iterator[Picture | Rejected]:
    size = 0
    for given in itertools.islice(pictures, _PICTURES_AT_A_TIME):
        yield given
        size += 0 if isinstance(given, Rejected) else len(given.record["image"])
        if size > _BYTES_AT_A_TIME:
            return


def _undecodable(given: Picture | Rejected) -> str:
    if isinstance(given, Rejected):
        return ""
    try:
        images.check(given.record["image"])
    except images.BadImage as error:
        return reason(error)
    return ""


def _checked(
    given: Picture | Rejected,
    fault: str,
    corrections: Corrections | None,
    found: collections.Counter[str],
) -> Picture | Rejected:
    """A usable picture under its corrected name, or why there is none."""
    if isinstance(given, Rejected):
        return given
    record: Record = given.record | {"labels": dict(given.record["labels"])}
    split = given.split or split_of(record["key"])
    if split == "all":
        raise UserError(
            f"{given.file}: no split may be called 'all', which means all of them; rename it"
        )
    fault = NO_NAME if _says_nothing(record) else fault
    if fault:
        return Rejected(key=record["key"], file=given.file, split=split, reason=fault)
    if corrections:
        record = _corrected(record, corrections)
    labels = record["labels"]
    own = {kind: labels.pop(f"caption_{kind}", "") for kind in captions.TEXT_KINDS}
    if any(own.values()):
        taxon, names = taxon_of(record), (record["scientificName"], record["vernacularName"])
        ours = captions.all_captions(taxon, *names)
        for kind, text in own.items():
            difference = (
                text and text != ours[kind] and captions.difference(kind, text, taxon, *names)
            )
            if difference:
                found[difference] += 1
                labels[f"caption_{kind}"] = text
    place = {"file": given.file, "split": split}
    return Picture(file=given.file, split=split, record=record | place)


def _says_nothing(record: Record) -> bool:
    """Whether a record has neither caption nor taxon; its caption is left out if it is null."""
    labels = record["labels"]
    if clean(labels.get("caption", "")):
        return False
    labels.pop("caption", None)
    names = (record["scientificName"], record["vernacularName"])
    return not (any(record[rank] for rank in RANKS) or any(map(clean, names)))


def _corrected(record: Record, corrections: Corrections) -> Record:
    """The record under the corrected lineage; a name that was made from the lineage follows it."""
    before = taxon_of(record)
    after = corrections.apply(before, record["scientificName"])
    if after == before:
        return record
    if record["scientificName"] == before.scientific_name:
        record["scientificName"] = after.scientific_name
    return record | dict(zip(RANKS, after.ranks, strict=True))
