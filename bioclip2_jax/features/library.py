"""A feature store that is looked through and never lies in memory as a whole."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz import fuzz, process

from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.features import parts

SHOWN = ("scientificName", "vernacularName", "split", "file")  # of a picture, where it is known
_STRETCH = 4096  # rows: small enough for a processor's own memory


@dataclass(frozen=True)
class Entry:
    """What a store knows of a picture.

    Attributes:
      key: of the store.
      index: its number in its folder, split or archive.
      texts: name of `SHOWN` → its value, "" where unknown.
    """

    key: str
    index: int
    texts: dict[str, str]


class Library:
    """The rows of a complete store, numbered in the order of its files.

    Attributes:
      folder: where it lies.
      about: who made it, and of what.
    """

    def __init__(self, folder: str | Path):
        """Finds its files.

        Raises:
          UserError: no feature store, one that is not complete, or without a picture.
        """
        self.folder = folder
        self.about = parts.read_about(folder)
        self._paths = sorted(path for path, *_ in parts.parts_of(folder))
        if not self.about.complete or len(self._paths) < self.about.num_parts:
            raise UserError(
                f"{folder}: these features are not complete; run the same `bioclip2 embed` again"
            )
        counts = []
        for path in self._paths:
            with _sound(path):
                counts.append(parts.count_rows(path))
        self._starts = np.cumsum([0, *counts])
        if not len(self):
            raise UserError(f"{folder}: no picture in this store; embed some with `bioclip2 embed`")

    def __len__(self) -> int:
        """Number of pictures."""
        return int(self._starts[-1])

    def stretches(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The features of some files, a few rows at a time.

        Args:
          first, last: which files, by default all; the last one is left out.

        Yields:
          (row of the first, [rows, dim] float32 of length 1).

        Raises:
          UserError: a file is damaged, or features are not finite.
        """
        for number, path in list(enumerate(self._paths))[first:last]:
            start = int(self._starts[number])
            with _sound(path):
                for kept in parts.read_features(path, self.about, _STRETCH):
                    features = kept.astype(np.float32)
                    lengths = np.sqrt(np.einsum("nd,nd->n", features, features))
                    if not np.isfinite(lengths).all():
                        raise UserError(
                            f"{path}: features that are not finite; embed its pictures anew with a"
                            " model whose weights are"
                        )
                    features *= (1 / np.where(lengths > 0, lengths, 1))[:, None]
                    yield start, features
                    start += len(features)

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Runs of files with up to so many rows together: (first, behind the last)."""
        runs, first = [], 0
        for number in range(1, len(self._paths) + 1):
            is_last = number == len(self._paths)
            if is_last or self._starts[number + 1] - self._starts[first] > size:
                runs.append((first, number))
                first = number
        return runs

    def find(self, keys: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        """The features of pictures, [keys, dim] float32, and their rows; of twins the first.

        Raises:
          UsageError: a key that is not there; names the nearest one.
        """
        rows: dict[str, int] = {}
        for number in range(len(self._paths)):
            column = self._column(number)
            for key in keys:
                place = -1 if key in rows else pc.index(column, key).as_py()
                if place >= 0:
                    rows[key] = int(self._starts[number]) + place
            if len(rows) == len(set(keys)):
                break
        for key in keys:
            if key not in rows:
                raise UsageError(
                    f"--key {key}: no such picture in {self.folder}; the nearest is"
                    f" {self._nearest(key)}"
                )
        features = {}
        for number in np.unique(self._files_of(np.array(list(rows.values())))).tolist():
            for start, stretch in self.stretches(number, number + 1):
                for key, row in rows.items():
                    if start <= row < start + len(stretch):
                        features[key] = stretch[row - start]
        return np.stack([features[key] for key in keys]), [rows[key] for key in keys]

    def entries(self, rows: Sequence[int]) -> list[Entry]:
        """What is known of some rows, in their order."""
        found: dict[int, Entry] = {}
        names, wanted = parts.NAMES[self.about.columns], np.unique(np.asarray(rows, np.int64))
        numbers = self._files_of(wanted)
        for number in np.unique(numbers).tolist():
            path, inside = self._paths[number], wanted[numbers == number]
            with _sound(path):
                table = parts.read_part(path, [names["key"], "index", *SHOWN])
                lines = table.take(inside - self._starts[number]).to_pylist()
                for row, values in zip(inside.tolist(), lines, strict=True):
                    texts = {name: values.get(name) or "" for name in SHOWN}
                    found[row] = Entry(values[names["key"]], values["index"], texts)
        return [found[row] for row in rows]

    def _files_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _column(self, number: int) -> pa.ChunkedArray:
        name, path = parts.NAMES[self.about.columns]["key"], self._paths[number]
        with _sound(path):
            return parts.read_part(path, [name])[name]

    def _nearest(self, key: str) -> str:
        found = [
            process.extractOne(key, self._column(number).to_pylist(), scorer=fuzz.ratio)
            for number in range(len(self._paths))
        ]
        return max((one for one in found if one), key=lambda one: one[1])[0]


@contextlib.contextmanager
def _sound(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: damaged ({reason(error)}); run the same `bioclip2 embed` again, which makes"
            " only the damaged parts"
        ) from error
