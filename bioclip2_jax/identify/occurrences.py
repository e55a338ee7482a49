"""Where names of a list were recorded: downloads of GBIF, tables of a survey, checklists.

A table has a row a record, with coordinates, with a region, or with neither. It may be far larger
than memory: DuckDB goes over it twice, once for the names in it, once to count records by name and
by squares of a twentieth of a degree, which then go to the H3 cell that their middle is in.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax import files
from bioclip2_jax.data import buckets, tables
from bioclip2_jax.data.tables import normal
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.identify import name_checks
from bioclip2_jax.identify.name_tree import NAME_COLUMNS, NameTree
from bioclip2_jax.prepare.joined_tables import (
    connection,
    is_parquet,
    quoted_name,
    quoted_pattern,
)

FINEST = 4  # H3's resolution: cells of 1,770 km², some 50 km from corner to corner
LATITUDES = ("decimallatitude", "latitude", "lat")
LONGITUDES = ("decimallongitude", "longitude", "lon", "lng", "long")
REGIONS = ("region", "countrycode", "country", "stateprovince")
UNKNOWN = -1  # a place that a row does not tell
CELLS, OF_REGIONS = "cells", "regions"
_COUNTS = ("count", "counts", "n", "records", "occurrences", "occurrencecount", "observations")
_MOST = 10**9  # that a row may count for
_SQUARES = 20  # of a degree's side
_WIDE = 360 * _SQUARES
_SHOWN = 3
_NAMES_AT_A_TIME = 1 << 14
_ENCODINGS = {"utf-8-sig": "utf-8", "cp1252": "latin-1"}  # as DuckDB has them


@dataclass(frozen=True, eq=False)
class Records:
    """Records of names by place, each pair of both once, in order.

    Attributes:
      path: of the table.
      kind: `CELLS` of H3, `OF_REGIONS`, or "" where the table tells no places.
      regions: their names; the number of one is its place here.
      places: [pairs] int64, the cell or region; `UNKNOWN` where a row tells none.
      nodes: [pairs] int64, of a `NameTree`.
      counts: [pairs] float64, above 0.
      notes: what people should know of the table.
    """

    path: str
    kind: str
    regions: tuple[str, ...]
    places: np.ndarray
    nodes: np.ndarray
    counts: np.ndarray
    notes: tuple[str, ...] = ()


def h3() -> Any:
    """H3 with cells as numbers.

    Raises:
      UsageError: it is not installed.
    """
    try:
        import h3.api.basic_int as cells
    except ImportError as error:
        raise UsageError(
            '--occurrences with coordinates needs `pip install "bioclip2-jax[place]"`'
        ) from error
    return cells


def read(path: str, names: NameTree) -> Records:
    """Counts the records of names of a list, in bounded memory.

    A row counts once or, where the table has a column of counts (`count`, `occurrences` …), so many
    times; one of `individualCount` for 1 + its binary logarithm, since a flock is seen, and
    photographed, as one. Rows that say 0 or an `occurrenceStatus` of absence do not count.

    Args:
      path: text with columns, Parquet, or a folder: of Parquet, or an unpacked Darwin Core Archive.
      names: of the list.

    Raises:
      UsageError: no such table, or it needs `h3`, which is not installed.
      UserError: unreadable, without names or usable coordinates, or of no name of the list.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bioclip2-")))
        stack.enter_context(_faults_of(path))
        table = _Table.open(path, stack)
        if table.kind == CELLS:
            h3()
        database = stack.enter_context(connection(folder))
        notes = _match(database, table, names)
        database.execute(
            f"CREATE TEMP TABLE found AS SELECT node, {table.spot} AS spot,"
            f" sum(CAST(least({table.weight}, {_MOST}) AS DECIMAL(18, 6))) AS count"
            f" FROM {table.rows} JOIN known ON name = {table.name} GROUP BY ALL"
        )
        query = "SELECT DISTINCT spot FROM found WHERE spot IS NOT NULL ORDER BY spot"
        spots = [spot for (spot,) in database.execute(query).fetchall()]
        places, regions = _places(table.kind, spots)
        database.register("places", places)
        found = database.execute(
            f"SELECT coalesce(place, {UNKNOWN}) AS place, node, CAST(sum(count) AS DOUBLE) AS count"
            " FROM found LEFT JOIN places USING (spot) GROUP BY ALL ORDER BY ALL"
        ).fetchnumpy()
    place, node, count = (np.asarray(found[name]) for name in ("place", "node", "count"))
    return Records(path, table.kind, regions, place, node, count, tuple(notes))


@dataclass(frozen=True)
class _Table:
    """A table as SQL.

    Attributes:
      path: as it was named.
      kind: see `Records`.
      rows: what stands behind FROM, without rows that do not count.
      names: header → cell, of the columns with names.
      faults: of coordinates: empty, at 0,0, outside their range, and of those perhaps swapped.
      spot: where a row is from: a square of a degree, a region, or NULL.
      weight: how often it counts.
      bad: whether a row's count is no number.
    """

    path: str
    kind: str
    rows: str
    names: dict[str, str]
    faults: tuple[str, ...]
    spot: str
    weight: str
    bad: str

    @property
    def name(self) -> str:
        """A number for what stands in the columns with names."""
        return f"hash({', '.join(self.names.values())})"

    @classmethod
    def open(cls, path: str, stack: contextlib.ExitStack) -> "_Table":
        """Finds its columns; `stack` ends what has to be there until then."""
        source, columns = _source(files.place(path), stack)

        def column(wanted: Iterable[str]) -> str:
            found = (sql for name in wanted for header, sql in columns if normal(header) == name)
            return next(found, "")

        names = {header: sql for header, sql in columns if normal(header) in NAME_COLUMNS}
        if not names:
            raise UserError(
                f"{path}: no column with names; call one `species` or `scientificName` (there are"
                f" {', '.join(header for header, _ in columns if header)})"
            )
        latitude, longitude = (_number(column(of)) for of in (LATITUDES, LONGITUDES))
        region = column(REGIONS)
        if bool(latitude) != bool(longitude):
            raise UserError(
                f"{path}: decimalLatitude and decimalLongitude belong together; one is not there"
            )
        kind = CELLS if latitude else OF_REGIONS if region else ""
        spot = "NULL"
        if latitude:
            y, x = _square(latitude, 90), _square(longitude, 180)
            spot = f"CASE WHEN {_is_place(latitude, longitude)} THEN {y} * {_WIDE} + {x} END"
        elif region:
            spot = region
        count = _number(column(_COUNTS))
        individuals = _number(column(("individualcount",)))
        own = count or individuals or "1"
        status = column(("occurrencestatus",)) or "''"
        weight = f"CASE WHEN {own} > 0 THEN {own} ELSE 1 END"  # also of what is no number
        if individuals and not count:
            weight = f"CASE WHEN {own} > 1 THEN 1 + log2(least({own}, {_MOST})) ELSE 1 END"
        rows = (
            f"(FROM {source} WHERE coalesce({own} <> 0, true)"
            f" AND coalesce(lower({status}), '') <> 'absent')"
        )
        bad = "false"
        if own != "1":
            text = column(_COUNTS) or column(("individualcount",))
            bad = f"({text} IS NOT NULL AND coalesce({own} < 0, true))"
        faults = _faults(latitude, longitude) if latitude else ()
        return cls(path, kind, rows, names, faults, spot, weight, bad)


def _source(path: Path, stack: contextlib.ExitStack) -> tuple[str, list[tuple[str, str]]]:
    """SQL for all rows of a table, and (header, SQL for the cell as text, NULL if empty)."""
    if path.is_dir():
        found = buckets.named(path, "occurrence.txt") or buckets.named(path, "*.parquet")
        if not found:
            raise UsageError(f"{path}: neither occurrence.txt nor Parquet in this folder")
    elif not path.is_file():
        raise UsageError(f"--occurrences {path}: no such table")
    else:
        found = [path]
    if found[0].name.lower().endswith(".zip"):
        raise UserError(f"{path}: a packed download; unpack it, and name what is in it")
    if is_parquet(found[0]):
        local = [stack.enter_context(buckets.fetched(one)) for one in found]
        listed = ", ".join(map(quoted_pattern, local))
        headers = pq.read_schema(local[0]).names
        cells = [f"CAST({quoted_name(name)} AS VARCHAR)" for name in headers]
        sql = f"read_parquet([{listed}], union_by_name=true, hive_partitioning=false)"
    else:
        table = tables.open_table(found[0])
        headers, cells = [*table.header], [f"c{place}" for place in range(len(table.header))]
        # As `tables` reads them: tab-separated exports of databases hold bare quotes.
        quote = "" if table.delimiter == "\t" else '"'
        options = {
            "auto_detect": False,
            "header": True,
            "columns": dict.fromkeys(cells, "VARCHAR"),
            "delim": table.delimiter,
            "quote": quote,
            "escape": quote,
            "skip": table.skip,
            "encoding": _ENCODINGS.get(table.encoding, table.encoding),
            "null_padding": True,
            "ignore_errors": True,
            "store_rejects": True,
            "strict_mode": False,
            "parallel": not quote,
        }
        local = stack.enter_context(buckets.fetched(found[0]))
        told = ", ".join(f"{name}={_sql(value)}" for name, value in options.items())
        sql = f"read_csv({quoted_pattern(local)}, {told})"
    return sql, [(h, f"nullif(trim({c}, ' \"'), '')") for h, c in zip(headers, cells, strict=True)]


def _sql(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_sql(own)}" for key, own in value.items()) + "}"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()


def _number(cell: str) -> str:
    """SQL for a cell as a number, NULL if it is none; a comma is taken for the decimal sign."""
    return f"try_cast(replace({cell}, ',', '.') AS DOUBLE)" if cell else ""


def _square(degrees: str, most: int) -> str:
    """SQL for the row or column of squares that degrees are in."""
    last = 2 * most * _SQUARES - 1
    return f"CAST(least(floor(({degrees} + {most}) * {_SQUARES}), {last}) AS INTEGER)"


def _is_place(latitude: str, longitude: str) -> str:
    return (
        f"({latitude} BETWEEN -90 AND 90 AND {longitude} BETWEEN -180 AND 180"
        f" AND NOT ({latitude} = 0 AND {longitude} = 0))"
    )


def _faults(y: str, x: str) -> tuple[str, ...]:
    """SQL for what may be wrong with coordinates, see `_Table`."""
    is_empty, is_zero = f"({y} IS NULL OR {x} IS NULL)", f"({y} = 0 AND {x} = 0)"
    is_outside = f"NOT (coalesce({_is_place(y, x)}, true) OR {is_empty} OR {is_zero})"
    is_swapped = f"({is_outside} AND {y} NOT BETWEEN -90 AND 90 AND {x} BETWEEN -90 AND 90)"
    return is_empty, is_zero, is_outside, is_swapped


def _match(database: duckdb.DuckDBPyConnection, table: _Table, names: NameTree) -> list[str]:
    """Makes `known`, which node each name is; and what is told of others."""
    cells = [f"any_value({cell})" for cell in table.names.values()]
    tallies = [f"count(*) FILTER ({of})" for of in ("true", table.bad, *table.faults)]
    found = database.execute(
        f"SELECT {', '.join([table.name, *cells, *tallies])} FROM {table.rows} GROUP BY 1"
    )
    hashes, nodes, total = [], [], np.zeros(len(tallies), np.int64)
    missing: dict[str, int] = {}
    synonyms = []
    while some := found.fetchmany(_NAMES_AT_A_TIME):
        for own, *values in some:
            told = values[len(cells) :]
            row = dict(zip(table.names, (value or "" for value in values), strict=False))
            taxon, synonym = name_checks.accepted_taxon(row)
            node = names.find(taxon)
            if node is None:
                name = taxon.scientific_name or "(no name)"
                missing[name] = missing.get(name, 0) + told[0]
                continue
            total += told
            hashes.append(own)
            nodes.append(node)
            if synonym:
                synonyms.append(
                    f"{table.path}: {synonym} is a synonym of {taxon.scientific_name}, which is"
                    " taken"
                )
    if not hashes:
        raise UserError(f"{table.path}: names none of the {len(names.taxa):,} names of the list")
    pairs = {"name": pa.array(hashes, pa.uint64()), "node": pa.array(nodes, pa.int64())}
    database.register("pairs", pa.table(pairs))
    database.execute("CREATE TEMP TABLE known AS FROM pairs")
    rows, bad, *faults = total.tolist()
    notes = [f"{table.path}: {rows:,} rows are of names of the list"]
    if missing:
        most = sorted(missing, key=lambda name: (-missing[name], name))[:_SHOWN]
        listed = {taxon.scientific_name for taxon in names.taxa}
        shown = (name + name_checks.meant(name, listed).replace("; ", " (") for name in most)
        notes.append(
            f"{table.path}: {len(missing):,} names with {sum(missing.values()):,} rows are not in"
            f" the list and left out: {', '.join(one + ')' * ('?' in one) for one in shown)}"
            + ", …"
            * (len(missing) > _SHOWN)
        )
    if bad:
        notes.append(f"{table.path}: {bad:,} rows have a count that is none; they count once")
    notes += _judged(table.path, rows, *faults) if faults else []
    rejected = _rejected(database)
    if rejected:
        notes.append(f"{table.path}: {rejected:,} rows cannot be read and are left out")
    return [*notes, *name_checks.shortened(sorted(synonyms))]


def _rejected(database: duckdb.DuckDBPyConnection) -> int:
    """Rows of the one text that was read so far."""
    with contextlib.suppress(duckdb.CatalogException):
        query = "SELECT count(DISTINCT line) FROM reject_errors"
        return database.execute(query).fetchall()[0][0]
    return 0


def _judged(path: str, rows: int, empty: int, zero: int, outside: int, swapped: int) -> list[str]:
    """What is told of coordinates that are none, by how many rows have which fault.

    Raises:
      UserError: all are.
    """
    what = {"empty or no number": empty, "outside their range": outside, "at 0,0": zero}
    told = ", ".join(f"{count:,} {words}" for words, count in what.items() if count)
    hint = "; are latitude and longitude swapped?" if 2 * swapped > rows else ""
    faults = empty + zero + outside
    if faults == rows:
        raise UserError(f"{path}: no row has usable coordinates ({told}){hint}")
    if not faults:
        return []
    return [
        f"{path}: {faults:,} rows have no usable coordinates ({told}); they count for the world as"
        f" a whole{hint}"
    ]


def _places(kind: str, spots: list[Any]) -> tuple[pa.Table, tuple[str, ...]]:
    """Which cell or region each spot is in, and what regions are called."""
    regions: dict[str, str] = {}
    if kind == CELLS:
        cell_of = h3().latlng_to_cell
        places = [
            cell_of(
                (spot // _WIDE + 0.5) / _SQUARES - 90,
                (spot % _WIDE + 0.5) / _SQUARES - 180,
                FINEST,
            )
            for spot in spots
        ]
    else:
        for spot in spots:
            regions.setdefault(spot.casefold(), spot)
        numbers = {name: number for number, name in enumerate(regions)}
        places = [numbers[spot.casefold()] for spot in spots]
    of = pa.int32() if kind == CELLS else pa.string()
    columns = {"spot": pa.array(spots, of), "place": pa.array(places, pa.int64())}
    return pa.table(columns), tuple(regions.values())


@contextlib.contextmanager
def _faults_of(path: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from error
