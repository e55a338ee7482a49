"""Features of many pictures, kept: one pass over the images, then every task reads the features.

Killed and started again, it goes on after the last part that was written.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import bioclip2_jax
from bioclip2_jax import files
from bioclip2_jax.data import folders
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features import store
from bioclip2_jax.features.encode import embed_images
from bioclip2_jax.features.pictures import Pictures
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.load import Model

PART_ROWS = 4096


def checksum(model: Model) -> str:
    """SHA-256 over the names and float32 values of all parameters, whatever file they came from."""
    digest = hashlib.sha256()
    for name, leaf in sorted(layout.flatten(model.params).items()):
        digest.update(f"{name} {np.shape(leaf)}\n".encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).data)
    return digest.hexdigest()


def embed(
    model: Model,
    model_name: str,
    pictures: Pictures,
    out: str | Path,
    *,
    dtype: str = "float32",
    batch_size: int = 128,
    part_rows: int = PART_ROWS,
    say: Callable[[str], None] = print,
) -> store.About:
    """Makes a feature store, or goes on with one.

    Args:
      model: from `load`.
      model_name: where it came from.
      pictures: from `open_pictures`.
      out: folder of the store.
      dtype: of the kept features, "float16" or "float32".
      batch_size: pictures encoded at a time.
      part_rows: pictures a file.
      say: receives a line a file, one a picture that could not be read, and one about files that
        are no pictures.

    Returns:
      What the store's `embedding.json` says.

    Raises:
      UsageError: `out` holds other features.
      UserError: not one picture can be read, or the features are not finite.
    """
    out = files.place(out)
    about = store.About(
        model=store.Maker(path=model_name, step=model.step, sha256=checksum(model)),
        preprocess=model.preprocess,
        dim=model.config.embed_dim,
        dtype=dtype,
        pictures=pictures.name | {"count": pictures.count},
        labels=pictures.labels,
        version=bioclip2_jax.__version__,
        num_parts=-(-pictures.count // part_rows),
    )
    about = msgspec.json.decode(msgspec.json.encode(about), type=store.About)  # as it comes back
    _check_same(out, about)
    files.make_folder(out)
    store.write_about(out, about)
    if pictures.others:
        say(folders.remark(pictures.others))
    bad: list[tuple[str, str]] = []
    for number in range(about.num_parts):
        path = store.part_path(out, number)
        numbers = range(pictures.count)[number * part_rows : (number + 1) * part_rows]
        part = store.read_part_about(path)
        if part is None or _kind(part) != _kind(about):
            part = _write_part(path, model, pictures, numbers, about, batch_size)
            for key, reason in part.bad:
                say(f"{key}: {reason}")
        bad += part.bad
        say(f"{out}: {numbers.stop:,} of {pictures.count:,} pictures")
    if len(bad) == pictures.count:
        raise UserError(f"{out}: not one of {pictures.count:,} pictures could be read")
    about = replace(about, complete=True, num_rows=pictures.count - len(bad), bad=bad)
    store.write_about(out, about)
    return about


def _check_same(out: Path, about: store.About) -> None:
    if not (out / store.ABOUT).exists():
        return
    before = _kind(store.read_about(out))
    for name, value in _kind(about).items():
        if before[name] != value:
            raise UsageError(
                f"{out} holds features of another kind ({name} was {before[name]!r}, is now"
                f" {value!r}); name another --out, or delete that folder"
            )


def _kind(about: store.About) -> dict[str, Any]:
    """What features must share to lie in one store; a model is known by its checksum alone."""
    names = ("preprocess", "dim", "dtype", "pictures", "labels", "version", "num_parts")
    return {"model": about.model.sha256} | {name: getattr(about, name) for name in names}


def _write_part(
    path: Path,
    model: Model,
    pictures: Pictures,
    numbers: range,
    about: store.About,
    batch_size: int,
) -> store.About:
    """Encodes and writes the pictures of these numbers; returns `about` with their `bad`."""
    rows: dict[int, store.Row] = {}

    def read(index: int) -> bytes:
        image, rows[index] = pictures.read(numbers[index])
        return image

    good: list[store.Row] = []
    features = [np.zeros((0, about.dim), np.float32)]
    bad: list[tuple[str, str]] = []
    for batch in embed_images(model, len(numbers), read, batch_size, normalize=False):
        good += [rows.pop(index) for index in batch.indices]
        features.append(batch.features)
        for index, reason in batch.bad:
            key = rows[index].key if index in rows else pictures.key(numbers[index])
            bad.append((key, reason))
    part = replace(about, bad=bad)
    store.write_part(path, good, np.concatenate(features), part)
    return part
