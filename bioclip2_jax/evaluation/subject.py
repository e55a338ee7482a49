"""What is measured, and the features of it that a task asks for."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.features import embed
from bioclip2_jax.features.encode import SplitFeatures, embed_split
from bioclip2_jax.features.pictures import open_pictures, pictures_below
from bioclip2_jax.features.sources import open_source
from bioclip2_jax.features.store import Store, align, read
from bioclip2_jax.files import absolute, make_folder
from bioclip2_jax.weights.load import Model

Pictures = TypeVar("Pictures")


@dataclass(frozen=True, kw_only=True)
class Job(Generic[Pictures]):
    """One task on one set, checked and ready.

    Attributes:
      task: of `tasks.TASKS`.
      settings: with nothing left to choose.
      name: of the data.
      folder: below that of the results; "" for that itself.
      root: folder whose pictures are embedded; None for a dataset, or where features are given.
      pictures: which ones, and what is true of them; None for a dataset and its features.
    """

    task: str
    settings: Settings
    name: str
    folder: str = ""
    root: Path | None = None
    pictures: Pictures


@dataclass(eq=False, kw_only=True)
class Subject:
    """What is measured, and where the results go. Features are made when they are asked for.

    Attributes:
      model: to encode pictures and names with; None where there are only features.
      features: kept features; None to encode the pictures.
      folder: for the results.
      step: of the checkpoint, None for others.
      name: where the model came from.
      batch_size: images, and texts, encoded at a time.
      say: receives one line a result.
    """

    model: Model | None
    features: Store | None = None
    folder: Path
    step: int | None = None
    name: str
    batch_size: int
    say: Callable[[str], None]
    _stores: dict[tuple[Path, str | None], Store] = field(default_factory=dict)
    _splits: dict[tuple[str, str], SplitFeatures] = field(default_factory=dict)

    def loaded_model(self) -> Model:
        """The model.

        Raises:
          UsageError: there are only features.
        """
        if self.model is None:
            raise UsageError("--model is missing: the one that made the features")
        return self.model

    def place(self, job: Job) -> Path:
        """The folder of a job's results."""
        folder = self.folder / job.folder
        make_folder(folder)
        return folder

    def store(
        self, root: Path | None, *, split: str | None = None, archives: Sequence[Path] = ()
    ) -> Store:
        """The features given, or those of all pictures of a folder, kept beside the results.

        Args:
          root: the folder; None where features are given.
          split: of a dataset; None for all of it, and for other folders.
          archives: Parquet files in it that hold the pictures; () where they are files.
        """
        if self.features is not None or root is None:
            assert self.features is not None, "a plan without a folder is one of kept features"
            return self.features
        root = absolute(root)
        is_dataset = (root / "features.json").is_file()
        part = split if is_dataset or archives else None
        if (root, part) not in self._stores:
            digest = hashlib.sha256(str(root).encode()).hexdigest()[:8]
            name = "-".join(filter(None, [root.name, digest, part]))
            kept = self.folder / "features" / name
            if archives:
                pictures = open_source([str(path) for path in archives])
            else:
                pictures = open_pictures(root, split) if is_dataset else pictures_below(root)
            embed.embed(
                self.loaded_model(),
                self.name,
                pictures,
                kept,
                batch_size=self.batch_size,
                say=self.say,
            )
            self._stores[root, part] = read(kept)
        return self._stores[root, part]

    def split(self, settings: Settings) -> SplitFeatures:
        """The pictures of one split of the features given, or of a dataset."""
        data, split = settings.data or "", settings.split or "val"
        if self.features is not None:
            return store_split(self.features, split, "--features")
        if (data, split) not in self._splits:
            source = dataset.open_split(data, split)
            features = embed_split(self.loaded_model(), source, self.batch_size)
            self._splits[data, split] = features
        return self._splits[data, split]


def store_split(store: Store, split: str, place: str) -> SplitFeatures:
    """The pictures of one split of a feature store, see `rows_of_split`."""
    return split_features(rows_of_split(store, split, place))


def rows_of_split(store: Store, split: str, place: str) -> Store:
    """The rows of one split of a feature store.

    Raises:
      UsageError: it has none of that split.
    """
    rows = store.select(store.texts["split"] == split)
    if not rows.keys:
        splits = sorted(set(store.texts["split"].tolist()) - {""})
        has = (
            f"it has {', '.join(splits)}"
            if splits
            else (
                "it was made of a plain folder: give --annotations, a table that says what each"
                " picture shows, or --data, the folder of a published set"
            )
        )
        raise UsageError(f"{place}: no features of split {split!r}; {has}")
    return rows


def split_features(rows: Store) -> SplitFeatures:
    """Rows of a store in the form of a split."""
    return SplitFeatures(
        features=rows.features,
        indices=rows.index,
        keys=rows.keys,
        taxa=rows.taxa,
        datasets=rows.texts["datasetName"].tolist(),
        bad=list(rows.about.bad),
    )


def rows_of(
    store: Store, files: Sequence[str], place: str | Path
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """Which row of the store holds each file, see `store.align`.

    Returns:
      [good] int rows, [good] int positions in `files`, and (file, reason) of those that have none.

    Raises:
      UserError: not one of the files has features.
    """
    row_of = {key: row for row, key in enumerate(store.keys)}
    reasons = dict(store.about.bad)
    names = align(files, [*row_of, *reasons])
    present = np.asarray([i for i, name in enumerate(names) if name in row_of], np.int64)
    if not len(present):
        example = f"; it calls one {names[0]}, the features have {store.keys[0]}" if files else ""
        raise UserError(f"{place}: none of its {len(files):,} pictures has features{example}")
    bad = [
        (file, reasons.get(name, "no such picture"))
        for file, name in zip(files, names, strict=True)
        if name not in row_of
    ]
    return np.asarray([row_of[names[i]] for i in present], np.int64), present, bad
