import io
import json
import shutil
import tarfile

import duckdb
import jax
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from colour_world import COLOURS, TAXA, ColourModel, square, write_world

from bioclip2_jax.cli.embed import embed as command
from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features import embed, store
from bioclip2_jax.features.pictures import open_pictures
from bioclip2_jax.features.sources import open_source
from bioclip2_jax.weights.description import Preprocess

VAL = {"red": 4, "orange": 3, "blue": 6, "green": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("data") / "squares", VAL)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Else batches are of eight pictures at least."""
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)


@pytest.fixture
def folder(tmp_path):
    """Seven pictures in two folders; one of them is none."""
    for number, colour in enumerate([*COLOURS] * 2):
        path = tmp_path / "photos" / colour[0] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(square(colour))
    (tmp_path / "photos" / "r" / "0.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "notes.txt").write_text("not asked for")
    return tmp_path / "photos"


def make(source, out, *, split=None, model=None, part_rows=3, said=None, **options):
    said = [] if said is None else said
    pictures = open_source([str(source)], split)
    return embed.embed(
        model or ColourModel(), "colours", pictures, out,
        part_rows=part_rows, batch_size=2, say=said.append, **options,
    )  # fmt: skip


def test_all_splits_of_a_dataset_with_their_lineages_and_labels(data, tmp_path):
    about = make(data, tmp_path / "out")
    found = store.read(tmp_path / "out")
    counts = dataset.splits(data)
    assert about.num_rows == len(found.keys) == sum(counts.values())
    assert {s: int((found.texts["split"] == s).sum()) for s in counts} == counts
    rows = found.select(found.texts["split"] == "val")
    source = dataset.open_split(data, "val")
    assert rows.keys == [source[i]["key"] for i in range(len(source))]
    assert rows.index.tolist() == list(range(len(source)))
    assert set(rows.taxa) == set(TAXA.values())
    np.testing.assert_allclose(np.linalg.norm(rows.features, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows.norms, 2, atol=1e-6)  # as that model gives them


def test_the_files_are_plain_parquet_with_their_origin(data, tmp_path):
    make(data, tmp_path / "out", split="val", dtype="float16")
    parts = sorted((tmp_path / "out").glob("features-*.parquet"))
    assert len(parts) > 1, [pq.read_metadata(part).num_rows for part in parts]
    table = pq.read_table(parts[0])
    assert {"key", "embedding", "kingdom", "species", "split", "norm"} <= set(table.column_names)
    assert str(table.schema.field("embedding").type) == "fixed_size_list<item: halffloat>[4]" or (
        "halffloat" in str(table.schema.field("embedding").type)
    )
    about = json.loads(table.schema.metadata[b"bioclip2_jax"])
    assert about["dtype"] == "float16" and len(about["model"]["sha256"]) == 64
    assert about["preprocess"]["size"] == 16 and about["pictures"]["splits"] == {"val": 15}


def test_a_folder_gives_paths_as_keys_and_bad_pictures_are_set_aside(folder, tmp_path):
    said = []
    about = make(folder, tmp_path / "out", said=said)
    found = store.read(tmp_path / "out")
    assert len(found.keys) == about.num_rows == 7 and "b/2.png" in found.keys
    assert [key for key, _ in about.bad] == ["r/0.png"]
    assert any(line.startswith("r/0.png: ") for line in said)
    assert set(found.texts["genus"]) == {""}


def test_an_interrupted_run_goes_on_and_ends_the_same(folder, tmp_path):
    make(folder, tmp_path / "whole")

    class Killed(ColourModel):
        def encode_image(self, images, normalize=True):
            calls.append(len(images))
            if len(calls) == 4:
                raise KeyboardInterrupt
            return super().encode_image(images, normalize)

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        make(folder, tmp_path / "out", model=Killed())
    with pytest.raises(UserError, match="not complete; run the same"):
        store.read(tmp_path / "out")
    kept = sorted((tmp_path / "out").glob("features-*.parquet"))
    assert sum(pq.read_metadata(path).num_rows for path in kept) == 4  # two batches of four
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert 0 < len(kept) < 3
    make(folder, tmp_path / "out")
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    ours, theirs = store.read(tmp_path / "out"), store.read(tmp_path / "whole")
    assert ours.keys == theirs.keys and ours.about.bad == theirs.about.bad
    np.testing.assert_array_equal(ours.features, theirs.features)


def test_the_same_call_again_makes_damaged_parts_anew(folder, tmp_path):
    make(folder, tmp_path / "whole")
    out = shutil.copytree(tmp_path / "whole", tmp_path / "out")
    content = bytearray(store.part_path(out, 0).read_bytes())
    content[60] ^= 1  # among the features; the description behind them is sound
    store.part_path(out, 0).write_bytes(content)
    kept = store.part_path(out, 1).stat().st_mtime_ns
    with pytest.raises(UserError, match="damaged"):
        store.read(out)
    make(folder, out)
    assert store.part_path(out, 1).stat().st_mtime_ns == kept
    ours, theirs = store.read(out), store.read(tmp_path / "whole")
    assert ours.keys == theirs.keys and ours.about.bad == theirs.about.bad
    np.testing.assert_array_equal(ours.features, theirs.features)


def test_a_part_of_another_model_is_refused_and_stays(folder, tmp_path):
    make(folder, tmp_path / "out")
    other = ColourModel(params={"weight": np.ones(3, np.float32)})
    make(folder, tmp_path / "other", model=other)
    strange = store.part_path(tmp_path / "out", 7)
    shutil.copy(store.part_path(tmp_path / "other", 0), strange)
    with pytest.raises(UsageError, match="00007.parquet holds features of another kind .model was"):
        make(folder, tmp_path / "out")
    assert strange.exists()


def test_new_pictures_are_added_and_no_other_is_encoded_again(folder, tmp_path):
    whole = shutil.copytree(folder, tmp_path / "later")
    (whole / "a.png").write_bytes(square("orange"))
    (whole / "r" / "0.png").write_bytes(square("red"))  # which was none
    make(folder, tmp_path / "out")
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    said: list[str] = []
    model = ColourModel()
    about = make(folder, tmp_path / "out", said=said, model=model)
    assert about.num_rows == 9 and about.bad == []
    assert model.batch_shapes == {(2, 16, 16, 3)}  # the two together
    assert f"{tmp_path / 'out'}: has 7 of 9 pictures" in said
    found = store.read(tmp_path / "out")
    assert found.keys == sorted(found.keys) and {"a.png", "r/0.png"} < set(found.keys)
    assert found.index.tolist() == list(range(9))
    make(whole, tmp_path / "whole")
    np.testing.assert_array_equal(found.features, store.read(tmp_path / "whole").features)
    assert len(list((tmp_path / "out").glob("features-*.parquet"))) == 4


def test_parts_are_written_in_time(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "FLUSH_SECONDS", 0.0)
    make(folder, tmp_path / "out", part_rows=100)
    assert len(list((tmp_path / "out").glob("features-*.parquet"))) == 8


def test_pictures_that_were_replaced_under_their_names_are_noticed(folder, tmp_path):
    make(folder, tmp_path / "out")
    (folder / "b" / "2.png").write_bytes(square("red", "BMP"))
    with pytest.raises(UsageError, match="b/2.png: another one now"):
        make(folder, tmp_path / "out")


@pytest.mark.parametrize("change", ["dtype", "model", "pictures", "columns", "precision"])
def test_features_of_another_kind_are_not_mixed(folder, tmp_path, change):
    make(folder, tmp_path / "out")
    options = {"dtype": "float16"} if change == "dtype" else {}
    if change == "columns":
        options["columns"] = "explorer"
    if change == "model":
        options["model"] = ColourModel(params={"weight": np.ones(3, np.float32)})
    if change == "precision":
        options["model"] = ColourModel(precision="bfloat16")
    if change == "pictures":
        folder = shutil.copytree(folder, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"features of another kind .{change} was"):
        make(folder, tmp_path / "out", **options)


def test_tasks_share_the_pictures_and_write_files_of_their_own(folder, tmp_path):
    make(folder, tmp_path / "whole")
    out = tmp_path / "out"
    shares = []
    for number in (1, 2, 0):
        before = set(out.glob("*")) if out.exists() else set()
        shares.append(make(folder, out, task=(number, 3)).num_rows)
        new = {path.name for path in set(out.glob("*")) - before}
        assert all(f"{number:05d}-of-00003" in name for name in new - {"_embedding.parquet"})
        if number:
            with pytest.raises(UserError, match="no feature store here"):
                store.read(out)
    assert sum(shares) == 7 and max(shares) < 7
    ours, theirs = store.read(out), store.read(tmp_path / "whole")
    assert ours.keys == theirs.keys
    np.testing.assert_array_equal(ours.features, theirs.features)
    # More pictures: until all tasks have looked at them, the store is not complete.
    for number in range(6):
        (folder / f"new{number}.png").write_bytes(square("blue"))
    make(folder, out, task=(0, 3))
    with pytest.raises(UserError, match="not complete"):
        store.read(out)
    about = make(folder, out)  # one call may do it, too
    assert about.num_rows == 13 == len(store.read(out).keys)


def test_two_calls_at_once_are_refused(folder, tmp_path):
    class Second(ColourModel):
        def encode_image(self, images, normalize=True):
            with pytest.raises(UserError, match="another process embeds into it"):
                make(folder, tmp_path / "out")
            return super().encode_image(images, normalize)

    make(folder, tmp_path / "out", model=Second())


def test_a_model_has_one_checksum_whatever_the_type_of_its_arrays():
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    plain = embed.checksum(ColourModel(params={"a": {"b": weights}}))
    assert plain == embed.checksum(ColourModel(params={"a": {"b": weights.astype("f8")}}))
    assert plain != embed.checksum(ColourModel(params={"a": {"b": weights.reshape(3, 2)}}))
    assert plain != embed.checksum(ColourModel(params={"a": {"c": weights}}))


def test_labels_called_like_our_columns_keep_their_name_in_the_store(tmp_path):
    row = store.Row("k", 0, {}, {"split": "left", "sex": "female"})
    about = store.About(
        model=store.Maker(path="m", step=None, sha256=""),
        preprocess=Preprocess(16),
        dim=2,
        dtype="float32",
        pictures={},
        labels=["sex", "split"],
        version="",
        num_parts=1,
        complete=True,
    )
    store.write_part(store.part_path(tmp_path, 0), [row], np.ones((1, 2), np.float32), about)
    store.write_about(tmp_path, about)
    found = store.read(tmp_path)
    assert found.labels["split"].tolist() == ["left"] and found.texts["split"].tolist() == [""]
    assert found.labels["sex"].tolist() == ["female"]


def test_wrong_calls_are_named(data, folder, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        open_pictures(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no split 'dev'; it has train, val"):
        open_pictures(data, "dev")
    with pytest.raises(UsageError, match="plain folder"):
        open_pictures(folder, "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no picture here"):
        open_source([str(tmp_path / "empty")])
    with pytest.raises(UsageError, match="2 places"):
        open_source([str(folder), str(data)])
    with pytest.raises(UserError, match="no feature store here"):
        store.read(tmp_path / "empty")
    make(folder, tmp_path / "out")
    next((tmp_path / "out").glob("*00001.parquet")).write_bytes(b"PAR1 but no more")
    with pytest.raises(UserError, match="damaged"):
        store.read(tmp_path / "out")
    shutil.rmtree(folder / "b")
    for path in folder.rglob("*.png"):
        path.write_bytes(b"none")
    with pytest.raises(UserError, match="not one of 6 pictures"):
        make(folder, tmp_path / "bad")


def test_the_command_makes_a_store(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("bioclip2_jax.weights.load.load", lambda *_: ColourModel())
    arguments = [str(folder), "--model", "m", "--out", str(tmp_path / "out"), "--dtype", "float16"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert "7 features of 4 numbers, 1 could not be read, 1 file is no picture" in done.stdout


# ---- Archives


def write_tar(path, names, colour="red"):
    with tarfile.open(path, "w") as tar:
        for name in names:
            for suffix, content in ((".jpg", square(colour, "JPEG")), (".com.txt", b"fire bird")):
                entry = tarfile.TarInfo(name + suffix)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def test_tars_are_read_one_by_one_and_new_ones_are_added(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "0.tar", "abc")
    about = make(shards, tmp_path / "out", part_rows=2)
    assert about.num_rows == 3 and about.pictures == {"tars": str(shards)}
    write_tar(shards / "1.tar", "de", "blue")
    (shards / "2.tar").write_bytes((shards / "1.tar").read_bytes()[:1000])  # cut short
    model = ColourModel()
    about = make(shards, tmp_path / "out", model=model)
    assert about.num_rows == 5 and len(about.bad) == 1
    found = store.read(tmp_path / "out")
    assert found.keys == ["a", "b", "c", "d", "e"] and found.index.tolist() == [0, 1, 2, 0, 1]
    assert found.texts["vernacularName"].tolist() == ["fire bird"] * 5
    write_tar(shards / "0.tar", "abcx")
    with pytest.raises(UsageError, match="0.tar: another one now"):
        make(shards, tmp_path / "out")


def test_a_tar_is_gone_on_with_in_its_middle(tmp_path):
    tar = write_tar(tmp_path / "0.tar", "abcdefgh")

    class Killed(ColourModel):
        def encode_image(self, images, normalize=True):
            calls.append(len(images))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().encode_image(images, normalize)

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        make(tar, tmp_path / "out", model=Killed(), part_rows=2)
    (first,) = (tmp_path / "out").glob("features-*.parquet")
    assert pq.read_table(first)["key"].to_pylist() == ["a", "b"]
    again = make(tar, tmp_path / "out", part_rows=2)
    assert again.num_rows == 8 and store.read(tmp_path / "out").keys == [*"abcdefgh"]


def test_parquet_with_pictures_needs_no_names(tmp_path):
    path = tmp_path / "photos" / "train.parquet"
    path.parent.mkdir()
    images = [{"bytes": square(colour), "path": None} for colour in ("red", "blue", "green")]
    images[1]["bytes"] = b"none"
    pq.write_table(pa.table({"uuid": ["u1", "u2", "u3"], "image": images}), path)
    about = make(path.parent, tmp_path / "out", columns="explorer")
    assert [key for key, _ in about.bad] == ["u2"]
    table = pads.dataset(tmp_path / "out", format="parquet").to_table()
    assert table["uuid"].to_pylist() == ["u1", "u3"] and table["file"][0].as_py() == "train.parquet"
    assert str(table.schema.field("emb").type) in ("list<element: float>", "list<item: float>")
    assert store.read(tmp_path / "out").keys == ["u1", "u3"]
    assert make(path, tmp_path / "out", columns="explorer").num_rows == 2


def test_the_folder_is_one_table_for_arrow_and_duckdb(folder, tmp_path):
    make(folder, tmp_path / "out", dtype="float32")
    whole = pads.dataset(tmp_path / "out", format="parquet").to_table()
    assert len(whole) == 7 and len(list((tmp_path / "out").glob("features-*.parquet"))) > 1
    counted = duckdb.sql(f"SELECT count(DISTINCT key) FROM '{tmp_path}/out/*.parquet'").fetchall()
    assert counted == [(7,)]
