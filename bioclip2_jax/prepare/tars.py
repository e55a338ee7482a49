"""The samples of webdataset's tars, in one pass, and which files are such tars.

A sample is what lies side by side under one key, the name up to the first dot of its last part.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bioclip2_jax.data import folders, images, tables
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.prepare.tar_members import End, Member, Stream, members, printable

MAX_PICTURE = 1 << 30
MAX_TEXT = 1 << 20
_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_SPLITS = ("train", "val", "test")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(slots=True)
class Sample:
    """A picture with its texts, or what is wrong with one.

    Attributes:
      key: of the sample; of a file that cannot be used its name, printable.
      name: of the picture in the archive.
      image: its bytes.
      texts: suffix in lower case ("sci.txt") → bytes, of those that were asked for.
      problem: why it is set aside, or "".
    """

    key: str
    name: str = ""
    image: bytes = b""
    texts: dict[str, bytes] = field(default_factory=dict)
    problem: str = ""


def tar_files(paths: Sequence[str]) -> list[str]:
    """The archives that paths mean: folders stand for all below, "{00..17}" for many files.

    Raises:
      UsageError: a path that is not there, or a folder without tars.
    """
    files: list[str] = []
    for path in paths:
        if Path(path).is_dir():
            names = folders.files_below(path).others
            below = [str(Path(path, name)) for name in names if name.lower().endswith(_SUFFIXES)]
            if not below:
                raise UsageError(f"{path}: no tar lies in this folder")
            files += below
            continue
        for name in _expanded(path):
            if not Path(name).exists():
                raise UsageError(f"{name}: there is no such file")
            files.append(name)
    return list(dict.fromkeys(files))


def named_split(file: str, roots: Sequence[str]) -> str:
    """The split that a folder below `roots` or the beginning of a file's name says; else ""."""
    path = Path(file)
    below = [path.relative_to(root).parts[:-1] for root in roots if path.is_relative_to(root)]
    names = (*(below[0] if below else ()), re.split(r"[\W_]", path.name)[0])
    splits = (tables.split_name(name) for name in names)
    return next((split for split in splits if split in _SPLITS), "")


def samples(path: str, texts: frozenset[str]) -> Iterator[Sample]:
    """Every picture of an archive once: samples without any are passed over.

    Of several pictures in a sample the first is taken whose suffix is nothing but the format
    ("jpg" before "mask.png"); each other one comes by itself, with a problem. What cannot be read
    of an archive is one sample, named as the file is.

    Args:
      path: a tar, packed by gzip or not.
      texts: suffixes of the texts to read.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with open(path, "rb", buffering=1 << 18) as file:
            stream = Stream(file)
            try:
                yield from _grouped(members(stream), stream, texts)
            except End as end:
                start = "the archive ends early" if stream.members else "no tar archive"
                where = f"{printable(stream.member)}: " if stream.member else ""
                yield Sample(key=Path(path).name, problem=f"{start} ({where}{end})")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or reason(error)})") from error


def _expanded(path: str) -> Iterator[str]:
    braces = _BRACES.search(path)
    if not braces or Path(path).exists():
        yield path
        return
    for number in range(int(braces[1]), int(braces[2]) + 1):
        digits = str(number).zfill(len(braces[1]))
        yield from _expanded(path[: braces.start()] + digits + path[braces.end() :])


def _grouped(files: Iterator[Member], stream: Stream, wanted: frozenset[str]) -> Iterator[Sample]:
    sample, held, faulty = Sample(key=""), "", ""  # `held`: suffix of the sample's picture
    for name, size, fault in files:
        folder, slash, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = folder + slash + stem, suffix.lower()
        if fault:
            if key != faulty:  # a picture and its ten texts are one
                yield Sample(key=name, name=name, problem=fault)
            faulty = key
            continue
        rank = _rank(suffix)
        if not stem or not (rank or suffix in wanted):
            continue
        if key != sample.key or suffix == held or suffix in sample.texts:
            if held:
                yield sample
            sample, held = Sample(key=key), ""
        if not rank:
            if size <= MAX_TEXT:
                sample.texts[suffix] = stream.read(size)
            else:
                sample.problem = f"a text is too large ({suffix}, {size:,} bytes)"
            continue
        if held:
            other = name if _rank(held) >= rank else sample.name
            yield Sample(key=other, name=other, problem="one more picture of a sample")
            if other == name:
                continue
        sample.name, sample.image, held = name, b"", suffix
        if size <= MAX_PICTURE:
            sample.image = stream.read(size)
        else:
            sample.problem = f"the file is too large ({size:,} bytes)"
    if held:
        yield sample


@functools.lru_cache(1024)
def _rank(suffix: str) -> int:
    """2 for the suffix of a picture ("jpg"), 1 for one with more before it, 0 for no picture."""
    if "." + suffix in images.suffixes():
        return 2
    return int("." + suffix.rpartition(".")[2] in images.suffixes())
