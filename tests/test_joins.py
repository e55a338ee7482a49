"""Catalogues joined to the parts of a source."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from columns import BEAR, catalogue

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare import joined_tables, joins
from bioclip2_jax.prepare.joins import COUNTS_FILE, join, load
from bioclip2_jax.prepare.source import Part


def tars(count: int) -> list[Part]:
    return [Part(file=f"/data/shard-{i:05}.tar") for i in range(count)]


def rows_of(parts: list[Part]) -> list[dict]:
    return [load(part.joined) for part in parts]


def test_ten_thousand_keys_find_their_rows(tmp_path):
    keys = [f"u{i:05}" for i in range(10_000)]
    table = catalogue(
        tmp_path / "catalog.parquet",
        keys[::-1],
        common=[f"bear {key}" for key in keys[::-1]],
        original_size=[[1, 2]] * len(keys),
    )
    batches = ((i % 20, keys[i * 500 : (i + 1) * 500]) for i in range(20))
    parts = join(tars(20), batches, tables=[table], folder=tmp_path / "work")
    rows = rows_of(parts)
    assert [list(some) for some in rows] == [keys[i * 500 : (i + 1) * 500] for i in range(20)]
    assert rows[3]["u01777"] == {
        **dict(zip(("kingdom", "phylum", "class", "order", "family"), BEAR, strict=False)),
        **{"genus": "Ursus", "species": "arctos", "common": "bear u01777"},
    }
    counts = json.loads((tmp_path / "work" / COUNTS_FILE).read_text())
    assert counts == {"keys": 10_000, "missing": 0}


def test_results_do_not_depend_on_threads_batches_or_heaps(tmp_path, monkeypatch):
    keys = [f"u{i % 700}" for i in range(2000)]
    table = catalogue(tmp_path / "catalog.parquet", keys, title=[str(i) for i in range(2000)])

    def digest(folder: str) -> str:
        batches = ((i, [f"u{i}", f"u{i + 1}", "absent", f"u{i}"]) for i in range(64))
        parts = join(tars(64), batches, tables=[table], folder=tmp_path / folder)
        read = b"".join(Path(part.joined).read_bytes() for part in parts)
        return hashlib.sha256(read).hexdigest()

    once = digest("once")
    # The first row of a key counts.
    assert load(str(tmp_path / "once/part-000005.parquet"))["u5"]["title"] == "5"
    counts = json.loads((tmp_path / "once" / COUNTS_FILE).read_text())
    assert counts == {"keys": 64 * 3, "missing": 64}
    monkeypatch.setattr(joined_tables, "_MAX_THREADS", 1)
    monkeypatch.setattr(joins, "_ROWS_AT_A_TIME", 37)
    monkeypatch.setattr(joins, "_MAX_HEAPS", 1)
    assert digest("again") == once


def test_a_lineage_comes_from_one_table_and_the_rest_from_each(tmp_path):
    resolved = tmp_path / "resolved" / "source=gbif" / "a.resolved.parquet"
    resolved.parent.mkdir(parents=True)
    pq.write_table(
        pa.table({"uuid": ["u1", "u2"], "genus": ["Ursus", ""], "part": ["x", None]}), resolved
    )
    # Of two files the first one's row counts, and a column may be in one alone.
    more = {"Genus": ["Canis", "no"], "uuid": ["u9", "u1"], "sex": ["female", "male"]}
    pq.write_table(pa.table(more), tmp_path / "resolved" / "z.parquet")
    table = catalogue(tmp_path / "catalog.parquet", ["u1", "u2", "u3"], source_id=["1", "2", "3"])
    provenance = tmp_path / "provenance.csv"
    provenance.write_text("UUID;source_id;License name\nu3;9;CC0\nu1;8;CC-BY\nu1;7;CC-X\n")
    (part,) = join(
        tars(1),
        [(0, ["u1", " u2 ", "u3", "u4", "u9"])],
        tables=[tmp_path / "resolved", table, provenance],
        folder=tmp_path / "work",
    )
    rows = load(part.joined)
    assert rows["u1"] == {"genus": "Ursus", "part": "x", "source_id": "1", "License name": "CC-BY"}
    assert (rows["u2"]["genus"], rows["u2"]["species"]) == ("Ursus", "arctos")
    assert (rows["u3"]["License name"], rows["u3"]["source_id"]) == ("CC0", "3")
    assert rows["u9"] == {"genus": "Canis", "sex": "female"}
    assert sorted(rows) == ["u1", "u2", "u3", "u9"]


def test_names_of_shards_spare_the_listing_of_keys(tmp_path):
    keys = ["a", "b", "c"]
    table = catalogue(
        tmp_path / "catalog.parquet",
        keys,
        shard_filename=["shard-00000.tar", "shard-00001.tar", "shard-00001.tar"],
    )

    def asked():
        raise AssertionError("the tars were listed")
        yield

    parts = join(tars(3), asked(), tables=[table], folder=tmp_path / "work")
    assert [sorted(rows) for rows in rows_of(parts)] == [["a"], ["b", "c"], []]
    assert parts[2].joined == ""
    # Shards of other names are joined by keys.
    others = [Part(file="x.tar")]
    parts = join(others, [(0, ["b"])], tables=[table], folder=tmp_path / "work2")
    assert list(load(parts[0].joined)) == ["b"]


def test_paths_are_no_patterns_and_keys_may_be_numbers(tmp_path):
    folder = tmp_path / "it's [a] *"
    folder.mkdir()
    pq.write_table(
        pa.table({"gbifID": [7, 8, None], "genus": ["A", "B", "C"]}), folder / "c?.parquet"
    )
    pq.write_table(pa.table({"gbifID": [7], "genus": ["no"]}), folder / "cx.parquet")
    (part,) = join(
        tars(1),
        [(0, ["8", "", "7", "\ud800"])],
        tables=[folder / "c?.parquet"],
        folder=folder / "work",
    )
    assert load(part.joined) == {"7": {"genus": "A"}, "8": {"genus": "B"}}


def test_a_key_in_two_parts_is_in_both(tmp_path):
    table = catalogue(tmp_path / "catalog.parquet", ["u1"])
    parts = join(tars(2), [(0, ["u1"]), (1, ["u1"])], tables=[table], folder=tmp_path / "work")
    assert [list(rows) for rows in rows_of(parts)] == [["u1"], ["u1"]]


def test_tables_that_cannot_be_used_are_named(tmp_path):
    def joined(path: Path):
        return join(tars(1), [(0, ["u1"])], tables=[path], folder=tmp_path / "work")

    with pytest.raises(UsageError, match="no such table"):
        joined(tmp_path / "none.parquet")
    with pytest.raises(UsageError, match="no Parquet file"):
        joined(tmp_path)
    pq.write_table(pa.table({"id": ["u1"]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="a.parquet: no column tells .*there are id"):
        joined(tmp_path / "a.parquet")
    table = catalogue(tmp_path / "b.parquet", [f"u{i}" for i in range(1000)])
    data = bytearray(table.read_bytes())
    table.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="b.parquet: cannot be joined"):
        joined(table)
    data[4:400] = b"\xff" * 396
    table.write_bytes(data)
    with pytest.raises(UserError, match="b.parquet: cannot be joined"):
        joined(table)
