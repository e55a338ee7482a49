"""What is embedded, in units that tasks share: files, stretches of a dataset, archives.

A unit is read from its start to its end, always the same pictures in the same order, so that
how far it came is told by a number.
"""

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bioclip2_jax import files
from bioclip2_jax.data import buckets, folders
from bioclip2_jax.data.images import BadImage
from bioclip2_jax.data.records import TEXT_FIELDS, Record
from bioclip2_jax.errors import UsageError
from bioclip2_jax.features import parts
from bioclip2_jax.features.pictures import Pictures, open_pictures
from bioclip2_jax.prepare import recognise, tars
from bioclip2_jax.prepare.img2dataset import Img2dataset
from bioclip2_jax.prepare.parquet import ParquetSource
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.prepare.webdataset import Webdataset

_STRETCH = 4096  # records of a dataset that are one unit
_TARS, _PARQUET = (".tar", ".tar.gz", ".tgz"), (".parquet",)


class Item(NamedTuple):
    """A picture: its key, and what reads it, or raises a BadImage or OSError."""

    key: str
    load: Callable[[], tuple[bytes, parts.Row]]


class Unit(NamedTuple):
    """What one task embeds. Of its name there is no other; its size tells it from a later one."""

    name: str
    size: int


@dataclass(frozen=True)
class Source:
    """Where pictures come from.

    Attributes:
      name: for `_embedding.parquet`; pictures of another one do not go into the same store.
      labels: names of all labels.
      units: all of them.
      items: the pictures of a unit.
      others: files that lie beside them and are no pictures.
    """

    name: dict
    labels: list[str]
    units: list[Unit]
    items: Callable[[Unit], Iterator[Item]]
    others: Sequence[str] = ()

    @property
    def is_folder(self) -> bool:
        """Whether every unit is a picture, whose key is its name."""
        return "folder" in self.name

    @property
    def noun(self) -> str:
        """What to call the units."""
        return {"folder": "pictures", "tars": "tars"}.get(next(iter(self.name)), "stretches")

    @property
    def listing(self) -> str:
        """SHA-256 of the units."""
        text = "\n".join(f"{unit.name} {unit.size}" for unit in self.units)
        return hashlib.sha256(text.encode()).hexdigest()


def open_source(paths: Sequence[str], split: str | None = None) -> Source:
    """The pictures of a folder, a dataset, or of tars or Parquet files.

    Args:
      paths: one folder of pictures, of tars or of Parquet, or a dataset; or tars (also as
        "{00..17}.tar") or Parquet files of one folder.
      split: of the dataset; None for all of them.

    Raises:
      UsageError: there is no picture, or what was named does not go together.
      UserError: something is damaged.
    """
    path = files.place(paths[0])
    if len(paths) == 1 and path.is_dir():
        return _of_folder(path, split)
    for suffixes, opener in ((_TARS, _of_tars), (_PARQUET, _of_parquet)):
        if all(name.lower().endswith(suffixes) for name in paths):
            _refuse_split(paths[0], split)
            roots = {str(files.place(name).parent) for name in paths}
            if len(roots) > 1:
                raise UsageError(
                    f"{', '.join(sorted(roots))}: archives of several folders; name those of one,"
                    " or make a store of each"
                )
            return opener(roots.pop(), paths)
    return of_pictures(open_pictures(paths[0] if len(paths) == 1 else _several(paths), split))


def _several(paths: Sequence[str]) -> str:
    raise UsageError(
        f"{len(paths)} places ({paths[0]}, …): name one folder of pictures, or several tars or"
        " several Parquet files"
    )


def _of_folder(path: Path, split: str | None) -> Source:
    if not any(f"/{name}".endswith("/features.json") for name in files.below(path)):
        found = folders.files_below(path)
        for suffixes, opener in ((_TARS, _of_tars), (_PARQUET, _of_parquet)):
            if not found.pictures and any(n.lower().endswith(suffixes) for n in found.others):
                _refuse_split(path, split)
                return opener(str(path), [str(path)])
    return of_pictures(open_pictures(path, split))


def _refuse_split(path: str | Path, split: str | None) -> None:
    if split:
        raise UsageError(f"--split {split}: {path} is no dataset, which alone has splits")


def of_pictures(pictures: Pictures) -> Source:
    """The same pictures in units: of a folder each by itself, so that it may grow."""

    def load(number: int) -> tuple[bytes, parts.Row]:
        return pictures.read(number)

    if pictures.sizes is not None:
        names = [pictures.key(number) for number in range(pictures.count)]
        numbers = {name: number for number, name in enumerate(names)}

        def items(unit: Unit) -> Iterator[Item]:
            yield Item(unit.name, functools.partial(load, numbers[unit.name]))

        units = [Unit(*pair) for pair in zip(names, pictures.sizes, strict=True)]
    else:

        def items(unit: Unit) -> Iterator[Item]:
            first = int(unit.name)
            for number in range(first, first + unit.size):
                yield Item(pictures.key(number), functools.partial(load, number))

        starts = range(0, pictures.count, _STRETCH)
        units = [Unit(str(n), min(_STRETCH, pictures.count - n)) for n in starts]
    return Source(pictures.name, pictures.labels, units, items, pictures.others)


def _of_tars(root: str, paths: Sequence[str]) -> Source:
    names = {_below(root, file): file for file in tars.tar_files(paths)}
    kinds = {kind for path in paths for kind in recognise.kinds_of(path)}
    kind = Img2dataset if "img2dataset" in kinds else Webdataset
    reader = kind(paths=tuple(paths))

    def items(unit: Unit) -> Iterator[Item]:
        return _items(reader.read(Part(file=names[unit.name])), unit.name, 0)

    units = [Unit(name, buckets.size(files.place(file))) for name, file in names.items()]
    return Source({"tars": str(files.absolute(root))}, [], units, items)


def _of_parquet(root: str, paths: Sequence[str]) -> Source:
    reader = ParquetSource(sources=tuple(map(files.place, paths)), unnamed=True)
    with tempfile.TemporaryDirectory() as folder:
        found = reader.parts(Path(folder))
    slices: dict[Unit, tuple[str, Part]] = {}
    for part in found:
        file, (first, stop) = _below(root, part.file), part.rows or (0, 0)
        unit = Unit(f"{file}:{first}-{stop}", buckets.size(files.place(part.file)))
        slices[unit] = file, part

    def items(unit: Unit) -> Iterator[Item]:
        file, part = slices[unit]
        return _items(reader.read(part), file, part.rows[0] if part.rows else 0)

    return Source({"parquet": str(files.absolute(root))}, [], list(slices), items)


def _below(root: str, file: str) -> str:
    return os.path.relpath(file, root) if not files.is_remote(root) else file[len(root) + 1 :]


def _items(found: Iterator[Picture | Rejected], file: str, first: int) -> Iterator[Item]:
    """Of an archive, whose pictures are read here and not when they are asked for."""
    for index, picture in enumerate(found, first):
        if isinstance(picture, Rejected):
            yield Item(picture.key, functools.partial(_refuse, picture.reason))
        else:
            row = _row(picture.record, index, picture.split, PurePosixPath(file).as_posix())
            yield Item(row.key, functools.partial(_known, picture.record["image"], row))


def _known(image: bytes, row: parts.Row) -> tuple[bytes, parts.Row]:
    return image, row


def _refuse(reason: str) -> tuple[bytes, parts.Row]:
    raise BadImage(reason)


def _row(record: Record, index: int, split: str, file: str) -> parts.Row:
    texts = {field: record[field] for field in TEXT_FIELDS if field in parts.TEXTS}
    return parts.Row(record["key"], index, texts | {"split": split}, {}, file)
