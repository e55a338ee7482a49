"""The files of a feature store: Parquet with one row a picture, made once and read often.

`_embedding.parquet` says which model made it, how, and from what; each `features-NNNNN.parquet`
repeats that in its own metadata, so that a file can be told apart on its own. A file is written
whole or not at all, and the store is complete when `_embedding.parquet` says so. That is a table
without rows, its words in the same place: readers of Parquet take the folder for one table, whether
they pass over names that begin with an underscore (Arrow) or over nothing (polars, DuckDB).

Where several tasks make a store, each writes files of its own: `features-I-of-N-NNNNN.parquet` and,
but for task 0, `_embedding-I-of-N.parquet`.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.text.taxonomy import RANKS
from bioclip2_jax.weights.description import Preprocess

ABOUT = "_embedding.parquet"
EARLIER = "embedding.json"  # of stores that earlier versions made, which do not grow
TEXTS = (*RANKS, "scientificName", "vernacularName", "datasetName", "split")
_METADATA = b"bioclip2_jax"
_OWN = ("key", "embedding", "norm", "index", *TEXTS)
_NEWER = ("file", "bytes")  # which stores of earlier versions lack
# What the columns are called that others call otherwise.
NAMES = {
    "bioclip2": {"key": "key", "embedding": "embedding"},
    "explorer": {"key": "uuid", "embedding": "emb"},  # Imageomics' Embedding Explorer
}
_PART = re.compile(r"features-(?:(\d{5})-of-(\d{5})-)?(\d{5})\.parquet")

Columns = Literal["bioclip2", "explorer"]
ONE: tuple[int, int] = (0, 1)  # task I of N, where one does all


@dataclass(frozen=True)
class Maker:
    """The model of a store: where it lay, its step, and a checksum of its parameters."""

    path: str
    step: int | None
    sha256: str


@dataclass(frozen=True)
class Stretch:
    """Pictures of an archive, or of a stretch of a dataset, that a part holds.

    Attributes:
      unit: its name.
      size: of it, by which another one of that name is told.
      first, stop: which of its pictures, the bad ones counted.
      ended: whether there are no more.
    """

    unit: str
    size: int
    first: int
    stop: int
    ended: bool


@dataclass(frozen=True)
class About:
    """What `_embedding.parquet` says of a store, and each part of itself.

    Attributes:
      model: that made it.
      preprocess: of the pictures.
      dim: of a feature.
      dtype: of the kept features, "float16" or "float32".
      pictures: where they lie, see `features.sources`.
      labels: of the pictures; each is a column.
      version: of this package.
      num_parts: its files.
      complete: whether all of it is there.
      num_rows: pictures that could be read.
      bad: (key, reason) of the others.
      columns: how they are called.
      task: (I, N), which of several it is about.
      listing: SHA-256 of what there was to embed.
      precision: in which pictures were encoded, see `Model`.
      stretches: of a part, whose pictures are no files of their own.
    """

    model: Maker
    preprocess: Preprocess
    dim: int
    dtype: str
    pictures: dict[str, Any]
    labels: list[str]
    version: str
    num_parts: int = 0
    complete: bool = False
    num_rows: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    columns: Columns = "bioclip2"
    task: tuple[int, int] = ONE
    listing: str = ""
    precision: str = "float32"
    stretches: list[Stretch] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A picture that could be read.

    Attributes:
      key: of a file in a folder its path from there, else what its source calls it.
      index: its number in the split, archive or folder.
      texts: of `TEXTS`; what is missing is "".
      labels: every other known thing about it, such as sex or habitat.
      file: the archive that it lies in, "" for others.
    """

    key: str
    index: int
    texts: dict[str, str]
    labels: dict[str, str]
    file: str = ""


def part_path(folder: str | Path, number: int, task: tuple[int, int] = ONE) -> Path:
    """Where part `number` of a task lies."""
    who = "" if task == ONE else "{:05d}-of-{:05d}-".format(*task)
    return files.place(folder) / f"features-{who}{number:05d}.parquet"


def parts_of(folder: str | Path) -> list[tuple[Path, tuple[int, int], int]]:
    """(file, task, number) of all parts that lie in a folder."""
    found = []
    for path in buckets.named(files.place(folder), "features-*.parquet"):
        if match := _PART.fullmatch(path.name):
            task = (int(match[1]), int(match[2])) if match[1] else ONE
            found.append((path, task, int(match[3])))
    return found


def write_part(
    path: Path,
    rows: Sequence[Row],
    features: np.ndarray,
    about: About,
    sizes: Sequence[int | None] | None = None,
) -> None:
    """Writes one part.

    Args:
      path: of the file.
      rows: of its pictures.
      features: [rows, dim] float32, not normalised.
      about: the store; `bad` and `stretches` are those of this part alone.
      sizes: bytes of every picture; None where they are not known.
    """
    _write(path, rows, features, replace(about, complete=True, num_rows=len(rows)), sizes)


def write_about(folder: Path, about: About) -> None:
    """Writes the description of its task."""
    path = about_path(folder, about.task)
    _write(path, [], np.zeros((0, about.dim), np.float32), about, None)


def _write(
    path: Path,
    rows: Sequence[Row],
    features: np.ndarray,
    about: About,
    sizes: Sequence[int | None] | None,
) -> None:
    norms = np.linalg.norm(features, axis=1)
    normal = features / np.maximum(norms, 1e-12)[:, None]
    values = pa.array(normal.astype(about.dtype).reshape(-1))
    names = NAMES[about.columns]
    vectors = pa.FixedSizeListArray.from_arrays(values, features.shape[1])
    columns: dict[str, pa.Array] = {
        names["key"]: pa.array([row.key for row in rows], pa.string()),
        names["embedding"]: vectors
        if about.columns == "bioclip2"
        else vectors.cast(pa.list_(values.type)),
        "norm": pa.array(norms, pa.float32()),
        "index": pa.array([row.index for row in rows], pa.int64()),
    }
    for name in TEXTS:
        columns[name] = pa.array([row.texts.get(name, "") for row in rows], pa.string())
    for name in about.labels:
        columns[column_of(name)] = pa.array([r.labels.get(name, "") for r in rows], pa.string())
    columns["file"] = pa.array([row.file for row in rows], pa.string())
    columns["bytes"] = pa.array([None] * len(rows) if sizes is None else sizes, pa.int64())
    metadata = {_METADATA: msgspec.json.encode(about)}
    table = pa.table(columns).replace_schema_metadata(metadata)
    with files.writing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def column_of(label: str) -> str:
    """The column of a label; one that is called like a column of ours gets a prefix."""
    names = {name for kind in NAMES.values() for name in kind.values()}
    return f"label_{label}" if label in (*_OWN, *_NEWER, *names) else label


def read_part_about(path: Path) -> About | None:
    """What a part says of itself, None if any of it cannot be read."""
    try:
        return _about_of(read_part(path).schema)
    except (OSError, pa.ArrowException, KeyError, TypeError, msgspec.DecodeError):
        return None


def read_keys(path: Path, *, whole: bool) -> tuple[About, list[str], list[int | None]] | None:
    """What a part says of itself, its keys and the bytes of its pictures.

    Args:
      path: of the part.
      whole: whether the features are read, too, to see that they are sound.

    Returns:
      None if something of it cannot be read.
    """
    try:
        table = read_part(path, None if whole else ["key", "uuid", "bytes"])
        about = _about_of(table.schema)
        keys = table[NAMES[about.columns]["key"]].to_pylist()
        known = "bytes" in table.column_names
        return about, keys, table["bytes"].to_pylist() if known else [None] * len(keys)
    except (OSError, pa.ArrowException, KeyError, TypeError, msgspec.DecodeError):
        return None


def _about_of(schema: pa.Schema) -> About:
    return msgspec.json.decode(schema.metadata[_METADATA], type=About)


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The columns of a part that are there, all by default; their checksums are looked at.

    Raises:
      OSError, pa.ArrowException: damaged.
    """
    # Of a bucket whole, and not through the client that Arrow would bring.
    source = io.BytesIO(buckets.read_bytes(path)) if files.is_remote(path) else path
    return pq.ParquetFile(source, page_checksum_verification=True).read(columns)


def count_rows(path: Path) -> int:
    """How many pictures a part holds, by its end alone.

    Raises:
      OSError, pa.ArrowException: damaged.
    """
    with buckets.open_bytes(path) as file:
        return pq.ParquetFile(file).metadata.num_rows


def read_features(path: Path, about: About, size: int) -> Iterator[np.ndarray]:
    """The features of a part, one stretch after another in memory: [rows, dim] as they are kept.

    Args:
      path: of the part.
      about: the store.
      size: rows of a stretch, at most.

    Raises:
      OSError, pa.ArrowException: damaged; checksums are looked at.
      KeyError, ValueError: it holds other columns or features.
    """
    source = io.BytesIO(buckets.read_bytes(path)) if files.is_remote(path) else path
    name = NAMES[about.columns]["embedding"]
    with pq.ParquetFile(source, memory_map=True, page_checksum_verification=True) as file:
        for batch in file.iter_batches(size, columns=[name]):
            flat = batch.column(name).flatten().to_numpy(zero_copy_only=False)
            yield flat.reshape(len(batch), about.dim)


def about_path(folder: str | Path, task: tuple[int, int] = ONE) -> Path:
    """Where a task describes the store."""
    name = "_embedding-{:05d}-of-{:05d}.parquet".format(*task) if task[0] else ABOUT
    return files.place(folder) / name


def read_about(folder: str | Path) -> About:
    """What `_embedding.parquet` says, and what those of the other tasks say.

    Raises:
      UserError: no feature store there, or a damaged one.
    """
    path = about_path(folder)
    if not path.is_file():
        path = files.place(folder) / EARLIER
    if not path.is_file():
        raise UserError(
            f"{folder}: no feature store here (no {ABOUT}); make one with `bioclip2 embed`"
        )
    about = read_description(path)
    for number in range(1, about.task[1]):
        path = about_path(folder, (number, about.task[1]))
        other = read_description(path) if path.is_file() else None
        if other is None or other.listing != about.listing:
            return replace(about, complete=False)
        about = replace(
            about,
            complete=about.complete and other.complete,
            num_parts=about.num_parts + other.num_parts,
            num_rows=about.num_rows + other.num_rows,
            bad=about.bad + other.bad,
        )
    return about


def read_description(path: Path) -> About:
    """What one task says.

    Raises:
      UserError: damaged.
    """
    try:
        if path.name == EARLIER:
            return msgspec.json.decode(files.read_text(path), type=About)
        return _about_of(read_part(path).schema)
    except (OSError, pa.ArrowException, KeyError, TypeError, msgspec.DecodeError) as error:
        raise UserError(
            f"{path}: damaged ({reason(error)}); delete it and run the same `bioclip2 embed`"
            " again, which keeps the parts that are sound"
        ) from error
