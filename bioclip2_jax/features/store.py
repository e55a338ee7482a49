"""The feature store in memory: all rows, in the order of the pictures. Its files: `parts`."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.features.parts import ABOUT as ABOUT
from bioclip2_jax.features.parts import EARLIER as EARLIER
from bioclip2_jax.features.parts import NAMES, TEXTS, column_of, parts_of, read_about, read_part
from bioclip2_jax.features.parts import ONE as ONE
from bioclip2_jax.features.parts import About as About
from bioclip2_jax.features.parts import Columns as Columns
from bioclip2_jax.features.parts import Maker as Maker
from bioclip2_jax.features.parts import Row as Row
from bioclip2_jax.features.parts import Stretch as Stretch
from bioclip2_jax.features.parts import about_path as about_path
from bioclip2_jax.features.parts import part_path as part_path
from bioclip2_jax.features.parts import read_description as read_description
from bioclip2_jax.features.parts import read_keys as read_keys
from bioclip2_jax.features.parts import read_part_about as read_part_about
from bioclip2_jax.features.parts import write_about as write_about
from bioclip2_jax.features.parts import write_part as write_part
from bioclip2_jax.text.taxonomy import RANKS, Taxon


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

    def select(self, rows: np.ndarray | list[int]) -> "Store":
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


def read(folder: str | Path) -> Store:
    """Reads a complete feature store into memory, in the order of its pictures.

    Raises:
      UserError: none there, not complete, damaged, or with features that are not finite.
    """
    about = read_about(folder)
    if not about.complete:
        raise UserError(
            f"{folder}: these features are not complete; run the same `bioclip2 embed` again"
        )
    paths = [path for path, *_ in parts_of(folder)]
    try:
        if len(paths) < about.num_parts:
            raise ValueError(f"{len(paths)} of {about.num_parts} parts are there")
        table = pa.concat_tables([read_part(path) for path in paths])
        names = NAMES[about.columns]
        embedding = table[names["embedding"]].combine_chunks()
        flat = embedding.flatten().to_numpy(zero_copy_only=False)
        labels = {
            name: column_of(name) if column_of(name) in table.column_names else name
            for name in about.labels
        }
        store = Store(
            features=flat.reshape(len(table), about.dim).astype(np.float32),
            norms=table["norm"].to_numpy(),
            keys=table[names["key"]].to_pylist(),
            index=table["index"].to_numpy(),
            texts={name: _texts(table[name]) for name in TEXTS},
            labels={name: _texts(table[column]) for name, column in labels.items()},
            about=about,
        )
        if about.listing:  # made by `embed`, and not by an earlier version
            store = _in_order(store, table["file"].to_pylist())
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


def _in_order(store: Store, archives: list[str]) -> Store:
    """The rows as their source has them, however they were added."""
    splits, index, keys = store.texts["split"], store.index, store.keys
    if "folder" in store.about.pictures:  # which may have grown between its files
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return replace(store.select(order), index=np.arange(len(keys)))
    order = sorted(range(len(keys)), key=lambda row: (archives[row], splits[row], index[row]))
    return store.select(order)


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
