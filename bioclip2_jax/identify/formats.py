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
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax.errors import UsageError
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.identify.predict import Prediction
from bioclip2_jax.text.taxonomy import RANKS

FORMATS = ("csv", "parquet", "jsonl", "table")
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
_ROWS_A_GROUP = 1 << 16

Row = list[str | float | None]
_KINDS = {"score": pa.float64()} | _BOX  # of columns that are no texts


@dataclass(frozen=True)
class Sheet:
    """The columns of an output and how its rows are made.

    Attributes:
      columns: names, of which the last three are score, note and error.
      labels: the list that the answers are from.
      by: for Darwin Core, who identifies: program and model; "" for pybioclip's columns.
      date: for Darwin Core, of the identification.
      boxes: whether rows are of boxes, whose columns come behind the picture's name.
    """

    columns: tuple[str, ...]
    labels: LabelSet
    by: str = ""
    date: str = ""
    boxes: bool = False

    @classmethod
    def of(
        cls, labels: LabelSet, columns: str, *, by: str, date: str, boxes: bool = False
    ) -> "Sheet":
        """The sheet of a label list.

        Raises:
          UsageError: Darwin Core of labels that are no taxa.
        """
        box = tuple(_BOX) if boxes else ()
        if columns == "pybioclip":
            all_columns = ("file_name", *box, *labels.columns, *_BEHIND)
            return cls(columns=all_columns, labels=labels, boxes=boxes)
        if not labels.taxa:
            raise UsageError("--columns dwc needs the lineages of --taxa; free --labels have none")
        all_columns = ("associatedMedia", *box, *_DARWIN_CORE, *_BEHIND)
        return cls(columns=all_columns, labels=labels, by=by, date=date, boxes=boxes)

    def rows(self, predictions: Iterable[Prediction]) -> Iterator[Row]:
        """The rows of pictures in their order."""
        empty = ("",) * (len(self.columns) - 1 - len(_BOX) * self.boxes - len(_BEHIND))
        for picture in predictions:
            start: Row = [picture.file_name]
            if picture.box:
                box = picture.box
                start += [box.number, box.category, box.confidence, *box.place]
            if not picture.answers:
                yield [*start, *empty, None, picture.note, picture.error]
            for place, (cells, score) in enumerate(picture.answers, start=1):
                if self.by:
                    cells = self._darwin_core(cells, place, score)
                yield [*start, *cells, score, picture.note, ""]

    def _darwin_core(self, cells: Sequence[str], place: int, score: float) -> tuple[str, ...]:
        own = dict(zip(self.labels.columns, cells, strict=True))
        ranks = [own.get(rank, "") for rank in RANKS[:-1]]
        epithet, _, below = own.get("species_epithet", "").partition(" ")
        deepest = max((i for i, name in enumerate(ranks) if name), default=-1)
        name, rank = (ranks[deepest], RANKS[deepest]) if deepest >= 0 else ("", "")
        if epithet and own["genus"]:
            name = f"{own['genus']} {epithet} {below}".strip()
            rank = "subspecies" if below else "species"
        remark = (
            f"by machine from the picture alone; answer {place} of a list of"
            f" {len(self.labels.rows):,} names, score {score:.3f}"
        )
        common = own.get("common_name", "")
        who = (self.by, self.date, remark, "unverified")
        return (*ranks, epithet, below, name, common, rank, *who)


def refuse(format_: str, output: str, *, bom: bool) -> None:
    """Refuses options that do not fit.

    Raises:
      UsageError: says which.
    """
    if format_ == "parquet" and output == "-":
        raise UsageError("--format parquet needs --output FILE; it is no text")
    if bom and format_ != "csv":
        raise UsageError("--bom is for --format csv; other formats need no mark")


def grows(format_: str) -> bool:
    """Whether rows can be added to a file of this format; to others, `convert` makes it."""
    return format_ in ("csv", "jsonl")


def head(sheet: Sheet, format_: str, *, bom: bool = False) -> bytes:
    """What stands above the rows, in the file that grows."""
    return (BOM * bom + _line(sheet.columns)).encode() if format_ == "csv" else b""


def lines(sheet: Sheet, predictions: Iterable[Prediction], format_: str) -> bytes:
    """Rows, in the file that grows: of CSV, or JSON Lines for all other formats."""
    rows = sheet.rows(predictions)
    if format_ == "csv":
        return "".join(map(_line, rows)).encode()
    named = (dict(zip(sheet.columns, row, strict=True)) for row in rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in named).encode()


def _line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def convert(source: IO[bytes], target: IO[bytes], *, sheet: Sheet, format_: str) -> None:
    """Makes a file of a format that does not grow of the JSON Lines."""
    rows = (json.loads(line) for line in source)
    if format_ == "parquet":
        schema = pa.schema([(name, _KINDS.get(name, pa.string())) for name in sheet.columns])
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            while some := list(itertools.islice(rows, _ROWS_A_GROUP)):
                writer.write_table(pa.Table.from_pylist(some, schema))
        return
    target.write(_table(sheet.columns, list(rows)).encode())


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
