"""Pictures in folders with their metadata in CSV tables, Darwin Core or our own column names.

The tables are read once to check and count, then once more for each split, so that a table may
have millions of rows.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bioclip2_jax.data import tables
from bioclip2_jax.data.records import Record, make_record
from bioclip2_jax.data.tables import Table, normal, open_table
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.prepare.write import Rejected, Summary, write_dataset
from bioclip2_jax.text import taxonomy
from bioclip2_jax.text.names import clean, common_name
from bioclip2_jax.text.taxonomy import RANKS, Taxon

# Column names as `tables.normal` writes them, the best first.
_KEY = ("key", "uuid", "imageid", "treeoflifeid", "occurrenceid", "gbifid", "catalognumber")
_FIELDS = {
    "scientific_name": tables.SCIENTIFIC_NAME_COLUMNS,
    "vernacular_name": tables.COMMON_NAME_COLUMNS,
    "source": ("source", "datasource", "sourceurl", "references"),
    "licence": ("licence", "license", "rights"),
    "dataset_name": ("datasetname", "dataset"),
}
_TAXON = {name for names in taxonomy.COLUMNS.values() for name in names}
# Darwin Core terms that keep their own spelling as labels, however a table writes them.
_TERMS = (
    *("sex", "lifeStage", "habitat", "behavior", "reproductiveCondition", "individualCount"),
    *("basisOfRecord", "establishmentMeans", "country", "countryCode", "stateProvince", "county"),
    *("locality", "decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters"),
    *("eventDate", "recordedBy", "identifiedBy", "organismID", "institutionCode"),
    *("collectionCode", "taxonRank", "scientificNameAuthorship", "rightsHolder"),
)
_LABELS = {term.lower(): term for term in (*_TERMS, "caption")}
_USUAL_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Source:
    """One folder of pictures, its table, and what the table's columns mean.

    Attributes:
      images: the folder that file names count from.
      table: one row a picture.
      prefix: whether keys begin with the name of the dataset.
      file, key, split: columns; only the first is always there.
      fields: argument of `make_record` → column.
      labels: column → name of the label.
    """

    images: Path
    table: Table
    prefix: bool
    file: str
    key: str | None
    split: str | None
    fields: dict[str, str | None]
    labels: dict[str, str]


@dataclass(frozen=True)
class _Plan:
    """A row of `source.table` whose picture `file` is still to be read."""

    source: _Source
    row: dict[str, str]
    file: str
    key: str
    split: str


def prepare_folder(
    sources: Sequence[tuple[Path | None, Path]],
    out_dir: Path,
    *,
    name: str,
    overwrite: bool = False,
) -> Summary:
    """Merges folders of pictures into one dataset.

    Args:
      sources: pairs of a folder with pictures (None: the table's own folder) and a CSV.
      out_dir: the dataset folder to make.
      name: of the dataset.
      overwrite: replace an earlier dataset.

    Returns:
      The counts.

    Raises:
      UsageError: a folder that is not there, or `out_dir` is in use.
      UserError: a table that cannot be used, with its file and row; or no usable picture.
    """
    opened = [_open_source(images, path, prefix=len(sources) > 1) for images, path in sources]
    total, splits, labels, names = 0, set(), set(), set()
    for plan in _plans(opened):
        total += 1
        splits.add(plan.split)
        if isinstance(plan, _Plan):
            labels.update(_labels(plan.source, plan.row))
            names.add(_dataset_name(plan.source, plan.row))
    return write_dataset(
        {split: _load(opened, split) for split in sorted(splits, key=_rank_of_split)},
        out_dir,
        name=name,
        description=f"Pictures of organisms: {_listed(sorted(names))}.",
        label_names=sorted(labels),
        total=total,
        overwrite=overwrite,
    )


def split_of(key: str) -> str:
    """A stable split for a picture without one: 80 % train, 10 % val, 10 % test by its key."""
    share = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:4], "big") / 2**32
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def _rank_of_split(split: str) -> tuple[int, str]:
    return (_USUAL_SPLITS.index(split) if split in _USUAL_SPLITS else len(_USUAL_SPLITS), split)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more


def _open_source(images: Path | None, path: Path, *, prefix: bool) -> _Source:
    if images and not images.is_dir():
        raise UsageError(f"--images {images}: there is no such folder")
    table = open_table(path)
    file = table.column(tables.FILE_COLUMNS)
    if file is None:
        raise UserError(
            f"{path}: no column names the picture; call one of them 'filename'"
            f" (there are {', '.join(table.header)})"
        )
    fields = {field: table.column(names) for field, names in _FIELDS.items()}
    taxon_columns = [header for header in table.header if normal(header) in _TAXON]
    named = taxon_columns or fields["scientific_name"]
    if not named and not table.column(("caption",)):  # corpora for replay have captions instead
        raise UserError(
            f"{path}: no taxonomy; give at least one of {', '.join(RANKS)} or scientificName"
        )
    key, split = table.column(_KEY), table.column(tables.SPLIT_COLUMNS)
    used = {"", file, key, split, *fields.values(), *taxon_columns}
    labels = {
        header: _LABELS.get(normal(header), header.replace("/", "_"))
        for header in table.header
        if header not in used
    }
    return _Source(
        images=images or path.parent,
        table=table,
        prefix=prefix,
        file=file,
        key=key,
        split=split,
        fields=fields,
        labels=labels,
    )


def _plans(sources: Iterable[_Source]) -> Iterator[_Plan | Rejected]:
    """What to do with each picture of each row, in order; the same at every call."""
    first_place: dict[str, str] = {}
    uses: dict[str, int] = {}
    for source in sources:
        for line, row in source.table.rows():
            place = f"{source.table.path}, line {line}"
            start = f"{_dataset_name(source, row)}/" if source.prefix else ""
            for file in _files(source, row):
                # Pictures of one occurrence share its key, and so their split.
                own_key = clean(row[source.key]) if source.key else ""
                key = start + (own_key or file or f"line {line}")
                own_split = row[source.split] if source.split else ""
                split = tables.split_name(own_split) or split_of(key)
                path = f"{source.images}/{file}" if file else ""
                fault = f"{place}: the {source.file} cell is empty" if not file else ""
                if path in first_place:
                    fault = f"{place}: the same picture as in {first_place[path]}"
                if fault:
                    yield Rejected(key=key, file=path, split=split, reason=fault)
                    continue
                first_place[path] = place
                uses[key] = uses.get(key, 0) + 1
                if uses[key] > 1:
                    key = f"{key}#{uses[key]}"
                yield _Plan(source=source, row=row, file=file, key=key, split=split)


def _files(source: _Source, row: dict[str, str]) -> list[str]:
    """The pictures of a row; Darwin Core lists several with bars between them."""
    cell = row[source.file]
    if normal(source.file) != "associatedmedia":
        return [cell]
    return [part for part in (part.strip() for part in cell.split("|")) if part] or [""]


def _dataset_name(source: _Source, row: dict[str, str]) -> str:
    column = source.fields["dataset_name"]
    return (row[column] if column else "") or source.table.path.absolute().parent.name


def _labels(source: _Source, row: dict[str, str]) -> dict[str, str]:
    return {label: row[column] for column, label in source.labels.items() if row[column]}


def _record(plan: _Plan, image: bytes) -> Record:
    row, values = plan.row, {}
    for field, column in plan.source.fields.items():
        values[field] = row[column] if column else ""
    values["scientific_name"] = clean(values["scientific_name"])
    values["vernacular_name"] = common_name(values["vernacular_name"])
    values["dataset_name"] = _dataset_name(plan.source, row)
    taxon, labels = Taxon.from_row(row), _labels(plan.source, row)
    return make_record(key=plan.key, image=image, taxon=taxon, labels=labels, **values)


def _load(sources: Iterable[_Source], split: str) -> Iterator[Record | Rejected]:
    for plan in _plans(sources):
        if plan.split != split:
            continue
        if isinstance(plan, Rejected):
            yield plan
            continue
        path = plan.source.images / plan.file
        try:
            path = _find(plan.source.images, plan.file)
            image = path.read_bytes()
        except (OSError, ValueError) as error:
            fault = f"cannot be read ({getattr(error, 'strerror', None) or reason(error)})"
            if re.match("(https?|ftp)://", plan.file):
                fault = "a web address; download the picture and name its file"
            yield Rejected(key=plan.key, file=str(path), split=split, reason=fault)
        else:
            yield _record(plan, image) | {"file": str(path)}


def _find(images: Path, file: str) -> Path:
    """The picture's path: below `images`, or below the folder above it, in either spelling."""
    path = images / file
    for name in dict.fromkeys((file, file.replace("\\", "/"))):
        if (images / name).exists():
            return images / name
        # A table may also count from the folder above the pictures.
        if Path(name).parts[:1] == (images.absolute().name,):
            above = images.absolute().parent / name
            if above.exists():
                return above
    return path
