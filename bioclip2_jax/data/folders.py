"""Which files below a folder are pictures; the same answer wherever a folder is named."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bioclip2_jax import files
from bioclip2_jax.data import buckets, images
from bioclip2_jax.errors import UserError


class Files(NamedTuple):
    """Paths from a folder, sorted: every file below it is in one of the two lists."""

    pictures: list[str]
    others: list[str]


def files_below(folder: str | Path, *, any_name: bool = False) -> Files:
    """All files below a folder. Links to folders are followed, each folder once.

    Args:
      folder: here or in a bucket.
      any_name: whether names may be other than UTF-8, as `os.fsdecode` gives them.

    Raises:
      UserError: a folder that cannot be entered, or a picture whose name is not UTF-8.
    """
    if files.is_remote(folder):
        found = Files(pictures=[], others=[])
        for name in buckets.sizes_below(folder):
            is_picture = is_picture_name(name.rpartition("/")[2])
            (found.pictures if is_picture else found.others).append(name)
        return found
    found, seen = Files(pictures=[], others=[]), set()
    for place, below, names in os.walk(folder, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()  # a folder that two ways lead to always gets the same name
        for path in (Path(place, name) for name in names):
            listed = found.pictures if _is_picture(path) else found.others
            listed.append(path.relative_to(folder).as_posix())
    for name in () if any_name else found.pictures:
        if any("\udc80" <= letter <= "\udcff" for letter in name):  # bytes that Python kept so
            raise UserError(
                f"{os.fsencode(Path(folder, name))}: a file name that is not UTF-8; rename it"
            )
    return Files(pictures=sorted(found.pictures), others=sorted(found.others))


def inside(root: Path, key: str) -> Path | None:
    """The file that a path from a folder means; None if it lies outside of it, by links or "..".

    Args:
      root: the folder, here or in a bucket.
      key: as somebody else's file has it.
    """
    path = root / key
    if files.is_remote(root):
        is_inside = ".." not in path.parts and str(path).startswith(f"{root}/")
    else:
        path = path.resolve()
        is_inside = path.is_relative_to(root.resolve())
    return path if is_inside else None


def remark(others: Sequence[str]) -> str:
    """What to say of files that are no pictures: "3 files are no pictures (.csv, .txt)", or ""."""
    return remark_of_kinds(Counter(map(kind_of, others)))


def remark_of_kinds(kinds: Counter[str]) -> str:
    """The same of their kinds (from `kind_of`) and numbers."""
    if not kinds:
        return ""
    shown = ", ".join(kind for kind, _ in kinds.most_common(5)) + ", …" * (len(kinds) > 5)
    if kinds.total() == 1:
        return f"1 file is no picture ({shown})"
    return f"{kinds.total():,} files are no pictures ({shown})"


def kind_of(name: str) -> str:
    """The suffix of a file that is no picture, or its whole name."""
    # Names that are not UTF-8 cannot be printed as they are.
    path = Path(name.encode(errors="backslashreplace").decode())
    return "._*" if _is_fork(path.name) else path.suffix.lower() or path.name


def is_picture_name(name: str) -> bool:
    """Whether the name of a file promises a picture."""
    return os.path.splitext(name)[1].lower() in images.suffixes() and not _is_fork(name)


def _is_picture(path: Path) -> bool:
    """By its name; a link that leads nowhere is one too, so that reading it says so."""
    return is_picture_name(path.name) and (path.is_file() or not path.exists())


def _is_fork(name: str) -> bool:
    """Whether macOS put it beside a file for what other file systems have no place for."""
    return name.startswith("._")


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be entered ({error.strerror})") from error
