"""TreeOfLife's tars: lineages out of joined texts, and captions to the letter."""

import itertools
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tars import RANKS, add, treeoflife_texts, write_treeoflife

from bioclip2_jax.data.records import taxon_of
from bioclip2_jax.prepare.source import Part, Picture, Rejected
from bioclip2_jax.prepare.webdataset import Webdataset
from bioclip2_jax.text import captions
from bioclip2_jax.text.captions import TEXT_KINDS
from bioclip2_jax.text.taxonomy import Taxon

CASES = Path(__file__).parent / "data" / "cases" / "formats"
BEAR = dict(
    zip(
        (*RANKS, "common"),
        "Animalia|Chordata|Mammalia|Carnivora|Ursidae|Ursus|arctos|Brown Bear".split("|"),
        strict=True,
    )
)


def read(path, folder=None, **arguments) -> list[Picture | Rejected]:
    source = Webdataset(paths=(str(path),), **arguments)
    return [found for part in source.parts(folder or path) for found in source.read(part)]


def records(path, **arguments) -> list[dict]:
    found = read(path, **arguments)
    assert all(isinstance(picture, Picture) for picture in found), found
    return [picture.record for picture in found]


@pytest.fixture
def one(tmp_path):
    """The record of a tar with one picture and the texts given."""

    def one(texts: dict[str, str | bytes]) -> dict | Rejected:
        with tarfile.open(tmp_path / "shard.tar", "w") as archive:
            add(archive, "1.jpg", b"picture")
            for suffix, text in texts.items():
                add(archive, f"1.{suffix}", text.encode() if isinstance(text, str) else text)
        (found,) = Webdataset(paths=()).read(Part(file=str(tmp_path / "shard.tar")))
        return found.record if isinstance(found, Picture) else found

    return one


def test_the_case_file():
    found = read(CASES / "shard-00000.tar")
    assert [picture.record["key"] for picture in found] == [
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    ]
    for picture in found:
        assert "|".join(taxon_of(picture.record).ranks) == (
            "Animalia|Chordata|Mammalia|Carnivora|Ursidae|Ursus|arctos"
        )
        assert picture.record["scientificName"] == "Ursus arctos"
        assert picture.record["vernacularName"] == "Brown Bear"
        assert picture.split == "train" and picture.record["image"][:3] == b"\xff\xd8\xff"
        assert picture.file == f"{CASES}/shard-00000.tar/{picture.record['key']}.jpg"


def many_rows(number: int) -> list[dict]:
    """Species with and without holes, subspecies, hybrids and common names."""
    phyla = [
        ("Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Corvus"),
        ("Animalia", "Chordata", "", "Cypriniformes", "Cyprinidae", "Carassius"),
        ("Animalia", "Chordata", "Squamata", "", "Colubridae", "Natrix"),
        ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Rosaceae", "Malus"),
        ("Fungi", "Ascomycota", "", "", "", "Tuber"),
        ("", "", "", "", "Formicidae", "Lasius"),
        ("Animalia", "Arthropoda", "Insecta", "Diptera", "", ""),
    ]
    epithets = ["niger", "albus maior", "×domestica", "o'haraei", "", "10-punctata"]
    commons = ["", "Black Thing", 'Ünlike, the "Other"  Thing\'s', "鳥"]
    rows = []
    for index, (higher, epithet, common) in zip(
        range(number), itertools.cycle(itertools.product(phyla, epithets, commons)), strict=False
    ):
        ranks = (*higher, epithet if higher[5] else "")
        row = dict(zip(RANKS, ranks, strict=True)) | {"common": common and f"{common} {index}"}
        rows.append(row | {"uuid": f"{index:08d}", "image": str(index).encode()})
    return rows


def test_ten_thousand_pictures_come_once_with_their_captions_to_the_letter(tmp_path):
    rows = many_rows(10_000)
    for start in range(0, len(rows), 4000):
        write_treeoflife(tmp_path / f"shard-{start:05}.tar", rows[start : start + 4000])
    reasons = set()
    for row, record in zip(rows, records(tmp_path), strict=True):
        assert (record["key"], record["image"]) == (row["uuid"], row["image"])
        assert taxon_of(record) == Taxon(*(row[rank] for rank in RANKS))
        assert record["vernacularName"] == " ".join(row["common"].split())
        texts = treeoflife_texts(row)
        given = {kind: record["labels"][f"caption_{kind}"] for kind in TEXT_KINDS}
        assert given == {kind: texts[kind] for kind in TEXT_KINDS}
        names = record["scientificName"], record["vernacularName"]
        for kind, caption in given.items():
            reason = captions.difference(kind, caption, taxon_of(record), *names)
            reasons.add((" " in row["species"] and kind.startswith("taxon"), reason))
    assert reasons == {
        *((False, None), (False, "blanks or punctuation")),
        (True, "only the last word of the species"),
    }


@pytest.mark.parametrize("without", [("taxonTag",), ("scientific_name", "common_name")])
def test_any_text_may_be_missing(tmp_path, without):
    rows = [row for row in many_rows(168) if " " not in row["species"]]
    write_treeoflife(tmp_path / "shard.tar", rows, without=("taxonomic_name", *without))
    for row, record in zip(rows, records(tmp_path / "shard.tar"), strict=True):
        assert captions.lineage_text(taxon_of(record)) == treeoflife_texts(row)["taxonomic_name"]
        assert record["vernacularName"] == " ".join(row["common"].split())


def test_without_a_common_name_the_scientific_one_stands_for_it(one):
    record = one({f"{name}.txt": text for name, text in treeoflife_texts(BEAR).items()})
    assert record["vernacularName"] == "Brown Bear"
    for stand_in in ("Ursus arctos", "ursus arctos", "Animalia Ursus arctos", "unknown"):
        texts = {
            "scientific_name.txt": "Ursus arctos",
            "taxonomic_name.txt": "Animalia Ursus arctos",
        }
        assert one(texts | {"common_name.txt": stand_in})["vernacularName"] == ""


def test_texts_with_line_breaks_and_blanks_are_kept(one):
    record = one(
        {"sci.txt": "a photo of  Ursus arctos .\n", "scientific_name.txt": "Ursus arctos\n"}
    )
    assert record["labels"] == {"caption_sci": "a photo of  Ursus arctos ."}
    assert record["scientificName"] == "Ursus arctos"


def test_what_is_unknown_has_no_name(one):
    record = one({f"{name}.txt": text for name, text in treeoflife_texts({}).items()})
    assert record["scientificName"] == record["vernacularName"] == ""
    assert taxon_of(record) == Taxon()


def test_a_json_beside_the_picture_is_believed(one):
    about = {
        **{"kingdom": "Animalia", "Genus": "Ursus", "specificEpithet": "maritimus", "sex": "male"},
        **{"license": "CC0", "source_url": "http://x/1", "data_source": "gbif", "n": 3},
    }
    record = one({"sci.txt": "a photo of Ursus arctos.", "json": json.dumps(about)})
    assert taxon_of(record).scientific_name == record["scientificName"] == "Ursus maritimus"
    assert (record["licence"], record["source"]) == ("CC0", "http://x/1")
    assert record["datasetName"] == "gbif" and record["labels"]["sex"] == "male"


def test_a_json_may_name_the_split(tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for number, split in enumerate(("validation", "")):
            add(archive, f"{number}.jpg", b"p")
            add(archive, f"{number}.json", json.dumps({"split": split, "genus": "Ursus"}).encode())
    assert [picture.split for picture in read(tmp_path / "shard.tar")] == ["val", "train"]


@pytest.mark.parametrize(
    ("suffix", "data", "reason"),
    [
        ("sci.txt", b"a photo of \xff.", "a text that is not UTF-8 (sci.txt)"),
        ("json", b"\xff", "a text that is not UTF-8 (json)"),
        ("json", b"{", "damaged JSON (Expecting property name"),
        ("json", b"[" * 200_000, "damaged JSON ("),
        ("json", b'{"sex": "\\ud83d"}', "damaged JSON ("),
        ("json", b'{"n": ' + b"9" * 5000 + b"}", "damaged JSON ("),
    ],
)
def test_broken_texts_set_their_picture_aside(one, suffix, data, reason):
    rejected = one({suffix: data})
    assert rejected.key == "1" and rejected.reason.startswith(reason)
    assert rejected.file.endswith("shard.tar/1.jpg") and rejected.split == "train"


def test_names_of_files_and_folders_are_splits(tmp_path):
    names = ["val-000001.tar", "shard-00000.tar", "test/shard-00000.tar", "train/x.tar"]
    for name in names:
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        write_treeoflife(tmp_path / "test" / name, [BEAR | {"uuid": "u", "image": b"p"}])
    splits = {picture.file: picture.split for picture in read(tmp_path / "test")}
    files = [f"{tmp_path}/test/{name}/u.jpg" for name in names]
    assert list(map(splits.get, files)) == ["val", "train", "test", "train"]


def test_a_catalogue_tells_more(tmp_path):
    rows = [BEAR | {"uuid": f"u{number}", "image": b"p"} for number in range(4)]
    (tmp_path / "tars").mkdir()
    (tmp_path / "work").mkdir()
    write_treeoflife(tmp_path / "tars" / "shard-00000.tar", rows[:2])
    write_treeoflife(tmp_path / "tars" / "shard-00001.tar", rows[2:])
    about = [
        ("u1", "Ursus", "arctos syriacus", "gbif", None),
        ("u3", "Ursus", "maritimus", "gbif", "Polar Bear"),
        ("u9", "Pica", "pica", "eol", None),
    ]
    columns = ("uuid", "genus", "species", "data_source", "common")
    catalogue = pa.table(dict(zip(columns, map(list, zip(*about, strict=True)), strict=True)))
    pq.write_table(catalogue, tmp_path / "catalog.parquet")
    licences = [{"uuid": "u0", "license_name": "CC0"}, {"uuid": "u3", "license_name": "CC BY"}]
    pq.write_table(pa.Table.from_pylist(licences), tmp_path / "provenance.parquet")
    tables = tuple(str(tmp_path / name) for name in ("catalog.parquet", "provenance.parquet"))
    found = read(tmp_path / "tars", tmp_path / "work", tables=tables)
    told = [
        (p.record["scientificName"], p.record["vernacularName"], p.record["licence"]) for p in found
    ]
    assert told == [
        ("Ursus arctos", "Brown Bear", "CC0"),
        ("Ursus arctos syriacus", "Brown Bear", ""),
        ("Ursus arctos", "Brown Bear", ""),
        ("Ursus maritimus", "Polar Bear", "CC BY"),
    ]
    assert found[1].record["datasetName"] == "gbif"
    assert found[0].record["kingdom"] == "Animalia"


def test_what_is_wrong_with_an_archive_is_one_entry(tmp_path):
    path = tmp_path / "shard-00000.tar"
    write_treeoflife(path, [BEAR | {"uuid": f"u{n}", "image": b"p"} for n in range(3)])
    path.write_bytes(path.read_bytes()[:-10_240])
    *pictures, last = read(path)
    assert [picture.record["key"] for picture in pictures] == ["u0", "u1"]
    assert (last.key, last.file, last.split) == ("shard-00000.tar", str(path), "train")
    assert last.reason.startswith("the archive ends early (")
