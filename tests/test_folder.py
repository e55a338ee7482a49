"""Tables and folders as users have them: odd headers, encodings, gaps and mistakes."""

import csv
import io
import re
import shutil

import pytest
from commands import bioclip2
from PIL import Image

from bioclip2_jax.data import dataset
from bioclip2_jax.data.records import taxon_of
from bioclip2_jax.data.tables import open_table
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare.build import build
from bioclip2_jax.prepare.folder import Folder
from bioclip2_jax.prepare.source import Picture
from bioclip2_jax.prepare.spool import split_of
from bioclip2_jax.prepare.workshop import Order

HEADER = "filename,kingdom,family,genus,species,common_name,sex,split\n"


@pytest.fixture
def pictures(tmp_path):
    """A folder `set` with images/0.jpg … images/9.jpg."""
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    for number in range(10):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 20), (number * 20, 0, 0)).save(buffer, "JPEG")
        (images / f"{number}.jpg").write_bytes(buffer.getvalue())
    return tmp_path / "set"


def prepare(pictures, text, *, encoding="utf-8", images=None, **settings):
    table = pictures / "metadata.csv"
    table.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    out = pictures.parent / "out"
    source = Folder(tables=((images, table),), **settings)
    summary = build(Order(source=source, out=out, name="test", overwrite=True))
    records = {}
    for split in dataset.splits(out):
        source = dataset.open_split(out, split)
        records |= {source[i]["key"]: source[i] | {"split": split} for i in range(len(source))}
    return summary, records


def row(number, rest="Animalia,Felidae,Panthera,leo,lion,female,train"):
    return f"images/{number}.jpg,{rest}\n"


def test_our_own_column_names(pictures):
    summary, records = prepare(pictures, HEADER + row(0) + row(1))
    assert summary.splits == {"train": 2}
    record = records["images/0.jpg"]
    assert record["scientificName"] == "Panthera leo" and record["vernacularName"] == "lion"
    assert record["labels"] == {"sex": "female"} and record["datasetName"] == "set"
    assert record["phylum"] == "" and taxon_of(record).lineage("family")[-1] == "Felidae"


def test_darwin_core_column_names(pictures):
    _, records = prepare(
        pictures,
        "occurrenceID,associatedMedia,scientificName,class,specificEpithet,genus,vernacularName,"
        "license,lifeStage,datasetName\n"
        'o1,images/0.jpg,"Ursus arctos Linnaeus, 1758",Mammalia,arctos,Ursus,brown bear,CC0,'
        "adult,bears\n",
    )
    record = records["o1"]
    assert record["genus"] == "Ursus" and record["species"] == "arctos"
    assert record["class"] == "Mammalia" and record["licence"] == "CC0"
    assert record["labels"] == {"lifeStage": "adult"} and record["datasetName"] == "bears"


def test_a_spreadsheets_export_with_odd_headers(pictures):
    text = HEADER.replace("filename", "File Name").replace("genus", "dwc:GENUS") + row(0)
    _, records = prepare(pictures, text.replace(",", ";"), encoding="utf-8-sig")
    assert taxon_of(records["images/0.jpg"]).scientific_name == "Panthera leo"


def test_any_subset_of_ranks_will_do(pictures):
    _, records = prepare(pictures, "file,order,split\nimages/0.jpg,Carnivora,train\n")
    assert taxon_of(records["images/0.jpg"]).deepest_rank == "order"
    assert records["images/0.jpg"]["scientificName"] == "Carnivora"


def test_further_columns_are_labels_in_darwin_cores_spelling(pictures):
    text = "file,genus,split,life_stage,decimal latitude,beak/mm,Species1,empty,year\n"
    _, records = prepare(pictures, text + "images/0.jpg,Panthera,train,adult,5.10,12,x,,007\n")
    assert records["images/0.jpg"]["labels"] == {
        "lifeStage": "adult",
        "decimalLatitude": "5.10",
        "beak_mm": "12",
        "Species1": "x",
        "year": "007",
    }


def test_pictures_of_one_occurrence_share_a_split_and_have_keys_of_their_own(pictures):
    text = "occurrenceID,file,genus\n" + "".join(
        f"o{number % 2},images/{number}.jpg,Panthera\n" for number in range(10)
    )
    _, records = prepare(pictures, text)
    assert {"o0", "o0#2", "o0#5", "o1", "o1#5"} < set(records) and len(records) == 10
    for occurrence in ("o0", "o1"):
        splits = {r["split"] for key, r in records.items() if key.startswith(occurrence)}
        assert splits == {split_of(occurrence)}


def test_one_darwin_core_row_may_list_several_pictures(pictures):
    text = "gbifID,associatedMedia,genus,split\n7,images/0.jpg | images/1.jpg,Panthera,train\n"
    _, records = prepare(pictures, text)
    assert set(records) == {"7", "7#2"}


def test_paths_of_windows_are_understood(pictures):
    _, records = prepare(pictures, "file,genus\nimages\\0.jpg,Panthera\n")
    assert len(records) == 1


def test_pictures_may_lie_elsewhere_than_the_table(pictures):
    text = "path,genus\n0.jpg,Panthera\nimages/1.jpg,Panthera\n"
    summary, _ = prepare(pictures, text, images=pictures / "images")
    assert summary.records == 2


def test_a_table_may_count_from_the_folder_above_the_pictures(pictures):
    summary, _ = prepare(pictures, HEADER + row(0), images=pictures / "images")
    assert summary.splits == {"train": 1} and not summary.set_aside


SET_ASIDE = {
    "missing": ("images/77.jpg", "No such file"),
    "a folder": ("images", "directory"),
    "no file name": ("", "the filename cell is empty .*line 3"),
    "listed before": ("images/0.jpg", "the same picture as another .*images/0.jpg in train"),
    "a web address": ("https://example.org/1.jpg", "a web address; download"),
    "no picture": ("images/text.jpg", "known format"),
    "empty": ("images/empty.jpg", "the file is empty"),
    "a name too long": ("a" * 3000, "cannot be read"),
}


@pytest.mark.parametrize("kind", SET_ASIDE)
def test_one_bad_picture_is_set_aside_with_its_reason(pictures, kind):
    file, reason = SET_ASIDE[kind]
    (pictures / "images" / "text.jpg").write_text("hello")
    (pictures / "images" / "empty.jpg").write_bytes(b"")
    rest = row(0).partition(",")[2]
    summary, records = prepare(pictures, HEADER + row(0) + f"{file},{rest}")
    with (pictures.parent / "out" / "quarantine.csv").open(encoding="utf-8", newline="") as table:
        (rejected,) = csv.DictReader(table)
    assert re.search(reason, rejected["reason"]) and rejected["split"] == "train"
    assert set(records) == {"images/0.jpg"} and rejected["key"] != ""
    assert (summary.records, summary.set_aside, summary.inputs) == (1, 1, 2)


def test_splits_are_stable_without_a_split_column(pictures):
    text = "file,genus\n" + "".join(f"images/{n}.jpg,Panthera\n" for n in range(10))
    first = {key: record["split"] for key, record in prepare(pictures, text)[1].items()}
    again = {key: record["split"] for key, record in prepare(pictures, text)[1].items()}
    assert first == again
    shares = [split_of(str(n)) for n in range(4000)]
    assert abs(shares.count("train") / 4000 - 0.8) < 0.03


def test_split_names_of_other_tools_are_understood(pictures):
    lines = [
        row(n, f"Animalia,Felidae,Panthera,leo,lion,,{split}")
        for n, split in enumerate(["Training", "validation", "testing", "val"])
    ]
    summary, _ = prepare(pictures, HEADER + "".join(lines))
    assert summary.splits == {"train": 1, "val": 2, "test": 1}


def test_sets_are_merged_under_their_folders_names(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "other")
    tables = []
    for name in ("set", "other"):
        table = tmp_path / name / "metadata.csv"
        table.write_text(HEADER + row(len(tables)), encoding="utf-8")
        tables.append((None, table))
    build(Order(source=Folder(tables=tuple(tables)), out=tmp_path / "out", name="both"))
    source = dataset.open_split(tmp_path / "out", "train")
    assert {source[i]["key"] for i in range(2)} == {"set/images/0.jpg", "other/images/1.jpg"}
    assert {source[i]["datasetName"] for i in range(2)} == {"set", "other"}


def test_captions_may_stand_in_for_taxonomy(pictures):
    _, records = prepare(pictures, "file,Caption,split\nimages/0.jpg,two dogs,train\n")
    assert records["images/0.jpg"]["labels"]["caption"] == "two dogs"


BROKEN = {
    "no file column": (b"photo,genus\na.jpg,Panthera\n", "no column names the picture"),
    "no taxonomy": (b"filename,colour\nimages/0.jpg,red\n", "no taxonomy"),
    "too many cells": (
        b"filename,genus\nimages/0.jpg,Panthera\nimages/1.jpg,Panthera,leo,x\n",
        "line 3: 4 cells under 2",
    ),
    "no picture there": (
        b"filename,genus\nnowhere.jpg,Panthera\n",
        "no usable picture is left.* 1 were set aside.*nowhere.jpg",
    ),
    "no file in any row": (b"filename,genus\n,Panthera\n", "the filename cell is empty .*line 2"),
    "reserved split": (
        b"file,genus,split\nimages/0.jpg,Panthera,all\n",
        "no split may be called 'all'",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_table_is_one_sentence_and_nothing_is_written(pictures, kind):
    data, sentence = BROKEN[kind]
    table = pictures / "metadata.csv"
    if data is not None:
        table.write_bytes(data)
    out = pictures.parent / "out"
    with pytest.raises(UserError, match=sentence) as caught:
        build(Order(source=Folder(tables=((None, table),)), out=out, name="test"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in pictures.parent.iterdir()] == ["set"]


def test_a_folder_of_pictures_that_is_not_there_is_named(pictures):
    with pytest.raises(UsageError, match="--images .*nowhere: there is no such folder"):
        prepare(pictures, HEADER + row(0), images=pictures / "nowhere")


def test_the_command_ends_with_both_counts_and_fails_only_if_nothing_is_left(pictures, tmp_path):
    table = pictures / "metadata.csv"
    table.write_text(HEADER + row(0) + row(77), encoding="utf-8")
    arguments = ("prepare", "folder", "--metadata", table, "--out", tmp_path / "out")
    done = bioclip2(*arguments)
    assert done.returncode == 0 and done.stderr == ""
    assert "1 images (train 1), 1 set aside (see quarantine.csv)" in done.stdout
    table.write_text(HEADER + row(77), encoding="utf-8")
    done = bioclip2(*arguments, "--overwrite")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no usable" in done.stderr
    assert dataset.splits(tmp_path / "out") == {"train": 1}  # the earlier dataset is untouched


def test_every_shared_set_is_found_whole(shared_photos, tmp_path):
    tables = sorted(shared_photos.glob("*/metadata.csv"))
    assert tables
    source = Folder(tables=tuple((None, path) for path in tables))
    found = [each for part in source.parts(tmp_path) for each in source.read(part)]
    assert len(found) == sum(sum(1 for _ in open_table(path).rows()) for path in tables)
    assert all(isinstance(each, Picture) for each in found)
    assert all(taxon_of(each.record).deepest_rank for each in found)
