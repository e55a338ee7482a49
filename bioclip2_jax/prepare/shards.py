"""ArrayRecord shards with the metadata of TFDS."""

import contextlib
import functools
import io
import itertools
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from bioclip2_jax.data.records import TEXT_FIELDS
from bioclip2_jax.prepare.shuffle import Spool

SHARD_BYTES = 256 << 20  # one shard is held in memory while it is written


class _Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """TFDS's writer around records that are in their final order already."""

    VERSION = tfds.core.Version("1.0.0")
    spools: ClassVar[Mapping[str, Spool]]
    label_names: ClassVar[Sequence[str]]
    description: ClassVar[str]
    licence: ClassVar[str]

    def _info(self) -> tfds.core.DatasetInfo:
        # Bytes rather than tfds.features.Image: pictures stay as they came, in any format, and
        # `images.decode` is the only decoder.
        features: dict[str, Any] = {name: tfds.features.Text() for name in TEXT_FIELDS}
        features["image"] = tfds.features.Tensor(shape=(), dtype=np.object_)
        if self.label_names:
            features["labels"] = {name: tfds.features.Text() for name in self.label_names}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description=self.description,
            license=self.licence,
        )

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager
        return {split: _shards(spool) for split, spool in self.spools.items()}


def _shards(spool: Spool) -> list[Callable[[], Iterator[tuple[str, dict]]]]:
    """One generator a shard; TFDS runs them one after the other, so they share the stream."""
    number = min(spool.count, -(-spool.size // SHARD_BYTES))
    length, longer = divmod(spool.count, number)
    stream = ((record["key"], record) for record in spool.in_order())
    return [
        functools.partial(itertools.islice, stream, length + (shard < longer))
        for shard in range(number)
    ]


def write_shards(
    spools: Mapping[str, Spool],
    out_dir: Path,
    *,
    name: str,
    description: str,
    licence: str,
    label_names: Sequence[str],
) -> Path:
    """Writes the records of each split; the folder below `out_dir` that TFDS made of them.

    Raises:
      OSError: the disk refuses.
    """
    tfds.disable_progress_bar()
    settings = {
        "__module__": __name__,
        "spools": spools,
        "label_names": label_names,
        "description": description,
        "licence": licence,
    }
    # TFDS takes the dataset's name from the class.
    name = re.sub(r"\W+", "_", name.strip().lower()).strip("_") or "dataset"
    options = {"skip_registration": True}
    builder_class = types.new_class(name, (_Builder,), options, lambda body: body.update(settings))
    builder = builder_class(data_dir=str(out_dir), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints advice for downloads
        builder.download_and_prepare()
    return Path(builder.data_path)
