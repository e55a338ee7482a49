import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from colour_world import COLOURS, TAXA, ColourModel, square, write_world

from bioclip2_jax.cli.embed import embed as command
from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features import embed, store
from bioclip2_jax.features.pictures import open_pictures
from bioclip2_jax.weights.description import Preprocess

VAL = {"red": 4, "orange": 3, "blue": 6, "green": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("data") / "squares", VAL)


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
    pictures = open_pictures(source, split)
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
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(parts) == 5
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
            if self.batch_shapes:  # in its second part
                raise KeyboardInterrupt
            return super().encode_image(images, normalize)

    with pytest.raises(KeyboardInterrupt):
        make(folder, tmp_path / "out", model=Killed())
    with pytest.raises(UserError, match="not complete; run the same"):
        store.read(tmp_path / "out")
    kept = sorted((tmp_path / "out").glob("*.parquet"))
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert 0 < len(kept) < 3
    make(folder, tmp_path / "out")
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    ours, theirs = store.read(tmp_path / "out"), store.read(tmp_path / "whole")
    assert ours.keys == theirs.keys and ours.about.bad == theirs.about.bad
    np.testing.assert_array_equal(ours.features, theirs.features)


def test_the_same_call_again_makes_damaged_parts_and_those_of_another_model_anew(folder, tmp_path):
    make(folder, tmp_path / "whole")
    other = ColourModel(params={"weight": np.ones(3, np.float32)})
    make(folder, tmp_path / "other", model=other)
    out = shutil.copytree(tmp_path / "whole", tmp_path / "out")
    content = bytearray(store.part_path(out, 0).read_bytes())
    content[60] ^= 1  # among the features; the description behind them is sound
    store.part_path(out, 0).write_bytes(content)
    shutil.copy(store.part_path(tmp_path / "other", 1), store.part_path(out, 1))
    kept = store.part_path(out, 2).stat().st_mtime_ns
    make(folder, out)
    for number in (0, 1):
        ours, theirs = (
            store.read_part_about(store.part_path(p, number)) for p in (out, tmp_path / "whole")
        )
        assert ours == theirs
    assert store.part_path(out, 2).stat().st_mtime_ns == kept
    np.testing.assert_array_equal(store.read(out).features, store.read(tmp_path / "whole").features)


def test_pictures_that_were_replaced_under_their_names_are_noticed(folder, tmp_path):
    make(folder, tmp_path / "out")
    (folder / "b" / "2.png").write_bytes(square("red", "BMP"))
    with pytest.raises(UsageError, match="pictures was"):
        make(folder, tmp_path / "out")


@pytest.mark.parametrize("change", ["dtype", "model", "pictures"])
def test_features_of_another_kind_are_not_mixed(folder, tmp_path, change):
    make(folder, tmp_path / "out")
    options = {"dtype": "float16"} if change == "dtype" else {}
    if change == "model":
        options["model"] = ColourModel(params={"weight": np.ones(3, np.float32)})
    if change == "pictures":
        (folder / "new.png").write_bytes(square("red"))
    with pytest.raises(UsageError, match=f"features of another kind .{change} was"):
        make(folder, tmp_path / "out", **options)


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
        open_pictures(tmp_path / "empty")
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
    monkeypatch.setattr("bioclip2_jax.weights.load.load", lambda path: ColourModel())
    arguments = [str(folder), "--model", "m", "--out", str(tmp_path / "out"), "--dtype", "float16"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert "7 features of 4 numbers, 1 could not be read, 1 file is no picture" in done.stdout
