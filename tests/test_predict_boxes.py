"""Boxes of detectors: one row each, cut out as told, and written back where they came from."""

import csv
import io
import json
from pathlib import Path

import pytest
from colour_world import COLOURS, ColourModel
from commands import bioclip2
from PIL import Image

from bioclip2_jax.identify.boxes import Cut
from bioclip2_jax.weights import load as loading

LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 0.5, 1.0]
MEGADETECTOR = {
    "info": {"detector": "md_v5a", "format_version": "1.4"},
    "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
    "classification_categories": {"0": "cow"},
    "images": [
        {
            "file": "a/two.png",
            "datetime": "2026:11:01 03:00:00",
            "detections": [
                {"category": "1", "conf": 0.9, "bbox": LEFT},
                {"category": "2", "conf": 0.8, "bbox": RIGHT},
                {"category": "1", "conf": 0.7, "bbox": RIGHT, "classifications": [["0", 0.5]]},
                {"category": "1", "conf": 0.1, "bbox": RIGHT, "classifications": [["0", 0.9]]},
            ],
        },
        {"file": "empty.png", "detections": []},
        {"file": "bad.png", "failure": "Failure image access", "detections": None},
        {"file": "lost.png", "detections": [{"category": "1", "conf": 0.9, "bbox": LEFT}]},
    ],
}
SPECIESNET = {
    "predictions": [
        {
            "filepath": "a/two.png",
            "detections": [{"category": "1", "label": "animal", "conf": 0.9, "bbox": RIGHT}],
            "prediction": "uuid;;;;;;blank",
        }
    ]
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """The current folder, with a picture that is red on the left and blue on the right."""
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel())
    monkeypatch.chdir(tmp_path)
    Path("photos/a").mkdir(parents=True)
    picture = Image.new("RGB", (80, 40), COLOURS["red"])
    picture.paste(COLOURS["blue"], (40, 0, 80, 40))
    picture.save("photos/a/two.png")
    Path("taxa.csv").write_text(
        "family,genus,species\nFiridae,Ignis,red\nMaridae,Mare,blue\nFiridae,Ignis,orange\n"
    )
    Path("md.json").write_text(json.dumps(MEGADETECTOR))
    Path("sn.json").write_text(json.dumps(SPECIESNET))
    return tmp_path


def call(*arguments: object, code: int = 0) -> str:
    options = ("--model", "m", "--taxa", "taxa.csv", "--box-padding", 0, *arguments)
    done = bioclip2("predict", "photos", *options)
    assert done.returncode == code, done.stderr
    return done.stderr if code in (1, 2) else done.stdout


def test_each_box_is_a_row_and_people_are_passed_through_unnamed():
    rows = list(csv.DictReader(io.StringIO(call("--boxes", "md.json", "--k", 1, code=3))))
    told = [(r["file_name"], r["box"], r["box_category"], r["species_epithet"]) for r in rows]
    assert told == [
        ("a/two.png", "0", "animal", "red"),
        ("a/two.png", "1", "person", ""),
        ("a/two.png", "2", "animal", "blue"),
        ("bad.png", "-1", "", ""),
        ("lost.png", "0", "animal", ""),
    ]
    assert [float(rows[2][f"box_{side}"]) for side in ("x", "y", "width", "height")] == RIGHT
    assert not rows[1]["error"] and not rows[1]["score"]
    assert "the detector could not read it" in rows[3]["error"] and "No such" in rows[4]["error"]
    low = call("--boxes", "md.json", "--k", 1, "--box-threshold", 0.05, code=3)
    assert len(low.splitlines()) == 1 + 6


def test_megadetectors_file_comes_back_with_names_and_nothing_else_changed():
    call("--boxes", "md.json", "--k", 2, "--output", "named.json", code=3)
    named = json.loads(Path("named.json").read_text())
    categories = named["classification_categories"]
    assert categories["0"] == "cow" and set(categories.values()) > {"Ignis red", "Mare blue"}
    first, person, second, low = named["images"][0]["detections"]
    assert [categories[number] for number, _ in first["classifications"]][0] == "Ignis red"
    assert [categories[number] for number, _ in second["classifications"]][0] == "Mare blue"
    assert "classifications" not in person and low["classifications"] == [["0", 0.9]]
    del first["classifications"]
    second["classifications"] = [["0", 0.5]]
    named["classification_categories"] = {"0": "cow"}
    assert named == MEGADETECTOR
    columns = ("--columns", "dwc", "--output", "again.json")
    call("--boxes", "md.json", "--k", 2, *columns, code=3)
    again = json.loads(Path("again.json").read_text())
    assert again["classification_categories"] == categories


def test_speciesnets_file_comes_back_too():
    call("--boxes", "sn.json", "--k", 1, "--rank", "family", "--output", "named.json")
    named = json.loads(Path("named.json").read_text())
    answers = named["predictions"][0]["detections"][0].pop("classifications")
    assert answers["classes"] == ["Maridae"] and len(answers["scores"]) == 1
    assert named == SPECIESNET


@pytest.mark.parametrize(
    ("cut", "place", "region"),
    [
        (Cut(padding=0, square=False), (0.1, 0.2, 0.3, 0.4), (10, 10, 40, 30)),
        (Cut(padding=0.5, square=False), (0.4, 0.4, 0.2, 0.2), (30, 15, 70, 35)),
        (Cut(padding=0, square=True), (0.4, 0.0, 0.4, 0.2), (40, 0, 80, 40)),
        (Cut(padding=0, square=True), (0.0, 0.0, 1.0, 1.0), (0, 0, 100, 50)),
        (Cut(padding=0, square=False), (0.5, 0.5, 0.0, 0.0), (50, 24, 51, 26)),
    ],
)
def test_boxes_are_padded_squared_and_kept_inside(cut, place, region):
    assert cut.region((100, 50), place) == region


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"annotations": []}, "holds neither `images`"),
        ({"images": [{"detections": []}]}, "entry 0 of images is not as it should be (no 'file')"),
        (
            {"images": [{"file": "a", "detections": [{"category": "1", "conf": 1, "bbox": [0]}]}]},
            "bbox is not four numbers",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(document, sentence):
    Path("odd.json").write_text(json.dumps(document))
    assert sentence in call("--boxes", "odd.json", code=1)


def test_boxes_count_from_one_folder_and_there_has_to_be_one():
    assert "takes one folder" in call("--boxes", "md.json", "--list", "md.json", code=2)
    assert "no box of 0.95" in call("--boxes", "sn.json", "--box-threshold", 0.95, code=2)
