"""Dataset folders: what is written, what is set aside, and that nothing is half-written."""

import csv
import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bioclip2_jax.data import sources
from bioclip2_jax.data.records import make_record, taxon_of
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare.builder import Rejected, write_dataset
from bioclip2_jax.taxonomy import Taxon

LION = Taxon("Animalia", "Chordata", "Mammalia", "Carnivora", "Felidae", "Panthera", "leo")


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def record(number: int, image: bytes | None = None, **changes):
    fields = {"key": f"k{number}", "taxon": LION, "vernacular_name": "lion"} | changes
    return make_record(image=png(number) if image is None else image, **fields)


def write(out, splits, **settings):
    return write_dataset(splits, out, name="Test set", description="Squares.", **settings)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_records_come_back_as_they_went_in(tmp_path):
    examples = [record(n, labels={"sex": "female"}) for n in range(5)]
    write(tmp_path / "d", {"train": examples}, label_names=["sex", "lifeStage"])
    source = sources.open_split(tmp_path / "d", "train")
    found = {source[i]["key"]: source[i] for i in range(len(source))}
    for example in examples:
        example["labels"]["lifeStage"] = ""
        assert found[example["key"]] == example
    assert taxon_of(found["k0"]) == LION


def test_tfds_reads_the_folder_without_tensorflow(tmp_path):
    write(tmp_path / "d", {"train": [record(n) for n in range(3)], "val": [record(9)]})
    builder = tfds.builder_from_directory(str(tmp_path / "d"))
    data = builder.as_data_source("train")
    assert len(data) == 3 and data[0]["image"][:4] == b"\x89PNG"
    assert data[0]["genus"] == b"Panthera"
    assert {p.name for p in (tmp_path / "d").iterdir()} == {
        "LICENSE",
        "dataset_info.json",
        "features.json",
        "quarantine.csv",
        "taxa.csv",
        "test_set-train.array_record-00000-of-00001",
        "test_set-val.array_record-00000-of-00001",
    }


def test_the_same_records_in_another_order_give_the_same_dataset(tmp_path):
    examples = [record(n) for n in range(20)]
    write(tmp_path / "a", {"train": examples})
    write(tmp_path / "b", {"train": examples[::-1]})
    keys = []
    for name in "ab":
        source = sources.open_split(tmp_path / name, "train")
        keys.append([source[i]["key"] for i in range(20)])
    assert keys[0] == keys[1] != sorted(keys[0])


def test_bad_pictures_are_set_aside_and_named(tmp_path):
    missing = Rejected("k9", "lost.jpg", "val", "cannot be read")
    summary = write(
        tmp_path / "d",
        {"train": [record(0, b"junk"), record(1), record(2, b"")], "val": [record(3), missing]},
    )
    assert summary.images == {"train": 1, "val": 1} and len(summary.rejected) == 3
    assert "2 images" in str(summary) and "3 set aside" in str(summary)
    reasons = {row["key"]: row["reason"] for row in rows(tmp_path / "d" / "quarantine.csv")}
    assert reasons["k9"] == "cannot be read" and "empty" in reasons["k2"]
    assert "known format" in reasons["k0"]


def test_a_split_whose_pictures_are_all_bad_disappears(tmp_path):
    write(tmp_path / "d", {"train": [record(1)], "val": [record(2, b"junk")]})
    assert sources.splits(tmp_path / "d") == {"train": 1}


def test_taxa_are_counted_by_split_with_their_commonest_name(tmp_path):
    examples = [record(0), record(1, vernacular_name="Lion"), record(2, vernacular_name="Lion")]
    write(tmp_path / "d", {"train": examples, "val": [record(3)]})
    (entry,) = sources.read_taxa(tmp_path / "d")
    assert entry.taxon == LION and entry.scientific_name == "Panthera leo"
    assert entry.counts == {"train": 3, "val": 1} and entry.vernacular_name in ("Lion", "lion")


def test_if_nothing_is_left_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="no usable picture is left.*empty"):
        write(tmp_path / "d", {"train": [record(0, b"")]})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_the_middle_leaves_nothing(tmp_path):
    def failing():
        yield record(0)
        raise RuntimeError("the disk was pulled out")

    with pytest.raises(RuntimeError):
        write(tmp_path / "d", {"train": failing()})
    assert list(tmp_path.iterdir()) == []


def test_two_records_of_one_key_are_refused(tmp_path):
    with pytest.raises(UserError, match="'k1' stands for two pictures"):
        write(tmp_path / "d", {"train": [record(1), record(1)]})


def test_a_dataset_is_replaced_only_on_request(tmp_path):
    write(tmp_path / "d", {"train": [record(1)]})
    with pytest.raises(UsageError, match="add --overwrite"):
        write(tmp_path / "d", {"train": [record(2)]})
    write(tmp_path / "d", {"train": [record(2)]}, overwrite=True)
    assert sources.open_split(tmp_path / "d", "train")[0]["key"] == "k2"


def test_a_folder_with_other_files_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        write(tmp_path, {"train": [record(1)]}, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_damaged_datasets_are_named(tmp_path):
    with pytest.raises(UserError, match="no dataset here"):
        sources.open_split(tmp_path, "train")
    folder = tmp_path / "d"
    write(folder, {"train": [record(n) for n in range(3)]})
    with pytest.raises(UserError, match="no split 'val'; there are train"):
        sources.open_split(folder, "val")
    (folder / "taxa.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="taxa.csv: cannot be read"):
        sources.read_taxa(folder)
    shard = next(folder.glob("*.array_record*"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        sources.open_split(folder, "train")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="metadata cannot be read"):
        sources.splits(folder)


def test_a_parent_folder_with_one_dataset_will_do(tmp_path):
    write(tmp_path / "deep" / "d", {"train": [record(1)]})
    assert sources.splits(tmp_path) == {"train": 1}
    write(tmp_path / "deep" / "e", {"train": [record(1)]})
    with pytest.raises(UserError, match="several datasets"):
        sources.splits(tmp_path)


def test_pictures_are_stored_byte_for_byte(tmp_path):
    odd = io.BytesIO()
    Image.fromarray(np.full((16, 16), 40000, np.uint16)).save(odd, "PNG")
    write(tmp_path / "d", {"train": [record(0, odd.getvalue())]})
    assert sources.open_split(tmp_path / "d", "train")[0]["image"] == odd.getvalue()
