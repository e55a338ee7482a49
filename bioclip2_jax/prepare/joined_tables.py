"""Tables that are joined to pictures, and how DuckDB is told of them."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from bioclip2_jax.data import buckets
from bioclip2_jax.data.tables import normal, open_table
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.files import is_remote
from bioclip2_jax.prepare.columns import key_column

_MEMORY = "3GB"  # that DuckDB may take before it goes to disk
_MAX_THREADS = 8  # each wants its share of the memory
_ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Table:
    """A table to join.

    Attributes:
      path: as it was named.
      files: Parquet, in their order.
      key: its column of keys.
      columns: normal name → column of plain values, without the key.
    """

    path: Path
    files: tuple[Path, ...]
    key: str
    columns: Mapping[str, str]

    @classmethod
    def open(cls, path: Path, copy: Path) -> "Table":
        """Opens a table; of one that is no Parquet, or in a bucket, makes a copy that is not."""
        if not path.exists():
            raise UsageError(f"{path}: there is no such table")
        found = _parquet_below(path) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"{path}: there is no Parquet file in this folder")
        if not path.is_dir() and not is_parquet(path):
            found = [_as_parquet(path, copy)]
        elif is_remote(path):
            found = [_copied(file, copy, number) for number, file in enumerate(found)]
        columns: dict[str, str] = {}
        with faults_of(path):
            for field in (field for file in found for field in pq.read_schema(file)):
                # Nested values and bytes say nothing that a record could hold.
                if not (pa.types.is_nested(field.type) or "binary" in str(field.type)):
                    columns.setdefault(normal(field.name), field.name)
        key = key_column(columns.values())
        if key is None:
            raise UsageError(
                f"{path}: no column tells which picture a row is about; call one of them 'uuid'"
                f" or 'key' (there are {', '.join(columns.values())})"
            )
        return cls(path, tuple(found), columns.pop(normal(key)), columns)

    def faults(self) -> contextlib.AbstractContextManager[None]:
        """Blames this table."""
        return faults_of(self.path)


@contextlib.contextmanager
def connection(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that spills to a folder and fetches nothing."""
    settings = {
        "memory_limit": _MEMORY,
        "temp_directory": str(folder / "spill"),
        "threads": min(os.cpu_count() or 1, _MAX_THREADS),
        "autoinstall_known_extensions": False,  # nothing is fetched from anywhere
        "autoload_known_extensions": False,
    }
    with duckdb.connect(":memory:", config=settings) as database:
        yield database


@contextlib.contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """Blames a file or folder for what goes wrong, in one sentence."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be joined ({reason(error)})") from error


def is_parquet(path: Path) -> bool:
    """Whether a file says at its start that it is Parquet."""
    try:
        with buckets.open_bytes(path) as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _parquet_below(folder: Path) -> list[Path]:
    if is_remote(folder):
        return [folder / n for n in buckets.sizes_below(folder) if n.endswith(".parquet")]
    return sorted(folder.rglob("*.parquet"), key=str)


def _copied(file: Path, copy: Path, number: int) -> Path:
    """A file of a bucket beside `copy`, whose name its own begins with."""
    with buckets.fetched(file) as local:
        return Path(shutil.move(local, copy.with_name(f"{copy.stem}-{number:05d}.parquet")))


def _as_parquet(path: Path, copy: Path) -> Path:
    table = open_table(path)
    schema = pa.schema([(name, pa.string()) for name in table.header if name])
    rows: list[dict[str, str]] = []
    with pq.ParquetWriter(copy, schema, compression="zstd") as writer:
        for _, row in table.rows():
            rows.append(row)
            if len(rows) == _ROWS_AT_A_TIME:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
                rows.clear()
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    return copy


def scan(paths: Sequence[Path]) -> str:
    """SQL for the rows of Parquet files with the file and the place in it that each is from."""
    return (
        "(SELECT * RENAME (file_row_number AS joined_row)"
        f" FROM read_parquet([{', '.join(map(quoted_pattern, paths))}], filename='joined_file',"
        " file_row_number=true, union_by_name=true, hive_partitioning=false))"
    )


def cell_text(table: str, column: str) -> str:
    """SQL for a cell as text, NULL if empty."""
    return f"nullif(trim(CAST({table}.{quoted_name(column)} AS VARCHAR)), '')"


def quoted(path: Path | str) -> str:
    """SQL for a path."""
    return "'" + str(path).replace("'", "''") + "'"


def quoted_pattern(path: Path | str) -> str:
    """SQL for a path where DuckDB takes paths for patterns."""
    return quoted("".join(f"[{c}]" if c in "*?[" else c for c in str(path)))


def quoted_name(column: str) -> str:
    """SQL for the name of a column."""
    return '"' + column.replace('"', '""') + '"'
