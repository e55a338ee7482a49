"""Tables of queries: which pictures were judged for a text, and whether they show it.

- INQUIRE-Rerank (Vendrow et al. 2024, arXiv 2411.02537; dataset card of evendrow/INQUIRE-Rerank) as
  the Hub has it: Parquet in `data/`, "validation" and "test" by the names of the files. A row is a
  picture (`image`), judged for a `query` as `relevant`, 0 or 1; 100 rows a query, the best of CLIP
  ViT-H/14-378 among iNat24. `supercategory`, `category` and `iconic_group` are of a query;
  `inat24_image_id` tells equal pictures.
- Any other table: a text, the file or key of a picture, and how relevant it is.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax.data import tables
from bioclip2_jax.data.tables import normal, split_name
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.files import below, place
from bioclip2_jax.prepare.columns import split_in, text_of
from bioclip2_jax.prepare.parquet_layout import Damaged, Layout, opened

QUERY = ("query", "querytext", "text", "caption", "prompt", "sentence")
PICTURE = ("key", *tables.FILE_COLUMNS, "uuid", "imageid", "picture", "photo")
RELEVANT = ("relevant", "relevance", "grade")
GROUPS = ("supercategory", "category", "iconicgroup", "group")
_SAME = ("inat24imageid", "imageid")  # of pictures in Parquet
_YES_NO = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


@dataclass(kw_only=True)
class Queries:
    """What a table says.

    Attributes:
      place: of it, for messages.
      texts: distinct queries, as they came first; letters and blanks do not tell them apart, as
        the tokenizer does not.
      groups: name of a column → what it says of each query, in its first row.
      files: distinct pictures, by file or key.
      pairs: (text, picture), both by number → relevance.
      archives: Parquet files that hold the pictures themselves.
      num_doubled: rows that say again what was said.
      has_splits: whether a column said of which split a row is.
    """

    place: Path
    texts: list[str] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    pairs: dict[tuple[int, int], float] = field(default_factory=dict)
    archives: tuple[Path, ...] = ()
    num_doubled: int = 0
    has_splits: bool = False
    _number_of: dict[str, int] = field(default_factory=dict)
    _file_of: dict[str, int] = field(default_factory=dict)

    @property
    def has_others(self) -> bool:
        """Whether pictures were judged that do not show what was asked for."""
        return not all(self.pairs.values())

    def add(
        self, where: str, query: str, picture: str, cell: str, groups: dict[str, str], same: str
    ) -> None:
        """Takes one row.

        Args:
          where: it stands, for messages.
          query, picture, cell: text, file and relevance.
          groups: what the columns of `groups` say.
          same: equal for equal pictures.

        Raises:
          UserError: something is missing, or contradicts an earlier row.
        """
        for name, value in (("query", query), ("picture", picture)):
            if not value:
                raise UserError(f"{where}: no {name} in this row; fill it in, or take the row out")
        relevance = _relevance(cell, where)
        number = self._number_of.setdefault(one_text(query), len(self.texts))
        if number == len(self.texts):
            self.texts.append(query)
            for column, values in self.groups.items():
                values.append(groups[column])
        file = self._file_of.setdefault(same, len(self.files))
        if file == len(self.files):
            self.files.append(picture)
        before = self.pairs.get((number, file))
        if before is None:
            self.pairs[number, file] = relevance
        elif before == relevance:
            self.num_doubled += 1
        else:
            raise UserError(
                f"{where}: {picture} is of relevance {relevance:g} to {query!r}, and of {before:g}"
                " in an earlier row; leave one of them"
            )


def one_text(text: str) -> str:
    """A text as the tokenizer reads it."""
    return " ".join(text.lower().split())


# ---- Any table


def read_table(path: str | Path, split: str | None = None) -> Queries:
    """A CSV, TSV or Parquet of queries.

    Args:
      path: of the table.
      split: only such rows, where the table has a column of splits.

    Raises:
      UsageError: no row is of that split.
      UserError: it cannot be read, lacks a column, or contradicts itself.
    """
    path = place(path)
    is_parquet = path.suffix.lower() in (".parquet", ".pq")
    header, rows = _parquet_rows(path) if is_parquet else _text_rows(path)
    query, picture, relevant = (
        _column(path, header, names, what)
        for names, what in (
            (QUERY, "the text of the query"),
            (PICTURE, "the file or key of the picture"),
            (RELEVANT, "how relevant it is (0 or 1, or more)"),
        )
    )
    split_column = _first(header, tables.SPLIT_COLUMNS)
    groups = _columns(header, GROUPS)
    queries = Queries(
        place=path, groups={name: [] for name in groups}, has_splits=split_column is not None
    )
    splits = set()
    for where, row in rows:
        if split and split_column:
            splits.add(row[split_column])
            if split_name(row[split_column]) != split_name(split):
                continue
        own = {name: row[name] for name in groups}
        queries.add(where, row[query], row[picture], row[relevant], own, row[picture])
    if split and splits and not queries.texts:
        raise UsageError(f"{path}: no row of split {split!r}; it has {', '.join(sorted(splits))}")
    if not queries.texts:
        raise UserError(f"{path}: the table has no rows")
    return queries


def _text_rows(path: Path) -> tuple[Sequence[str], Iterator[tuple[str, dict[str, str]]]]:
    table = tables.open_table(path)
    return table.header, ((f"{path}, line {line}", row) for line, row in table.rows())


def _parquet_rows(path: Path) -> tuple[Sequence[str], Iterator[tuple[str, dict[str, str]]]]:
    try:
        parquet = opened(path)
    except Damaged as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    plain = [
        column.name
        for column in parquet.schema_arrow
        if not (pa.types.is_nested(column.type) or "binary" in str(column.type))
    ]
    return plain, _cells(parquet, path, plain)


def _cells(
    parquet: pq.ParquetFile, path: Path, columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """(place for messages, column → text) of each row."""
    number = 0
    try:
        for batch in parquet.iter_batches(columns=list(columns), use_threads=False):
            for row in batch.to_pylist():
                yield f"{path}, row {number}", {name: text_of(row[name]) for name in columns}
                number += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged at row {number} ({reason(error)})") from error


# ---- Pictures and all in Parquet


def find_parquet(root: Path) -> list[Path]:
    """The Parquet files below a folder that hold pictures; none where other things lie there."""
    names = [name for name in below(root) if name.lower().endswith(".parquet")]
    return [root / name for name in names if not Path(name).name.startswith(("_", "features-"))]


def read_parquet(root: Path, split: str | None = None) -> tuple[Queries, str | None]:
    """INQUIRE-Rerank's folder, and whatever is like it.

    Args:
      root: folder with the files.
      split: that their names tell; None for "test" where there is one, else for all.

    Returns:
      What they say, pictures by file and row as `bioclip2 embed` names them, and the split.

    Raises:
      UsageError: there is no such split.
      UserError: a file cannot be read, lacks a column, or contradicts another.
    """
    by_split: dict[str, list[Path]] = {}
    for path in find_parquet(root):
        by_split.setdefault(split_in(str(path.relative_to(root))), []).append(path)
    chosen = split_name(split) if split else "test" if "test" in by_split else None
    if split and chosen not in by_split:
        has = ", ".join(sorted(filter(None, by_split))) or "none"
        raise UsageError(
            f"{root}: no Parquet files of split {split!r}; by their names it has {has}"
        )
    files = by_split[chosen] if chosen else [file for each in by_split.values() for file in each]
    queries = Queries(place=root, archives=tuple(files))
    for path in files:
        _add_parquet(queries, path, root)
    if not queries.texts:
        raise UserError(f"{root}: its Parquet files have no rows")
    return queries, chosen


def _add_parquet(queries: Queries, path: Path, root: Path) -> None:
    try:
        with opened(path) as parquet:
            layout = Layout.of(parquet, path)
            columns = layout.columns
            query = _column(path, columns, QUERY, "the text of the query")
            relevant = _column(path, columns, RELEVANT, "whether the picture is relevant")
            same, groups = _first(columns, _SAME), _columns(columns, GROUPS)
            if not queries.texts:
                queries.groups = {name: [] for name in groups}
            name = path.relative_to(root).as_posix()
            for number, (where, row) in enumerate(_cells(parquet, path, columns)):
                picture = (layout.key and row[layout.key]) or f"{name}:{number}"
                own = {column: row.get(column, "") for column in queries.groups}
                identity = (same and row[same]) or picture
                queries.add(where, row[query], picture, row[relevant], own, identity)
    except Damaged as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


# ---- Columns and cells


def _columns(header: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for name in names for column in header if normal(column) == name]


def _first(header: Sequence[str], names: Sequence[str]) -> str | None:
    return next(iter(_columns(header, names)), None)


def _column(path: Path, header: Sequence[str], names: Sequence[str], what: str) -> str:
    column = _first(header, names)
    if column is None:
        has = ", ".join(filter(None, header)) or "none"
        raise UserError(
            f"{path}: no column holds {what}; call one of them {names[0]!r} (there are {has})"
        )
    return column


def _relevance(cell: str, where: str) -> float:
    try:
        value = _YES_NO.get(cell.lower())
        value = float(cell) if value is None else value
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise UserError(f"{where}: relevance {cell!r}; it is 0 or 1, or a number that is larger")
    return value
