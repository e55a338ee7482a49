"""Tables about pictures, such as a catalogue of 200 million rows, joined to the parts of a source.

Three steps, in bounded memory: DuckDB finds which rows are wanted, by keys alone; the tables are
read once and their wanted rows dealt to heaps of a few parts each; and each heap is put in order
and written as one small Parquet file a part.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax import files
from bioclip2_jax.data.tables import normal
from bioclip2_jax.prepare.columns import LINEAGE
from bioclip2_jax.prepare.joined_tables import (
    Table,
    cell_text,
    connection,
    faults_of,
    quoted,
    quoted_name,
    scan,
)
from bioclip2_jax.prepare.source import COUNTS_FILE, Part

_MAX_HEAPS = 256  # open files
_PARTS_A_HEAP = 8  # at least; and as many are put in order at a time
_ROWS_AT_A_TIME = 1 << 16
_SHARD = "shardfilename"  # the catalogue's column of the tar that a picture is in
_PICTURES = pa.schema([("part", pa.int32()), ("key", pa.string())])


def join(
    parts: Sequence[Part],
    keys: Iterable[tuple[int, Sequence[str]]],
    *,
    tables: Sequence[Path],
    folder: Path,
) -> list[Part]:
    """Writes for each part what the tables say of its pictures.

    A picture's lineage comes whole from the first table that has one for its key; of everything
    else the first table that says it counts. Of the rows of one key in one table the first counts.
    The result is the same on any machine.

    Args:
      parts: of a source.
      keys: batches of (number of the part, keys of pictures in it), in any order. Not asked for
        where the first table says by `shard_filename` what is in the parts' files.
      tables: Parquet files, folders of them, or CSV, each with a column of keys.
      folder: for the results, and meanwhile for as much as the tables hold.

    Returns:
      The parts; `joined` of each that the tables know a picture of is a file for `load`.

    Raises:
      UsageError: a table is not there, or has no column of keys.
      UserError: a table cannot be read, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Table.open(path, folder / f"table-{i}.parquet") for i, path in enumerate(tables)]
    heaps = max(1, min(_MAX_HEAPS, len(parts) // _PARTS_A_HEAP))
    deal = [number * heaps // len(parts) for number in range(len(parts))]
    with connection(folder) as database:
        pictures = folder / "keys.parquet"
        if not _write_by_shard(database, parts, sources[0], pictures):
            with pq.ParquetWriter(pictures, _PICTURES, compression="zstd") as writer:
                for batch in _batches(keys):
                    writer.write_batch(batch)
        total = f"SELECT count(*) FROM (SELECT DISTINCT part, key FROM {scan([pictures])})"
        for table in sources:
            with table.faults():
                found = _wanted(database, pictures, table, folder / "found.parquet")
                _deal(table, found, deal, folder / f"heap-{sources.index(table)}")
        with faults_of(folder):
            ((count,),) = database.execute(total).fetchall()
            joined, known = {}, 0
            for some in _few_at_a_time(deal):
                ordered = _ordered(database, sources, folder, deal[some[0]], some)
                known += len(ordered)
                joined |= _write_parts(ordered, folder)
    for pattern in ("heap-*", "table-*", "found.parquet", "keys.parquet"):
        for path in folder.glob(pattern):
            path.unlink()
    files.write_json(folder / COUNTS_FILE, {"keys": count, "missing": count - known})
    return [
        dataclasses.replace(part, joined=joined.get(number, ""))
        for number, part in enumerate(parts)
    ]


def load(joined: str) -> dict[str, dict[str, str]]:
    """Key → (column → text, none empty) of a file that `join` wrote; {} for ""."""
    if not joined:
        return {}
    rows = pq.read_table(joined).to_pylist()
    return {row.pop("key"): {name: text for name, text in row.items() if text} for row in rows}


def _write_by_shard(
    database: duckdb.DuckDBPyConnection, parts: Sequence[Part], table: Table, pictures: Path
) -> bool:
    """Writes the pictures of the parts by their files' names, if the table knows those."""
    if _SHARD not in table.columns:
        return False
    names = [PurePosixPath(part.file).name for part in parts]
    shards = pa.table({"part": pa.array(range(len(parts)), pa.int32()), "file": names})
    database.register("shards", shards)
    shard, key = cell_text("t", table.columns[_SHARD]), cell_text("t", table.key)
    query = (
        f"SELECT s.part, {key} AS key FROM {scan(table.files)} t"
        f" JOIN shards s ON {shard} = s.file WHERE {key} IS NOT NULL"
    )
    with table.faults():
        if not database.execute(f"FROM ({query}) LIMIT 1").fetchall():
            return False
        database.execute(f"COPY ({query}) TO {quoted(pictures)} (FORMAT parquet)")
    return True


def _batches(keys: Iterable[tuple[int, Sequence[str]]]) -> Iterator[pa.RecordBatch]:
    for part, some in keys:
        # Arrow refuses what is no text.
        texts = [key for key in map(str.strip, some) if key and key.isprintable()]
        numbers = pa.array(np.full(len(texts), part, np.int32))
        yield pa.record_batch([numbers, pa.array(texts, pa.string())], schema=_PICTURES)


def _wanted(
    database: duckdb.DuckDBPyConnection, pictures: Path, table: Table, found: Path
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Which rows of a table are about which parts: (number of the file, [n] rows, [n] parts)."""
    # Joined first and sorted then: at once, the two would fight for the memory.
    names = pa.table({"number": range(len(table.files)), "name": list(map(str, table.files))})
    database.register("files", names)
    database.execute(
        "COPY (SELECT CAST(f.number AS INT) AS file, t.joined_row AS row, p.part"
        f" FROM {scan([pictures])} p JOIN {scan(table.files)} t"
        f" ON p.key = {cell_text('t', table.key)} JOIN files f ON f.name = t.joined_file)"
        f" TO {quoted(found)} (FORMAT parquet)"
    )
    query = f"SELECT DISTINCT file, row, part FROM {scan([found])} ORDER BY file, row, part"
    for batch in database.sql(query).to_arrow_reader(_ROWS_AT_A_TIME):
        numbers, rows, parts = (batch[name].to_numpy() for name in ("file", "row", "part"))
        for number in np.unique(numbers).tolist():
            here = numbers == number
            yield number, rows[here], parts[here]


def _deal(
    table: Table,
    wanted: Iterator[tuple[int, np.ndarray, np.ndarray]],
    deal: Sequence[int],
    heaps: Path,
) -> None:
    """Reads a table once and appends its wanted rows to the heaps of their parts.

    Args:
      wanted: from `_wanted`.
      deal: the heap of each part.
      heaps: the files are called this, a dash and the number of the heap.
    """
    names = [normal(table.key), *table.columns]
    own = [("part", pa.int32()), ("number", pa.int64())]
    schema = pa.schema([*own, *((f"c{i}", pa.string()) for i in range(len(names)))])
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    heap_of, number = np.asarray(deal), 0
    here, rows, parts = next(wanted, (-1, np.array([]), np.array([])))
    with contextlib.ExitStack() as stack:
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        for place, file in enumerate(table.files):
            first = 0
            for batch in _plain_batches(file, names):
                stop = first + len(batch)
                while here == place and rows[0] < stop:
                    count = int(np.searchsorted(rows, stop))
                    # A row may be about several parts, and so be taken more than once.
                    taken = batch.take(pa.array(rows[:count] - first))
                    taken.validate(full=True)
                    numbers = pa.array(np.arange(number, number + count))
                    number += count
                    columns = [pa.array(parts[:count], pa.int32()), numbers, *taken.columns]
                    dealt = pa.record_batch(columns, schema=schema)
                    heap = heap_of[parts[:count]]
                    for one in np.unique(heap).tolist():
                        if one not in writers:
                            sink = stack.enter_context(pa.OSFile(f"{heaps}-{one}", "wb"))
                            stream = pa.ipc.new_stream(sink, schema, options=options)
                            writers[one] = stack.enter_context(stream)
                        writers[one].write_batch(dealt.filter(pa.array(heap == one)))
                    rows, parts = rows[count:], parts[count:]
                    if not len(rows):
                        here, rows, parts = next(wanted, (-1, rows, parts))
                first = stop


def _plain_batches(file: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, columns by normal names, as text; one it lacks is empty."""
    parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
    here = {normal(name): name for name in reversed(parquet.schema_arrow.names)}
    wanted = [here[name] for name in names if name in here]
    for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=wanted):
        empty = pa.nulls(len(batch), pa.string())
        columns = [batch[here[n]].cast(pa.string()) if n in here else empty for n in names]
        yield pa.record_batch(columns, list(names))


def _ordered(
    database: duckdb.DuckDBPyConnection,
    sources: Sequence[Table],
    folder: Path,
    heap: int,
    parts: range,
) -> pa.Table:
    """What all tables say of the pictures of some parts of a heap, by part and key."""
    known: dict[str, list[str]] = {}  # normal name → SQL for what each table says
    spelling: dict[str, str] = {}
    joins, lineages = [], []
    for i, table in enumerate(sources):
        path = folder / f"heap-{i}-{heap}"
        if not path.exists():
            continue
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            few = (batch.filter(_is_among(parts, batch["part"])) for batch in stream)
            database.register(f"heap{i}", pa.Table.from_batches(few, stream.schema))
        key = cell_text("h", "c0")
        database.execute(
            f"CREATE OR REPLACE TEMP TABLE t{i} AS SELECT DISTINCT ON (part, {key})"
            f" {key} AS joined_key, * FROM heap{i} h ORDER BY part, {key}, number"
        )
        database.unregister(f"heap{i}")
        joins.append(i)
        cells = {name: cell_text(f"t{i}", f"c{c}") for c, name in enumerate(table.columns, 1)}
        lineage = [cell for name, cell in cells.items() if name in LINEAGE]
        is_silent = " AND ".join(f"{cell} IS NULL" for cell in lineage) or "true"
        for name, cell in cells.items():
            if name in LINEAGE and lineages:  # of one table alone
                cell = f"CASE WHEN {' AND '.join(lineages)} THEN {cell} END"
            known.setdefault(name, []).append(cell)
            spelling.setdefault(name, table.columns[name])
        lineages.append(f"({is_silent})")
    if not joins:
        return pa.table({"joined_part": pa.array([], pa.int32()), "key": pa.array([], pa.string())})
    pictures = " UNION ".join(f"SELECT part, joined_key AS key FROM t{i}" for i in joins)
    on = "t{0}.part = p.part AND t{0}.joined_key = p.key"
    columns = (
        f"CAST(coalesce({', '.join(cells)}) AS VARCHAR) AS {quoted_name(spelling[name])}"
        for name, cells in known.items()
    )
    return database.sql(
        f"SELECT {', '.join(['p.part AS joined_part', 'p.key', *columns])} FROM ({pictures}) p"
        f" {' '.join(f'LEFT JOIN t{i} ON {on.format(i)}' for i in joins)} ORDER BY p.part, p.key"
    ).to_arrow_table()


def _few_at_a_time(deal: Sequence[int]) -> Iterator[range]:
    """Parts of one heap that are put in order together, however large the heap."""
    for _, group in itertools.groupby(range(len(deal)), deal.__getitem__):
        numbers = list(group)
        for first in range(numbers[0], numbers[-1] + 1, _PARTS_A_HEAP):
            yield range(first, min(first + _PARTS_A_HEAP, numbers[-1] + 1))


def _is_among(parts: range, column: pa.Array) -> pa.Array:
    numbers = column.to_numpy()
    return pa.array((numbers >= parts.start) & (numbers < parts.stop))


def _write_parts(ordered: pa.Table, folder: Path) -> dict[int, str]:
    """Number of a part → its file."""
    if not len(ordered):  # the tables know no picture
        return {}
    numbers = ordered.column("joined_part").to_numpy()
    starts, joined = np.flatnonzero(np.diff(numbers, prepend=-1)), {}
    for start, stop in zip(starts, [*starts[1:], len(ordered)], strict=True):
        number = int(numbers[start])
        joined[number] = str(folder / f"part-{number:06}.parquet")
        rows = ordered.slice(start, stop - start).drop_columns("joined_part")
        pq.write_table(rows, joined[number], compression="zstd")
    return joined
