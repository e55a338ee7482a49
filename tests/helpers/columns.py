"""Small files of the kinds in which pictures come with columns, faithful to those in use."""

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax.prepare.source import Part, Picture, Rejected, Source

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
BEAR = ("Animalia", "Chordata", "Mammalia", "Carnivora", "Ursidae", "Ursus", "arctos")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def read_all(source: Source, folder: Path) -> list[Picture | Rejected]:
    """What a source gives, part by part."""
    folder.mkdir(exist_ok=True)
    return [item for part in source.parts(folder) for item in source.read(part)]


def split_up(items: Iterable[Picture | Rejected]) -> tuple[list[Picture], list[Rejected]]:
    """The pictures, and what was set aside."""
    items = list(items)
    pictures = [item for item in items if isinstance(item, Picture)]
    return pictures, [item for item in items if isinstance(item, Rejected)]


def lineage(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(record[rank] for rank in RANKS)


def hugging_face(
    path: Path,
    images: Sequence[Any],
    *,
    rows_a_group: int = 1000,
    names: Mapping[str, Sequence[str]] | None = None,
    **columns: Any,
) -> Path:
    """A shard as `datasets` writes it: pictures, columns, and the names of classes."""
    pictures = [
        image if isinstance(image, dict | None) else {"bytes": image, "path": None}
        for image in images
    ]
    table = pa.table({"image": pa.array(pictures, IMAGE), **columns})
    features = {"image": {"_type": "Image"}} | {
        column: {"names": list(some), "_type": "ClassLabel"}
        for column, some in (names or {}).items()
    }
    info = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table.replace_schema_metadata({"huggingface": info}), path, row_group_size=rows_a_group
    )
    return path


def downloaded(path: Path, pictures: Mapping[str, np.ndarray], **columns: Any) -> Path:
    """successes.parquet of distributed-downloader: pixels of RGB pictures, blue first."""
    rows = len(pictures)
    sizes = [list(pixels.shape[:2]) for pixels in pictures.values()]
    usual = {
        "uuid": list(pictures),
        "source_id": [f"s{i}" for i in range(rows)],
        "identifier": [f"http://x/{i}.jpg" for i in range(rows)],
        "is_license_full": [True] * rows,
        "license": ["CC0"] * rows,
        "source": ["gbif"] * rows,
        "title": [f"title {i}" for i in range(rows)],
        "original_size": sizes,
        "resized_size": sizes,
        "image": pa.array([pixels[..., ::-1].tobytes() for pixels in pictures.values()]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(usual | columns), path)
    return path


def catalogue(path: Path, keys: Sequence[str], **columns: Any) -> Path:
    """catalog.parquet of TreeOfLife, of bears all."""
    usual = {"uuid": list(keys)} | {
        rank: [name] * len(keys) for rank, name in zip(RANKS, BEAR, strict=True)
    }
    pq.write_table(pa.table(usual | columns), path, row_group_size=1000)
    return path


def archive(
    folder: Path,
    occurrences: Sequence[Sequence[str]],
    media: Sequence[Sequence[str]],
    *,
    pictures: Mapping[str, bytes] | None = None,
    meta: str | None = None,
) -> Path:
    """A GBIF-like Darwin Core Archive: tables with their headers, pictures in media/."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("occurrence.txt", occurrences), ("multimedia.txt", media)):
        text = "".join("\t".join(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "meta.xml").write_text(meta or META, encoding="utf-8")
    for name, data in (pictures or {}).items():
        path = folder / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def zipped(folder: Path) -> Path:
    """The same as one file."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                packed.write(file, file.relative_to(folder).as_posix())
    return path


META = (
    '<archive xmlns="http://rs.tdwg.org/dwc/text/">'
    '<core encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" ignoreHeaderLines="1"'
    ' rowType="http://rs.tdwg.org/dwc/terms/Occurrence">'
    '<files><location>occurrence.txt</location></files><id index="0"/></core>'
    '<extension rowType="http://rs.gbif.org/terms/1.0/Multimedia" ignoreHeaderLines="1"'
    ' fieldsTerminatedBy="\\t" encoding="UTF-8">'
    '<files><location>multimedia.txt</location></files><coreid index="0"/></extension></archive>'
)


def parts_of(source: Source, folder: Path) -> Sequence[Part]:
    folder.mkdir(exist_ok=True)
    return source.parts(folder)
