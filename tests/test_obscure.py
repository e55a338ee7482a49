"""Coordinates: copied when asked for, coarse or withheld where a sensitive species was named."""

import csv
import json
import math
from pathlib import Path

import cameras
import pyarrow.parquet as pq
import pytest
from colour_world import ColourModel
from commands import bioclip2

from bioclip2_jax.data import exif
from bioclip2_jax.identify.obscure import Rule, coarsest, spread
from bioclip2_jax.weights import load as loading

TAXA = """family,genus,species
Firidae,Ignis,red
Firidae,Ignis,orange
Maridae,Mare,blue
"""
HERE = {"latitude": (52.0, 42.0, 15.912), "longitude": (23.0, 50.0, 59.82)}
THERE = {"latitude": (10.0, 30.0, 0.0), "longitude": (70.0, 15.0, 0.0), "hemispheres": "SW"}
CALL = ("predict", "card", "--model", "m", "--taxa", "taxa.csv", "--k", 1, "--columns", "dwc")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The current folder, with pictures of two places and one of no place."""
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel())
    monkeypatch.chdir(tmp_path)
    cameras.write("card/a/1.jpg", "blue", "2026:03:05 22:00:00", **HERE)
    cameras.write("card/a/2.jpg", "red", "2026:03:05 22:00:01", **HERE)
    cameras.write("card/b/1.jpg", "blue", **THERE)
    cameras.write("card/b/2.jpg", "blue")
    cameras.write("card/c/1.jpg", "blue", **HERE)
    Path("taxa.csv").write_text(TAXA)
    return tmp_path


def rows(path: str) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_no_output_has_coordinates_unless_they_are_asked_for(home):
    assert bioclip2(*CALL, "--output", "a.csv").returncode == 0
    header = rows("a.csv")[0]
    assert not [name for name in header if "Latitude" in name or "oordinate" in name]
    assert bioclip2(*CALL, "--output", "b.csv", "--coordinates").returncode == 0
    first, _, south, nowhere, _ = rows("b.csv")
    assert float(first["decimalLatitude"]) == pytest.approx(52.70442, abs=1e-6)
    assert float(first["decimalLongitude"]) == pytest.approx(23.84995, abs=1e-6)
    assert (first["geodeticDatum"], first["coordinateUncertaintyInMeters"]) == ("WGS84", "5.0")
    assert (south["decimalLatitude"], south["decimalLongitude"]) == ("-10.5", "-70.25")
    assert not nowhere["decimalLatitude"] and not nowhere["geodeticDatum"]
    shared = [*header][:-3]
    assert [first[name] for name in shared] == [rows("a.csv")[0][name] for name in shared]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "table"])
def test_the_coarsest_rule_holds_for_a_folder_and_for_its_place_in_every_format(home, form):
    Path("rules.csv").write_text("scientificName;action\nIgnis red;1 decimal\nIgnis;2 decimals\n")
    how = ("--coordinates", "--obscure", "rules.csv", "--format", form, "--output", "out")
    assert bioclip2(*CALL, *how).returncode == 0
    assert b"52.70442" not in Path("out").read_bytes() and not Path("out.part").exists()
    if form == "table":
        return
    if form == "csv":
        found = [row | {k: row[k] or None for k in ("decimalLatitude",)} for row in rows("out")]
    elif form == "jsonl":
        found = [json.loads(line) for line in Path("out").read_text().splitlines()]
    else:
        found = pq.read_table("out").to_pylist()
    near, red, far, _, same_place = found
    for row in (near, red, same_place):
        assert float(row["decimalLatitude"]) == 52.7 and float(row["decimalLongitude"]) == 23.8
        assert 6000 < float(row["coordinateUncertaintyInMeters"]) < 8000
        assert row["dataGeneralizations"].startswith("coordinates generalized to 0.1 degrees")
    assert float(far["decimalLatitude"]) == -10.5 and not far["dataGeneralizations"]
    assert "obscure" not in near


def test_withheld_coordinates_are_told_of(home):
    Path("rules.csv").write_text("scientificName,action\nFiridae,withhold\n")
    call = (*CALL, "--rank", "family", "--coordinates", "--obscure", "rules.csv")
    done = bioclip2(*call, "--output", "out.csv")
    assert done.returncode == 0, done.stderr
    near, red, far, *_ = rows("out.csv")
    for row in (near, red):
        assert not row["decimalLatitude"] and not row["geodeticDatum"]
        assert row["informationWithheld"].startswith("coordinates are withheld")
    assert far["decimalLatitude"] == "-10.5" and not far["informationWithheld"]


def test_a_detectors_file_comes_back_without_coordinates_or_with_coarse_ones(home):
    box = [{"category": "1", "conf": 0.9, "bbox": [0, 0, 1, 1]}]
    gps = {"GPSInfo": {"1": "N"}, "Make": "RECONYX", "DateTime": "2026"}
    listed = [["EXIF", "Make", "RECONYX"], ["EXIF", "GPSLatitude", 52.70442]]
    images = [
        {"file": "a/1.jpg", "detections": box, "exif_metadata": gps},
        {"file": "a/2.jpg", "detections": box, "exif_metadata": listed},
    ]
    Path("md.json").write_text(json.dumps({"images": images}))
    entries = [
        {"filepath": f"a/{n}.jpg", "latitude": 52.70442, "longitude": 23.8, "detections": box}
        for n in (1, 2)
    ]
    Path("sn.json").write_text(json.dumps({"predictions": entries}))
    Path("rules.csv").write_text("scientificName,action\nIgnis red,1 decimal\n")

    def back(file: str, *how: str) -> list[dict]:
        done = bioclip2(*CALL[:-2], "--boxes", file, "--output", "named.json", *how)
        assert done.returncode == 0, done.stderr
        (found,) = (
            v for k, v in json.loads(Path("named.json").read_text()).items() if k[0] in "ip"
        )
        return found

    md, sn = back("md.json"), back("sn.json")
    assert md[0]["exif_metadata"] == {"Make": "RECONYX", "DateTime": "2026"}
    assert md[1]["exif_metadata"] == listed[:1] and "latitude" not in sn[0]
    assert back("md.json", "--coordinates")[0]["exif_metadata"] == gps
    assert back("sn.json", "--coordinates")[0]["latitude"] == 52.70442
    hidden = back("sn.json", "--coordinates", "--obscure", "rules.csv")
    assert [entry["latitude"] for entry in hidden] == [52.7, 52.7]
    assert (
        "GPSInfo"
        not in back("md.json", "--coordinates", "--obscure", "rules.csv")[0]["exif_metadata"]
    )


@pytest.mark.parametrize(
    ("how", "code", "sentence"),
    [
        (["--obscure", "rules.csv"], 2, "goes with --coordinates or --format camtrap-dp"),
        (["--coordinates", "--columns", "pybioclip"], 2, "--coordinates goes with --columns dwc"),
        (["--coordinates", "--obscure", "taxa.csv"], 1, "no column `action`; add it"),
        (["--coordinates", "--obscure", "rules.csv"], 1, "rules.csv: line 2: action '10 miles' is"),
    ],
)
def test_what_does_not_fit_is_refused(home, how, code, sentence):
    Path("rules.csv").write_text("scientificName,action\nIgnis red,10 miles\n")
    done = bioclip2(*CALL, *how)
    assert done.returncode == code and sentence in done.stderr, done.stderr


def test_an_output_is_not_gone_on_with_under_other_rules(home, monkeypatch):
    Path("rules.csv").write_text("scientificName,action\nIgnis red,1 decimal\n")
    call = (*CALL, "--coordinates", "--obscure", "rules.csv", "--output", "out.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bioclip2_jax.identify.formats.convert", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bioclip2(*call)
    Path("rules.csv").write_text("scientificName,action\nIgnis red,2 decimals\n")
    done = bioclip2(*call)
    assert done.returncode == 2 and "(--obscure: 1 rules" in done.stderr


# ---- Rules


@pytest.mark.parametrize("text", ["withhold", "10 km", "0.5 km", "0 decimals", "3 decimals"])
def test_a_rule_is_written_as_it_is_read(text):
    assert str(Rule.parse(text)) == text


@pytest.mark.parametrize("text", ["", "hide", "-1 km", "0 km", "10", "1e9 km", "1.5 decimals"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ValueError):
        Rule.parse(text)


@pytest.mark.parametrize(
    "text", ["1 km", "10 km", "100 km", "0 decimals", "1 decimal", "3 decimals"]
)
@pytest.mark.parametrize("latitude", [-89.99, -52.70442, -0.01, 0.0, 33.3, 71.2, 90.0])
def test_a_place_lies_within_the_told_uncertainty_of_its_cell(text, latitude):
    rule = Rule.parse(text)
    for longitude in (-180.0, -70.25, 0.0, 23.84995, 179.999):
        place = rule.apply(latitude, longitude, 7.0)
        assert place.latitude is not None and place.longitude is not None and place.uncertainty
        north = math.radians(place.latitude - latitude) * 6_371_000
        east = math.radians(place.longitude - longitude) * 6_371_000
        east *= math.cos(math.radians((place.latitude + latitude) / 2))
        assert math.hypot(north, east) <= place.uncertainty
        again = rule.apply(latitude + 1e-9, longitude - 1e-9)
        assert again.latitude is not None and abs(again.latitude - place.latitude) < 2


def test_places_of_one_cell_cannot_be_told_apart():
    rule = Rule.parse("10 km")
    points = [(50.3 + i / 200, 7.1 + j / 200) for i in range(10) for j in range(10)]
    assert len({rule.apply(*point) for point in points}) <= 4  # of points within 5 km


def test_rules_spread_over_all_that_share_a_place():
    ten, one = Rule.parse("10 km"), Rule.parse("1 km")
    places = {"a": ["x"], "b": ["x", "y"], "c": ["y"], "d": ["z"]}
    assert spread({"a": ten, "c": one}, places) == {"a": ten, "b": ten, "c": ten}
    assert coarsest([one, None, Rule.parse("withhold"), ten]) == Rule(math.inf)
    assert coarsest([None]) is None


# ---- EXIF


def test_what_a_camera_wrote_is_read_from_every_format():
    for kind, mediatype in (("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")):
        data = cameras.photograph("red", "2026:03:05 22:00:00", offset="+09:00", kind=kind, **THERE)
        capture = exif.capture(data)
        assert capture == exif.Capture("2026-03-05T22:00:00+09:00", -10.5, -70.25, 5.0, mediatype)


@pytest.mark.parametrize("taken", ["", "0000:00:00 00:00:00", "    :  :     :  :  ", "yesterday"])
def test_a_clock_that_was_never_set_tells_no_time(taken):
    assert exif.capture(cameras.photograph("red", taken)).taken == ""


def test_a_place_without_a_fix_and_damaged_files_are_none():
    zero = (0.0, 0.0, 0.0)
    for wrong in (zero, (999.0, 0.0, 0.0)):
        data = cameras.photograph("red", latitude=wrong, longitude=zero)
        assert exif.capture(data).latitude is None
    assert exif.capture(b"no picture") == exif.Capture()
