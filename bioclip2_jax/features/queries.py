"""Queries of a search: pictures, words and pictures of the store, as features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features.embed import checksum
from bioclip2_jax.features.encode import embed_images, embed_texts
from bioclip2_jax.features.library import Library
from bioclip2_jax.weights import load as loading
from bioclip2_jax.weights.load import Model

_AT_A_TIME = 32


@dataclass(frozen=True)
class Queries:
    """What is looked for, in the order pictures, words, keys.

    Attributes:
      names: what the user gave.
      features: [n, dim] float32, L2-normalised.
      rows: of keys in the store, None for others.
    """

    names: list[str]
    features: np.ndarray
    rows: list[int | None]


def encode(
    library: Library,
    *,
    images: Sequence[str] = (),
    texts: Sequence[str] = (),
    keys: Sequence[str] = (),
    model_path: str | None = None,
) -> Queries:
    """Makes features of queries.

    Args:
      library: that is looked through.
      images: paths of pictures.
      texts: encoded as they stand, in no sentence.
      keys: of the store.
      model_path: of the store's model, for pictures and words; by default where the store has it.

    Raises:
      UsageError: another model, one that is not there, or an unknown key.
      UserError: a picture cannot be read.
    """
    # Keys first: they cost less than a model, if one is not there.
    of_keys, rows = library.find(keys) if keys else (np.zeros((0, library.about.dim)), [])
    features = []
    if images or texts:
        model = _model(library, model_path)
        batches = embed_images(
            model,
            len(images),
            lambda number: buckets.read_bytes(files.place(images[number])),
            min(len(images), _AT_A_TIME),
        )
        for batch in batches if images else ():
            for number, why in batch.bad:
                raise UserError(f"--image {images[number]}: {why}")
            features.append(batch.features)
        if texts:
            features.append(embed_texts(model, texts, min(len(texts), _AT_A_TIME)))
    features.append(of_keys)
    others: list[int | None] = [None] * (len(images) + len(texts))
    return Queries(
        [*images, *texts, *keys], np.concatenate(features).astype(np.float32), others + rows
    )


def _model(library: Library, path: str | None) -> Model:
    """The model that made a store.

    Raises:
      UsageError: it is not there, or it is another one.
    """
    about = library.about
    try:
        model = loading.load(path or about.model.path)
    except UserError as error:
        if path:
            raise
        raise UsageError(
            f"{library.folder}: the model that made it ({about.model.path}) cannot be read"
            f" ({error}); name its place as --model"
        ) from error
    if checksum(model) != about.model.sha256 or model.preprocess != about.preprocess:
        raise UsageError(
            f"{library.folder}: features of another model ({about.model.path}); name that one as"
            " --model"
        )
    return model
