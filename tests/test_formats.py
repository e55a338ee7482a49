"""Whole conversions of the field's formats: counts, broken inputs, and what training sees."""

import csv
import io
import json
import random
import tarfile
import zlib
from pathlib import Path

import numpy as np
import tars
from commands import bioclip2
from PIL import Image

from bioclip2_jax.data import dataset, pipeline
from bioclip2_jax.data.records import caption_of
from bioclip2_jax.data.tables import open_table
from bioclip2_jax.text.captions import TEXT_KINDS
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.training import recipe
from configs import photos

LION = dict(
    zip(
        tars.RANKS, "Animalia Chordata Mammalia Carnivora Felidae Panthera leo".split(), strict=True
    )
)


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def summary_of(out: Path) -> dict:
    summary = json.loads((out / "summary.json").read_text())
    assert summary["inputs"] == summary["records"] + summary["set_aside"]
    return summary


def quarantine_of(out: Path) -> list[dict[str, str]]:
    with (out / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def records_of(out: Path) -> list[dict]:
    return [record for split in dataset.splits(out) for record in dataset.open_split(out, split)]


# ---- Broken inputs


def _edited(image: bytes, change: str) -> bytes:
    match change:
        case "empty":
            return b""
        case "text":
            return b"<html>404 not found</html>"
        case "cut":
            return image[: len(image) // 2]
        case "bit":
            middle = len(image) // 2
            return image[:middle] + bytes([image[middle] ^ 255]) * 40 + image[middle + 40 :]
    pixels = {"small": (4, 4), "thin": (4000, 2)}[change]
    buffer = io.BytesIO()
    Image.new("RGB", pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 by 60,000 pixels."""
    data = bytearray(picture(0))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


BROKEN = {
    "empty": "the file is empty",
    "text": "not a picture of any known format",
    "cut": "cannot be decoded",
    "bit": "cannot be decoded",
    "small": "too few pixels",
    "thin": "too few pixels",
    "bomb": "too many pixels",
    "twice": "the same picture as another",
    "no name": "neither caption nor taxon",
    "null names": "neither caption nor taxon",
    "text not UTF-8": "a text that is not UTF-8",
    "leads out": "a name that leads out of the archive",
    "a link": "a link",
    "control characters": "a name with control characters",
    "name not UTF-8": "a name that is not UTF-8",
    "a device": "a device or a pipe",
    "huge text": "a text is too large",
}


def add_broken(archive: tarfile.TarFile, kind: str, number: int) -> None:
    """A sample that cannot be used."""
    uuid, image = f"bad-{number}", picture(10_000 + number)
    texts = {name: text.encode() for name, text in tars.treeoflife_texts(LION).items()}
    match kind:
        case "bomb":
            image = _bomb()
        case "twice":
            image = picture(0)
        case "no name":
            texts = {}
        case "null names":
            texts = {"scientific_name": b"Unknown", "common_name": b"null"}
        case "text not UTF-8":
            texts["sci"] = b"a photo of \xff\xfe."
        case "huge text":
            texts["sci"] = b"x" * (2 << 20)
        case "leads out":
            uuid = f"../../{uuid}"
        case "control characters":
            uuid = f"bad\n{number}"
        case "name not UTF-8":
            uuid = f"bad\udcff{number}"
        case "a link" | "a device":
            header = {
                "a link": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
                "a device": {"type": tarfile.CHRTYPE},
            }[kind]
            tars.add(archive, f"{uuid}.jpg", **header)
            return
        case _:
            image = _edited(image, kind)
    tars.add(archive, f"{uuid}.jpg", image)
    for name, text in texts.items():
        tars.add(archive, f"{uuid}.{name}.txt", text)


def test_a_twentieth_of_broken_samples_is_set_aside_with_reasons(tmp_path):
    sound, number = 340, 0
    (tmp_path / "tars").mkdir()
    kinds = list(BROKEN)
    random.Random(0).shuffle(kinds)
    for shard in range(2):
        path = tmp_path / "tars" / f"shard-{shard:05d}.tar"
        with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as archive:
            for place in range(sound // 2):
                uuid = f"good-{number}"
                tars.add(archive, f"{uuid}.png", picture(number))
                for name, text in tars.treeoflife_texts(LION).items():
                    tars.add(archive, f"{uuid}.{name}.txt", text.encode())
                number += 1
                if place % 18 == 3 and kinds:
                    add_broken(archive, kinds.pop(), number)
    assert not kinds
    whole = (tmp_path / "tars" / "shard-00000.tar").read_bytes()
    (tmp_path / "tars" / "shard-00002.tar").write_bytes(whole[: len(whole) // 3])
    done = bioclip2("prepare", "webdataset", tmp_path / "tars", "--out", tmp_path / "d")
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path / "d")
    assert summary["records"] == sound
    quarantine = quarantine_of(tmp_path / "d")
    reasons = [row["reason"] for row in quarantine if "shard-00002" not in row["file"]]
    assert len(reasons) == len(BROKEN)
    # What came before the end of the third is there already.
    rest = [row["reason"].partition(" (")[0] for row in quarantine if "shard-00002" in row["file"]]
    assert rest.count("the archive ends early") == 1
    assert rest.count("the same picture as another") > 30
    for reason in BROKEN.values():
        assert any(reason in found for found in reasons), reason


# ---- TreeOfLife


ROWS = [
    LION,
    LION | {"common": "Lion"},
    LION | {"species": "leo persica", "common": "Asiatic Lion"},
    {"kingdom": "Animalia", "phylum": "Chordata", "order": "Cypriniformes", "genus": "Tinca",
     "species": "tinca", "common": "Tench"},
    {"kingdom": "Plantae", "family": "Poaceae"},
    {},
]  # fmt: skip


def test_captions_of_tars_are_theirs_to_the_letter(tmp_path):
    """10,000 of them, in 2,000 pictures."""
    rows = [
        ROWS[number % len(ROWS)] | {"uuid": f"u{number}", "image": picture(number)}
        for number in range(2000)
    ]
    for shard in range(2):
        path = tmp_path / f"shard-{shard:05d}.tar"
        tars.write_treeoflife(path, rows[shard * 1000 : (shard + 1) * 1000])
    done = bioclip2(
        *("prepare", "webdataset", tmp_path / "shard-{00000..00001}.tar", "--out", tmp_path / "d")
    )
    assert done.returncode == 0, done.stderr
    texts = {row["uuid"]: tars.treeoflife_texts(row) for row in rows}
    records = {record["key"]: record for record in records_of(tmp_path / "d")}
    named = {row["uuid"] for row in rows if row.get("kingdom")}
    assert set(records) == named
    given = [(key, kind) for key in records for kind in TEXT_KINDS]
    assert all(caption_of(records[key], kind) == texts[key][kind] for key, kind in given)
    summary = summary_of(tmp_path / "d")
    lost = summary["captions_that_differ"]["only the last word of the species"]
    assert lost == 2 * sum(row.get("species") == "leo persica" for row in rows)
    assert summary["by_reason"] == {"neither caption nor taxon": 2000 - len(named)}


def test_training_sees_the_same_in_tars_as_in_their_table(shared_photos, tmp_path):
    table = open_table(shared_photos / "cub20" / "metadata.csv")
    rows = [row for _, row in table.rows()][::4]
    for split in {row["split"] for row in rows}:
        chosen = [
            dict(zip(tars.RANKS, Taxon.from_row(row).ranks, strict=True))
            | {"common": row["common_name"], "uuid": row["filename"].replace(".", "-")}
            | {"image": (table.path.parent / row["filename"]).read_bytes()}
            for row in rows
            if row["split"] == split
        ]
        path = tmp_path / "tars" / f"{split}-00000.tar"
        path.parent.mkdir(exist_ok=True)
        tars.write_treeoflife(path, chosen, without=["taxonTag"])
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table.header)
        writer.writeheader()
        writer.writerows(rows)
    images = shared_photos / "cub20"
    folder = ("--metadata", tmp_path / "table.csv", "--images", images, "--out", tmp_path / "a")
    archives = ("webdataset", tmp_path / "tars", "--out", tmp_path / "b")
    for arguments in (("folder", *folder), archives):
        done = bioclip2("prepare", *arguments)
        assert done.returncode == 0, done.stderr
    batches = []
    for out in ("a", "b"):
        config = photos.get_config()
        config.data.dir, config.train.batch_size = str(tmp_path / out), 16
        batches.append(pipeline.batches(recipe.compose(config).data, 32))
    for _ in range(20):
        first, second = (next(each) for each in batches)
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


# ---- Replay


def test_replay_keeps_what_has_a_caption(tmp_path):
    captions = ["two dogs", None, "null", "", "Ein Hund", "N/A"]
    rows = [
        {"key": f"{n:09d}", "image": picture(n), "caption": caption, "url": f"http://x/{n}.jpg"}
        for n, caption in enumerate(captions)
    ]
    tars.write_img2dataset(tmp_path / "00000.tar", rows)
    done = bioclip2("prepare", "img2dataset", tmp_path / "00000.tar", "--out", tmp_path / "d")
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path / "d")
    assert {caption_of(record, "taxon") for record in records} == {"two dogs", "Ein Hund"}
    assert summary_of(tmp_path / "d")["by_reason"] == {"neither caption nor taxon": 4}


def test_a_column_of_captions_replaces_taxonomy_on_request_alone(tmp_path):
    (tmp_path / "1.png").write_bytes(picture(1))
    table = tmp_path / "table.csv"
    table.write_text("file,genus,caption\n1.png,Panthera,a cat in the sun\n")
    shown = {}
    for options in ((), ("--captions", "caption")):
        arguments = ("folder", "--metadata", table, "--out", tmp_path / "d", "--overwrite")
        done = bioclip2("prepare", *arguments, *options)
        assert done.returncode == 0, done.stderr
        (record,) = records_of(tmp_path / "d")
        shown[options] = caption_of(record, "sci")
    assert list(shown.values()) == ["a photo of Panthera.", "a cat in the sun"]
    done = bioclip2("prepare", *arguments, "--captions", "text")
    assert done.returncode == 2 and "has no such column" in done.stderr
