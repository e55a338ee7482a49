"""Which pictures to encode: those below a folder, or a dataset made by `prepare`."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets, dataset, folders
from bioclip2_jax.data.records import TEXT_FIELDS
from bioclip2_jax.errors import UsageError
from bioclip2_jax.features import store


@dataclass(frozen=True)
class Pictures:
    """Numbered pictures.

    Attributes:
      name: where they lie, for `_embedding.parquet`.
      labels: names of all labels.
      count: how many.
      key: number → key, before the picture is read.
      read: number → the encoded picture and its row.
      others: files that lie beside them and are no pictures.
      sizes: bytes of each, where they are files.
    """

    name: dict
    labels: list[str]
    count: int
    key: Callable[[int], str]
    read: Callable[[int], tuple[bytes, store.Row]]
    others: list[str] = field(default_factory=list)
    sizes: list[int] | None = None


def open_pictures(path: str | Path, split: str | None = None) -> Pictures:
    """The pictures of a dataset or below a folder.

    Args:
      path: a dataset made by `bioclip2 prepare`, or any folder with pictures.
      split: of the dataset; None for all of them.

    Raises:
      UsageError: there is no picture, or a split is asked of a plain folder.
      UserError: the dataset is damaged.
    """
    path = files.place(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; name a dataset or a folder of pictures")
    if any(f"/{name}".endswith("/features.json") for name in files.below(path)):
        return _of_dataset(path, split)
    if split:
        raise UsageError(f"--split {split}: {path} is a plain folder, which has no splits")
    return pictures_below(path)


def _of_dataset(path: Path, split: str | None) -> Pictures:
    counts = dataset.splits(path)
    if split and split not in counts:
        raise UsageError(f"{path}: no split {split!r}; it has {', '.join(sorted(counts))}")
    names = [split] if split else sorted(counts)
    opened = {name: dataset.open_split(path, name) for name in names if counts[name]}
    starts = [0, *itertools.accumulate(len(source) for source in opened.values())]

    def find(number: int) -> tuple[str, int]:
        which = int(np.searchsorted(starts, number, side="right")) - 1
        return list(opened)[which], number - starts[which]

    def read(number: int) -> tuple[bytes, store.Row]:
        name, index = find(number)
        record = opened[name][index]
        texts = {field: record[field] for field in TEXT_FIELDS if field in store.TEXTS}
        texts["split"] = name
        row = store.Row(key=record["key"], index=index, texts=texts, labels=record["labels"])
        return record["image"], row

    return Pictures(
        name={
            "dataset": str(files.absolute(path)),
            "splits": {name: counts[name] for name in names},
        },
        labels=dataset.label_names(path),
        count=starts[-1],
        key=lambda number: "record {1} of split {0}".format(*find(number)),
        read=read,
    )


def pictures_below(path: str | Path) -> Pictures:
    """All pictures below a folder; a key is the path from there.

    Raises:
      UsageError: there is none, or no such folder.
      UserError: a folder cannot be read, or a file name cannot be written down.
    """
    path = files.place(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; name a folder of pictures")
    keys, others = folders.files_below(path)
    if not keys:
        raise UsageError(_nothing(path, others))

    def read(number: int) -> tuple[bytes, store.Row]:
        row = store.Row(key=keys[number], index=number, texts={}, labels={})
        return buckets.read_bytes(path / keys[number]), row

    # Sizes tell pictures that were replaced under the same names.
    sizes = (
        buckets.sizes_below(path)
        if files.is_remote(path)
        else {key: _size(path / key) for key in keys}
    )
    return Pictures(
        name={"folder": str(files.absolute(path))},
        labels=[],
        count=len(keys),
        key=keys.__getitem__,
        read=read,
        others=others,
        sizes=[sizes[key] for key in keys],
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0  # a link that leads nowhere


def _nothing(place: str | Path, others: Sequence[str]) -> str:
    """The error of a place without pictures, and what else is there."""
    packed = [name for name in others if name.endswith((".parquet", ".tar", ".zip", ".gz", ".h5"))]
    remark = f"; {folders.remark(others)}" if others else ""
    if packed:
        remark += f"; if they are in {Path(packed[-1]).name}, unpack them into files first"
    return f"{place}: no picture here{remark}"
