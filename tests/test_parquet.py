"""Pictures out of Parquet: every row once, whatever is wrong with it."""

import io
import pickle
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from columns import (
    BEAR,
    IMAGE,
    RANKS,
    catalogue,
    downloaded,
    hugging_face,
    lineage,
    parts_of,
    read_all,
    split_up,
)
from PIL import Image

from bioclip2_jax.data.records import caption_of
from bioclip2_jax.errors import UsageError
from bioclip2_jax.prepare import parquet_layout
from bioclip2_jax.prepare.parquet import ParquetSource

CASES = Path(__file__).parent / "data/cases/formats"
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)


def source(*paths: Path, **options) -> ParquetSource:
    return ParquetSource(sources=paths, **options)


def test_every_row_comes_once_with_its_columns(tmp_path):
    many = 10_000
    file = hugging_face(
        tmp_path / "data" / "train-00000-of-00001.parquet",
        [b"picture %d" % i for i in range(many)],
        rows_a_group=3000,
        uuid=[f"u{i}" for i in range(many)],
        **{rank: [name] * many for rank, name in zip(RANKS, BEAR, strict=True)},
        common_name=["brown bear"] * many,
        license=["CC0"] * many,
        caption=[f"a bear on rock {i}" for i in range(many)],
        weight=np.arange(many) / 2,
        emb=[[0.5, 1.0]] * many,
    )
    pictures, rejected = split_up(read_all(source(file.parent), tmp_path / "work"))
    assert not rejected and len(pictures) == many
    assert [picture.record["image"] for picture in pictures] == [
        b"picture %d" % i for i in range(many)
    ]
    record = pictures[7].record
    assert (record["key"], pictures[7].split, record["licence"]) == ("u7", "train", "CC0")
    assert lineage(record) == BEAR and record["vernacularName"] == "brown bear"
    # A caption does not take the place of the taxonomy unless it is asked for.
    assert record["labels"] == {"weight": "3.5", "caption_text": "a bear on rock 7"}
    assert caption_of(record, "sci") == "a photo of Ursus arctos."


def test_captions_are_learnt_where_they_are_asked_for(tmp_path):
    texts = ["a bear. ", "n/a", None, "caf\u00e9"]
    file = hugging_face(tmp_path / "a.parquet", [b"1", b"2", b"3", b"4"], text=texts)
    pictures, rejected = split_up(read_all(source(file, captions="text"), tmp_path / "work"))
    assert [picture.record["labels"]["caption"] for picture in pictures] == ["a bear.", "caf\u00e9"]
    assert [item.reason for item in rejected] == ["neither caption nor taxon"] * 2
    with pytest.raises(UsageError, match="--captions COLUMN"):
        read_all(source(file), tmp_path / "work")
    with pytest.raises(UsageError, match="--captions txt: .* no such column .*text"):
        read_all(source(file, captions="txt"), tmp_path / "work")


def test_labels_are_resolved_by_the_names_in_the_schema(tmp_path):
    hugging_face(
        tmp_path / "test" / "0000.parquet",
        [b"1", b"2", b"3", b"4"],
        names={"label": ["Ursus_arctos", "brown bear"], "sex": ["female", "male"]},
        label=[0, 1, -1, 2],
        sex=[1, 0, 0, 0],
    )
    pictures, rejected = split_up(read_all(source(tmp_path / "test"), tmp_path / "work"))
    first, second = (picture.record for picture in pictures)
    assert (first["genus"], first["species"], first["labels"]) == (
        "Ursus",
        "arctos",
        {"sex": "male"},
    )
    assert (second["vernacularName"], second["genus"]) == ("brown bear", "")
    assert {picture.split for picture in pictures} == {"test"}
    assert [item.key for item in rejected] == ["test/0000.parquet:2", "test/0000.parquet:3"]


def test_a_class_alone_is_a_label_and_no_rank(tmp_path):
    file = hugging_face(
        tmp_path / "a.parquet", [b"1"], names={"class": ["Ursus arctos"]}, **{"class": [0]}
    )
    (picture,) = read_all(source(file), tmp_path / "work")
    assert isinstance(picture.record, dict)
    assert (picture.record["class"], picture.record["genus"]) == ("", "Ursus")


def test_splits_are_named_by_a_column_a_file_or_a_folder(tmp_path):
    names = ("val-00000-of-00001.parquet", "default/test/0000.parquet", "x/0000.parquet")
    for name in names:
        hugging_face(tmp_path / "in" / name, [b"1"], genus=["Ursus"])
    hugging_face(
        tmp_path / "in" / "z.parquet", [b"1", b"2"], genus=["Ursus"] * 2, split=["dev", None]
    )
    pictures = read_all(source(tmp_path / "in"), tmp_path / "work")
    assert {picture.record["key"]: picture.split for picture in pictures} == {
        "in/default/test/0000.parquet:0": "test",
        "in/val-00000-of-00001.parquet:0": "val",
        "in/x/0000.parquet:0": "train",
        "in/z.parquet:0": "val",
        "in/z.parquet:1": "train",
    }


def test_pictures_beside_the_file_are_read_and_no_others(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"inside")
    (tmp_path / "secret.jpg").write_bytes(b"outside")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    paths = ["a.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "no.jpg", "a\0b"]
    images = [{"bytes": None, "path": path} for path in paths] + [None]
    file = hugging_face(folder / "a.parquet", images, genus=["Ursus"] * len(images))
    pictures, rejected = split_up(read_all(source(file), tmp_path / "work"))
    assert [picture.record["image"] for picture in pictures] == [b"inside"]
    assert len(rejected) == 6
    assert {item.reason.partition(" (")[0] for item in rejected} == {"no picture in the row"}
    assert all(item.reason.isprintable() for item in rejected)


def test_pixels_become_a_lossless_picture_with_red_first(tmp_path):
    file = downloaded(
        tmp_path / "successes.parquet", {"u1": PIXELS}, kingdom=["Animalia"], genus=["Ursus"]
    )
    (picture,) = read_all(source(file), tmp_path / "work")
    record = picture.record
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(record["image"]))), PIXELS)
    assert record["image"].startswith(b"\x89PNG")
    assert (record["key"], record["licence"], record["source"]) == ("u1", "CC0", "gbif")
    assert record["labels"] == {"source_id": "s0", "title": "title 0"}
    assert read_all(source(file), tmp_path / "work") == [picture]


def test_sizes_that_do_not_fit_are_set_aside(tmp_path):
    sizes = [[9, 12], [12, 10], [-9, -12], [100_000, 40_000], [], None, [0, 0], [9, 12, 3]]
    many = len(sizes)
    file = downloaded(
        tmp_path / "successes.parquet",
        {f"u{i}": PIXELS for i in range(many)},
        resized_size=pa.array(sizes, pa.list_(pa.int64())),
        genus=["Ursus"] * many,
    )
    pictures, rejected = split_up(read_all(source(file), tmp_path / "work"))
    assert [picture.record["key"] for picture in pictures] == ["u0"]
    assert [item.key for item in rejected] == [f"u{i}" for i in range(1, many)]
    assert all(item.reason.startswith("the pixels ") for item in rejected)


def test_the_catalogue_names_what_the_file_does_not(tmp_path):
    file = downloaded(tmp_path / "successes.parquet", {"u1": PIXELS, "u2": PIXELS})
    with pytest.raises(UsageError, match="--tables"):
        read_all(source(file), tmp_path / "work")
    table = catalogue(tmp_path / "catalog.parquet", ["u1"], data_source=["eol"])
    pictures, rejected = split_up(read_all(source(file, tables=(table,)), tmp_path / "work"))
    (record,) = (picture.record for picture in pictures)
    assert lineage(record) == BEAR and record["datasetName"] == "eol"
    assert [(item.key, item.reason) for item in rejected] == [
        ("u2", "neither caption nor taxon (its key is not in the catalogue)")
    ]


def test_a_missing_key_leaves_what_the_row_says(tmp_path):
    file = hugging_face(
        tmp_path / "a.parquet", [b"1", b"2"], uuid=["u1", "u2"], genus=["Canis", "Canis"]
    )
    table = catalogue(tmp_path / "catalog.parquet", ["u1"])
    pictures = read_all(source(file, tables=(table,)), tmp_path / "work")
    assert [lineage(picture.record) for picture in pictures] == [BEAR, (*[""] * 5, "Canis", "")]


def test_large_row_groups_are_cut_into_slices(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_layout, "_ROWS_A_PART", 10)
    file = hugging_face(
        tmp_path / "a.parquet",
        [b"picture %d" % i for i in range(64)],
        rows_a_group=25,
        genus=["Ursus"] * 64,
    )
    parts = parts_of(source(file), tmp_path / "work")
    assert [part.rows for part in parts] == [
        (0, 8),
        (8, 16),
        (16, 25),
        (25, 33),
        (33, 41),
        (41, 50),
        (50, 57),
        (57, 64),
    ]
    pictures = [picture for part in parts for picture in source(file).read(part)]
    assert [picture.record["image"] for picture in pictures] == [
        b"picture %d" % i for i in range(64)
    ]


def test_small_row_groups_are_read_together(tmp_path):
    file = hugging_face(tmp_path / "a.parquet", [b"x"] * 64, rows_a_group=4, genus=["Ursus"] * 64)
    assert [part.rows for part in parts_of(source(file), tmp_path / "work")] == [(0, 64)]


def test_a_damaged_row_group_is_set_aside_row_by_row(tmp_path):
    rng = np.random.default_rng(1)
    images = [rng.bytes(3000) for _ in range(30)]
    file = hugging_face(tmp_path / "a.parquet", images, rows_a_group=10, genus=["Ursus"] * 30)
    column = pq.ParquetFile(file).metadata.row_group(1).column(0)
    data = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 60] = b"\xff" * 60
    file.write_bytes(data)
    pictures, rejected = split_up(read_all(source(file), tmp_path / "work"))
    assert [p.record["image"] for p in pictures] == images[:10] + images[20:]
    assert [item.key for item in rejected] == [f"a.parquet:{row}" for row in range(10, 20)]
    assert {item.reason.partition(" (")[0] for item in rejected} == {"the Parquet file is damaged"}


def test_a_file_that_is_cut_off_is_one_that_is_set_aside(tmp_path):
    whole = hugging_face(tmp_path / "in" / "a.parquet", [b"1"], genus=["Ursus"])
    (tmp_path / "in" / "b.parquet").write_bytes(whole.read_bytes()[:-20])
    (tmp_path / "in" / "c.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    pictures, rejected = split_up(read_all(source(tmp_path / "in"), tmp_path / "work"))
    assert len(pictures) == 1
    assert [item.key for item in rejected] == ["in/b.parquet", "in/c.parquet"]


def test_bad_texts_are_set_aside_and_numbers_are_keys(tmp_path):
    genus = pa.array([b"Ursus", b"Ur\xffsus", b"Ursus"]).cast(pa.binary()).view(pa.string())
    keys = pa.array([10, 11, 12], pa.int64())
    file = hugging_face(tmp_path / "a.parquet", [b"1", b"2", b"3"], genus=genus, gbifID=keys)
    pictures, rejected = split_up(read_all(source(file), tmp_path / "work"))
    assert [picture.record["key"] for picture in pictures] == ["10", "12"]
    assert [item.reason for item in rejected] == ["a text is not valid UTF-8 (column genus)"]


def test_kinds_of_columns_people_use(tmp_path):
    column = pa.array([b"1", b"2"], pa.large_binary())
    pq.write_table(
        pa.table({"img": column, "dwc:genus": ["Ursus", "Canis"], "key": ["a\nb", None]}),
        tmp_path / "a.parquet",
    )
    pictures = read_all(source(tmp_path / "a.parquet"), tmp_path / "work")
    assert [(p.record["genus"], p.record["key"]) for p in pictures] == [
        ("Ursus", "a b"),
        ("Canis", "a.parquet:1"),
    ]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"url": ["http://x/1.jpg"], "caption": ["a bear"]}, "img2dataset"),
        ({"uuid": ["u1"], "genus": ["Ursus"]}, "--tables"),
        ({"image": pa.array([{"bytes": b"1", "path": "a"}], IMAGE), "label": [3]}, "nothing names"),
    ],
)
def test_other_files_are_refused_with_the_way_out(tmp_path, columns, sentence):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    for path in (tmp_path / "a.parquet", tmp_path):
        with pytest.raises(UsageError, match=sentence):
            source(path).parts(tmp_path / "work")


def test_what_is_not_parquet_or_not_there_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    for path in (tmp_path / "a.csv", tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="no"):
            source(path).parts(tmp_path / "work")


def test_files_without_pictures_beside_others_are_passed_over(tmp_path):
    downloaded(tmp_path / "in" / "successes.parquet", {"u1": PIXELS}, genus=["Ursus"])
    pq.write_table(pa.table({"uuid": ["u2"], "error_code": [404]}), tmp_path / "in/errors.parquet")
    assert len(read_all(source(tmp_path / "in"), tmp_path / "work")) == 1


def test_the_case_files(tmp_path):
    tables = (CASES / "catalog.parquet",)
    (picture,) = read_all(source(CASES / "successes.parquet", tables=tables), tmp_path / "work")
    image = Image.open(io.BytesIO(picture.record["image"]))
    assert (image.size, picture.record["kingdom"]) == ((256, 256), "Animalia")
    raw = pq.read_table(CASES / "successes.parquet")["image"][0].as_py()
    assert np.asarray(image)[..., ::-1].tobytes() == raw
    # A number without its name names nothing.
    with pytest.raises(UsageError, match="nothing names"):
        read_all(source(CASES / "train-00000-of-00001.parquet"), tmp_path / "work2")


def test_sources_can_be_sent_to_other_processes(tmp_path):
    key = str(uuid.uuid4())
    file = hugging_face(tmp_path / "a.parquet", [b"1"], uuid=[key], genus=["Ursus"])
    sent = pickle.loads(pickle.dumps(source(file)))
    assert [item.record["key"] for item in read_all(sent, tmp_path / "work")] == [key]
