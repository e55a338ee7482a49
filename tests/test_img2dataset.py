"""Tars of img2dataset: captions of the web, for replay."""

import tarfile
from pathlib import Path

from tars import add, write_img2dataset

from bioclip2_jax.data.records import caption_of
from bioclip2_jax.prepare.img2dataset import Img2dataset
from bioclip2_jax.prepare.source import Picture, Rejected

CASES = Path(__file__).parent / "data" / "cases" / "formats"


def read(path) -> list[Picture | Rejected]:
    source = Img2dataset(paths=(str(path),))
    return [found for part in source.parts(path) for found in source.read(part)]


def row(number: int, caption: str | None = "a dog", **more) -> dict:
    return {"key": f"{number:09}", "image": b"picture", "caption": caption} | more


def test_the_case_file():
    found = read(CASES / "00000.tar")
    assert [picture.record["key"] for picture in found] == ["000000000", "000000001"]
    for picture in found:
        assert picture.record["labels"] == {"caption": "a dog on a beach"}
        assert picture.record["source"] == "http://x/y.jpg"
        assert picture.record["datasetName"] == "img2dataset" and picture.split == "train"


def test_every_picture_once_with_its_caption_to_the_letter(tmp_path):
    captions = [f'Dog no. {n} –  "best", \té🐕 &amp;  ' for n in range(500)]
    for shard in range(5):
        rows = [row(n, captions[n]) for n in range(shard * 100, shard * 100 + 100)]
        write_img2dataset(tmp_path / f"{shard:05}.tar", rows)
        (tmp_path / f"{shard:05}.parquet").write_bytes(b"PAR1")
        (tmp_path / f"{shard:05}_stats.json").write_text("{}")
    found = read(tmp_path)
    assert [picture.record["key"] for picture in found] == [f"{n:09}" for n in range(500)]
    assert [caption_of(picture.record, "sci") for picture in found] == captions


def test_a_failed_download_is_no_picture(tmp_path):
    write_img2dataset(tmp_path / "0.tar", [row(0), row(1, image=None), row(2)])
    assert [picture.record["key"][-1] for picture in read(tmp_path / "0.tar")] == ["0", "2"]


def test_a_caption_that_says_nothing_is_none(tmp_path):
    rows = [row(number, text) for number, text in enumerate(["", "null", " N/A.", "\n", "nullify"])]
    write_img2dataset(tmp_path / "0.tar", rows)
    found = [picture.record["labels"] for picture in read(tmp_path / "0.tar")]
    assert found == [{}, {}, {}, {}, {"caption": "nullify"}]


def test_the_json_has_the_caption_too(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for key, text in enumerate(('{"caption": "a cat"}', "[1]", "")):
            add(archive, f"{key}.png", b"picture")
            add(archive, f"{key}.txt", b"")
            add(archive, f"{key}.json", text.encode())
    found = [picture.record["labels"] for picture in read(tmp_path / "0.tar")]
    assert found == [{"caption": "a cat"}, {}, {}]


def test_the_json_may_say_more(tmp_path):
    about = {"genus": "Ursus", "species": "arctos", "license": "CC0", "url": "http://x/1"}
    about |= {"datasetName": "laion2b", "width": 640, "split": "test"}
    write_img2dataset(tmp_path / "0.tar", [row(0, **about)])
    (picture,) = read(tmp_path / "0.tar")
    record = picture.record
    assert (record["scientificName"], record["licence"]) == ("Ursus arctos", "CC0")
    assert (record["source"], record["datasetName"]) == ("http://x/1", "laion2b")
    assert record["labels"] == {"caption": "a dog"} and picture.split == "test"


def test_broken_texts_set_their_picture_aside(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, "0.jpg", b"picture")
        add(archive, "0.txt", b"\xff")
        add(archive, "1.jpg", b"picture")
        add(archive, "1.txt", b"fine")
        add(archive, "1.json", b"{")
    reasons = [rejected.reason for rejected in read(tmp_path / "0.tar")]
    assert reasons[0] == "a text that is not UTF-8 (txt)"
    assert reasons[1].startswith("damaged JSON (")
