"""The whole tree of life, or what a filter leaves of it, at any rank."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import tables
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.identify import label_files
from bioclip2_jax.identify.label_writer import FEATURES_FILE, NAMES_FILE
from bioclip2_jax.identify.pybioclip.base import BaseClassifier, Picture, Progress, listed
from bioclip2_jax.identify.pybioclip.names import FILE_NAME, SCORE, Name, Rank, cells
from bioclip2_jax.measures.scores import number, top_k

MIN_PROB = 1e-9

Row = dict[str, Any]


class TreeOfLifeClassifier(BaseClassifier):
    """Chooses among the taxa of label files.

    A model has those of `labels`, or, of pybioclip's own two, those on the Hub. A subclass may
    bring its own by `get_txt_emb` and `get_txt_names`, as with pybioclip.

    Attributes:
      txt_embeddings: [dim, taxa] float32, read from its file where it is looked at.
      txt_names: [[kingdom ... epithet], common name] of each. Both may be replaced.
    """

    def __init__(self, *, labels: str | os.PathLike[str] | None = None, **kwargs: Any):
        """Reads the label files.

        Args:
          labels: a folder of `bioclip2 labels`, or the `.npy` of a pair of files; not in pybioclip.
          **kwargs: of `BaseClassifier`, which see for further errors.

        Raises:
          ValueError: neither `labels` nor a model of pybioclip's own.
          UserError: label files that cannot be read, or do not fit each other or the model.
        """
        super().__init__(**kwargs)
        self._labels = None if labels is None else label_files.found(files.place(labels))
        self.txt_embeddings = np.asanyarray(self.get_txt_emb())
        self.txt_names = self.get_txt_names()
        self._kept: np.ndarray | None = None
        self._chosen: _Chosen | None = None
        self._choose()

    def get_txt_emb(self) -> np.ndarray:
        """The features of the names: [dim, taxa] float32."""
        path = self._labels or self.get_cached_datafile(f"embeddings/{FEATURES_FILE}")
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no features of names ({reason(error)})") from error

    def get_txt_names(self) -> list[Name]:
        """The names, in the same order."""
        path = self._labels and self._labels.with_suffix(".json")
        path = path or files.place(self.get_cached_datafile(f"embeddings/{NAMES_FILE}"))
        try:
            return msgspec.json.decode(path.read_bytes(), type=list[Name])
        except (OSError, msgspec.DecodeError) as error:
            raise UserError(f"{path}: no list of names ({reason(error)})") from error

    def get_txt_embeddings(self) -> np.ndarray:
        """Those that the filter keeps: [dim, kept] float32."""
        return self.txt_embeddings if self._kept is None else self.txt_embeddings[:, self._kept]

    def get_current_txt_names(self) -> list[Name]:
        """Those that the filter keeps."""
        return self._choose().names

    def get_classification_dict(self, idx: int, rank: Rank) -> dict[str, str]:
        """Column → cell of the kept taxon of that number, down to a rank."""
        return cells(self.get_current_txt_names()[idx], rank)

    def get_label_data(self) -> Any:
        """A pandas DataFrame with a row for each taxon, whatever the filter.

        Raises:
          ImportError: pandas is not installed, which nothing else here needs.
        """
        import pandas  # pyright: ignore[reportMissingImports]

        return pandas.DataFrame([cells(name, Rank.SPECIES) for name in self.txt_names])

    def create_taxa_filter(self, rank: Rank, user_values: Sequence[str]) -> np.ndarray:
        """Which taxa have one of some names at a rank, for `apply_filter`.

        Args:
          rank: whose column is looked at.
          user_values: of species genus and epithet.

        Returns:
          [taxa] bool; of several, `&`, `|` and `~` make others.

        Raises:
          ValueError: names that no taxon has there; all are named.
        """
        column = rank.get_label()
        values = [cells(name, rank)[column] for name in self.txt_names]
        known = set(values)
        unknown = [str(value) for value in user_values if value not in known]
        if unknown:
            raise ValueError(f"no {column} of the label files is called {', '.join(unknown)}")
        wanted = set(user_values)
        return np.fromiter((value in wanted for value in values), bool, len(values))

    def create_taxa_filter_from_csv(self, csv_path: str | os.PathLike[str]) -> np.ndarray:
        """The same from a table whose first column is called by a rank and holds the names.

        Raises:
          ValueError: another first column, or unknown names.
          UserError: the table cannot be read.
        """
        table = tables.open_table(files.place(csv_path))
        column = table.header[0].lower()
        if column.upper() not in Rank.__members__:
            ranks = ", ".join(rank.get_label() for rank in Rank)
            raise ValueError(f"{csv_path}: the first column is {column!r}, not one of {ranks}")
        values = [row[table.header[0]] for _, row in table.rows()]
        return self.create_taxa_filter(Rank[column.upper()], values)

    def apply_filter(self, keep_labels_ary: Sequence[bool] | np.ndarray) -> None:
        """Leaves some of the taxa, among which later scores are shares.

        Args:
          keep_labels_ary: [taxa] bool, of all that there are: filters do not add up.

        Raises:
          ValueError: another length, or nothing is left.
        """
        keep = np.asarray(keep_labels_ary, bool)
        if keep.shape != (len(self.txt_names),):
            raise ValueError(
                f"a filter has one value for each of the {len(self.txt_names):,} taxa, not"
                f" {len(keep):,}"
            )
        if not keep.any():
            raise ValueError("the filter keeps no taxon")
        self._kept = np.flatnonzero(keep)

    def predict(
        self,
        images: Picture | Sequence[Picture],
        rank: Rank,
        min_prob: float = MIN_PROB,
        k: int = 5,
        batch_size: int | None = 10,
        callback: Progress | None = None,
    ) -> list[Row]:
        """The k best taxa of each picture, the best first.

        Args:
          images: a path, or several, or pictures of Pillow.
          rank: that is answered at; above species, scores are sums over the species.
          min_prob: species of no more are left out of such sums.
          k: rows a picture; fewer where there are fewer taxa.
          batch_size: pictures encoded at a time, and whose scores lie in memory; None for all.
          callback: called with (pictures done, all) after each batch, in the place of a bar.

        Returns:
          Rows with "file_name" (of pictures without one their number), the ranks down to that
          asked for (of species with "species_epithet" and "common_name") and "score".

        Raises:
          OSError: a picture cannot be read.
        """
        images, rows = listed(images), []
        texts = self._choose().on_device
        for place, shares in self._probabilities(images, texts, batch_size, callback):
            key = self.make_key(images[place], place)
            if rank is Rank.SPECIES:
                rows += self.format_species_probs(key, shares, k)
            else:
                rows += self.format_grouped_probs(key, shares, rank, min_prob, k)
        self.record_event(
            images=images, rank=rank.get_label(), min_prob=min_prob, k=k, batch_size=batch_size
        )
        return rows

    def format_species_probs(self, image_key: Any, probs: np.ndarray, k: int = 5) -> list[Row]:
        """Rows of one picture, from the scores of the kept taxa, [kept] float32."""
        best = top_k(probs[None], k)[0].tolist()
        return [self._row(image_key, place, Rank.SPECIES, float(probs[place])) for place in best]

    def format_grouped_probs(
        self,
        image_key: Any,
        probs: np.ndarray,
        rank: Rank,
        min_prob: float = MIN_PROB,
        k: int = 5,
    ) -> list[Row]:
        """The same of sums at a rank above species, without taxa of `min_prob` or less."""
        groups, first = self._choose().groups(rank)
        counted = probs > min_prob
        sums = np.bincount(groups, np.where(counted, probs, 0), len(first))
        sums[np.bincount(groups, counted, len(first)) == 0] = -1  # lineages without any
        best = [group for group in top_k(sums[None], k)[0].tolist() if sums[group] >= 0]
        return [self._row(image_key, int(first[g]), rank, float(sums[g])) for g in best]

    def _row(self, key: Any, place: int, rank: Rank, share: float) -> Row:
        return {FILE_NAME: key, **cells(self._choose().names[place], rank), SCORE: share}

    def _choose(self) -> "_Chosen":
        """What the filter leaves of the names and features that there are now."""
        now, features = self._chosen, self.txt_embeddings
        same = now and now.of[0] is features and now.of[1] is self.txt_names
        if now and same and now.of[2] is self._kept:
            return now
        shape, dim = features.shape, self.model.config.embed_dim
        if shape != (dim, len(self.txt_names)):
            raise UserError(
                f"features of names are {list(shape)}; {len(self.txt_names):,} names and a model of"
                f" {dim} numbers need [{dim}, {len(self.txt_names)}]"
            )
        self._chosen = _Chosen((features, self.txt_names, self._kept), self.get_txt_embeddings)
        return self._chosen


class _Chosen:
    """Names that are chosen among, and what is made of them where it is needed.

    Attributes:
      of: features, names and numbers of the kept ones, that it was made of.
      names: the kept ones.
    """

    def __init__(
        self, of: tuple[Any, list[Name], np.ndarray | None], features: Callable[[], np.ndarray]
    ):
        self.of, self._features = of, features
        _, names, kept = of
        self.names = names if kept is None else [names[place] for place in kept]
        self.groups = functools.cache(self._group)

    @functools.cached_property
    def on_device(self) -> jax.Array:
        """Their features, [dim, names] float32, where they are multiplied."""
        return jnp.asarray(self._features())

    def _group(self, rank: Rank) -> tuple[np.ndarray, np.ndarray]:
        """The number of each name's lineage, and the first name of each lineage."""
        _, groups = number([tuple(ranks[: rank.value + 1]) for ranks, _ in self.names])
        return groups, np.unique(groups, return_index=True)[1]


def predict_classification(
    img: Picture, rank: Rank, device: Any = "cpu", min_prob: float = MIN_PROB, k: int = 5
) -> list[Row]:
    """The best taxa for one picture, by BioCLIP 2; see `TreeOfLifeClassifier`."""
    return TreeOfLifeClassifier(device=device).predict([img], rank, min_prob, k)
