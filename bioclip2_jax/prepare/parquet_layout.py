"""Which columns of a Parquet file hold pictures, names and keys; and how it is cut into parts."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax.data import buckets
from bioclip2_jax.data.tables import normal
from bioclip2_jax.errors import UsageError, reason
from bioclip2_jax.files import is_remote, place
from bioclip2_jax.prepare.columns import key_column, name_columns, text_of
from bioclip2_jax.prepare.source import Part

_ROWS_A_PART = 10_000
_BYTES_A_PART = 512 << 20
_SLICES_A_GROUP = 16  # each reads over those before it
_PICTURES = ("image", "img", "picture", "photo", "imagebytes", "jpg", "jpeg", "png", "webp")
_LABELS = ("label", "labels", "target", "category", "finelabel", "classlabel", "speciesname")


class Damaged(Exception):
    """A file, or the rest of it, cannot be read; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the columns of a file hold.

    Attributes:
      picture: the column of them: bytes, or a struct of bytes and a path.
      is_struct: which of the two.
      size: the column of (height, width), where the bytes are pixels, blue first.
      key: the column of keys.
      columns: the others, of single values.
      names: those of them that name organisms.
      label: the column of a label that is a name.
      classes: column of numbers → what they stand for.
    """

    picture: str
    is_struct: bool
    size: str | None
    key: str | None
    columns: tuple[str, ...]
    names: tuple[str, ...]
    label: str | None
    classes: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, parquet: pq.ParquetFile, path: Path) -> "Layout":
        """Finds the columns.

        Raises:
          UsageError: there is none of pictures.
        """
        schema = parquet.schema_arrow
        twice = {name for name in schema.names if schema.names.count(name) > 1}
        if twice:
            raise UsageError(f"{path}: two columns are called {min(twice)!r}")
        features = _features(schema)
        kinds = {field.name: field.type for field in schema}
        structs = [name for name, kind in kinds.items() if _is_struct(kind)]
        candidates = [
            *(name for name in structs if features.get(name, {}).get("_type") == "Image"),
            *(
                name
                for wanted in _PICTURES
                for name, kind in kinds.items()
                if normal(name) == wanted and (name in structs or _is_bytes(kind))
            ),
        ]
        if not candidates:
            raise UsageError(
                f"{path}: no column holds pictures (there are {', '.join(schema.names)}); a list of"
                " addresses is for img2dataset, a catalogue is named by --tables beside pictures"
            )
        picture = candidates[0]
        columns = tuple(name for name, kind in kinds.items() if _is_plain(kind))
        classes = {
            name: feature["names"]
            for name, feature in features.items()
            if name in columns and isinstance(feature.get("names"), list)
        }
        # A class that stands alone is no rank: "class" is what people call a label.
        names = name_columns(columns)
        is_lone = len(names) == 1 and normal(names[0]) == "class"
        texts = [
            name for name in columns if name in classes or not pa.types.is_integer(kinds[name])
        ]
        labels = [name for name in texts if normal(name) in _LABELS]
        return cls(
            picture=picture,
            is_struct=picture in structs,
            size=None if picture in structs else key_column(kinds, ("resizedsize",)),
            key=key_column(columns),
            columns=columns,
            names=() if is_lone else tuple(names),
            label=names[0] if is_lone else None if names or not labels else labels[0],
            classes=classes,
        )


def opened(file: Path) -> pq.ParquetFile:
    """Opens a file for reading in bounded memory.

    Raises:
      Damaged: it is no sound Parquet file.
    """
    try:
        # With a buffer a column is read by pages, without one as a whole.
        source = buckets.open_bytes(file) if is_remote(file) else file
        return pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(reason(error)) from error


def slices(file: Path, metadata: pq.FileMetaData) -> Iterator[Part]:
    """Parts of whole row groups that are small, and of slices of such as are large.

    A file in a bucket is one part.
    """
    if metadata.num_rows > buckets.size(file):
        raise Damaged(f"it says that it has {metadata.num_rows} rows")
    if is_remote(file):  # to be fetched once
        yield Part(file=str(file), rows=(0, metadata.num_rows))
        return
    begin, end, size = 0, 0, 0
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        rows, group_size = group.num_rows, group.total_byte_size
        if end > begin and (end - begin + rows > _ROWS_A_PART or size + group_size > _BYTES_A_PART):
            yield Part(file=str(file), rows=(begin, end))
            begin, size = end, 0
        count = max(-(-rows // _ROWS_A_PART), -(-group_size // _BYTES_A_PART))
        count = min(count, _SLICES_A_GROUP, rows)
        for i in range(1, count):
            yield Part(file=str(file), rows=(begin, end + rows * i // count))
            begin = end + rows * i // count
        end, size = end + rows, size + group_size
    if end > begin:
        yield Part(file=str(file), rows=(begin, end))


def keys_of(parts: Sequence[Part]) -> Iterator[tuple[int, list[str]]]:
    """(number of the part, some of its keys); none of what is damaged."""
    for number, part in enumerate(parts):
        if part.rows is None:
            continue
        file, first = place(part.file), 0
        with opened(file) as parquet:
            key = Layout.of(parquet, file).key
            for group in range(parquet.num_row_groups):
                stop = first + parquet.metadata.row_group(group).num_rows
                begin, end = max(part.rows[0], first), min(part.rows[1], stop)
                if begin < end:
                    with contextlib.suppress(pa.ArrowException, OSError):
                        column = parquet.read_row_group(group, columns=[key]).column(0)
                        yield number, _texts(column.slice(begin - first, end - begin))
                first = stop


def _texts(column: pa.ChunkedArray) -> list[str]:
    texts = []
    for cell in column:
        with contextlib.suppress(UnicodeDecodeError):
            texts.append(text_of(cell.as_py()))
    return texts


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What Hugging Face's `datasets` notes of the columns: column → feature."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_bytes(kind: pa.DataType) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")


def _is_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(f.name == "bytes" and _is_bytes(f.type) for f in kind)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column's cells are single values, or lists of texts."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return str(kind.value_type) in ("string", "large_string", "string_view")
    return not (pa.types.is_nested(kind) or "binary" in str(kind))
