"""Features of names, made once: a long list is kept on disk, piece by piece, and read back.

A piece is known by the model's parameters, the sentences and its names, so that a list that was
interrupted goes on, and one that grew at its end is made only there.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.features.embed import checksum
from bioclip2_jax.features.encode import embed_classes
from bioclip2_jax.text.templates import IMAGENET_TEMPLATES
from bioclip2_jax.weights.load import Model

FOLDER_VARIABLE = "BIOCLIP2_CACHE"
KEPT_FROM = 256  # names; fewer are encoded as fast as the model's checksum is made
_PIECE = 1024  # names of one file


def cache_folder() -> Path:
    """Where features are kept: `$BIOCLIP2_CACHE`, or `bioclip2_jax` among the user's caches."""
    own = os.environ.get(FOLDER_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(own or os.path.join(home, "bioclip2_jax")) / "names"


def features_of(
    model: Model,
    names: Sequence[str],
    batch_size: int,
    templates: Sequence[str] = IMAGENET_TEMPLATES,
) -> np.ndarray:
    """The same as `embed_classes`, from the disk where they were made before.

    A folder that cannot be written to is no hindrance.

    Args:
      model: from `load`.
      names: as they go into the templates.
      batch_size: texts encoded at a time.
      templates: sentences with a `{}` for the name.

    Returns:
      [names, dim] float32, L2-normalised.
    """
    if len(names) < KEPT_FROM:
        return embed_classes(model, names, batch_size, templates)
    whole = checksum(model)
    features = np.zeros((len(names), model.config.embed_dim), np.float32)
    for first in range(0, len(names), _PIECE):
        piece = names[first : first + _PIECE]
        path = cache_folder() / _file_name(whole, templates, piece)
        shape = (len(piece), model.config.embed_dim)
        found = _read(path, shape)
        if found is None:
            found = embed_classes(model, piece, batch_size, templates)
            with contextlib.suppress(OSError):
                files.make_folder(path.parent)
                with files.writing(path) as file:
                    np.save(file, found)
        features[first : first + len(piece)] = found
    return features


def _file_name(model: str, templates: Sequence[str], names: Sequence[str]) -> str:
    digest = hashlib.sha256(model.encode())
    for part in (templates, names):
        digest.update(f"{len(part)}\0".encode())
        digest.update("\0".join(part).encode("utf-8", "surrogateescape"))
    return f"{model[:12]}-{digest.hexdigest()[:32]}.npy"


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """What is kept, None if it is not there or not whole."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        found = np.load(path, allow_pickle=False)
        if found.shape == shape and np.isfinite(found).all():
            return found
    return None
