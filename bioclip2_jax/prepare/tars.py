"""The samples of webdataset's tars, in one pass, and which files are such tars.

A sample is what lies side by side under one key, the name up to the first dot of its last part.
"""

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from bioclip2_jax import files
from bioclip2_jax.data import buckets, folders, images
from bioclip2_jax.data.records import Record
from bioclip2_jax.data.tables import SPLIT_COLUMNS, normal, split_name
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.prepare.columns import split_in, text_of
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.prepare.tar_members import End, Member, Stream, members, printable

MAX_PICTURE = 1 << 30
MAX_TEXT = 1 << 20
_SUFFIXES = (".tar", ".tar.gz", ".tgz")
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


class _BadSample(Exception):
    """A picture cannot be used; the message is the reason."""


def tar_files(paths: Sequence[str]) -> list[str]:
    """The archives that paths mean: folders stand for all below, "{00..17}" for many files.

    Raises:
      UsageError: a path that is not there, or a folder without tars.
    """
    found: list[str] = []
    for path in paths:
        folder = files.place(path)
        if folder.is_dir():
            names = folders.files_below(folder).others
            tars = (folder / name for name in names if name.lower().endswith(_SUFFIXES))
            below = [str(file) for file in tars if files.is_remote(file) or file.is_file()]
            if not below:
                raise UsageError(f"{path}: no tar lies in this folder")
            found += below
            continue
        for name in _expanded(path):
            if not files.place(name).is_file():
                raise UsageError(f"{name}: there is no such file")
            found.append(name)
    return list(dict.fromkeys(found))


def pictures(
    part: Part,
    roots: Sequence[str],
    texts: frozenset[str],
    record_of: Callable[[Sample, dict[str, str], dict[str, str]], Record],
) -> Iterator[Picture | Rejected]:
    """The pictures of one archive. A JSON beside one may name its split; else names of files do.

    Args:
      part: of a source.
      roots: the folders that names of splits may lie below.
      texts: suffixes of the texts to read.
      record_of: makes a record of a sample, its texts (without line breaks at their ends), and what
        its JSON says.

    Raises:
      UserError: the file cannot be read.
    """
    split, archive = _split(part.file, roots), printable(part.file)
    for sample in samples(part.file, texts | {"json"}):
        file = f"{archive}/{sample.name}" if sample.name else archive
        try:
            if sample.problem:
                raise _BadSample(sample.problem)
            decoded = _decoded(sample)
            values = _values(decoded.pop("json", ""))
        except _BadSample as error:
            yield Rejected(key=sample.key, file=file, split=split, reason=str(error))
            continue
        own = next((text for name, text in values.items() if normal(name) in SPLIT_COLUMNS), "")
        record = record_of(sample, decoded, values)
        yield Picture(file=file, split=split_name(own) or split, record=record)


def keys(path: str) -> Iterator[str]:
    """The keys of an archive's samples, from its headers alone, as far as they can be read.

    Raises:
      UserError: the file cannot be read.
    """
    last = ""
    with _opened(path) as stream, contextlib.suppress(End):
        for name, _, fault in members(stream):
            key, suffix = _parted(name)
            if key != last and _rank(suffix) and not fault:
                yield key
                last = key


def samples(path: str, texts: frozenset[str]) -> Iterator[Sample]:
    """Every picture of an archive once: samples without any are passed over.

    Of several pictures in a sample the first is taken whose suffix is nothing but the format
    ("jpg" before "mask.png"); each other one comes by itself, with a problem. What cannot be read
    of an archive is one sample, with the one that it ends in, named as the file is.

    Args:
      path: a tar, packed by gzip or not.
      texts: suffixes of the texts to read.

    Raises:
      UserError: the file cannot be read.
    """
    with _opened(path) as stream:
        try:
            yield from _grouped(members(stream), stream, texts)
        except End as end:
            start = "the archive ends early" if stream.members else "no tar archive"
            where = f"{printable(stream.member)}: " if stream.member else ""
            yield Sample(key=printable(PurePosixPath(path).name), problem=f"{start} ({where}{end})")


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Stream]:
    try:
        with buckets.fetched(path) as local, open(local, "rb", buffering=1 << 18) as file:
            yield Stream(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or reason(error)})") from error


def _expanded(path: str) -> Iterator[str]:
    braces = _BRACES.search(path)
    if not braces or files.place(path).exists():
        yield path
        return
    for number in range(int(braces[1]), int(braces[2]) + 1):
        digits = str(number).zfill(len(braces[1]))
        yield from _expanded(path[: braces.start()] + digits + path[braces.end() :])


def _grouped(files: Iterator[Member], stream: Stream, wanted: frozenset[str]) -> Iterator[Sample]:
    sample, held, faulty = Sample(key=""), "", ""  # `held`: suffix of the sample's picture
    for name, size, fault in files:
        key, suffix = _parted(name)
        if fault:
            if key != faulty:  # a picture and its ten texts are one
                yield Sample(key=name, name=name, problem=fault)
            faulty = key
            continue
        rank = _rank(suffix)
        if not (rank or suffix in wanted):
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


def _parted(name: str) -> tuple[str, str]:
    """(key, suffix) of the name of a file; hidden ones have no suffix."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower() if stem else ""


@functools.lru_cache(1024)
def _rank(suffix: str) -> int:
    """2 for the suffix of a picture ("jpg"), 1 for one with more before it, 0 for no picture."""
    if "." + suffix in images.suffixes():
        return 2
    return int("." + suffix.rpartition(".")[2] in images.suffixes())


def _split(file: str, roots: Sequence[str]) -> str:
    path = PurePosixPath(file)
    below = [path.relative_to(root) for root in roots if path.is_relative_to(root)]
    return split_in(str(below[0]) if below and below[0].name else path.name) or "train"


def _decoded(sample: Sample) -> dict[str, str]:
    texts = {}
    for suffix, data in sample.texts.items():
        try:
            texts[suffix] = data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise _BadSample(f"a text that is not UTF-8 ({suffix})") from error
    return texts


def _values(text: str) -> dict[str, str]:
    """What a JSON object says in single values; nothing else says anything here."""
    if not text.strip():
        return {}
    try:
        values = json.loads(text)
        values = values if isinstance(values, dict) else {}
        texts = {key: text_of(value) for key, value in values.items()}
        "".join((*texts, *texts.values())).encode("utf-8")  # half a letter ("\\ud83d") is none
    except (ValueError, RecursionError) as error:
        raise _BadSample(f"damaged JSON ({reason(error)})") from error
    return texts
