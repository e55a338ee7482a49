"""The feature store: a folder of Parquet files with one row a picture, made once and read often.

`embedding.json` says which model made it, how, and from what; each `features-NNNNN.parquet` repeats
that in its own metadata, so that a file can be told apart on its own. A file is written whole or
not at all, and the store is complete when `embedding.json` says so.
"""

import io
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.text.taxonomy import RANKS, Taxon
from bioclip2_jax.weights.description import Preprocess

ABOUT = "embedding.json"
TEXTS = (*RANKS, "scientificName", "vernacularName", "datasetName", "split")
_METADATA = b"bioclip2_jax"
_OWN = ("key", "embedding", "norm", "index", *TEXTS)


@dataclass(frozen=True)
class Maker:
    """The model of a store: where it lay, its step, and a checksum of its parameters."""

    path: str
    step: int | None
    sha256: str


@dataclass(frozen=True)
class About:
    """What `embedding.json` says of a store, and each part of itself.

    Attributes:
      model: that made it.
      preprocess: of the pictures.
      dim: of a feature.
      dtype: of the kept features, "float16" or "float32".
      pictures: what they are, see `features.pictures`, and their `count`.
      labels: of the pictures; each is a column.
      version: of this package.
      num_parts: in the whole store.
      complete: whether all of it is there.
      num_rows: pictures that could be read.
      bad: (key, reason) of the others.
    """

    model: Maker
    preprocess: Preprocess
    dim: int
    dtype: str
    pictures: dict[str, Any]
    labels: list[str]
    version: str
    num_parts: int
    complete: bool = False
    num_rows: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A picture that could be read.

    Attributes:
      key: unique in the store.
      index: its number in the split or folder.
      texts: of `TEXTS`; what is missing is "".
      labels: every other known thing about it, such as sex or habitat.
    """

    key: str
    index: int
    texts: dict[str, str]
    labels: dict[str, str]


@dataclass(frozen=True)
class Store:
    """All rows of a feature store, in the order of the pictures.

    Attributes:
      features: [n, dim] float32, L2-normalised.
      norms: [n] float32, the lengths before.
      keys: key of every picture.
      index: [n] int64, its number in its split or folder.
      texts: name of `TEXTS` → its value for every picture, "" where unknown.
      labels: name → its value for every picture, "" where unknown.
      about: who made it, and of what.
    """

    features: np.ndarray
    norms: np.ndarray
    keys: list[str]
    index: np.ndarray
    texts: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    about: About

    @property
    def taxa(self) -> list[Taxon]:
        """The lineage of every picture."""
        return [Taxon(*row) for row in zip(*(self.texts[rank] for rank in RANKS), strict=True)]

    def select(self, rows: np.ndarray) -> "Store":
        """Some of the rows; an index array or a mask."""
        rows = np.arange(len(self.keys))[rows]
        return replace(
            self,
            features=self.features[rows],
            norms=self.norms[rows],
            keys=[self.keys[row] for row in rows],
            index=self.index[rows],
            texts={name: values[rows] for name, values in self.texts.items()},
            labels={name: values[rows] for name, values in self.labels.items()},
        )


def part_path(folder: str | Path, number: int) -> Path:
    """Where part `number` lies."""
    return files.place(folder) / f"features-{number:05d}.parquet"


def write_part(path: Path, rows: Sequence[Row], features: np.ndarray, about: About) -> None:
    """Writes one part.

    Args:
      path: of the file.
      rows: of its pictures.
      features: [rows, dim] float32, not normalised.
      about: the store; `bad` holds the pictures of this part alone.
    """
    norms = np.linalg.norm(features, axis=1)
    normal = features / np.maximum(norms, 1e-12)[:, None]
    values = pa.array(normal.astype(about.dtype).reshape(-1))
    columns: dict[str, pa.Array] = {
        "key": pa.array([row.key for row in rows], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(values, features.shape[1]),
        "norm": pa.array(norms, pa.float32()),
        "index": pa.array([row.index for row in rows], pa.int64()),
    }
    for name in TEXTS:
        columns[name] = pa.array([row.texts.get(name, "") for row in rows], pa.string())
    for name in about.labels:
        columns[column_of(name)] = pa.array([r.labels.get(name, "") for r in rows], pa.string())
    text = msgspec.json.encode(replace(about, complete=True, num_rows=len(rows)))
    table = pa.table(columns).replace_schema_metadata({_METADATA: text})
    with files.writing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def column_of(label: str) -> str:
    """The column of a label; one that is called like a column of ours gets a prefix."""
    return f"label_{label}" if label in _OWN else label


def read_part_about(path: Path) -> About | None:
    """What a part says of itself, None if any of it cannot be read."""
    try:
        return msgspec.json.decode(_read_part(path).schema.metadata[_METADATA], type=About)
    except (OSError, pa.ArrowException, KeyError, TypeError, msgspec.DecodeError):
        return None


def _read_part(path: Path) -> pa.Table:
    # Of a bucket whole, and not through the client that Arrow would bring.
    source = io.BytesIO(buckets.read_bytes(path)) if files.is_remote(path) else path
    return pq.read_table(source, page_checksum_verification=True)


def read_about(folder: str | Path) -> About:
    """What `embedding.json` says.

    Raises:
      UserError: no feature store there, or a damaged one.
    """
    path = files.place(folder) / ABOUT
    if not path.is_file():
        raise UserError(
            f"{folder}: no feature store here (no {ABOUT}); make one with `bioclip2 embed`"
        )
    try:
        return msgspec.json.decode(files.read_text(path), type=About)
    except msgspec.DecodeError as error:
        raise UserError(
            f"{path}: damaged ({reason(error)}); delete it and run the same `bioclip2 embed`"
            " again, which keeps the parts that are sound"
        ) from error


def write_about(folder: Path, about: About) -> None:
    """Writes `embedding.json`."""
    files.write_json(folder / ABOUT, asdict(about))


def read(folder: str | Path) -> Store:
    """Reads a complete feature store into memory.

    Raises:
      UserError: none there, not complete, damaged, or with features that are not finite.
    """
    about = read_about(folder)
    if not about.complete:
        raise UserError(
            f"{folder}: these features are not complete; run the same `bioclip2 embed` again"
        )
    paths = [part_path(folder, number) for number in range(about.num_parts)]
    try:
        table = pa.concat_tables([_read_part(path) for path in paths])
        embedding = table["embedding"].combine_chunks()
        flat = embedding.flatten().to_numpy(zero_copy_only=False)
        store = Store(
            features=flat.reshape(len(table), about.dim).astype(np.float32),
            norms=table["norm"].to_numpy(),
            keys=table["key"].to_pylist(),
            index=table["index"].to_numpy(),
            texts={name: _texts(table[name]) for name in TEXTS},
            labels={name: _texts(table[column_of(name)]) for name in about.labels},
            about=about,
        )
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(
            f"{folder}: damaged ({reason(error)}); run the same `bioclip2 embed` again, which makes"
            " only the damaged parts"
        ) from error
    odd = np.flatnonzero(~np.isfinite(store.features).all(axis=1))
    if len(odd):
        raise UserError(
            f"{folder}: the features of {len(odd):,} of {len(store.keys):,} pictures are not"
            f" finite, {store.keys[odd[0]]} is the first; embed them"
            " anew with a model whose weights are"
        )
    return store


def align(files: Sequence[str], keys: Sequence[str]) -> list[str]:
    """File names as the keys of a store spell them.

    Both may count from different folders: where most files are not found, the leading folders that
    one has and the other has not are cut off or put in front, alike for all.

    Returns:
      As many names as `files`; unchanged if no such change finds at least half of them.
    """
    known = set(keys)
    if sum(file in known for file in files) * 2 >= len(files):
        return list(files)
    paths_of = defaultdict(list)
    for key in keys:
        parts = key.split("/")
        paths_of[parts[-1]].append(parts)
    changes: Counter[tuple[int, tuple[str, ...]]] = Counter()
    for file in files[:: max(1, len(files) // 64)]:
        parts = file.split("/")
        for path in paths_of[parts[-1]][:64]:
            same = len(os.path.commonprefix([parts[::-1], path[::-1]]))
            changes[len(parts) - same, tuple(path[: len(path) - same])] += 1
    for (cut, front), _ in changes.most_common(3):
        moved = ["/".join((*front, *file.split("/")[cut:])) for file in files]
        if sum(file in known for file in moved) * 2 >= len(files):
            return moved
    return list(files)


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_pylist(), dtype=np.str_)
