"""Features of many pictures, kept: one pass over the images, then every task reads the features.

The pictures are those of a dataset made by `prepare`, all splits or one, or all below a folder.
Killed and started again, it goes on after the last part that was written.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bioclip2_jax
from bioclip2_jax.data import dataset
from bioclip2_jax.data.images import SUFFIXES
from bioclip2_jax.data.records import TEXT_FIELDS
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features import store
from bioclip2_jax.features.encode import ImageBatch, embed_images
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.load import Model

PART_ROWS = 4096


@dataclass(frozen=True)
class Pictures:
    """Numbered pictures.

    Attributes:
      name: what they are, for `embedding.json`; two that are alike hold the same pictures.
      labels: names of all labels.
      keys: number → key, before the picture is read.
      read: number → the encoded picture and its row.
      count: how many.
    """

    name: dict
    labels: list[str]
    count: int
    key: Callable[[int], str]
    read: Callable[[int], tuple[bytes, store.Row]]


def open_pictures(path: str | Path, split: str | None = None) -> Pictures:
    """The pictures of a dataset or below a folder.

    Args:
      path: a dataset made by `bioclip2 prepare`, or any folder with pictures.
      split: of the dataset; None for all of them.

    Raises:
      UsageError: there is no picture, or a split is asked of a plain folder.
      UserError: the dataset is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; name a dataset or a folder of pictures")
    if next(path.glob("**/features.json"), None):
        return _of_dataset(path, split)
    if split:
        raise UsageError(f"--split {split}: {path} is a plain folder, which has no splits")
    return pictures_below(path)


def _of_dataset(path: Path, split: str | None) -> Pictures:
    known = dataset.splits(path)
    if split and split not in known:
        raise UsageError(f"{path}: no split {split!r}; it has {', '.join(sorted(known))}")
    names = [split] if split else sorted(known)
    opened = {name: dataset.open_split(path, name) for name in names if known[name]}
    starts = [0, *itertools.accumulate(len(source) for source in opened.values())]

    def find(number: int) -> tuple[str, int]:
        which = int(np.searchsorted(starts, number, side="right")) - 1
        return list(opened)[which], number - starts[which]

    def read(number: int) -> tuple[bytes, store.Row]:
        name, index = find(number)
        record = opened[name][index]
        texts = {field: record[field] for field in TEXT_FIELDS if field in store.TEXTS}
        row = store.Row(record["key"], index, texts | {"split": name}, record["labels"])
        return record["image"], row

    def key(number: int) -> str:
        return "record {1} of split {0}".format(*find(number))

    about = {"dataset": str(path.absolute()), "splits": {name: known[name] for name in names}}
    return Pictures(about, dataset.label_names(path), starts[-1], key, read)


def _files_below(folder: Path) -> Iterator[Path]:
    """Links to folders are followed, each folder once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # a folder that two ways lead to always gets the same name
        yield from (Path(place, name) for name in names)


def pictures_below(path: str | Path) -> Pictures:
    """All pictures below a folder; a key is the path from there.

    Raises:
      UsageError: there is none, or no such folder.
      UserError: a file name cannot be written down.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; name a folder of pictures")
    sizes: dict[str, int] = {}
    packed = ""
    for below in _files_below(path):
        if below.suffix.lower() in SUFFIXES and below.is_file():
            sizes[below.relative_to(path).as_posix()] = below.stat().st_size
        elif below.suffix in (".parquet", ".tar", ".zip", ".gz", ".h5"):
            packed = f"; if they are in {below.name}, unpack them into files first"
    keys = sorted(sizes)
    for key in keys:
        if any("\udc80" <= letter <= "\udcff" for letter in key):  # bytes that Python kept so
            raise UserError(f"{os.fsencode(path / key)}: a file name that is not UTF-8; rename it")
    if not keys:
        raise UsageError(f"{path}: no picture here ({', '.join(SUFFIXES)}){packed}")

    def read(number: int) -> tuple[bytes, store.Row]:
        return (path / keys[number]).read_bytes(), store.Row(keys[number], number, {}, {})

    # Sizes tell pictures that were replaced under the same names.
    listing = "\n".join(f"{key} {sizes[key]}" for key in keys)
    digest = hashlib.sha256(listing.encode()).hexdigest()
    about = {"folder": str(path.absolute()), "listing_sha256": digest}
    return Pictures(about, [], len(keys), keys.__getitem__, read)


def checksum(model: Model) -> str:
    """SHA-256 over the names and float32 values of all parameters, whatever file they came from."""
    digest = hashlib.sha256()
    for name, leaf in sorted(layout.flatten(model.params).items()):
        digest.update(f"{name} {np.shape(leaf)}\n".encode())
        digest.update(np.ascontiguousarray(leaf, np.float32))
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
) -> dict:
    """Makes a feature store, or goes on with one.

    Args:
      model: from `load`.
      model_name: where it came from.
      pictures: from `open_pictures`.
      out: folder of the store.
      dtype: of the kept features, "float16" or "float32".
      batch_size: pictures encoded at a time.
      part_rows: pictures a file.
      say: receives a line a file, and one a picture that could not be read.

    Returns:
      What the store's `embedding.json` says.

    Raises:
      UsageError: `out` holds other features.
      UserError: not one picture can be read, or the features are not finite.
    """
    out = Path(out)
    about = {
        "model": {"path": model_name, "step": model.step, "sha256": checksum(model)},
        "preprocess": dataclasses.asdict(model.preprocess),
        "dim": model.config.embed_dim,
        "dtype": dtype,
        "pictures": pictures.name | {"count": pictures.count},
        "labels": pictures.labels,
        "version": bioclip2_jax.__version__,
        "num_parts": -(-pictures.count // part_rows),
    }
    about = json.loads(json.dumps(about))  # tuples as lists, as they come back
    _check_same(out, about)
    out.mkdir(parents=True, exist_ok=True)
    store.write_about(out, about | {"complete": False})
    bad: list[tuple[str, str]] = []
    done = 0
    for number in range(about["num_parts"]):
        path = store.part_path(out, number)
        said = store.read_part_about(path)
        if said is None or _kind(said) != _kind(about):
            start = number * part_rows
            part_bad = _write_part(
                path, model, pictures, range(start, min(start + part_rows, pictures.count)),
                about, batch_size,
            )  # fmt: skip
            for key, reason in part_bad:
                say(f"{key}: {reason}")
        else:
            part_bad = [tuple(pair) for pair in said["bad"]]
        bad += part_bad
        done = min(pictures.count, (number + 1) * part_rows)
        say(f"{out}: {done:,} of {pictures.count:,} pictures")
    if len(bad) == pictures.count:
        raise UserError(f"{out}: not one of {pictures.count:,} pictures could be read")
    about |= {"complete": True, "num_rows": pictures.count - len(bad), "bad": bad}
    store.write_about(out, about)
    return about


def _check_same(out: Path, about: dict) -> None:
    if not (out / store.ABOUT).exists():
        return
    before = store.read_about(out)
    ours, theirs = _kind(about), _kind(before)
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise UsageError(
                f"{out} holds features of another kind ({name} was {theirs.get(name)!r}, is now"
                f" {value!r}); name another --out, or delete that folder"
            )


def _kind(about: dict) -> dict:
    """What features must share to lie in one store; a model is known by its checksum alone."""
    names = ("preprocess", "dim", "dtype", "pictures", "labels", "version", "num_parts")
    return {"model": about.get("model", {}).get("sha256")} | {n: about.get(n) for n in names}


def _write_part(
    path: Path, model: Model, pictures: Pictures, numbers: range, about: dict, batch_size: int
) -> list[tuple[str, str]]:
    rows: dict[int, store.Row] = {}

    def read(index: int) -> bytes:
        image, rows[index] = pictures.read(numbers[index])
        return image

    batches: Iterator[ImageBatch] = embed_images(
        model, len(numbers), read, batch_size, normalize=False
    )
    good: list[store.Row] = []
    features = [np.zeros((0, about["dim"]), np.float32)]
    bad: list[tuple[str, str]] = []
    for batch in batches:
        good += [rows.pop(index) for index in batch.indices]
        features.append(batch.features)
        for index, reason in batch.bad:
            key = rows[index].key if index in rows else pictures.key(numbers[index])
            bad.append((key, reason))
    store.write_part(path, good, np.concatenate(features), pictures.labels, about, bad)
    return bad
