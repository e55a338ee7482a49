"""Pictures in folders with their metadata in CSV tables, Darwin Core or our own column names."""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bioclip2_jax.data.records import Record, make_record
from bioclip2_jax.errors import UserError
from bioclip2_jax.prepare.builder import Rejected, Summary, write_dataset
from bioclip2_jax.taxonomy import RANKS, Taxon, clean

# Column names are compared without case, blanks, dashes and underscores.
_FILE = ("filename", "file", "filepath", "path", "image", "imagepath", "associatedmedia")
_KEY = ("key", "uuid", "id", "occurrenceid", "gbifid", "catalognumber")
_SPLIT = ("split", "subset", "fold")
_FIELDS = {
    "scientific_name": ("scientificname",),
    "vernacular_name": ("vernacularname", "commonname", "common"),
    "source": ("source", "datasource", "sourceurl", "references"),
    "licence": ("licence", "license", "rights"),
    "dataset_name": ("datasetname", "dataset"),
}
_TAXON = {
    *RANKS,
    *("cls", "classname", "specificepithet", "speciesepithet"),
    *("infraspecificepithet", "subspecies"),
}
# Darwin Core's spelling for labels that often come in snake case.
_LABELS = {"lifestage": "lifeStage", "sex": "sex", "habitat": "habitat"}
_SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "dev": "val"}
_SPLIT_NAMES |= {"testing": "test", "evaluation": "test"}


@dataclass(frozen=True)
class Table:
    """One CSV: its rows as dicts by header, with the line each began on."""

    path: Path
    header: list[str]
    rows: list[tuple[int, dict[str, str]]]

    def column(self, names: Sequence[str]) -> str | None:
        """The header of the first of `names` (normalised) that there is."""
        by_name = {_normal(header): header for header in reversed(self.header)}
        return next((by_name[name] for name in names if name in by_name), None)


def prepare_folder(
    sources: Sequence[tuple[Path | None, Path]], out_dir: Path, *, name: str, overwrite: bool = False
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
      UserError: a table that cannot be used; names the file and the row.
    """
    tables = [(images or path.parent, read_table(path)) for images, path in sources]
    plans = [plan for images, table in tables for plan in _plan(images, table, len(tables) > 1)]
    labels = {label for plan in plans for label in plan.record["labels"]}
    splits = {
        split: _load([plan for plan in plans if plan.split == split])
        for split in dict.fromkeys(plan.split for plan in plans)
    }
    about = "Pictures of organisms from " + ", ".join(str(t.path.name) for _, t in tables) + "."
    return write_dataset(
        splits,
        out_dir,
        name=name,
        description=about,
        label_names=sorted(labels),
        total=len(plans),
        overwrite=overwrite,
    )


def read_table(path: Path) -> Table:
    """Reads a CSV or TSV in UTF-8 (with or without byte order mark) or Windows-1252.

    The delimiter is found in the header: comma, semicolon, tab or bar.

    Raises:
      UserError: missing, empty, binary, or a row longer than the header; names the row.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if b"\0" in data:
        raise UserError(f"{path}: not a text table; export it as CSV in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    first = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] = []
    rows = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                continue
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells under {len(header)}"
                    " columns; quote cells that hold the delimiter"
                )
            # A short row lacks its last cells, as spreadsheet programs write it.
            cells = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))
            rows.append((reader.line_num, dict(zip(header, cells, strict=False))))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise UserError(f"{path}: the table has no rows")
    return Table(path, header, rows)


@dataclass(frozen=True)
class _Plan:
    """A record whose picture is still to be read."""

    path: Path
    split: str
    record: Record


def _plan(images: Path, table: Table, merged: bool) -> Iterator[_Plan]:
    file_column = table.column(_FILE)
    if file_column is None:
        raise UserError(
            f"{table.path}: no column names the picture; call one of them 'filename'"
            f" (there are {', '.join(table.header)})"
        )
    fields = {field: table.column(names) for field, names in _FIELDS.items()}
    key_column, split_column = table.column(_KEY), table.column(_SPLIT)
    taxon_columns = [header for header in table.header if _normal(header) in _TAXON]
    if not taxon_columns and not fields["scientific_name"] and "caption" not in table.header:
        raise UserError(
            f"{table.path}: no taxonomy; give at least one of {', '.join(RANKS)} or scientificName"
        )
    used = {file_column, key_column, split_column, *fields.values(), *taxon_columns}
    label_columns = [header for header in table.header if header and header not in used]
    for line, row in table.rows:
        file = row[file_column]
        if not file:
            raise UserError(f"{table.path}, line {line}: the {file_column} cell is empty")
        values = {field: row[header] if header else "" for field, header in fields.items()}
        values["dataset_name"] = values["dataset_name"] or table.path.absolute().parent.name
        key = (row[key_column] if key_column else "") or file
        if merged:
            key = f"{values['dataset_name']}/{key}"
        split = row[split_column].lower() if split_column else ""
        record = make_record(
            key=key,
            image=b"",
            taxon=Taxon.from_row(row),
            scientific_name=clean(values.pop("scientific_name")),
            vernacular_name=clean(values.pop("vernacular_name")),
            labels={_LABELS.get(_normal(h), h): row[h] for h in label_columns if row[h]},
            **values,
        )
        split = _SPLIT_NAMES.get(split, re.sub(r"\W+", "_", split)) or split_of(key)
        yield _Plan(_find(images, file), split, record)


def split_of(key: str) -> str:
    """A stable split for a picture without one: 80 % train, 10 % val, 10 % test by its key."""
    share = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:4], "big") / 2**32
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def _find(images: Path, file: str) -> Path:
    """The picture's path; a table may also count from the folder above the pictures."""
    path = images / file
    if not path.exists() and Path(file).parts[:1] == (images.absolute().name,):
        above = images.absolute().parent / file
        return above if above.exists() else path
    return path


def _load(plans: Sequence[_Plan]) -> Iterator[Record | Rejected]:
    for plan in plans:
        key = plan.record["key"]
        try:
            yield plan.record | {"image": plan.path.read_bytes(), "file": str(plan.path)}
        except OSError as error:
            yield Rejected(key, str(plan.path), plan.split, f"cannot be read ({error.strerror})")


def _normal(header: str) -> str:
    return re.sub(r"[^a-z]", "", header.lower())
