"""Which files are pictures, in every suffix and spelling, behind links and beside other files."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from colour_world import ColourModel, square
from PIL import Image, features

from bioclip2_jax.cli.embed import embed
from bioclip2_jax.cli.predict import predict
from bioclip2_jax.data import images
from bioclip2_jax.data.folders import files_below, remark
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation.published.beyond import plantdoc
from bioclip2_jax.features.pictures import open_pictures, pictures_below
from bioclip2_jax.identify import inputs

CASES = Path(__file__).parent / "data" / "cases" / "pictures"
WRITTEN = {"b.jp2": "JPEG2000", "c.ppm": "PPM", "e.TIF": "TIFF", "i.Bmp": "BMP", "j.pgm": "PPM"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The kept cases, and formats that Pillow writes in a moment; and a note."""
    folder = shutil.copytree(CASES, tmp_path / "photos")
    for name, kind in WRITTEN.items():
        picture = Image.effect_noise((24, 16), 90)
        picture.convert("L" if name.endswith("pgm") else "RGB").save(folder / name, kind)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(autouse=True)
def colour_model(monkeypatch):
    monkeypatch.setattr("bioclip2_jax.weights.load.load", lambda *_: ColourModel())


def named(folder: Path) -> list[str]:
    """What `predict` finds there."""
    with inputs.opened([str(folder)]) as found:
        return [found.name(number) for number in range(found.count)]


PICTURES = sorted([*WRITTEN, "F.JPEG", "a.avif", "d.mpo", "g.jfif", "h.HEIC", "plain.jpg"])


def test_every_suffix_that_can_be_decoded_is_found_whatever_its_case(folder):
    assert files_below(folder).pictures == PICTURES
    assert files_below(folder).others == ["._plain.jpg", "notes.txt"]
    without_plug_in = {"h.HEIC"} | (set() if features.check("avif") else {"a.avif"})
    for name in set(PICTURES) - without_plug_in:
        images.decode((folder / name).read_bytes())
    with pytest.raises(images.BadImage):
        images.decode((folder / "h.HEIC").read_bytes())


def test_the_suffixes_are_those_of_what_decode_reads():
    usual = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    assert usual | {".jp2", ".j2k", ".jfif", ".jpe", ".mpo", ".ppm", ".pnm"} < images.suffixes()
    assert not images.suffixes() & {".txt", ".csv", ".pdf", ".eps", ".h5", ".mpg"}


def test_everyone_finds_the_same_files(folder, tmp_path):
    assert named(folder) == [f"{folder}/{name}" for name in PICTURES]
    kept = pictures_below(folder)
    assert [kept.key(number) for number in range(kept.count)] == PICTURES
    for part in ("train", "test"):
        shutil.copytree(folder, tmp_path / "plantdoc" / part / "rust")
    published = plantdoc(tmp_path / "plantdoc")
    assert published.train.files == [f"train/rust/{name}" for name in PICTURES]
    assert published.test.files == [f"test/rust/{name}" for name in PICTURES]


def test_the_commands_account_for_every_file(folder, tmp_path):
    bad = 1 if features.check("avif") else 2
    done = CliRunner().invoke(embed, [str(folder), "--model", "m", "--out", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    assert (
        f"{len(PICTURES) - bad} features of 4 numbers, {bad} could not be read,"
        " 2 files are no pictures (._*, .txt)"
    ) in done.stdout
    assert "h.HEIC: HEIC, which needs `pip install" in done.stderr
    (tmp_path / "labels.txt").write_text("red\nblue\n")
    options = ["--model", "m", "--labels", str(tmp_path / "labels.txt"), "--k", "1"]
    done = CliRunner().invoke(predict, [str(folder), *options])
    assert done.exit_code == 3
    assert len(done.stdout.splitlines()) == 1 + len(PICTURES)
    assert f"{folder}/h.HEIC: HEIC, which needs" in done.stderr
    assert "2 files are no pictures (._*, .txt)" in done.stderr
    assert f"{bad} of {len(PICTURES)} pictures could not be read" in done.stderr


def test_linked_folders_are_entered_once_by_everyone(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "k.png").write_bytes(square("red"))
    (elsewhere / "back").symlink_to(folder)
    (folder / "m").symlink_to(elsewhere)
    (folder / "n").symlink_to(elsewhere)
    names = sorted([*PICTURES, "m/k.png"])
    assert files_below(folder).pictures == names
    assert named(folder) == [f"{folder}/{name}" for name in names]
    kept = pictures_below(folder)
    assert [kept.key(number) for number in range(kept.count)] == names


def test_a_link_that_leads_nowhere_is_set_aside_and_a_pipe_is_no_picture(folder, tmp_path):
    (folder / "lost.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    found = files_below(folder)
    assert {"lost.jpg", "loop.jpg"} < set(found.pictures) and "pipe.jpg" in found.others
    done = CliRunner().invoke(embed, [str(folder), "--model", "m", "--out", str(tmp_path / "o")])
    assert "lost.jpg: No such file or directory" in done.stderr and done.exit_code == 0


def test_a_folder_that_cannot_be_entered_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nowhere: cannot be entered"):
        files_below(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ([], ""),
        (["a/README"], "1 file is no picture (README)"),
        (["a.csv", "b.TXT", "c.txt"], "3 files are no pictures (.txt, .csv)"),
        (list("abcdefg"), "7 files are no pictures (a, b, c, d, e, …)"),
        (["b\udce9"], r"1 file is no picture (b\udce9)"),
    ],
)
def test_what_else_there_is_is_said_in_few_words(others, sentence):
    assert remark(others) == sentence


def test_packed_pictures_are_told_of(tmp_path):
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        UsageError, match=r"here; 1 file is no picture \(.parquet\); if they are in"
    ):
        open_pictures(tmp_path)


def test_a_name_that_is_not_utf_8_is_named(tmp_path):
    try:
        (tmp_path / "b\udce9.png").write_bytes(square("red"))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    with pytest.raises(UserError, match=r"b\\xe9.png.*not UTF-8; rename it"):
        files_below(tmp_path)
