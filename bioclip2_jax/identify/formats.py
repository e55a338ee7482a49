"""What answers look like: the columns, and the file's format.

A row is one answer for one picture, or its error. Columns are pybioclip's (the label list's own) or
terms of Darwin Core (https://dwc.tdwg.org/terms); behind them `score`, `note` and `error`.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax.data.exif import Capture
from bioclip2_jax.errors import UsageError
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.identify.obscure import Obscured, Rule, coarsest, spread
from bioclip2_jax.identify.predict import Prediction
from bioclip2_jax.text.taxonomy import RANKS

CAMTRAP = "camtrap-dp"  # a folder, made by `camtrap.package`
FORMATS = ("csv", "parquet", "jsonl", "table", CAMTRAP)
COLUMNS = ("pybioclip", "dwc")
BOM = "\ufeff"
_BEHIND = ("score", "note", "error")
_BOX = {"box": pa.int64(), "box_category": pa.string()} | dict.fromkeys(
    ("box_confidence", "box_x", "box_y", "box_width", "box_height"), pa.float64()
)
_DARWIN_CORE = (
    *RANKS[:-1],
    *("specificEpithet", "infraspecificEpithet", "scientificName", "vernacularName", "taxonRank"),
    *(
        "identifiedBy",
        "dateIdentified",
        "identificationRemarks",
        "identificationVerificationStatus",
    ),
)
_PLACE = {"decimalLatitude": pa.float64(), "decimalLongitude": pa.float64()} | {
    "geodeticDatum": pa.string(),
    "coordinateUncertaintyInMeters": pa.float64(),
    "dataGeneralizations": pa.string(),
    "informationWithheld": pa.string(),
}
_SPECIES = ("species", "subspecies")
UNWEIGHTED = "unweighted_score"
_RULE = "obscure"  # of the rows that are kept: what is to be done with their place
_PLAIN = "plain"  # of those: whether the place has no say in them
_ROWS_A_GROUP = 1 << 16

Row = list[str | float | None]
_KINDS = dict.fromkeys(("score", UNWEIGHTED), pa.float64()) | _BOX | _PLACE  # that are no texts


@dataclass(frozen=True)
class Sheet:
    """The columns of an output and how its rows are made.

    Attributes:
      columns: names, of which the last three are score, note and error.
      labels: the list that the answers are from.
      by: for Darwin Core, who identifies: program and model; "" for pybioclip's columns.
      date: for Darwin Core, of the identification.
      boxes: whether rows are of boxes, whose columns come behind the picture's name.
      coordinates: whether the pictures' places are copied.
      obscured: what is done to these for some species; such rows are finished by `convert`.
      weighted: whether names are weighted by place; what scores are without it then stands before
        them.
    """

    columns: tuple[str, ...]
    labels: LabelSet
    by: str = ""
    date: str = ""
    boxes: bool = False
    coordinates: bool = False
    obscured: Obscured | None = None
    weighted: bool = False

    @classmethod
    def of(
        cls,
        labels: LabelSet,
        columns: str,
        *,
        by: str,
        date: str,
        boxes: bool = False,
        coordinates: bool = False,
        obscured: Obscured | None = None,
        weighted: bool = False,
    ) -> "Sheet":
        """The sheet of a label list.

        Raises:
          UsageError: Darwin Core of labels that are no taxa.
        """
        box = tuple(_BOX) if boxes else ()
        behind = ((UNWEIGHTED,) if weighted else ()) + _BEHIND
        how = {"labels": labels, "boxes": boxes, "obscured": obscured, "weighted": weighted}
        if columns == "pybioclip":
            return cls(columns=("file_name", *box, *labels.columns, *behind), **how)
        if not labels.taxa:
            raise UsageError("--columns dwc needs the lineages of --taxa; free --labels have none")
        place = tuple(_PLACE) if coordinates else ()
        return cls(
            columns=("associatedMedia", *box, *_DARWIN_CORE, *place, *behind),
            by=by,
            date=date,
            coordinates=coordinates,
            **how,
        )

    def rows(self, predictions: Iterable[Prediction]) -> Iterator[Row]:
        """The rows of pictures in their order."""
        for picture in predictions:
            start: Row = [picture.file_name]
            if picture.box:
                box = picture.box
                start += [box.number, box.category, box.confidence, *box.place]
            place = _place(picture.capture) if self.coordinates else []
            none: Row = [None] if self.weighted else []
            if not picture.answers:
                width = len(self.columns) - len(start) - len(place) - len(none) - len(_BEHIND)
                yield [*start, *[""] * width, *place, *none, None, picture.note, picture.error]
            for number, (cells, score) in enumerate(picture.answers, start=1):
                own: Row = [picture.unweighted[number - 1]] if self.weighted else []
                if self.by:
                    by_place = self.weighted and picture.is_placed
                    cells = self._darwin_core(cells, number, score, by_place=by_place)
                yield [*start, *cells, *place, *own, score, picture.note, ""]

    def _darwin_core(
        self, cells: Sequence[str], place: int, score: float, *, by_place: bool
    ) -> tuple[str, ...]:
        name, rank, own = scientific(self.labels.columns, cells)
        ranks = [own.get(rank, "") for rank in RANKS[:-1]]
        epithet, _, below = own.get("species_epithet", "").partition(" ")
        remark = (
            f"by machine from the picture {'and its place' if by_place else 'alone'}; answer"
            f" {place} of a list of"
            f" {len(self.labels.rows):,} names, score {score:.3f}"
        )
        common = own.get("common_name", "")
        who = (self.by, self.date, remark, "unverified")
        return (*ranks, epithet, below, name, common, rank, *who)


def scientific(columns: Sequence[str], cells: Sequence[str]) -> tuple[str, str, dict[str, str]]:
    """The scientific name in the cells of an answer, its rank, and the cells by their columns."""
    own = dict(zip(columns, cells, strict=True))
    ranks = [own.get(rank, "") for rank in RANKS[:-1]]
    epithet, _, below = own.get("species_epithet", "").partition(" ")
    if epithet and own["genus"]:
        return f"{own['genus']} {epithet} {below}".strip(), _SPECIES[bool(below)], own
    deepest = max((i for i, name in enumerate(ranks) if name), default=-1)
    return (ranks[deepest], RANKS[deepest], own) if deepest >= 0 else ("", "", own)


def _place(capture: Capture | None) -> Row:
    if not capture or capture.latitude is None:
        return [None, None, "", None, "", ""]
    return [capture.latitude, capture.longitude, "WGS84", capture.uncertainty, "", ""]


def grows(format_: str) -> bool:
    """Whether rows can be added to a file of this format; to others, `convert` makes it."""
    return format_ in ("csv", "jsonl")


def head(sheet: Sheet, format_: str, *, bom: bool = False) -> bytes:
    """What stands above the rows, in the file that grows."""
    return (BOM * bom + _line(sheet.columns)).encode() if format_ == "csv" else b""


def lines(sheet: Sheet, predictions: Iterable[Prediction], format_: str) -> bytes:
    """Rows, in the file that grows: of CSV, or JSON Lines for all other formats."""
    if format_ == "csv":
        return "".join(map(_line, sheet.rows(predictions))).encode()
    made = io.StringIO()
    for picture in predictions:
        both = [*picture.answers, *picture.plain]
        rule = sheet.obscured.of(both) if sheet.obscured else None
        kept: dict[str, str | bool] = {_RULE: str(rule)} if rule else {}
        forms = [(picture, kept)]
        if sheet.obscured and sheet.weighted:  # a rule may yet forbid to tell of the place
            forms.append((picture.without_place(), kept | {_PLAIN: True}))
        for one, marks in forms:
            for row in sheet.rows([one]):
                named = dict(zip(sheet.columns, row, strict=True)) | marks
                made.write(json.dumps(named, ensure_ascii=False) + "\n")
    return made.getvalue().encode()


def _line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def convert(
    source: IO[bytes], target: IO[bytes], *, sheet: Sheet, format_: str, bom: bool = False
) -> None:
    """Makes a file of the JSON Lines, in a format that does not grow or with obscured places."""
    rows = named_rows(source, sheet)
    if format_ == "parquet":
        schema = pa.schema([(name, _KINDS.get(name, pa.string())) for name in sheet.columns])
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            while some := list(itertools.islice(rows, _ROWS_A_GROUP)):
                writer.write_table(pa.Table.from_pylist(some, schema))
    elif format_ == "table":
        target.write(_table(sheet.columns, list(rows)).encode())
    else:
        target.write(head(sheet, format_, bom=bom))
        for row in rows:
            is_csv = format_ == "csv"
            text = _line(row.values()) if is_csv else json.dumps(row, ensure_ascii=False) + "\n"
            target.write(text.encode())


def named_rows(source: IO[bytes], sheet: Sheet) -> Iterator[dict[str, Any]]:
    """The rows of JSON Lines, with places as they may be seen."""
    rules = folder_rules(source) if sheet.obscured else {}
    for line in source:
        row = json.loads(line)
        row.pop(_RULE, None)
        rule = rules.get(folder_of(row[sheet.columns[0]]))
        # Scores that a place has weighted tell where it is: under a rule the others stand.
        if sheet.weighted and sheet.obscured and row.pop(_PLAIN, False) != bool(rule):
            continue
        if rule and sheet.coordinates and row["decimalLatitude"] is not None:
            known = row["decimalLatitude"], row["decimalLongitude"]
            place = rule.apply(*known, row["coordinateUncertaintyInMeters"])
            row |= {
                "decimalLatitude": place.latitude,
                "decimalLongitude": place.longitude,
                "geodeticDatum": "" if rule.is_withheld else "WGS84",
                "coordinateUncertaintyInMeters": place.uncertainty,
                "dataGeneralizations": place.generalizations,
                "informationWithheld": place.withheld,
            }
        yield row


def folder_rules(source: IO[bytes]) -> dict[str, Rule]:
    """Folder → the coarsest rule of any name in it, or at a place where its pictures were taken.

    A folder is taken for the pictures of one camera, each of which tells where the others are.
    """
    rules: dict[str, Rule] = {}
    places: dict[str, set[tuple[float, float]]] = {}
    for line in source:
        row = json.loads(line)
        folder = folder_of(next(iter(row.values())))
        points = places.setdefault(folder, set())
        if row.get("decimalLatitude") is not None:
            points.add((row["decimalLatitude"], row["decimalLongitude"]))
        if _RULE in row:
            rule = Rule.parse(row[_RULE])
            rules[folder] = coarsest([rules.get(folder), rule]) or rule
    source.seek(0)
    return spread(rules, places)


def folder_of(picture: str) -> str:
    """The folder that a picture lies in."""
    return picture.replace("\\", "/").rpartition("/")[0]


def _table(columns: Sequence[str], rows: Sequence[dict]) -> str:
    """Rows for people to look at; columns that nobody fills are left out."""
    shown = [name for name in columns if any(row[name] not in ("", None) for row in rows)]
    texts = [shown, *([_cell(row[name]) for name in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    ruled = [texts[0], ["-" * width for width in widths], *texts[1:]]
    padded = ([c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in ruled)
    return "".join("  ".join(row).rstrip() + "\n" for row in padded)


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return " ".join(value.split())
    return "" if value is None else f"{value:.4f}"
