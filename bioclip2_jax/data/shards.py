"""Random access to the ArrayRecord shards of a split, of which a process has few open at a time.

An open shard costs a descriptor and the memory of its index, 9 bytes a record; which was used
longest ago is closed again.
"""

import errno
import itertools
import os
import resource
import sys
import threading
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.core.naming import ShardedFileTemplate

from bioclip2_jax.errors import UserError

_WANTED_DESCRIPTORS = 8192  # what the limit is raised to, where allowed; shards take half of it
_MOST_RECORDS = 32 << 20  # in the indices of open shards: 300 MB


class Shards:
    """The serialised records of one split, counted through all its shards. Can be pickled.

    Attributes:
      lengths, starts: [shards] int64, the records of each shard and the index of its first one.
    """

    def __init__(self, template: ShardedFileTemplate, lengths: Sequence[int] | np.ndarray):
        """`template` names the shards; none is opened yet."""
        self.lengths = np.asarray(lengths, np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self._starts, self._length = self.starts.tolist(), int(self.lengths.sum())
        self._template = template
        self._number = next(_numbers)
        weakref.finalize(self, _open.forget, self._number)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self._template, self.lengths)

    def __len__(self) -> int:
        """Number of records."""
        return self._length

    def read(self, indices: Sequence[int]) -> list[bytes | Exception]:
        """Records in that order, or why one of them cannot be read; each shard is asked once.

        Raises:
          UserError: too many files are open.
        """
        found: list[Any] = [None] * len(indices)
        rows_of: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            rows_of.setdefault(bisect_right(self._starts, index) - 1, []).append(row)
        for shard, rows in rows_of.items():
            start = self._starts[shard]
            contents = self._read_shard(shard, [int(indices[row]) - start for row in rows])
            for row, content in zip(rows, contents, strict=True):
                found[row] = content
        return found

    def _read_shard(self, shard: int, positions: list[int]) -> Sequence[bytes | Exception]:
        try:
            return _open.reader((self._number, shard), self._path).read(positions)
        except RuntimeError as error:  # what array_record raises, whatever it met
            if len(positions) == 1:
                return [RuntimeError(f"{os.path.basename(self._path(shard))}: {error}")]
        return [self._read_shard(shard, [position])[0] for position in positions]

    def _path(self, shard: int) -> str:
        return str(self._template.sharded_filepath(shard_index=shard, num_shards=len(self.lengths)))


class _OpenShards:
    """The shards that this process has open, of whichever splits; its threads share them.

    A reader closes its file when its last user drops it: never under another thread's hands.
    """

    def __init__(self):
        # A split may end, as garbage, in the middle of what its own thread does here.
        self._lock = threading.RLock()
        self._readers = OrderedDict[tuple[int, int], ArrayRecordReader]()
        self._records = 0
        self._most = 0  # shards; found out at the first

    def reader(self, key: tuple[int, int], path_of: Callable[[int], str]) -> ArrayRecordReader:
        """That of a shard; `key` is its split's number and its own, `path_of` knows where it is.

        Raises:
          RuntimeError: the shard is missing or damaged.
          UserError: too many files are open.
        """
        with self._lock:
            self._most = self._most or max(_descriptors() // 2, 1)
            if key in self._readers:
                self._readers.move_to_end(key)
                return self._readers[key]
        path = path_of(key[1])
        while not (reader := _reader(path)).ok():
            self._make_room(path, _refusal(reader))
        with self._lock:
            if key not in self._readers:
                self._readers[key] = reader
                self._records += reader.num_records()
            while len(self._readers) > self._most or (
                self._records > _MOST_RECORDS and len(self._readers) > 1
            ):
                self._close(next(iter(self._readers)))
        return reader

    def forget(self, split: int) -> None:
        """Closes the shards of a split."""
        with self._lock:
            for key in [key for key in self._readers if key[0] == split]:
                self._close(key)

    def _close(self, key: tuple[int, int]) -> None:
        self._records -= self._readers.pop(key).num_records()

    def _make_room(self, path: str, refusal: RuntimeError) -> None:
        """Closes half of the shards where files are too many; there are others than ours."""
        if os.strerror(errno.EMFILE) not in str(refusal):
            raise refusal
        with self._lock:
            if not self._readers:
                raise UserError(
                    f"{path}: cannot be opened, this process has too many open files; allow it more"
                    f" than {_limits()[0]}, for example by `ulimit -n 4096`"
                )
            self._most = max(len(self._readers) // 2, 1)
            for key in list(self._readers)[: (len(self._readers) + 1) // 2]:
                self._close(key)


def _reader(path: str) -> ArrayRecordReader:
    """Never fails, but may not be `ok`."""
    return ArrayRecordReader(path, "readahead_buffer_size:0", file_reader_buffer_size=1 << 15)


def _refusal(reader: ArrayRecordReader) -> RuntimeError:
    """Why a reader is not `ok`."""
    try:
        reader.read([0])
    except RuntimeError as error:
        return error
    return RuntimeError("it cannot be opened")


def _limits() -> tuple[int, int]:
    """How many files this process may have open, and how many it may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    return sys.maxsize if soft == infinite else soft, sys.maxsize if hard == infinite else hard


def _descriptors() -> int:
    """How many files this process may have open, of those wanted; raises its limit if it has to."""
    soft, hard = _limits()
    wanted = min(hard, _WANTED_DESCRIPTORS)
    if soft < wanted:
        try:
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )
        except (OSError, ValueError):
            return soft
    return wanted


_numbers = itertools.count()  # for the splits that a process opens
_open = _OpenShards()
