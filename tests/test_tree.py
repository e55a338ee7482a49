"""Folders named after what is in them."""

import json
import os
from pathlib import Path

import pytest

from bioclip2_jax.data.records import taxon_of
from bioclip2_jax.errors import UsageError
from bioclip2_jax.prepare import tree
from bioclip2_jax.prepare.folder_names import named
from bioclip2_jax.prepare.source import Picture, Rejected
from bioclip2_jax.prepare.tree import Tree

CASES = Path(__file__).parent / "data" / "cases" / "formats"
INAT = "00001_Animalia_Chordata_Mammalia_Carnivora_Ursidae_Ursus_arctos"


@pytest.fixture
def make(tmp_path):
    """Makes files below a folder `set`."""

    def make(*names: str | bytes) -> str:
        for name in names:
            path = os.path.join(os.fsencode(tmp_path / "set"), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(os.path.basename(path))
        return str(tmp_path / "set")

    return make


@pytest.fixture
def read(tmp_path):
    def read(*paths: str, **settings) -> list[Picture | Rejected]:
        folder = tmp_path / "work"
        folder.mkdir()
        source = Tree(paths=paths, **settings)
        return [found for part in source.parts(folder) for found in source.read(part)]

    return read


def flat(found):
    return [
        (p.key, p.reason)
        if isinstance(p, Rejected)
        else (p.record["key"], p.record["scientificName"])
        for p in found
    ]


@pytest.mark.parametrize(
    ("folders", "lineage"),
    [
        (INAT, "Animalia|Chordata|Mammalia|Carnivora|Ursidae|Ursus|arctos"),
        (INAT.replace("Mammalia", ""), "Animalia|Chordata|-|Carnivora|Ursidae|Ursus|arctos"),
        (
            INAT[6:] + "_syriacus",
            "Animalia|Chordata|Mammalia|Carnivora|Ursidae|Ursus|arctos syriacus",
        ),
        ("Fungi_Basidiomycota_Agaricomycetes", "Fungi|Basidiomycota|Agaricomycetes|-|-|-|-"),
        ("Ursus_arctos", "-|-|-|-|-|Ursus|arctos"),
        ("Ursus arctos", "-|-|-|-|-|Ursus|arctos"),
        ("12_Ursus arctos syriacus", "-|-|-|-|-|Ursus|arctos syriacus"),
        ("Malus_x_domestica", "-|-|-|-|-|Malus|×domestica"),
        ("Ursus_sp.", "-|-|-|-|-|Ursus|-"),
        ("Quercus robur L.", "-|-|-|-|-|Quercus|robur"),
        ("Ursus/arctos", "-|-|-|-|-|Ursus|arctos"),
        ("Ursus/Ursus_arctos", "-|-|-|-|-|Ursus|arctos"),
        ("images/Ursus_arctos/jpg", "-|-|-|-|-|Ursus|arctos"),
        ("Ursus_arctos/adult/2", "-|-|-|-|-|Ursus|arctos"),
        ("Animalia/Chordata/Aves/Corvus corax/male", "Animalia|Chordata|Aves|-|-|Corvus|corax"),
        ("Aves/Acanthis flammea", "-|-|Aves|-|-|Acanthis|flammea"),
        ("Things/Ursidae/Ursus_arctos", "-|-|-|-|Ursidae|Ursus|arctos"),
        ("Animalia/Chordata/Aves/Corvus corax", "Animalia|Chordata|Aves|-|-|Corvus|corax"),
        ("Animalia/C/unknown/O/Fidae/Ursus/arctos", "Animalia|C|-|O|Fidae|Ursus|arctos"),
        ("Animalia/C/unknown/O/Fidae/Ursus/arctos/cubs", "Animalia|C|-|O|Fidae|Ursus|arctos"),
        ("Plantae/Rosaceae/Rosa/Rosa canina", "Plantae|-|-|-|Rosaceae|Rosa|canina"),
        ("Ursidae", "-|-|-|-|Ursidae|-|-"),
        ("Whales/Balaenoptera_musculus", "-|-|-|-|-|Balaenoptera|musculus"),
        ("Animalia", "Animalia|-|-|-|-|-|-"),
    ],
)
def test_names_of_taxa(folders, lineage):
    found = named(tuple(folders.split("/")))
    assert "|".join(rank or "-" for rank in found.taxon.ranks) == lineage
    assert found.scientific_name == found.vernacular_name == found.problem == ""


@pytest.mark.parametrize(
    ("folders", "label", "common_name", "class_"),
    [
        ("American_Crow", "American Crow", "American Crow", ""),
        ("001.Black_footed_Albatross", "Black footed Albatross", "Black footed Albatross", ""),
        ("Red_fox", "Red fox", "Red fox", ""),
        ("grizzly+bear", "grizzly bear", "grizzly bear", ""),
        ("Birds/eagle", "eagle", "eagle", ""),
        ("Aves/American Crow", "American Crow", "American Crow", "Aves"),
        ("Tomato___Late_blight", "Tomato Late blight", "Tomato Late blight", ""),
        ("Ursus", "Ursus", "", ""),  # a genus? a tribe? a nickname?
    ],
)
def test_other_names_are_labels_and_no_taxa(folders, label, common_name, class_):
    found = named(tuple(folders.split("/")))
    assert (found.scientific_name, found.vernacular_name) == (label, common_name)
    assert "".join(found.taxon.ranks) == class_ == found.taxon.class_


@pytest.mark.parametrize(
    ("folders", "problem"),
    [
        ((), "it lies in no folder that says what it shows"),
        (("images",), "it lies in no folder that says what it shows"),
        (("2761",), "its folder is called by a number (2761); rename it after a taxon"),
        (("Ursus", "unknown"), "its folder says nothing (unknown)"),
    ],
)
def test_folders_that_say_nothing(folders, problem):
    assert named(folders).problem == problem


def test_splits_are_folders(make, read):
    names = ["a.jpg", f"train/{INAT}/a.jpg", f"images/val/{INAT}/a.jpg", "test/a.jpg", "Pica/a.jpg"]
    splits = {
        (found.key if isinstance(found, Rejected) else found.record["key"]): found.split
        for found in read(make(*names))
    }
    assert [splits[name] for name in names] == ["", "train", "val", "test", ""]


def test_the_named_folder_itself_may_be_a_split(make, read):
    root = make(f"training/{INAT}/a.jpg", f"val/{INAT}/a.jpg")
    found = read(f"{root}/training", f"{root}/val")
    assert [picture.split for picture in found] == ["train", "val"]
    assert [p.record["key"] for p in found] == [f"training/{INAT}/a.jpg", f"val/{INAT}/a.jpg"]


def test_every_picture_once_in_slices(make, read, tmp_path):
    names = [f"Ursus_{epithet}/{n}.jpg" for epithet in ("arctos", "minor") for n in range(25)]
    root = make(*names, "Ursus_arctos/._0.jpg", "list.csv", "b.csv", "Ursus_minor/Thumbs.db")
    found = read(root, slice_size=7)
    assert sorted(key for key, _ in flat(found)) == sorted(names)
    assert all(p.record["image"] == os.path.basename(p.file).encode() for p in found)
    slices = sorted((tmp_path / "work").glob("0*.txt"))
    assert len(slices) == 8 and json.loads(slices[0].read_text().splitlines()[0]) == root
    remark = (tmp_path / "work" / tree.REMARK_FILE).read_text()
    assert remark == "4 files are no pictures (.csv, ._*, .db)"


def test_links_are_followed_and_each_folder_is_once(make, read, tmp_path):
    root = make("Ursus_arctos/a.jpg", "Ursus_arctos/inner/b.jpg")
    os.symlink("..", f"{root}/Ursus_arctos/up")
    os.symlink("Ursus_arctos", f"{root}/Vulpes_vulpes")
    os.symlink("nowhere", f"{root}/Ursus_arctos/c.jpg")
    os.mkfifo(f"{root}/Ursus_arctos/d.jpg")
    assert flat(read(root)) == [
        ("Ursus_arctos/a.jpg", "Ursus arctos"),
        ("Ursus_arctos/c.jpg", "cannot be read (No such file or directory)"),
        ("Ursus_arctos/inner/b.jpg", "Ursus arctos"),
    ]


def test_names_that_cannot_be_printed_are_set_aside_by_name(make, read):
    found = read(make(b"Ursus_arctos/\xff.jpg", "Ursus_arctos/a\nb.jpg", "Ursus_arctos/é.jpg"))
    reason = "a name that is not UTF-8 or has control characters"
    assert sorted(flat(found)) == [
        ("Ursus_arctos/\\xff.jpg", reason),
        ("Ursus_arctos/a\\x0ab.jpg", reason),
        ("Ursus_arctos/é.jpg", "Ursus arctos"),
    ]


def test_a_picture_beyond_any_measure_is_not_read(make, read, monkeypatch):
    root = make("Ursus_arctos/a.jpg", "Ursus_arctos/large.jpg")
    os.truncate(f"{root}/Ursus_arctos/large.jpg", 10 * 10**9)  # of nothing
    assert flat(read(root))[1][1] == "the file is too large (10,000,000,000 bytes)"


def test_the_case_file(read):
    (picture,) = read(str(CASES / "inat"))
    assert picture.record["key"] == f"train/{INAT}/a.jpg" and picture.split == "train"
    assert taxon_of(picture.record).lineage() == tuple(INAT.split("_")[1:])
    assert picture.record["vernacularName"] == picture.record["datasetName"] == ""


def test_what_is_no_folder_is_refused(make, read):
    with pytest.raises(UsageError, match="nowhere: there is no such folder"):
        read(make("Ursus_arctos/a.jpg") + "/nowhere")
