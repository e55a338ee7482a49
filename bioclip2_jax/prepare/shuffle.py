"""Puts any number of records into the order of a hash of their keys, in bounded memory.

TFDS has a shuffler of its own, but beyond 1 GB it needs TensorFlow.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

from bioclip2_jax.data.records import Record

_NUM_BUCKETS = 512
_ENTRY = struct.Struct("<16sIQ")  # hash, bytes of JSON, bytes of image


def digest(key: str) -> bytes:
    """The 16 bytes that a key is sorted by."""
    return hashlib.sha256(key.encode("utf-8")).digest()[:16]


class Spool:
    """Collects records; `in_order` gives them back sorted by the digest of their keys.

    Records are dealt to buckets by digest. What exceeds `memory` bytes goes to one file a bucket,
    and one bucket at a time is sorted, so that a terabyte takes two gigabytes of memory.

    Attributes:
      count: records so far.
      size: their bytes.
    """

    def __init__(self, folder: Path, memory: int = 256 << 20):
        """`folder`: empty or absent, to be filled with temporary files."""
        self.count = self.size = 0
        self._folder, self._memory, self._held = folder, memory, 0
        self._buckets: list[list[bytes]] = [[] for _ in range(_NUM_BUCKETS)]

    def add(self, record: Record) -> None:
        """Takes one record; anything in it but the image must be fit for JSON."""
        text = json.dumps({name: value for name, value in record.items() if name != "image"})
        head, image = text.encode("utf-8"), record["image"]
        hash_ = digest(record["key"])
        entry = _ENTRY.pack(hash_, len(head), len(image)) + head + image
        self._buckets[int.from_bytes(hash_[:4], "big") * _NUM_BUCKETS >> 32].append(entry)
        self.count += 1
        self.size += len(entry)
        self._held += len(entry)
        if self._held > self._memory:
            self._flush()

    def in_order(self) -> Iterator[Record]:
        """All records, once; the temporary files go as they are read."""
        for number, entries in enumerate(self._buckets):
            path = self._path(number)
            if path.exists():
                entries += _entries(path.read_bytes())
                path.unlink()
            # The digest leads each entry, so plain bytes sort by it.
            for entry in sorted(entries):
                _, head, image = _ENTRY.unpack_from(entry)
                text = entry[_ENTRY.size : _ENTRY.size + head]
                yield json.loads(text) | {"image": entry[len(entry) - image :]}
            entries.clear()

    def _flush(self) -> None:
        self._folder.mkdir(exist_ok=True)
        for number, entries in enumerate(self._buckets):
            if entries:
                with self._path(number).open("ab") as file:
                    file.writelines(entries)
                entries.clear()
        self._held = 0

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:03d}"


def _entries(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        _, head, image = _ENTRY.unpack_from(data, start)
        end = start + _ENTRY.size + head + image
        yield data[start:end]
        start = end
