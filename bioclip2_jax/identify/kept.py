"""Features of the pictures that a table names, from a store or from the pictures themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features import store
from bioclip2_jax.features.embed import checksum
from bioclip2_jax.features.encode import embed_images, spread
from bioclip2_jax.features.parts import Maker
from bioclip2_jax.weights import load as loading
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.load import Model


@dataclass(frozen=True)
class Kept:
    """Features [n, dim] float32 of `rows` of the table, who made them, and names of their sets."""

    rows: list[int]
    features: np.ndarray
    made: Maker
    preprocess: Preprocess
    model: Model | None
    datasets: Sequence[str] = ()


def of_store(
    folder: str, model_path: str | None, names: Sequence[str], say: Callable[[str], None]
) -> Kept:
    """What a feature store has of them.

    Args:
      folder: the store.
      model_path: that made it; None where its features are enough.
      names: of the pictures, as the table has them.
      say: receives how many are missing.

    Raises:
      UsageError: the store is another model's.
      UserError: it cannot be read, or has none of the pictures.
    """
    kept, model = opened(folder, model_path)
    place_of = {key: place for place, key in enumerate(kept.keys)}
    keys = store.align(names, kept.keys)
    found = [row for row, name in enumerate(keys) if name in place_of]
    _tell_missing(folder, names, found, say)
    places = [place_of[keys[row]] for row in found]
    return Kept(
        rows=found,
        features=kept.features[places],
        made=kept.about.model,
        preprocess=kept.about.preprocess,
        model=model,
        datasets=kept.texts["datasetName"][places].tolist(),
    )


def opened(folder: str, model_path: str | None) -> tuple[store.Store, Model | None]:
    """A feature store, and the model that made it if it is named; raises as `of_store`."""
    kept = store.read(folder)
    model = loading.load(model_path) if model_path else None
    if model and checksum(model) != kept.about.model.sha256:
        raise UsageError(
            f"{folder}: features of another model ({kept.about.model.path}); name that one as"
            " --model"
        )
    return kept, model


def of_images(
    folder_name: str,
    model_path: str,
    names: Sequence[str],
    batch_size: int,
    say: Callable[[str], None],
) -> Kept:
    """The same, encoded now.

    Args:
      folder_name: from which the names count.
      model_path: encodes them.
      names: of the pictures.
      batch_size: pictures at a time.
      say: receives which cannot be read.

    Raises:
      UsageError: no such folder.
      UserError: no picture can be read.
    """
    folder = files.place(folder_name)
    if not folder.is_dir():
        raise UsageError(f"--images {folder_name}: no such folder")
    model = loading.load(model_path)
    found: list[int] = []
    features: list[np.ndarray] = []

    def read(number: int) -> bytes:
        return buckets.read_bytes(folder / names[number])

    for batch in embed_images(spread(model), len(names), read, batch_size):
        found += batch.indices
        features.append(batch.features)
        for number, why in batch.bad[:5]:
            say(f"{names[number]}: {why}")
    _tell_missing(folder_name, names, found, say)
    return Kept(
        rows=found,
        features=np.concatenate(features),
        made=Maker(path=model_path, step=model.step, sha256=checksum(model)),
        preprocess=model.preprocess,
        model=model,
    )


def _tell_missing(
    place: str, names: Sequence[str], found: list[int], say: Callable[[str], None]
) -> None:
    missing = len(names) - len(found)
    if not found:
        first = names[0] if names else "a row with a class"
        raise UserError(f"{place}: none of the table's pictures is here, such as {first}")
    if missing:
        there = set(found)
        first = next(name for row, name in enumerate(names) if row not in there)
        say(f"{place}: {missing:,} of {len(names):,} pictures cannot be used, {first} first")
