"""Writes a dataset folder: ArrayRecord shards with TFDS metadata, taxa and quarantine lists.

Nothing is visible under the final name before all of it is there.
"""

import collections
import contextlib
import csv
import functools
import io
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from bioclip2_jax.data import images
from bioclip2_jax.data.dataset import CAPTIONS_FILE, TAXA_FILE
from bioclip2_jax.data.records import TEXT_FIELDS, Record, caption_of, taxon_of
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare.shuffle import Spool, digest
from bioclip2_jax.text.captions import TEXT_KINDS
from bioclip2_jax.text.taxonomy import RANKS, Taxon
from bioclip2_jax.text.tokenizer import tokenize

QUARANTINE_FILE = "quarantine.csv"
SHARD_BYTES = 256 << 20  # one shard is held in memory while it is written
_NAME_COLUMNS = ("scientificName", "vernacularName")
_MAX_LICENCES = 12
_CAPTIONS_AT_A_TIME = 1 << 16
_OURS = re.compile(
    r"LICENSE|(features|dataset_info|captions)\.json|(taxa|quarantine)\.csv|.*\.array_record-.*"
)


@dataclass(frozen=True)
class Rejected:
    """A picture that was set aside, and why."""

    key: str
    file: str
    split: str
    reason: str


@dataclass
class Summary:
    """What a dataset was made of.

    Attributes:
      images: split → number of records.
      rejected: pictures set aside.
    """

    images: dict[str, int] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def __str__(self) -> str:
        kept = sum(self.images.values())
        parts = ", ".join(f"{split} {count}" for split, count in self.images.items())
        aside = f"{len(self.rejected)} set aside"
        return f"{kept} images ({parts}), {aside}" + (
            f" (see {QUARANTINE_FILE})" if self.rejected else ""
        )


class _Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """TFDS's writer around records that are in their final order already."""

    VERSION = tfds.core.Version("1.0.0")
    spools: ClassVar[Mapping[str, Spool]]
    label_names: ClassVar[Sequence[str]]
    about: ClassVar[Mapping[str, str]]

    def _info(self) -> tfds.core.DatasetInfo:
        # Bytes rather than tfds.features.Image: pictures stay as they came, in any format, and
        # `images.decode` is the only decoder.
        features = {name: tfds.features.Text() for name in TEXT_FIELDS}
        features["image"] = tfds.features.Tensor(shape=(), dtype=np.object_)
        if self.label_names:
            features["labels"] = {name: tfds.features.Text() for name in self.label_names}
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, **self.about)

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager
        return {split: _shards(spool) for split, spool in self.spools.items()}


def _shards(spool: Spool) -> list[Callable[[], Iterator[tuple[str, dict]]]]:
    """One generator a shard; TFDS runs them one after the other, so they share the stream."""
    number = min(spool.count, -(-spool.size // SHARD_BYTES))
    length, longer = divmod(spool.count, number)
    stream = ((record["key"], record) for record in spool.in_order())
    return [
        functools.partial(itertools.islice, stream, length + (shard < longer))
        for shard in range(number)
    ]


def write_dataset(
    splits: Mapping[str, Iterable[Record | Rejected]],
    out_dir: Path,
    *,
    name: str,
    description: str,
    label_names: Sequence[str] = (),
    total: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Streams records into a new dataset folder; each picture is decoded once as a check.

    Records are stored in the order of a hash of their keys, whatever order they come in. Memory
    is bounded, except for 8 bytes and their place in a set for each key.

    Args:
      splits: split → records, read once and in order; a `Rejected` is passed to the quarantine.
      out_dir: the folder to make.
      name: of the dataset, used in the shards' file names.
      description: one sentence for the metadata.
      label_names: every label that any record may carry; absent ones are stored empty.
      total: pictures expected, for the progress bar.
      overwrite: replace an earlier dataset at `out_dir`.

    Returns:
      The counts.

    Raises:
      UsageError: `out_dir` is in use.
      UserError: two records share a key, a split is called "all", no usable picture is left, or
        the disk refuses. Nothing is written then.
    """
    if "all" in splits:
        raise UserError("no split may be called 'all', which means all of them; rename it")
    out_dir = out_dir.resolve()
    _check_free(out_dir, overwrite)
    summary, catalogue = Summary(), _Catalogue()
    label_names = sorted(label_names)
    try:
        with _workshop(out_dir) as workshop:
            spools: dict[str, Spool] = {}
            for split, example, reason in _checked(splits, total):
                if reason:
                    if isinstance(example, dict):
                        example = Rejected(example["key"], example.get("file", ""), split, reason)
                    summary.rejected.append(example)
                    continue
                catalogue.add(split, example)
                row = {column: example[column] for column in (*TEXT_FIELDS, "image")}
                if label_names:
                    labels = example["labels"]
                    row["labels"] = {label: labels.get(label, "") for label in label_names}
                if split not in spools:
                    spools[split] = Spool(workshop / f"spool-{len(spools)}")
                spools[split].add(row)
            if not spools:
                raise UserError(_nothing_left(out_dir, summary.rejected))
            summary.images = {split: spool.count for split, spool in spools.items()}
            about = {"description": description, "license": catalogue.licence()}
            folder = _write_shards(spools, workshop, name, label_names, about)
            _write_csv(folder / TAXA_FILE, *catalogue.table(list(spools)))
            lengths = json.dumps({"longest_tokens": catalogue.longest_tokens()}) + "\n"
            (folder / CAPTIONS_FILE).write_text(lengths, encoding="utf-8")
            _write_csv(
                folder / QUARANTINE_FILE,
                ("key", "file", "split", "reason"),
                [(r.key, r.file, r.split, r.reason) for r in summary.rejected],
            )
            _publish(folder, out_dir, workshop)
    except OSError as error:
        raise UserError(f"{out_dir}: cannot be written ({error.strerror or error})") from error
    return summary


def _checked(
    splits: Mapping[str, Iterable[Record | Rejected]], total: int | None
) -> Iterator[tuple[str, Record | Rejected, str]]:
    """(split, example, reason) in order; the reason is empty for a usable picture.

    Pictures are decoded in threads, a few ahead of the reader.
    """
    progress = tqdm(total=total, unit="image", file=sys.stderr, disable=not sys.stderr.isatty())
    threads = min(16, os.cpu_count() or 1)
    ahead: collections.deque = collections.deque()
    with progress, ThreadPoolExecutor(threads) as pool:

        def finished() -> tuple[str, Record | Rejected, str]:
            split, example, reason = ahead.popleft()
            progress.update()
            return split, example, reason.result()

        for split, examples in splits.items():
            for example in examples:
                ahead.append((split, example, pool.submit(_fault, example)))
                if len(ahead) > 4 * threads:
                    yield finished()
        while ahead:
            yield finished()


def _fault(example: Record | Rejected) -> str:
    if isinstance(example, Rejected):
        return example.reason
    try:
        images.decode(example["image"])
    except images.BadImage as error:
        return str(error)
    return ""


class _Catalogue:
    """What the records of a dataset have in common: keys, taxa, licences, lengths of captions."""

    def __init__(self):
        self._captions: set[tuple[str, str]] = set()  # kind and text, not yet counted
        self._longest = dict.fromkeys(TEXT_KINDS, 0)
        self._last_names: tuple = ()
        self._keys: set[int] = set()
        self._licences: set[str] = set()
        self._counts = collections.defaultdict(collections.Counter)
        self._names = collections.defaultdict(collections.Counter)

    def add(self, split: str, record: Record) -> None:
        key = int.from_bytes(digest(record["key"])[:8], "big")
        if key in self._keys:
            raise UserError(f"the key {record['key']!r} stands for two pictures; make keys unique")
        self._keys.add(key)
        if len(self._licences) <= _MAX_LICENCES:
            self._licences.add(record["licence"])
        taxon = taxon_of(record)
        names = (taxon, *(record[column] for column in _NAME_COLUMNS))
        if names != self._last_names or record["labels"].get("caption"):
            self._last_names = names
            self._captions |= {(kind, caption_of(record, kind)) for kind in TEXT_KINDS}
            if len(self._captions) > _CAPTIONS_AT_A_TIME:
                self._count_tokens()
        self._counts[taxon][split] += 1
        for column in _NAME_COLUMNS:
            self._names[taxon, column][record[column]] += bool(record[column])

    def longest_tokens(self) -> dict[str, int]:
        """Text kind → tokens of the longest caption."""
        self._count_tokens()
        return self._longest

    def _count_tokens(self) -> None:
        kinds, texts = zip(*self._captions, strict=True) if self._captions else ((), ())
        unique = list(dict.fromkeys(texts))
        ends = dict(zip(unique, tokenize(unique).argmax(axis=1) + 1, strict=True)) if unique else {}
        for kind, text in zip(kinds, texts, strict=True):
            self._longest[kind] = max(self._longest[kind], int(ends[text]))
        self._captions.clear()

    def licence(self) -> str:
        """For the metadata, one a line if they are few; each record carries its own."""
        known = sorted(self._licences - {""})
        if not known or len(self._licences) > _MAX_LICENCES:
            return "Each record names its own in the field licence."
        return "\n".join(known)

    def table(self, splits: list[str]) -> tuple[tuple[str, ...], list[tuple]]:
        """Header and rows of the list of taxa, sorted; each with its commonest names."""
        rows = []
        for taxon in sorted(self._counts):
            names = [self._commonest(taxon, column) for column in _NAME_COLUMNS]
            rows.append((*taxon.ranks, *names, *(self._counts[taxon][split] for split in splits)))
        return (*RANKS, *_NAME_COLUMNS, *splits), rows

    def _commonest(self, taxon: Taxon, column: str) -> str:
        names = self._names[taxon, column]
        return max(names, key=lambda name: (names[name], name))


def _nothing_left(out_dir: Path, rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return f"no usable picture is left for {out_dir}: there are none"
    first = rejected[0]
    return (
        f"no usable picture is left for {out_dir}: {len(rejected)} were set aside, the first of"
        f" them {first.file or first.key}: {first.reason}"
    )


def _check_free(out_dir: Path, overwrite: bool) -> None:
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise UsageError(f"--out {out_dir} is a file; name a folder")
    names = {path.name for path in out_dir.iterdir()}
    if not names:
        return
    others = sorted(name for name in names if not _OURS.fullmatch(name))
    if others or "features.json" not in names:
        raise UsageError(
            f"--out {out_dir} holds other files ({(others or sorted(names))[0]}); name a new or"
            " empty folder"
        )
    if not overwrite:
        raise UsageError(f"--out {out_dir} already holds a dataset; add --overwrite to replace it")


@contextlib.contextmanager
def _workshop(out_dir: Path) -> Iterator[Path]:
    """A temporary folder beside `out_dir`, so that moving there is one rename."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}-", dir=out_dir.parent) as folder:
        yield Path(folder)


def _write_shards(
    spools: Mapping[str, Spool],
    workshop: Path,
    name: str,
    label_names: Sequence[str],
    about: Mapping[str, str],
) -> Path:
    tfds.disable_progress_bar()
    name = re.sub(r"\W+", "_", name.strip().lower()).strip("_") or "dataset"
    # TFDS takes the dataset's name from the class.
    settings = {"name": name, "spools": spools, "label_names": label_names, "about": about}
    settings["__module__"] = __name__
    builder_class = type(_Builder)(name, (_Builder,), settings, skip_registration=True)
    builder = builder_class(data_dir=str(workshop), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints advice for downloads
        builder.download_and_prepare()
    return Path(builder.data_path)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _publish(folder: Path, out_dir: Path, workshop: Path) -> None:
    """Moves the finished folder to its name; an earlier dataset goes only then."""
    if out_dir.exists():
        out_dir.rename(workshop / "replaced")
    folder.rename(out_dir)
