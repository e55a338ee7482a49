"""Folders whose names say what the pictures in them show; see `folder_names`.

A folder called train, val or test (or training_set, val2018, …) at the top is a split.
"""

import functools
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.data.folders import is_picture_name, kind_of, remark_of_kinds
from bioclip2_jax.data.records import make_record
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.prepare import recognise
from bioclip2_jax.prepare.columns import split_in
from bioclip2_jax.prepare.folder_names import named
from bioclip2_jax.prepare.source import REMARK_FILE, Part, Picture, Rejected
from bioclip2_jax.prepare.tar_members import printable
from bioclip2_jax.prepare.tars import MAX_PICTURE


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Pictures in folders named after what they show.

    Attributes:
      paths: folders; of several each one's name is the beginning of its keys.
      slice_size: pictures a part.
    """

    paths: tuple[str, ...]
    slice_size: int = 2000

    def parts(self, folder: Path) -> Sequence[Part]:
        """Writes the list of all pictures in slices, a JSON string a line, and a remark."""
        parts: list[Part] = []
        others: Counter[str] = Counter()
        for root in self.paths:
            is_folder = files.place(root).is_dir()
            # Beside pictures there may be a table; here the folders are asked for.
            recognise.refuse_others([root], "tree", *["folder"] * is_folder)
            if not is_folder:
                raise UsageError(f"{root}: there is no such folder")
            walk = _walk_bucket if files.is_remote(root) else _walk
            pictures = walk(root, others)
            while names := list(itertools.islice(pictures, self.slice_size)):
                slice_file = folder / f"{len(parts):06d}.txt"
                lines = "".join(json.dumps(name) + "\n" for name in (root, *names))
                files.write_text(slice_file, lines)
                parts.append(Part(file=str(slice_file)))
        files.write_text(folder / REMARK_FILE, remark_of_kinds(others))
        return parts

    def read(self, part: Part) -> Iterator[Picture | Rejected]:
        """Reads the pictures of a slice."""
        root, *names = map(json.loads, files.read_text(part.file).splitlines())
        prefix = f"{_name(root)}/" if len(self.paths) > 1 else ""
        picture = functools.partial(_picture, root, prefix)
        yield from buckets.each(picture, names) if files.is_remote(root) else map(picture, names)


def _walk(root: str, others: Counter[str]) -> Iterator[str]:
    """Pictures below a folder, always in the same order; links are followed, each folder once."""
    waiting, seen = [""], set()
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(os.path.join(root, below))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(os.path.join(root, below)) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            place = printable(os.path.join(root, below))
            raise UserError(f"{place}: cannot be entered ({error.strerror})") from error
        inner = []
        for entry in entries:
            name = os.path.join(below, entry.name)
            if entry.is_dir():
                inner.append(name)
            # A link that leads nowhere is one too, so that reading it says so.
            elif is_picture_name(entry.name) and (entry.is_file() or entry.is_symlink()):
                yield name
            else:
                others[kind_of(entry.name)] += 1
        waiting += reversed(inner)


def _walk_bucket(root: str, others: Counter[str]) -> Iterator[str]:
    """The same of a bucket, in the same order: a folder's own pictures before those below it."""

    def order(name: str) -> list[tuple[bool, str]]:
        *folders, own = name.split("/")
        return [*((True, folder) for folder in folders), (False, own)]

    for name in sorted(buckets.sizes_below(root), key=order):
        own = name.rpartition("/")[2]
        if is_picture_name(own):
            yield name
        else:
            others[kind_of(own)] += 1


def _name(root: str) -> str:
    return files.absolute(files.place(root)).name


def _picture(root: str, prefix: str, name: str) -> Picture | Rejected:
    folders = PurePosixPath(name).parts[:-1]
    split = next(filter(None, map(split_in, (*folders, _name(root)))), "")
    label = named(tuple(folder for folder in folders if not split_in(folder)))
    key = printable(prefix + name)
    file = printable(os.path.join(root, name))
    image, problem = b"", label.problem
    if key != prefix + name:
        problem = "a name that is not UTF-8 or has control characters"
    if not problem:
        try:
            path = files.place(root) / name
            size = buckets.size(path)
            if size > MAX_PICTURE:
                problem = f"the file is too large ({size:,} bytes)"
            else:
                image = buckets.read_bytes(path)
        except (OSError, ValueError) as error:
            problem = f"cannot be read ({getattr(error, 'strerror', None) or reason(error)})"
    if problem:
        return Rejected(key=key, file=file, split=split, reason=problem)
    record = make_record(
        key=key,
        image=image,
        taxon=label.taxon,
        scientific_name=label.scientific_name,
        vernacular_name=label.vernacular_name,
    )
    return Picture(file=file, split=split, record=record)
