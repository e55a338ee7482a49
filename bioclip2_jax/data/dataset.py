"""Random access to a dataset folder made by `bioclip2 prepare`, without TensorFlow."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from bioclip2_jax import files
from bioclip2_jax.data.records import TEXT_FIELDS, Record
from bioclip2_jax.data.shards import Shards
from bioclip2_jax.data.tables import open_table
from bioclip2_jax.errors import UserError
from bioclip2_jax.text.taxonomy import RANKS, Taxon, TaxonEntry

TAXA_FILE = "taxa.csv"
CAPTIONS_FILE = "captions.json"  # how long captions are
LANES_FILE = "lanes.json"  # split → lanes of its shards, see `order.py`
_LABELS = "labels/"  # how TFDS names the entries of a nested dict in an example
_AT_A_TIME = 64  # records in memory


class Source:
    """The records of one split; `len(source)` and `source[index]`. Can be pickled.

    Attributes:
      shards: where they lie, serialised.
    """

    def __init__(self, shards: Shards, place: str):
        """`place` names the split in errors."""
        self.shards = shards
        self._place = place

    def __len__(self) -> int:
        """Number of records."""
        return len(self.shards)

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, see `data/records.py`.

        Raises:
          IndexError: there is no such record.
          UserError: its shard is damaged, or too many files are open.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self._place} has no record {index}, only {len(self)}")
        (record,) = self.read([index])
        if isinstance(record, UserError):
            raise record
        return record

    def read(self, indices: Sequence[int]) -> Iterator[Record | UserError]:
        """Records in that order, or in place of one that is damaged the error that names it.

        Some are in memory at a time.

        Raises:
          UserError: too many files are open.
        """
        for start in range(0, len(indices), _AT_A_TIME):
            chunk = indices[start : start + _AT_A_TIME]
            for index, content in zip(chunk, self.shards.read(chunk), strict=True):
                yield self._record(index, content)

    def _record(self, index: int, content: bytes | Exception) -> Record | UserError:
        try:
            if isinstance(content, Exception):
                raise content
            # The module makes its classes when it is imported. TFDS's own general parser takes
            # four times as long.
            example = tf_example_pb2.Example.FromString(content)  # pyright: ignore[reportAttributeAccessIssue]
            features = example.features.feature
            values = {name: feature.bytes_list.value[0] for name, feature in features.items()}
            record: Record = {name: values[name].decode("utf-8") for name in TEXT_FIELDS}
            record["image"] = values["image"]
            record["labels"] = {
                name.removeprefix(_LABELS): value.decode("utf-8")
                for name, value in values.items()
                if name.startswith(_LABELS)
            }
        except Exception as error:
            return UserError(
                f"{self._place}: record {index} cannot be read ({error}); prepare the dataset again"
            )
        return record


def dataset_folder(data_dir: str | Path) -> Path:
    """The folder that holds `features.json`: `data_dir` itself or the only one below it.

    Raises:
      UserError: no dataset there, or several.
    """
    root = files.place(data_dir)
    with files.reaching(root):
        if (root / "features.json").is_file():
            return root
        names = (name.rpartition("/") for name in files.below(root))
        found = [root / folder for folder, _, name in names if name == "features.json"]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{root} holds several datasets; name one of them, for example {found[0]}")
    raise UserError(f"{root}: no dataset here (no features.json); make one with `bioclip2 prepare`")


def _features(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    return dict(cast(Any, builder.info.features))


def _builder(data_dir: str | Path) -> tfds.core.DatasetBuilder:
    folder = dataset_folder(data_dir)
    try:
        builder = tfds.builder_from_directory(str(folder))
        features = _features(builder)
    except Exception as error:
        raise UserError(f"{folder}: its metadata cannot be read ({error})") from error
    missing = [name for name in (*TEXT_FIELDS, "image") if name not in features]
    if missing:
        raise UserError(
            f"{folder}: not a dataset made by `bioclip2 prepare` (no {', '.join(missing)})"
        )
    return builder


def splits(data_dir: str | Path) -> dict[str, int]:
    """Split name → number of records.

    Raises:
      UserError: no dataset there.
    """
    return {name: info.num_examples for name, info in _builder(data_dir).info.splits.items()}


def label_names(data_dir: str | Path) -> list[str]:
    """Names of the labels that the records have beside their texts, sorted.

    Raises:
      UserError: no dataset there.
    """
    return sorted(_features(_builder(data_dir)).get("labels", ()))


def open_split(data_dir: str | Path, split: str) -> Source:
    """Opens one split.

    Raises:
      UserError: no dataset there, no such split, or damaged shards.
    """
    builder = _builder(data_dir)
    if split not in builder.info.splits:
        names = ", ".join(builder.info.splits)
        raise UserError(f"{data_dir}: no split {split!r}; there are {names}")
    place = f"{data_dir}, split {split!r}"
    info: Any = builder.info.splits[split]
    source = Source(Shards(info.filename_template, info.shard_lengths), place)
    for index in {0, len(source) - 1} - {-1}:  # shards open lazily: a lost end shows here
        source[index]
    return source


def read_taxa(data_dir: str | Path) -> list[TaxonEntry]:
    """All taxa of a dataset with their image counts, sorted by lineage.

    Raises:
      UserError: no dataset there, or its `taxa.csv` is missing or damaged.
    """
    path = dataset_folder(data_dir) / TAXA_FILE
    try:
        return [
            TaxonEntry(
                taxon=Taxon(*(row.pop(rank) for rank in RANKS)),
                scientific_name=row.pop("scientificName"),
                vernacular_name=row.pop("vernacularName"),
                counts={split: int(count) for split, count in row.items()},
            )
            for _, row in open_table(path).rows()
        ]
    except (UserError, KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); prepare the dataset again") from error


def read_caption_tokens(data_dir: str | Path) -> dict[str, int]:
    """Text kind → tokens of the longest caption in the dataset, both ends counted.

    Empty for a dataset made before this was kept.

    Raises:
      UserError: no dataset there, or the list is damaged.
    """
    return _read_numbers(dataset_folder(data_dir) / CAPTIONS_FILE, "longest_tokens")


def read_lanes(data_dir: str | Path, split: str, shards: int) -> int:
    """How many lanes the shards of a split are dealt to, see `order.py`; 1 where nothing is said.

    Raises:
      UserError: no dataset there, or the list is damaged.
    """
    path = dataset_folder(data_dir) / LANES_FILE
    lanes = _read_numbers(path, "lanes").get(split, 1)
    if not 1 <= lanes <= shards:
        raise UserError(f"{path}: damaged ({lanes} lanes); prepare the dataset again")
    return lanes


def _read_numbers(path: Path, key: str) -> dict[str, int]:
    """The numbers below a key of a JSON file; none of a file that is not there."""
    if not path.exists():
        return {}
    try:
        return {name: int(value) for name, value in files.read_json_object(path)[key].items()}
    except (UserError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); prepare the dataset again") from error
