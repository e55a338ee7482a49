"""Random access to prepared datasets, also from worker processes, and to damaged ones."""

import pickle
import shutil

import grain
import numpy as np
import pytest

from bioclip2_jax.data import dataset
from bioclip2_jax.data.records import taxon_of
from bioclip2_jax.errors import UserError


@pytest.fixture
def copy(tiny_data, tmp_path):
    """A dataset to damage."""
    return shutil.copytree(tiny_data, tmp_path / "deep" / "tiny")


def test_a_split_is_a_sequence_of_records(tiny_data):
    source = dataset.open_split(tiny_data, "val")
    records = list(source)
    assert len(source) == len(records) == 20
    assert {record["key"] for record in records} == {f"val-{n}" for n in range(20)}
    assert records[3] == source[np.int64(3)]
    assert records[0]["labels"]["sex"] in ("female", "male")


@pytest.mark.parametrize("index", [-1, 20, 10**9])
def test_there_is_nothing_past_the_ends(tiny_data, index):
    with pytest.raises(IndexError, match=f"no record {index}, only 20"):
        dataset.open_split(tiny_data, "val")[index]


def test_a_pickled_source_reads_the_same_and_is_small(tiny_data):
    source = dataset.open_split(tiny_data, "train")
    source[0]
    data = pickle.dumps(source)
    assert len(data) < 50_000
    again = pickle.loads(data)
    assert [again[i] for i in (5, 0)] == [source[i] for i in (5, 0)]


def test_grain_reads_it(tiny_data):
    source = dataset.open_split(tiny_data, "train")
    rows = grain.MapDataset.source(source).map(lambda record: record["key"])
    found = list(rows.to_iter_dataset(grain.ReadOptions(num_threads=4)))
    assert found == [source[i]["key"] for i in range(64)]


def test_splits_and_taxa_agree_with_the_records(tiny_data):
    assert dataset.splits(tiny_data) == {"train": 64, "val": 20, "test": 10}
    entries = {entry.taxon: entry for entry in dataset.read_taxa(tiny_data)}
    assert list(entries) == sorted(entries) and len(entries) == 5
    for split, count in dataset.splits(tiny_data).items():
        lineages = [taxon_of(record) for record in dataset.open_split(tiny_data, split)]
        assert sum(entry.counts[split] for entry in entries.values()) == count
        assert all(lineages.count(taxon) == e.counts[split] for taxon, e in entries.items())


def test_a_parent_folder_with_one_dataset_will_do(copy):
    assert dataset.splits(copy.parent.parent) == dataset.splits(copy)
    shutil.copytree(copy, copy.parent / "second")
    with pytest.raises(UserError, match="several datasets"):
        dataset.splits(copy.parent.parent)


def test_a_folder_without_dataset_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"{folder}: no dataset here"):
            dataset.open_split(folder, "train")


def test_a_split_that_is_not_there_is_named_with_those_that_are(tiny_data):
    with pytest.raises(UserError, match="no split 'dev'; there are train, val, test"):
        dataset.open_split(tiny_data, "dev")


def cut_shard(folder):
    shard = next(folder.glob("*-train.array_record*"))
    shard.write_bytes(shard.read_bytes()[:100])


def garble_shard(folder):
    shard = next(folder.glob("*-train.array_record*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 3 : len(data) // 3 * 2] = bytes(len(data) // 3)
    shard.write_bytes(data)


def drop_shard(folder):
    next(folder.glob("*-train.array_record*")).unlink()


def break_info(folder):
    (folder / "dataset_info.json").write_text("{")


def lose_info(folder):
    (folder / "dataset_info.json").unlink()


def break_features(folder):
    (folder / "features.json").write_text("{}")


def break_taxa(folder):
    (folder / "taxa.csv").write_text("a,b\n1,2\n")


def lose_taxa(folder):
    (folder / "taxa.csv").unlink()


def miscount_taxa(folder):
    path = folder / "taxa.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",2\n", ",two\n"), encoding="utf-8")


DAMAGE = [
    *(cut_shard, garble_shard, drop_shard, break_info, lose_info, break_features),
    *(break_taxa, lose_taxa, miscount_taxa),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_sentence_that_names_the_folder(copy, damage):
    damage(copy)
    with pytest.raises(UserError) as caught:
        list(dataset.open_split(copy, "train"))
        dataset.read_taxa(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_a_foreign_tfds_dataset_is_told_apart(copy):
    features = copy / "features.json"
    features.write_text(features.read_text().replace("datasetName", "somethingElse"))
    with pytest.raises(UserError, match="not a dataset made by `bioclip2 prepare`"):
        dataset.open_split(copy, "train")


def test_the_name_of_before_is_understood():
    from bioclip2_jax.data import sources

    assert sources is dataset
