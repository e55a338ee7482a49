"""Pictures wherever they lie: each form of input gives the same rows; what is odd about it."""

import csv
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tars
from colour_world import COLOURS, ColourModel, square, write_world
from commands import bioclip2

from bioclip2_jax.errors import UsageError
from bioclip2_jax.identify import inputs
from bioclip2_jax.weights import load as loading

NAMES = [f"deep/{colour}.png" for colour in sorted(COLOURS)]


@pytest.fixture(autouse=True)
def colour_model(monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel())


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The current folder, with pictures two folders deep, and a list of names."""
    monkeypatch.chdir(tmp_path)
    Path("photos/deep").mkdir(parents=True)
    for colour in COLOURS:
        Path("photos/deep", f"{colour}.png").write_bytes(square(colour))
    Path("photos/notes.txt").write_text("no picture")
    Path("labels.txt").write_text("\n".join(COLOURS))
    return tmp_path


def answers(*arguments: object, code: int = 0) -> dict[str, tuple[str, str, str]]:
    """File name → best name, score and error."""
    options = () if "--k" in arguments else ("--k", 1)
    done = bioclip2("predict", *arguments, "--model", "m", "--labels", "labels.txt", *options)
    assert done.returncode == code, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len({row["file_name"] for row in rows}) == len(rows)
    return {r["file_name"]: (r["classification"], r["score"], r["error"]) for r in rows}


def pack(form: str) -> str:
    """The photographs in another form; returns its name."""
    files = {name: Path("photos", name).read_bytes() for name in NAMES}
    if form in ("tar", "tar.gz"):
        with tarfile.open(f"a.{form}", "w:gz" if form == "tar.gz" else "w") as archive:
            for name, data in {**files, "deep/notes.txt": b"x", "._a.png": b"x"}.items():
                tars.add(archive, name, data)
    elif form == "zip":
        with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {**files, "deep/notes.txt": b"x"}.items():
                archive.writestr(name, data)
    elif form == "parquet":
        table = pa.table({"uuid": list(files), "image": list(files.values())})
        pq.write_table(table, "a.parquet", row_group_size=3)
    else:  # as Hugging Face keeps them
        cells = [{"bytes": data, "path": name} for name, data in files.items()]
        pq.write_table(pa.table({"image": cells}), "a.hf")
        return "a.hf"
    return f"a.{form}"


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip", "parquet", "hf"])
def test_an_archive_gives_the_rows_of_its_folder(home, form):
    plain = answers("photos")
    assert list(plain) == [f"photos/{name}" for name in NAMES]
    assert [best for best, *_ in plain.values()] == sorted(COLOURS)
    name = pack(form)
    packed = answers(name)
    assert list(packed) == [f"{name}/{member}" for member in NAMES]
    assert list(packed.values()) == list(plain.values())


@pytest.mark.parametrize("option", ["--list", "--names", "--taxa", "--labels", "--prior"])
def test_a_workbook_is_refused_by_name_wherever_a_table_is_read(home, option):
    Path("taxa.csv").write_text("genus,species\nIgnis,red\nMare,blue\n")
    Path("book.xlsx").write_bytes(b"PK\x03\x04" + bytes(20))
    call = ["predict", "red.png", "--model", "m", option, "book.xlsx"]
    call += ["--taxa", "taxa.csv"] * (option in ("--list", "--prior"))
    done = bioclip2(*call)
    assert done.returncode == 1 and "book.xlsx: not a text table or list but a" in done.stderr
    assert "save its sheet as CSV" in done.stderr


def test_folders_patterns_lists_and_several_places_keep_their_order(home, monkeypatch):
    pack("tar")
    Path("empty").mkdir()
    os.rename("a.tar", "empty/0.tar")
    os.rename(pack("zip"), "empty/1.zip")
    assert list(answers("photos/deep/r*.png", "empty", "photos/deep/blue.png")) == [
        "photos/deep/red.png",
        *(f"empty/{archive}/{name}" for archive in ("0.tar", "1.zip") for name in NAMES),
        "photos/deep/blue.png",
    ]
    listed = ["photos/deep/red.png", "nowhere.png", "photos/deep/blue.png"]
    Path("list.txt").write_bytes("\ufeff".encode() + "\r\n".join(listed).encode() + b"\r\n\r\n")
    found = answers("--list", "list.txt", code=3)
    assert list(found) == listed and found["nowhere.png"][2] == "No such file or directory"
    Path("list.txt").write_text("\n".join(listed), encoding="utf-16")
    assert answers("--list", "list.txt", code=3) == found
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(listed).encode())))
    assert answers("--list", "-", code=3) == found


def test_a_dataset_and_its_features_give_the_same_names(home):
    write_world(Path("data"), {"red": 2, "green": 1})
    of_dataset = answers("data", "--split", "val")
    assert sorted(best for best, *_ in of_dataset.values()) == ["green", "red", "red"]
    assert len(answers("data")) == 2 * len(COLOURS) + 3
    made = bioclip2(
        *("embed", "data", "--split", "val", "--model", "m", "--out", "kept", "--dtype", "float32")
    )
    assert made.returncode == 0, made.stderr
    for shard in Path("data").rglob("*.array_record*"):
        shard.unlink()  # nobody may look at the pictures again
    of_store = answers("kept")
    assert of_store.keys() == of_dataset.keys()
    for key, (best, score, _) in of_store.items():
        assert best == of_dataset[key][0]
        assert float(score) == pytest.approx(float(of_dataset[key][1]), rel=1e-5)
    beside = bioclip2("predict", "kept", "photos", "--model", "m", "--labels", "labels.txt")
    assert beside.returncode == 2 and "named alone" in beside.stderr


def test_features_of_another_model_are_refused(home, monkeypatch):
    assert bioclip2("embed", "photos", "--model", "m", "--out", "kept").returncode == 0
    other = ColourModel(params={"logit_scale": 1.0})
    monkeypatch.setattr(loading, "load", lambda *_: other)
    done = bioclip2("predict", "kept", "--model", "other", "--labels", "labels.txt")
    assert done.returncode == 2 and "features of another model (m)" in done.stderr


def test_names_that_are_not_utf_8_are_written_with_backslashes(home):
    odd = os.fsdecode(b"photos/b\xe9.png")
    try:
        Path(odd).write_bytes(square("blue"))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert answers("photos")["photos/b\\xe9.png"][0] == "blue"
    Path("list.txt").write_bytes(b"photos/b\xe9.png\nphotos/b\xe8.png\n")
    found = answers("--list", "list.txt", code=3)
    assert found["photos/b\\xe9.png"][0] == "blue" and found["photos/b\\xe8.png"][2]


def test_what_is_wrong_in_an_archive_is_a_row_and_ends_nothing(home):
    with tarfile.open("a.tar", "w") as archive:
        tars.add(archive, "red.png", square("red"))
        tars.add(archive, "link.png", type=tarfile.SYMTYPE, linkname="red.png")
        tars.add(archive, "bad.png", b"no picture")
        tars.add(archive, "blue.png", square("blue"))
    Path("a.tar").write_bytes(Path("a.tar").read_bytes()[: 512 * 6])
    found = answers("a.tar", code=3)
    assert found["a.tar/red.png"][0] == "red"
    assert found["a.tar/link.png"][2] == "a link"
    assert "not a picture" in found["a.tar/bad.png"][2]
    assert "the archive ends early" in found["a.tar"][2]

    with zipfile.ZipFile("b.zip", "w") as archive:
        archive.writestr("red.png", square("red"))
        archive.writestr("blue.png", square("blue"))
    data = bytearray(Path("b.zip").read_bytes())
    data[data.index(b"IDAT")] ^= 255  # within the first member
    Path("b.zip").write_bytes(data)
    found = answers("b.zip", code=3)
    assert "cannot be unpacked" in found["b.zip/red.png"][2] and found["b.zip/blue.png"][0]
    Path("b.zip").write_bytes(data[:90])
    Path("c.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"uuid": ["a"], "error": ["lost"]}), "errors.parquet")
    found = answers("[bce]*.[zp]*", code=1)
    assert "a damaged zip" in found["b.zip"][2] and "a damaged Parquet" in found["c.parquet"][2]
    alone = bioclip2("predict", "errors.parquet", "--model", "m", "--labels", "labels.txt")
    assert alone.returncode == 2 and "no column holds pictures" in alone.stderr

    pack("parquet")
    data = bytearray(Path("a.parquet").read_bytes())
    place = data.index(square("red")[:20])  # of the first group, which holds three
    data[place - 40 : place + 8] = bytes(48)
    Path("a.parquet").write_bytes(data)
    found = answers("a.parquet", code=3)
    errors = [error for *_, error in found.values()]
    assert [("the Parquet file is damaged" in error) for error in errors] == [True] * 3 + [False]


def test_rows_of_parquet_are_read_in_any_order(home):
    pack("parquet")
    with inputs.opened(["a.parquet"]) as found:
        pictures = [Path("photos", name).read_bytes() for name in NAMES]
        for index in (3, 0, 2, 1, 3):
            assert found.read(index) == pictures[index]


def test_a_file_that_looks_like_a_pattern_is_taken_as_it_is(home):
    Path("photos/a[1].png").write_bytes(square("red"))
    assert list(answers("photos/a[1].png")) == ["photos/a[1].png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no pictures: name files"),
        (["empty"], "empty: no picture here"),
        (["photos/*.tif"], "photos/*.tif: no picture here"),
        (["--list", "nowhere.txt"], "--list nowhere.txt: cannot be read"),
        (["--list", "empty.txt"], "no name in it"),
        (["https://example.org/a.jpg"], "is not read or written"),
    ],
)
def test_nothing_to_name_is_a_wrong_call(home, arguments, sentence):
    Path("empty").mkdir()
    Path("empty.txt").write_text("\n\n")
    done = bioclip2("predict", *arguments, "--model", "m", "--labels", "labels.txt")
    assert done.returncode == 2 and sentence in done.stderr


def test_a_folder_without_pictures_says_what_is_there(home):
    Path("tables").mkdir()
    Path("tables/a.csv").write_text("x")
    sentence = r"tables: no picture here; 1 file is no picture \(.csv\)"
    with pytest.raises(UsageError, match=sentence), inputs.opened(["tables"]):
        pass
