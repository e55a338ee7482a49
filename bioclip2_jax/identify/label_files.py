"""Lists of names that come with their features: folders of `bioclip2 labels`, files of pybioclip.

A pair of files, see `label_writer`: `txt_emb_species.npy` with its `.json`, or the same named
by a model (`txt_emb_bioclip-2.npy`).
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets, tables
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.text.taxonomy import RANKS, Taxon

PATTERN = "txt_emb_*.npy"
MODEL_FILE = "made_by.json"  # of `bioclip2 labels`: whose features they are
_COLUMNS = 1 << 16  # looked at together
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Vectors:
    """Features in a file, of which some are wanted; none lies in memory.

    Attributes:
      path: of the file, [dim, all] float32.
      dim: of a feature.
      picks: [names] int, which columns are wanted.
      model: SHA-256 of the parameters that made them, "" if nobody knows.
    """

    path: Path
    dim: int
    picks: np.ndarray
    model: str = ""

    def read(self, first: int, stop: int) -> np.ndarray:
        """Features `first` to `stop`, the latter excluded: [names, dim] float32, L2-normalised."""
        picks = self.picks[first:stop]
        # Mapped for this call alone: pages that were looked at count as memory until then.
        columns = np.load(self.path, mmap_mode="r", allow_pickle=False)
        low, high = int(picks.min()), int(picks.max()) + 1
        rows = np.ascontiguousarray(columns[:, low:high].T[picks - low], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def tells(self) -> str:
        """What tells the file from another one."""
        status = self.path.stat()
        return f"{self.path} {status.st_size} {status.st_mtime_ns}"

    def check_model(self, sha256: str, dim: int) -> None:
        """Refuses features of another model.

        Raises:
          UsageError: that, as far as it can be known.
        """
        if dim != self.dim:
            raise UsageError(f"{self.path}: features of {self.dim} numbers, the model's have {dim}")
        if self.model and self.model != sha256:
            raise UsageError(
                f"{self.path}: features of another model; make them anew with `bioclip2 labels`"
            )


@dataclass(frozen=True)
class KeptNames:
    """A list of taxa and their features.

    Attributes:
      taxa: (taxon, common name) of all whose features can be used.
      vectors: theirs.
      notes: what is wrong with others.
    """

    taxa: list[tuple[Taxon, str]]
    vectors: Vectors
    notes: list[str] = field(default_factory=list)


def read(path: str | Path) -> KeptNames:
    """Reads the names, and looks at all features.

    Args:
      path: a folder with one such pair, or its `.npy`.

    Raises:
      UsageError: there is none, or there are several.
      UserError: the two files do not fit together, or features are not finite.
    """
    features = found(files.place(path))
    names_file = features.with_suffix(".json")
    try:
        text = names_file.read_bytes()
        rows = msgspec.json.decode(text, type=list[tuple[list[str], str]])
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{names_file}: no list of names ({reason(error)})") from error
    try:
        columns = np.load(features, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{features}: no features of names ({reason(error)})") from error
    if columns.ndim != 2 or not np.issubdtype(columns.dtype, np.floating):
        raise UserError(f"{features}: no features of names ({columns.dtype} {columns.shape})")
    if columns.shape[1] != len(rows):
        raise UserError(
            f"{features}: {columns.shape[1]:,} features, {names_file.name} has {len(rows):,} names;"
            " they are not of one list"
        )
    taxa = [_taxon(number, row, names_file) for number, row in enumerate(rows)]
    lengths = _lengths(features, len(rows))
    if not np.isfinite(lengths).all():
        raise UserError(f"{features}: some features are not finite; make them anew")
    good, empty = np.flatnonzero(lengths > 0), np.flatnonzero(lengths == 0)
    notes = []
    if len(empty):
        first = ", ".join(taxa[number][0].scientific_name for number in empty[:_SHOWN])
        more = ", …" * (len(empty) > _SHOWN)
        notes.append(
            f"{features.name}: {len(empty):,} of {len(taxa):,} names have no feature (zeros); they"
            f" are never answered: {first}{more}"
        )
    about = features.parent / MODEL_FILE
    sha256 = str(files.read_json_object(about).get("sha256", "")) if about.is_file() else ""
    vectors = Vectors(features, columns.shape[0], good, sha256)
    return KeptNames([taxa[number] for number in good] if len(empty) else taxa, vectors, notes)


def found(path: Path) -> Path:
    """The `.npy` of the pair in a folder, or that which is named.

    Raises:
      UsageError: there is none, or there are several.
    """
    tables.refuse_workbook(path)
    if path.is_file():
        return path
    pairs = buckets.named(path, PATTERN)
    if not pairs:
        raise UsageError(
            f"{path}: no {PATTERN} here; make label files with `bioclip2 labels`, or name a folder"
            " with those of pybioclip"
        )
    if len(pairs) > 1:
        names = ", ".join(file.name for file in pairs)
        raise UsageError(f"{path}: several lists of names ({names}); name the one to use")
    return pairs[0]


def _taxon(number: int, row: tuple[list[str], str], file: Path) -> tuple[Taxon, str]:
    ranks, common = row
    if len(ranks) != len(RANKS):
        raise UserError(f"{file}: name {number} has {len(ranks)} ranks, not {len(RANKS)}")
    # Names above species come again and again: one copy of each.
    *above, species = ranks
    return Taxon(*[*map(sys.intern, above), species]), common


def _lengths(path: Path, count: int) -> np.ndarray:
    lengths = np.zeros(count, np.float32)
    for first in range(0, count, _COLUMNS):
        part = np.load(path, mmap_mode="r", allow_pickle=False)[:, first : first + _COLUMNS]
        lengths[first : first + _COLUMNS] = np.sqrt(np.einsum("ij,ij->j", part, part))
    return lengths
