"""Tables and folders as users have them: odd headers, encodings, gaps and mistakes."""

import io

import pytest
from PIL import Image

from bioclip2_jax.data import sources
from bioclip2_jax.data.records import taxon_of
from bioclip2_jax.errors import UserError
from bioclip2_jax.prepare import folder

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
    settings = {"name": "test", "overwrite": True} | settings
    summary = folder.prepare_folder([(images, table)], out, **settings)
    records = {}
    for split in sources.splits(out):
        source = sources.open_split(out, split)
        records |= {source[i]["key"]: source[i] | {"split": split} for i in range(len(source))}
    return summary, records


def row(number, rest="Animalia,Felidae,Panthera,leo,lion,female,train"):
    return f"images/{number}.jpg,{rest}\n"


def test_our_own_column_names(pictures):
    summary, records = prepare(pictures, HEADER + row(0) + row(1))
    assert summary.images == {"train": 2}
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


@pytest.mark.parametrize(
    ("change", "encoding"),
    [
        (lambda text: text, "utf-8-sig"),
        (lambda text: text.replace(",", ";"), "utf-8"),
        (lambda text: text.replace(",", "\t"), "utf-8"),
        (lambda text: text.replace("\n", "\r\n"), "utf-8"),
        (lambda text: text.replace("lion", "lión"), "cp1252"),
        (lambda text: "\n\n" + text + "\n,,,,,,,\n", "utf-8"),
        (lambda text: text.replace("filename", "File Name").replace("genus", "GENUS"), "utf-8"),
    ],
)
def test_tables_as_spreadsheets_export_them(pictures, change, encoding):
    _, records = prepare(pictures, change(HEADER + row(0)), encoding=encoding)
    assert taxon_of(records["images/0.jpg"]).scientific_name == "Panthera leo"


def test_a_short_row_lacks_its_last_cells(pictures):
    _, records = prepare(pictures, HEADER + "images/0.jpg,Animalia,Felidae\n")
    assert taxon_of(records["images/0.jpg"]).deepest_rank == "family"


def test_pictures_may_lie_elsewhere_than_the_table(pictures):
    text = "path,genus\n0.jpg,Panthera\nimages/1.jpg,Panthera\n"
    summary, _ = prepare(pictures, text, images=pictures / "images")
    assert sum(summary.images.values()) == 2


def test_a_missing_picture_is_set_aside(pictures):
    summary, records = prepare(pictures, HEADER + row(0) + row(77))
    assert len(records) == 1 and summary.rejected[0].key == "images/77.jpg"
    assert "No such file" in summary.rejected[0].reason


def test_splits_are_stable_without_a_split_column(pictures):
    text = "file,genus\n" + "".join(f"images/{n}.jpg,Panthera\n" for n in range(10))
    first = {key: record["split"] for key, record in prepare(pictures, text)[1].items()}
    again = {key: record["split"] for key, record in prepare(pictures, text)[1].items()}
    assert first == again
    shares = [folder.split_of(str(n)) for n in range(4000)]
    assert abs(shares.count("train") / 4000 - 0.8) < 0.03


def test_split_names_of_other_tools_are_understood(pictures):
    lines = [
        row(n, f"Animalia,Felidae,Panthera,leo,lion,,{split}")
        for n, split in enumerate(["Training", "validation", "testing", "val"])
    ]
    summary, _ = prepare(pictures, HEADER + "".join(lines))
    assert summary.images == {"train": 1, "val": 2, "test": 1}


def test_sets_are_merged_under_their_folders_names(pictures, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (pictures / "images").rename(other / "images")
    for place in (pictures, other):
        (place / "metadata.csv").write_text(HEADER + row(0), encoding="utf-8")
    tables = [(other, pictures / "metadata.csv"), (None, other / "metadata.csv")]
    summary = folder.prepare_folder(tables, tmp_path / "out", name="both")
    source = sources.open_split(tmp_path / "out", "train")
    assert {source[i]["key"] for i in range(2)} == {"set/images/0.jpg", "other/images/0.jpg"}
    assert summary.rejected == []


def test_captions_may_stand_in_for_taxonomy(pictures):
    _, records = prepare(pictures, "file,caption,split\nimages/0.jpg,two dogs,train\n")
    assert records["images/0.jpg"]["labels"]["caption"] == "two dogs"


BROKEN = {
    "no such file": (None, "cannot be read"),
    "empty": (b"", "no rows"),
    "header alone": (HEADER.encode(), "no rows"),
    "binary": (b"PK\x03\x04\0\0\0\0xl/workbook", "not a text table"),
    "no file column": (b"photo,genus\na.jpg,Panthera\n", "no column names the picture"),
    "no taxonomy": (b"filename,colour\nimages/0.jpg,red\n", "no taxonomy"),
    "too many cells": (
        b"filename,genus\nimages/0.jpg,Panthera\nimages/1.jpg,Panthera,leo,x\n",
        "line 3: 4 cells under 2",
    ),
    "empty file cell": (b"filename,genus\n,Panthera\n", "line 2: the filename cell is empty"),
    "one picture twice": (
        b"filename,genus,split\nimages/0.jpg,Panthera,train\nimages/0.jpg,Panthera,train\n",
        "stands for two pictures",
    ),
    "no picture there": (b"filename,genus\nnowhere.jpg,Panthera\n", "no usable picture"),
    "unclosed quote": (b'filename,genus\n"images/0.jpg,Panthera\n' * 1, "."),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_table_is_one_sentence_and_nothing_is_written(pictures, kind):
    data, sentence = BROKEN[kind]
    table = pictures / "metadata.csv"
    if data is not None:
        table.write_bytes(data)
    out = pictures.parent / "out"
    with pytest.raises(UserError, match=sentence) as caught:
        folder.prepare_folder([(None, table)], out, name="test")
    assert "\n" not in str(caught.value)
    assert not out.exists() and not out.with_name("out.partial").exists()


def test_every_shared_set_is_read_whole(shared_photos, tmp_path):
    tables = sorted(shared_photos.glob("*/metadata.csv"))
    for table in tables:
        rows = folder.read_table(table).rows
        plans = list(folder._plan(table.parent, folder.read_table(table), True))
        assert len(plans) == len(rows) and all(plan.path.exists() for plan in plans)
        assert all(taxon_of(plan.record).deepest_rank for plan in plans)
