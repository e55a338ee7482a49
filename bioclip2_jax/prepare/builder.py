"""Writes a dataset folder: ArrayRecord shards with TFDS metadata, taxa and quarantine lists.

Nothing is visible under the final name before all of it is there.
"""

import collections
import contextlib
import csv
import io
import itertools
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from bioclip2_jax import images
from bioclip2_jax.data.records import TEXT_FIELDS, Record, taxon_of
from bioclip2_jax.data.sources import TAXA_FILE
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.taxonomy import RANKS, Taxon

QUARANTINE_FILE = "quarantine.csv"


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


@dataclass
class _Names:
    scientific: str
    vernacular: collections.Counter = field(default_factory=collections.Counter)
    counts: collections.Counter = field(default_factory=collections.Counter)


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS's writer around our records; shuffles by a hash of the key."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, splits, label_names, about, **settings):
        self._splits, self._label_names, self._about = splits, label_names, about
        super().__init__(**settings)

    def _info(self):
        # Bytes rather than tfds.features.Image: pictures stay as they came, in any format, and
        # `images.decode` is the only decoder.
        features = {name: tfds.features.Text() for name in TEXT_FIELDS}
        features["image"] = tfds.features.Tensor(shape=(), dtype=np.object_)
        if self._label_names:
            features["labels"] = {name: tfds.features.Text() for name in self._label_names}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), **self._about
        )

    def _split_generators(self, dl_manager):
        return self._splits

    def _generate_examples(self):
        raise NotImplementedError  # each split brings its own generator


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
      UserError: two records share a key, or no usable picture is left (nothing is written).
    """
    _check_free(out_dir, overwrite)
    summary, taxa, keys = Summary(), {}, set()
    progress = tqdm(total=total, unit="image", file=sys.stderr, disable=not sys.stderr.isatty())
    label_names = sorted(label_names)

    def usable(split: str, examples: Iterable[Record | Rejected]) -> Iterator[tuple[str, dict]]:
        for example in examples:
            progress.update()
            if isinstance(example, Rejected):
                summary.rejected.append(example)
                continue
            key = example["key"]
            if key in keys:
                raise UserError(f"the key {key!r} stands for two pictures; make keys unique")
            keys.add(key)
            try:
                images.decode(example["image"])
            except images.BadImage as error:
                summary.rejected.append(Rejected(key, example.get("file", ""), split, str(error)))
                continue
            summary.images[split] = summary.images.get(split, 0) + 1
            taxon = taxon_of(example)
            names = taxa.setdefault(taxon, _Names(example["scientificName"]))
            names.vernacular[example["vernacularName"]] += bool(example["vernacularName"])
            names.counts[split] += 1
            row = {field: example[field] for field in (*TEXT_FIELDS, "image")}
            if label_names:
                row["labels"] = {label: example["labels"].get(label, "") for label in label_names}
            yield key, row

    partial = out_dir.absolute().with_name(out_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        streams = {split: usable(split, examples) for split, examples in splits.items()}
        streams = {split: _unless_empty(stream) for split, stream in streams.items()}
        streams = {split: stream for split, stream in streams.items() if stream is not None}
        if not streams:
            reason = summary.rejected[0].reason if summary.rejected else "there are none"
            raise UserError(f"no usable picture is left for {out_dir}: {reason}")
        folder = _write_shards(streams, partial, name, description, label_names)
        _write_taxa(folder / TAXA_FILE, taxa, list(summary.images))
        _write_csv(
            folder / QUARANTINE_FILE,
            ("key", "file", "split", "reason"),
            [(r.key, r.file, r.split, r.reason) for r in summary.rejected],
        )
        _publish(folder, out_dir)
    finally:
        progress.close()
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _check_free(out_dir: Path, overwrite: bool) -> None:
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise UsageError(f"--out {out_dir} is a file; name a folder")
    if not any(out_dir.iterdir()):
        return
    if not (out_dir / "features.json").exists():
        raise UsageError(f"--out {out_dir} holds other files; name a new or empty folder")
    if not overwrite:
        raise UsageError(f"--out {out_dir} already holds a dataset; add --overwrite to replace it")


def _unless_empty(stream: Iterator) -> Iterator | None:
    first = next(stream, None)
    return None if first is None else itertools.chain([first], stream)


def _write_shards(
    streams: Mapping[str, Iterator], partial: Path, name: str, description: str, labels: list[str]
) -> Path:
    tfds.disable_progress_bar()
    name = re.sub(r"\W+", "_", name.strip().lower()).strip("_") or "dataset"
    # TFDS takes the dataset's name from the class.
    builder_class = type(_Builder)(name, (_Builder,), {"name": name}, skip_registration=True)
    builder = builder_class(
        streams,
        labels,
        {"description": description},
        data_dir=str(partial),
        file_format="array_record",
    )
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints advice for downloads
        builder.download_and_prepare()
    return Path(builder.data_path)


def _write_taxa(path: Path, taxa: Mapping[Taxon, _Names], splits: list[str]) -> None:
    rows = [
        (
            *taxon.ranks,
            names.scientific,
            max(names.vernacular, key=lambda n: (names.vernacular[n], n), default=""),
            *(names.counts[split] for split in splits),
        )
        for taxon, names in sorted(taxa.items())
    ]
    _write_csv(path, (*RANKS, "scientificName", "vernacularName", *splits), rows)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _publish(folder: Path, out_dir: Path) -> None:
    """Moves the finished folder to its name; an earlier dataset goes only then."""
    old = out_dir.absolute().with_name(out_dir.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out_dir.exists():
        out_dir.rename(old)
    folder.rename(out_dir)
    shutil.rmtree(old, ignore_errors=True)
