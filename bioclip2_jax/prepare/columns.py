"""What the columns of people's tables mean: rows become the fields and labels of a record."""

import datetime
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from bioclip2_jax.data import tables
from bioclip2_jax.data.records import Record, make_record
from bioclip2_jax.data.tables import normal, split_name
from bioclip2_jax.text import taxonomy
from bioclip2_jax.text.taxonomy import Taxon, clean

# Column names as `normal` writes them, the best first.
KEYS = ("key", "uuid", "imageid", "treeoflifeid", "occurrenceid", "gbifid", "catalognumber")
_SCIENTIFIC, _COMMON = tables.SCIENTIFIC_NAME_COLUMNS, tables.COMMON_NAME_COLUMNS
_FIELDS = {
    "source": ("source", "sourceurl", "references", "accessuri", "identifier", "datasource"),
    "licence": ("licence", "license", "licensename", "rights", "licenselink"),
    "dataset_name": ("datasetname", "dataset", "datasource"),
}
RANKED = frozenset(name for names in taxonomy.COLUMNS.values() for name in names)
# The name of a taxon is of one piece with its lineage.
LINEAGE = RANKED | {*_SCIENTIFIC, "taxonrank"}
# Tells of files, not of pictures.
_TECHNICAL = {
    *("shardfilename", "shardfilepath", "basedatasetfilepath", "originalsize", "resizedsize"),
    *("hashsumoriginal", "hashsumresized", "islicensefull"),
}
_NO_LABELS = frozenset(
    {*RANKED, *_SCIENTIFIC, *_COMMON, *tables.SPLIT_COLUMNS, *_TECHNICAL}.union(*_FIELDS.values())
)
# Darwin Core terms that keep their own spelling as labels, however a table writes them.
_TERMS = (
    *("sex", "lifeStage", "habitat", "behavior", "reproductiveCondition", "individualCount"),
    *("basisOfRecord", "establishmentMeans", "country", "countryCode", "stateProvince", "county"),
    *("locality", "decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters"),
    *("eventDate", "recordedBy", "identifiedBy", "organismID", "institutionCode"),
    *("collectionCode", "taxonRank", "scientificNameAuthorship", "rightsHolder"),
)
# A caption replaces the texts made of the taxonomy, so that it must be asked for by its column.
_LABELS = {term.lower(): term for term in _TERMS} | {"caption": "caption_text"}
_SPLIT = re.compile(r"(?:^|[-_.])(train|training|val|valid|validation|dev|test)(?:[-_.]|$)", re.I)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What rows say of one picture.

    Attributes:
      taxon: its lineage, of one row alone.
      fields: further arguments of `make_record`, of which "" is unknown.
      labels: name → text, none empty; "caption" where there is an own one.
    """

    taxon: Taxon
    fields: dict[str, str]
    labels: dict[str, str]

    @property
    def is_named(self) -> bool:
        """Whether there is anything to learn: a taxon, a name or a caption."""
        names = (self.fields["scientific_name"], self.fields["vernacular_name"])
        return bool(self.taxon.deepest_rank or any(names) or self.labels.get("caption"))

    def record(self, key: str, image: bytes) -> Record:
        """The record of the picture."""
        fields, labels = self.fields, self.labels
        return make_record(key=key, image=image, taxon=self.taxon, labels=labels, **fields)


def describe(
    *rows: Mapping[str, str], captions: str = "", besides: Collection[str] = ()
) -> Described:
    """Reads what one or several rows (header → text) say of a picture.

    Where several speak of the same, the first one's word counts; the lineage and its scientific
    name are taken whole from the first that names any taxon.

    Args:
      *rows: at least one.
      captions: the column of the pictures' own captions.
      besides: columns that are no labels, as `normal` writes them.
    """
    cells = [_normal_cells(row) for row in rows]
    taxa = [Taxon.from_row(row) for row in rows]
    names = [clean(_first(row, _SCIENTIFIC)) for row in cells]
    speaks = [bool(taxon.deepest_rank or name) for taxon, name in zip(taxa, names, strict=True)]
    best = speaks.index(True) if any(speaks) else 0
    common = (clean(_first(row, _COMMON)) for row in cells)
    fields = {
        "scientific_name": names[best],
        "vernacular_name": next(filter(None, common), ""),
        **{name: _of_any(cells, columns) for name, columns in _FIELDS.items()},
    }
    labels: dict[str, str] = {}
    left_out = _NO_LABELS.union(besides)
    for row in rows:
        for header, text in row.items():
            name = normal(header)
            if text and header == captions:
                if clean(text):
                    labels.setdefault("caption", text)
            elif text and name not in left_out:
                labels.setdefault(_LABELS.get(name, header.replace("/", "_")), text)
    return Described(taxon=taxa[best], fields=fields, labels=labels)


def name_columns(header: Iterable[str]) -> list[str]:
    """The columns of a table that can name an organism."""
    naming = {*RANKED, *_SCIENTIFIC, *_COMMON}
    return [column for column in header if normal(column) in naming]


def key_column(header: Collection[str], names: Iterable[str] = KEYS) -> str | None:
    """The column whose cells tell the pictures of a table apart, if there is one."""
    return next((column for name in names for column in header if normal(column) == name), None)


def split_in(path: str) -> str:
    """The split that the name of a file or, from the inmost, of a folder means; "" if none does."""
    for name in reversed(PurePosixPath(path.replace("\\", "/")).parts):
        match = _SPLIT.search(name)
        if match:
            return split_name(match[1])
    return ""


def text_of(value: object) -> str:
    """A cell of a typed table as text; "" for what is no single value."""
    match value:
        case str():
            return value.strip()
        case bool():
            return str(value).lower()
        case float():
            return "" if math.isnan(value) else repr(value).removesuffix(".0")
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case list() if all(isinstance(item, str) for item in value):
            return " | ".join(filter(None, map(str.strip, value)))
        case None | bytes() | list() | dict():
            return ""
    return str(value)


def _normal_cells(row: Mapping[str, str]) -> dict[str, str]:
    cells: dict[str, str] = {}
    for header, text in row.items():
        name = normal(header)
        cells[name] = cells.get(name) or text
    return cells


def _first(cells: Mapping[str, str], names: Iterable[str]) -> str:
    return next((cells[name] for name in names if cells.get(name)), "")


def _of_any(rows: Iterable[Mapping[str, str]], names: Iterable[str]) -> str:
    return next(filter(None, (_first(cells, names) for cells in rows)), "")
