"""Features of pictures and of names: batch by batch, over all devices, bad pictures set aside."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from PIL import Image

from bioclip2_jax.data import images
from bioclip2_jax.data.dataset import Source
from bioclip2_jax.data.records import Record, taxon_of
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.measures.scores import unit
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.text.templates import ZERO_SHOT_TEMPLATES
from bioclip2_jax.text.tokenizer import TOKEN_LENGTHS, tokenize
from bioclip2_jax.weights.load import Model

TEXTS_AT_A_TIME = 8192  # tokenised and sorted by length together


@dataclass(frozen=True)
class ImageBatch:
    """A stretch of pictures.

    Attributes:
      indices: number of every good picture.
      features: [good, dim] float32, L2-normalised unless lengths were asked for.
      bad: (number, reason) of every picture that could not be read.
    """

    indices: list[int]
    features: np.ndarray
    bad: list[tuple[int, str]]


@dataclass(frozen=True)
class SplitFeatures:
    """The good images of a dataset split, in the order of the split.

    Attributes:
      features: [n, dim] float32, L2-normalised.
      indices: [n] int, position in the split.
      keys: key of every image.
      taxa: taxon of every image.
      datasets: name of the dataset every image came from.
      bad: (key, reason) of every image that could not be read.
    """

    features: np.ndarray
    indices: np.ndarray
    keys: list[str]
    taxa: list[Taxon]
    datasets: list[str]
    bad: list[tuple[str, str]]


def spread(model: Model) -> Model:
    """The model with a copy of its parameters on every device, made once instead of every batch."""
    if jax.local_device_count() == 1:
        return model
    whole = NamedSharding(_mesh(), PartitionSpec())
    return dataclasses.replace(model, params=jax.device_put(model.params, whole))


def embed_images(
    model: Model,
    count: int,
    read: Callable[[int], bytes | Image.Image],
    batch_size: int,
    *,
    normalize: bool = True,
) -> Iterator[ImageBatch]:
    """Decodes and encodes numbered pictures, see `embed_stream`.

    Args:
      model: from `load`.
      count: pictures are numbered 0 ... count - 1.
      read: number → encoded bytes, or a picture of `images.read`; an OSError or BadImage sets it
        aside.
      batch_size: pictures at a time, rounded up to the devices.
      normalize: whether the features get length 1.

    Raises:
      UserError: the model's features are not finite.
    """
    reads = (functools.partial(read, index) for index in range(count))
    return embed_stream(model, reads, batch_size, normalize=normalize)


def embed_stream(
    model: Model,
    reads: Iterable[Callable[[], bytes | Image.Image]],
    batch_size: int,
    *,
    normalize: bool = True,
) -> Iterator[ImageBatch]:
    """Decodes pictures in threads, right into the batch that goes to the device, and encodes them.

    The devices have the next batch before the features of the last are fetched, and the batch
    after it is read meanwhile: three lie in memory.

    Args:
      model: from `load`.
      reads: give the encoded bytes of a picture each; an OSError or BadImage sets it aside. Taken
        two batches ahead, and called in threads.
      batch_size: pictures at a time, rounded up to the devices; fewer if there are fewer.
      normalize: whether the features get length 1.

    Raises:
      UserError: the model's features are not finite.
    """
    settings = model.preprocess
    transform = images.eval_transform(settings.size, settings.resize_mode, settings.interpolation)
    sharding = NamedSharding(_mesh(), PartitionSpec("batch"))

    def fill(row: np.ndarray, read: Callable[[], bytes | Image.Image]) -> str:
        """Why there is no picture, or ""."""
        try:
            row[:] = transform(images.decode(read()))
        except images.BadImage as error:
            return str(error)
        except OSError as error:
            return error.strerror or reason(error)
        return ""

    def begin(
        chunk: list[Callable[[], bytes | Image.Image]],
    ) -> tuple[np.ndarray, list[Future[str]]]:
        pixels = np.zeros((size, settings.size, settings.size, 3), np.uint8)
        rows = zip(pixels, chunk, strict=False)  # the last batch may have rows to spare
        return pixels, [pool.submit(fill, row, read) for row, read in rows]

    def finish(start: int, faults: list[str], encoded: jax.Array | None) -> ImageBatch:
        good = [row for row, fault in enumerate(faults) if not fault]
        features = np.zeros((0, model.config.embed_dim), np.float32)
        if encoded is not None:
            features = _finite(np.asarray(encoded, np.float32)[good])
        bad = [(start + row, fault) for row, fault in enumerate(faults) if fault]
        return ImageBatch(indices=[start + row for row in good], features=features, bad=bad)

    reads, start, running = iter(reads), 0, None
    chunk = list(itertools.islice(reads, _round_up(batch_size)))
    size = _round_up(len(chunk))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        pixels, loading = begin(chunk)
        while loading:
            pixels_next, loading_next = begin(list(itertools.islice(reads, size)))
            faults = [future.result() for future in loading]
            encoded = None
            if not all(faults):
                encoded = model.encode_image(jax.device_put(pixels, sharding), normalize=normalize)
            if running:
                yield finish(*running)
            running = start, faults, encoded
            start += len(faults)
            pixels, loading = pixels_next, loading_next
        if running:
            yield finish(*running)
    finally:
        pool.shutdown(cancel_futures=True)


def encode_pixels(model: Model, pixels: np.ndarray, size: int) -> np.ndarray:
    """Features of prepared pictures, spread over the devices: [n, dim] float32, not normalised.

    Args:
      model: from `load`.
      pixels: [n, side, side, 3], as `Model.encode_image` takes them.
      size: n is filled up to it and to the devices: each size is compiled once.

    Raises:
      UserError: the features are not finite.
    """
    encode = functools.partial(model.encode_image, normalize=False)
    return _encode(encode, pixels, _round_up(max(size, len(pixels))))


def embed_split(model: Model, source: Source | Sequence[Record], batch_size: int) -> SplitFeatures:
    """Encodes every image of a dataset split, as opened by `data.dataset.open_split`.

    Raises:
      UserError: there is not one readable image.
    """
    known: dict[int, tuple[str, Taxon, str]] = {}

    def read(index: int) -> bytes:
        record = source[index]
        known[index] = record["key"], taxon_of(record), record["datasetName"]
        return record["image"]

    batches = list(embed_images(model, len(source), read, batch_size))
    indices = [index for batch in batches for index in batch.indices]
    if not indices:
        raise UserError("the split to embed holds no readable image")
    keys, taxa, datasets = zip(*(known[index] for index in indices), strict=True)
    bad = [pair for batch in batches for pair in batch.bad]
    return SplitFeatures(
        features=np.concatenate([batch.features for batch in batches]),
        indices=np.asarray(indices),
        keys=list(keys),
        taxa=list(taxa),
        datasets=list(datasets),
        bad=[(known[i][0] if i in known else f"record {i}", why) for i, why in bad],
    )


def embed_texts(model: Model, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """Text features: [texts, dim] float32, L2-normalised.

    Texts of like length go together and are cut to the longest of their batch: exact, because the
    tower is causal and pools at the end-of-text token.
    """
    features = np.zeros((len(texts), model.config.embed_dim), np.float32)
    context = model.config.text.context_length
    size = _round_up(min(batch_size, len(texts)))
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        tokens = tokenize(texts[start : start + TEXTS_AT_A_TIME], context)
        lengths = tokens.argmax(axis=1) + 1
        order = np.argsort(lengths, kind="stable")
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            longest = lengths[rows].max()
            cut = min((n for n in TOKEN_LENGTHS if longest <= n <= context), default=context)
            features[start + rows] = _encode(model.encode_text, tokens[rows, :cut], size)
    return features


def embed_classes(
    model: Model,
    names: Sequence[str],
    batch_size: int,
    templates: Sequence[str] = ZERO_SHOT_TEMPLATES,
) -> np.ndarray:
    """One vector a class: the mean of its normalised template features, normalised again.

    Args:
      model: from `load`.
      names: class names without "a photo of".
      batch_size: texts at a time.
      templates: sentences with a `{}` for the name.

    Returns:
      [names, dim] float32, L2-normalised.
    """
    features = np.zeros((len(names), model.config.embed_dim), np.float32)
    step = max(1, TEXTS_AT_A_TIME // len(templates))
    for start in range(0, len(names), step):
        part = names[start : start + step]
        texts = [template.format(name) for name in part for template in templates]
        each = embed_texts(model, texts, batch_size).reshape(len(part), len(templates), -1)
        features[start : start + step] = unit(each.mean(axis=1))
    return features


def _mesh() -> Mesh:
    """The devices of this process: of several, each encodes pictures of its own."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices)


def _round_up(size: int) -> int:
    devices = jax.local_device_count()
    return max(1, -(-size // devices)) * devices


def _encode(encode: Callable[[jax.Array], jax.Array], batch: np.ndarray, size: int) -> np.ndarray:
    """Pads [rows, ...] to `size` rows, splits them over the devices, returns [rows, dim]."""
    padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
    padded[: len(batch)] = batch
    features = encode(jax.device_put(padded, NamedSharding(_mesh(), PartitionSpec("batch"))))
    return _finite(np.asarray(features, np.float32)[: len(batch)])


def _finite(features: np.ndarray) -> np.ndarray:
    if not np.isfinite(features).all():
        raise UserError(
            "the model's features are not finite: its training diverged; take an earlier checkpoint"
        )
    return features
