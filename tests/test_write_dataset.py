"""Dataset folders: what is written, what is set aside, and that nothing is half-written."""

import csv
import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from bioclip2_jax.data import dataset
from bioclip2_jax.data.records import TEXT_FIELDS, make_record, taxon_of
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare import settle, shards
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.prepare.source import Rejected
from bioclip2_jax.text.taxonomy import Taxon

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
    examples += [record(5, labels={"lifeStage": "adult"})]
    write(tmp_path / "d", {"train": examples})
    source = dataset.open_split(tmp_path / "d", "train")
    found = {source[i]["key"]: source[i] for i in range(len(source))}
    for example in examples:
        example["labels"] = {"lifeStage": "", "sex": ""} | example["labels"]
        assert found[example["key"]] == example
    assert taxon_of(found["k0"]) == LION


def test_tfds_reads_the_folder_without_tensorflow(tmp_path):
    write(tmp_path / "d", {"train": [record(n) for n in range(3)], "val": [record(9)]})
    data = tfds.builder_from_directory(str(tmp_path / "d")).as_data_source("train")
    assert "tensorflow" not in sys.modules
    assert len(data) == 3 and data[0]["image"][:4] == b"\x89PNG"
    assert data[0]["genus"] == b"Panthera"
    assert {p.name for p in (tmp_path / "d").iterdir()} == {
        "LICENSE",
        "captions.json",
        "conflicts.csv",
        "dataset_info.json",
        "features.json",
        "lanes.json",
        "quarantine.csv",
        "summary.json",
        "taxa.csv",
        "test_set-train.array_record-00000-of-00001",
        "test_set-val.array_record-00000-of-00001",
    }


def test_the_same_records_in_another_order_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(settle, "SHARD_BYTES", 2000)
    examples = [record(n) for n in range(40)]
    write(tmp_path / "a", {"train": examples})
    write(tmp_path / "b", {"train": examples[::-1]})
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.array_record*")}
        for name in "ab"
    ]
    assert files[0] == files[1] and len(files[0]) > 3
    source = dataset.open_split(tmp_path / "a", "train")
    keys = [source[i]["key"] for i in range(40)]
    assert sorted(keys) == sorted(e["key"] for e in examples) and keys != sorted(keys)


def test_bad_pictures_are_set_aside_and_named(tmp_path):
    missing = Rejected("k9", "lost.jpg", "val", "cannot be read")
    summary = write(
        tmp_path / "d",
        {"train": [record(0, b"junk"), record(1), record(2, b"")], "val": [record(3), missing]},
    )
    assert summary.splits == {"train": 1, "val": 1} and summary.set_aside == 3
    assert summary.inputs == 5 and sum(summary.by_reason.values()) == 3
    assert "2 images" in str(summary) and "3 set aside" in str(summary)
    reasons = {row["key"]: row["reason"] for row in rows(tmp_path / "d" / "quarantine.csv")}
    assert reasons["k9"] == "cannot be read" and "empty" in reasons["k2"]
    assert "known format" in reasons["k0"]


def test_a_split_whose_pictures_are_all_bad_disappears(tmp_path):
    write(tmp_path / "d", {"train": [record(1)], "val": [record(2, b"junk")]})
    assert dataset.splits(tmp_path / "d") == {"train": 1}


def test_taxa_are_counted_by_split_with_their_commonest_name(tmp_path):
    examples = [record(0), record(1, vernacular_name="king"), record(2, vernacular_name="")]
    write(tmp_path / "d", {"train": examples, "val": [record(3)]})
    (entry,) = dataset.read_taxa(tmp_path / "d")
    assert entry.taxon == LION and entry.scientific_name == "Panthera leo"
    assert entry.counts == {"train": 3, "val": 1} and entry.vernacular_name == "lion"


def test_the_metadata_name_version_and_licences(tmp_path):
    examples = [record(0, licence="CC0-1.0"), record(1, licence="CC BY 4.0"), record(2)]
    write(tmp_path / "d", {"train": examples})
    info = tfds.builder_from_directory(str(tmp_path / "d")).info
    assert (info.name, str(info.version), info.description) == ("test_set", "1.0.0", "Squares.")
    assert (tmp_path / "d" / "LICENSE").read_text() == "CC BY 4.0\nCC0-1.0"


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


def test_records_of_one_key_are_numbered_also_in_another_split(tmp_path):
    examples = [record(1), record(1, png(2)), record(2, png(3))]
    write(tmp_path / "d", {"train": examples, "val": [record(1, png(4))]})
    keys = {
        split: {row["key"] for row in dataset.open_split(tmp_path / "d", split)}
        for split in ("train", "val")
    }
    assert keys == {"train": {"k1", "k1#2", "k2"}, "val": {"k1#3"}}


def test_a_split_cannot_be_called_all(tmp_path):
    with pytest.raises(UserError, match="'all'"):
        write(tmp_path / "d", {"all": [record(1)]})


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/d: cannot be written"):
        write(tmp_path / "file" / "d", {"train": [record(1)]})
    with pytest.raises(UsageError, match="is a file"):
        write(tmp_path / "file", {"train": [record(1)]})


def test_neighbours_of_the_dataset_are_left_alone(tmp_path):
    for name in ("d.old", "d.partial", ".d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "backup").write_text("")
    write(tmp_path / "d", {"train": [record(1)]})
    write(tmp_path / "d", {"train": [record(2)]}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".d", "d", "d.old", "d.partial"]
    assert all((tmp_path / name / "backup").exists() for name in ("d.old", "d.partial", ".d"))


def test_a_failed_replacement_leaves_the_earlier_dataset(tmp_path):
    write(tmp_path / "d", {"train": [record(1)]})
    with pytest.raises(UserError):
        write(tmp_path / "d", {"train": [record(2, b"junk")]}, overwrite=True)
    assert dataset.open_split(tmp_path / "d", "train")[0]["key"] == "k1"


def test_a_dataset_with_notes_beside_it_is_not_replaced(tmp_path):
    write(tmp_path / "d", {"train": [record(1)]})
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files .notes.txt"):
        write(tmp_path / "d", {"train": [record(2)]}, overwrite=True)


def test_a_dataset_is_replaced_only_on_request(tmp_path):
    write(tmp_path / "d", {"train": [record(1)]})
    with pytest.raises(UsageError, match="add --overwrite"):
        write(tmp_path / "d", {"train": [record(2)]})
    write(tmp_path / "d", {"train": [record(2)]}, overwrite=True)
    assert dataset.open_split(tmp_path / "d", "train")[0]["key"] == "k2"


def test_a_folder_with_other_files_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        write(tmp_path, {"train": [record(1)]}, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "16-bit PNG"])
def test_pictures_are_stored_byte_for_byte(tmp_path, form):
    pixels = np.full(
        (16, 16), 40000 if "16" in form else 200, np.uint16 if "16" in form else np.uint8
    )
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, form.removeprefix("16-bit "))
    write(tmp_path / "d", {"train": [record(0, encoded.getvalue())]})
    assert dataset.open_split(tmp_path / "d", "train")[0]["image"] == encoded.getvalue()
    data = tfds.builder_from_directory(str(tmp_path / "d")).as_data_source("train")
    assert data[0]["image"] == encoded.getvalue()


@pytest.mark.parametrize("size", [0, 1, 115, 120, 127, 128, 16_370, 16_384, 1 << 21])
def test_a_record_is_serialised_as_protobuf_does_it(size):
    labels = {"sex": "f", "sämtliche": "鳥" * (size % 1000), "Zone/β": ""}
    entry = record(1, bytes(size), key="k" * (size % 200), licence="é" * 64, labels=labels)
    example = tf_example_pb2.Example()
    feature = example.features.feature
    for name in TEXT_FIELDS:
        feature[name].bytes_list.value.append(entry[name].encode())
    for name in (*labels, "unknown here"):
        feature[f"labels/{name}"].bytes_list.value.append(labels.get(name, "").encode())
    feature["image"].bytes_list.value.append(entry["image"])
    expected = example.SerializeToString(deterministic=True)
    assert shards.serialised(entry, (*labels, "unknown here")) == expected
