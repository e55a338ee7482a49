"""Camtrap DP: the official validator takes what comes out, and nothing in it is made up."""

import csv
import datetime
import json
import re
from pathlib import Path

import cameras
import duckdb
import pytest
from colour_world import ColourModel
from commands import bioclip2

from bioclip2_jax.errors import UsageError
from bioclip2_jax.files import place
from bioclip2_jax.identify import outputs
from bioclip2_jax.identify.camtrap import package, schemas
from bioclip2_jax.weights import load as loading

DATA = Path(__file__).parent / "data" / "cases" / "frictionless"
TAXA = """kingdom,class,order,family,genus,species,vernacularName
Animalia,Aves,Fireformes,Firidae,Ignis,red,fire bird
Animalia,Aves,Fireformes,Firidae,Ignis,orange,
Animalia,Aves,Seaformes,Maridae,Mare,blue,
Plantae,,Leafales,Leafaceae,Green,,
"""
DEPLOYMENTS = """deploymentID,latitude,longitude,deploymentStart,deploymentEnd,locationName
CAM01,52.70442,23.84995,2026-03-01 08:00,2026-04-01 08:00:00Z,Old bridge
CAM02,52.70442,23.84995,2026-04-01T08:00:00,2026-05-01T08:00:00+02:00,
CAM03,"52,8",24.5,2026-03-01T08:00:00,2026-04-01T08:00:00,
"""
PROJECT = {
    "name": "my-project",
    "contributors": [{"title": "Ada", "role": "contact"}],
    "project": {
        "title": "Bridges",
        "samplingDesign": "opportunistic",
        "captureMethod": ["activityDetection"],
    },
    "created": "1999-01-01T00:00:00Z",
}
CALL = (
    *("predict", "card", "--model", "models/birds", "--taxa", "taxa.csv", "--batch-size", 8),
    *("--format", "camtrap-dp", "--deployments", "cameras.csv", "--package", "project.json"),
    *("--timezone", "Europe/Brussels", "--output"),
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """The current folder, with a card of three cameras: four pictures, one of them without time."""
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel())
    monkeypatch.chdir(tmp_path)
    cameras.write("card/CAM01/DCIM/1.jpg", "red", "2026:03:05 22:00:00")
    cameras.write("card/CAM01/DCIM/2.jpg", "blue", "2026:07:05 22:00:00")  # after its end
    cameras.write("card/CAM02/1.jpg", "green", "2026:04:05 22:00:00", offset="-03:00")
    cameras.write("card/CAM02/2.jpg", "red")
    Path("taxa.csv").write_text(TAXA)
    Path("cameras.csv").write_text(DEPLOYMENTS)
    Path("project.json").write_text(json.dumps(PROJECT))
    return tmp_path


def rows(name: str, folder: str = "out") -> list[dict]:
    with open(f"{folder}/{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check(monkeypatch, *, is_valid: bool = True) -> None:
    """Asks frictionless, with the official profile and schemas, which it would fetch."""
    frictionless = pytest.importorskip("frictionless")
    from frictionless.metadata import Metadata

    here = {f"{schemas.URL}/{n}-table-schema.json": f"{n}-table-schema" for n in schemas.TABLES}
    here[f"{schemas.URL}/camtrap-dp-profile.json"] = "camtrap-dp-profile"
    asked = []

    def retrieve(descriptor, **how):
        if not isinstance(descriptor, str):
            return original(descriptor, **how)
        asked.append(descriptor)
        if descriptor in here:
            return json.loads(json.dumps(schemas.official(here[descriptor])))
        if descriptor == "https://specs.frictionlessdata.io/schemas/data-package.json":
            return json.loads((DATA / "datapackage.json").read_text())
        if descriptor == "http://json.schemastore.org/geojson.json":
            own = Path(frictionless.__file__).parent / "assets" / "profiles" / "geojson.json"
            return json.loads(own.read_text())
        return original(descriptor, **how)

    original = Metadata.metadata_retrieve
    monkeypatch.setattr(Metadata, "metadata_retrieve", staticmethod(retrieve))
    limit = csv.field_size_limit()
    report = frictionless.validate("out/datapackage.json")
    csv.field_size_limit(limit)  # which it lifts, for all that follows in this process
    assert report.valid == is_valid, report.flatten(["type", "rowNumber", "fieldName", "note"])
    assert {*here} <= {*asked}  # nothing was left out


def test_a_card_of_cameras_becomes_a_package(monkeypatch):
    done = bioclip2(*CALL, "out")
    assert done.returncode == 3, done.stderr
    assert "1 of 4 pictures stand in set-aside.csv alone" in done.stderr
    assert "1 pictures were taken outside their deployment's time" in done.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(package.FILES)
    check(monkeypatch)

    first, second, third = rows("media")
    assert first["filePath"] == "CAM01/DCIM/1.jpg" and first["fileName"] == "1.jpg"
    assert first["deploymentID"] == "CAM01" and first["filePublic"] == "false"
    assert first["fileMediatype"] == "image/jpeg" and not first["exifData"]
    times = [row["timestamp"] for row in (first, second, third)]
    assert times == [
        "2026-03-05T22:00:00+01:00",
        "2026-07-05T22:00:00+02:00",  # of the zone in summer
        "2026-04-05T22:00:00-03:00",  # of the picture itself
    ]
    red, blue, leaf = rows("observations")
    assert red["mediaID"] == first["mediaID"] and red["eventStart"] == times[0] == red["eventEnd"]
    assert (red["observationLevel"], red["observationType"]) == ("media", "animal")
    assert red["scientificName"] == "Ignis red" and red["classificationMethod"] == "machine"
    assert red["classifiedBy"].startswith("birds (") and "bioclip2_jax 0." in red["classifiedBy"]
    assert 0.5 < float(red["classificationProbability"]) <= 1
    assert red["observationComments"].startswith("other names: Ignis orange 0.")
    assert leaf["observationType"] == "unknown"  # neither plants nor fungi are known there
    assert leaf["scientificName"] == "Green"
    (aside,) = rows("set-aside")
    assert aside["filePath"] == "CAM02/2.jpg" and aside["scientificName"] == "Ignis red"
    assert "no time of capture" in aside["reason"]

    about = json.loads(Path("out/datapackage.json").read_text())
    assert about["created"] == red["classificationTimestamp"] and about["created"][:4] != "1999"
    assert about["name"] == "my-project" and about["project"]["observationLevel"] == ["media"]
    assert about["temporal"] == {"start": "2026-03-01", "end": "2026-05-01"}
    assert about["spatial"]["coordinates"][0][0] == [23.84995, 52.70442]
    assert [taxon["scientificName"] for taxon in about["taxonomic"]] == [
        *("Green", "Ignis red", "Mare blue")
    ]
    assert about["taxonomic"][1]["order"] == "Fireformes"
    places = rows("deployments")
    ids = [row["deploymentID"] for row in places]
    assert ids == ["CAM01", "CAM02", "CAM03"]  # also the one that no picture is of
    assert places[0]["deploymentStart"] == "2026-03-01T08:00:00+01:00"
    assert places[2]["latitude"] == "52.8"


def test_names_of_things_are_the_same_in_every_run_and_a_second_replaces_the_first():
    bioclip2(*CALL, "out")
    before = [(row["mediaID"], row["filePath"]) for row in rows("media")]
    observed = [row["observationID"] for row in rows("observations")]
    cameras.write("card/CAM02/2.jpg", "red", "2026:04:06 22:00:00")
    assert bioclip2(*CALL, "out").returncode == 0
    assert [(row["mediaID"], row["filePath"]) for row in rows("media")][:3] == before
    assert [row["observationID"] for row in rows("observations")][:3] == observed
    assert not Path("out/set-aside.csv").exists() and not Path("out.part").exists()


def test_a_table_of_pictures_gives_times_and_deployments(monkeypatch):
    Path("media.csv").write_text(
        "filePath,deploymentID,timestamp\nCAM02/2.jpg,CAM03,2026-03-09 10:00\n"
    )
    assert bioclip2(*CALL, "out", "--media", "media.csv").returncode == 0
    check(monkeypatch)
    observations = Path("out/observations.csv")
    observations.write_text(observations.read_text().replace("animal", "plant"))
    check(monkeypatch, is_valid=False)
    (row,) = [row for row in rows("media") if row["filePath"] == "CAM02/2.jpg"]
    assert (row["deploymentID"], row["timestamp"]) == ("CAM03", "2026-03-09T10:00:00+01:00")


def test_boxes_people_vehicles_and_pictures_without_any(monkeypatch):
    cameras.write("card/CAM01/bad.jpg", "red", "2026:03:05 23:00:00")
    data = Path("card/CAM01/bad.jpg").read_bytes()
    Path("card/CAM01/bad.jpg").write_bytes(data[:-30])  # its head is good
    entries = [
        ("CAM01/DCIM/1.jpg", [("1", 0.9, [0, 0, 0.5, 1.01]), ("2", 0.8, [0.5, 0, 0.5, 1])]),
        ("CAM01\\DCIM\\2.jpg", [("1", 0.1, [0, 0, 1, 1])]),
        ("CAM02/1.jpg", [("3", 0.7, [0, 0, 1, 1])]),
        ("CAM01/bad.jpg", [("1", 0.9, [0, 0, 1, 1])]),
    ]
    images = [
        {
            "file": file,
            "detections": [{"category": c, "conf": s, "bbox": place} for c, s, place in found],
        }
        for file, found in entries
    ]
    about = {"info": {"detector": "md_v5a"}, "images": images}
    Path("md.json").write_text(json.dumps(about))
    done = bioclip2(*CALL, "out", "--boxes", "md.json")
    assert done.returncode == 3, done.stderr
    check(monkeypatch)
    seen = rows("observations")
    assert [row["observationType"] for row in seen] == [
        *("animal", "human", "blank", "vehicle", "unclassified")
    ]
    animal, human, blank, vehicle, bad = seen
    sides = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")
    assert [float(animal[side]) for side in sides] == [0, 0, 0.5, 1]
    assert animal["observationTags"] == "detectionConfidence:0.9"
    assert animal["mediaID"] == human["mediaID"]
    assert animal["observationID"] != human["observationID"]
    assert (human["classifiedBy"], human["classificationProbability"]) == ("md_v5a", "0.8")
    assert not human["scientificName"] and not blank["bboxX"] and blank["classifiedBy"] == "md_v5a"
    assert not bad["classifiedBy"] and "cannot be decoded" in rows("media")[-1]["mediaComments"]


def test_pictures_in_a_bucket_become_a_package_there(bucket):
    for path in Path("card").rglob("*.jpg"):
        place(f"{bucket}/{path}").write_bytes(path.read_bytes())
    call = [f"{bucket}/card" if word == "card" else word for word in CALL]
    done = bioclip2(*call, f"{bucket}/out")
    assert done.returncode == 3, done.stderr
    for name in package.FILES:
        Path(name).write_bytes(place(f"{bucket}/out/{name}").read_bytes())
    assert [row["filePath"] for row in rows("media", ".")][0] == "CAM01/DCIM/1.jpg"
    assert len(rows("observations", ".")) == 3
    assert bioclip2(*call, f"{bucket}/out").returncode == 3  # in its own place


class Killed(BaseException):
    """As SIGKILL, at one place."""


def test_a_run_killed_anywhere_goes_on_to_the_same_package(monkeypatch):
    monkeypatch.setattr(outputs, "now", lambda: "2026-11-27T08:00:00+00:00")

    def contents(folder: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    assert bioclip2(*CALL, "whole", "--batch-size", 1).returncode == 3
    whole = contents("whole")
    write, replacing = outputs._write, package.files.writing
    for number in range(1, 30):
        left = [number]

        def tick(left=left):
            left[0] -= 1
            if not left[0]:
                raise Killed

        def cut(file, data, tick=tick):
            tick()
            write(file, data)

        def writing(path, tick=tick):
            tick()
            return replacing(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outputs, "_write", cut)
            patch.setattr(package.files, "writing", writing)
            patch.setattr(outputs.Resumed, "close", lambda self: self._file.close())
            try:
                bioclip2(*CALL, "cut", "--batch-size", 1)
            except Killed:
                assert not Path("cut/datapackage.json").exists()
            else:
                break
        assert bioclip2(*CALL, "cut", "--batch-size", 1).returncode == 3
        assert contents("cut") == whole, number
        for path in Path("cut").iterdir():
            path.unlink()
    assert number == 12  # of writes: then nothing is left to kill


def test_what_was_named_is_kept_while_the_tables_are_put_right():
    """A table is refused at once, or when it is used at the end; no picture is looked at twice."""
    table = Path("cameras.csv").read_text()
    Path("rules.csv").write_text("scientificName,action\nIgnis,withhold\nPLANTAE,withhold\n")
    Path("cameras.csv").write_text("\n".join(table.splitlines()[:3]) + "\n")
    done = bioclip2(*CALL, "out", "--obscure", "rules.csv")
    assert done.returncode == 1 and "withholds every deployment" in done.stderr
    assert Path("out.part").exists()
    Path("cameras.csv").write_text(table)
    done = bioclip2(*CALL, "out", "--obscure", "rules.csv")
    assert "going on behind 4 of 4" in done.stderr


def test_duckdb_opens_every_output_by_the_documented_lines():
    call = list(CALL[: CALL.index("--format")])
    for form in ("csv", "parquet", "jsonl"):
        bioclip2(*call, "--output", f"answers.{form}")  # whose ending says what it is
    bioclip2(*CALL, "package")
    docs = Path(__file__).parent.parent / "docs" / "identify.md"
    lines = re.findall(r'^duckdb -c "(.*)"$', docs.read_text(encoding="utf-8"), re.MULTILINE)
    counts, best, failed, places = (duckdb.sql(line).fetchall() for line in lines)
    assert sorted(counts) == [("", 1), ("Ignis red", 2), ("Mare blue", 1)]
    assert sorted(name for name, *_ in best) == sorted(map(str, Path("card").glob("**/*.jpg")))
    assert failed == []
    assert ("Ignis red", 52.70442, 23.84995, 1) in places and len(places) == 3


# ---- Sensitive species


def test_the_coarsest_rule_of_any_species_holds_for_a_camera_and_all_at_its_place(monkeypatch):
    Path("rules.csv").write_text(
        "scientificName,action\nIgnis red,1 decimal\nMare blue,10 km\nNo such,withhold\n"
    )
    done = bioclip2(*CALL, "out", "--obscure", "rules.csv", "--k", 1)
    assert "No such is not among the names" in done.stderr
    check(monkeypatch)
    first, second, third = rows("deployments")
    # A decimal is a cell of 11 km.
    assert (first["latitude"], first["longitude"]) == ("52.7", "23.8")
    assert 6000 < int(first["coordinateUncertainty"]) < 8000
    assert not first["locationName"] and "0.1 degrees" in first["deploymentComments"]
    assert second["latitude"] == "52.7"  # where the first is
    assert third["latitude"] == "52.8" and third["longitude"] == "24.5"
    assert not third["coordinateUncertainty"]
    assert json.loads(Path("out/datapackage.json").read_text())["coordinatePrecision"] == 0.1
    for name in package.FILES:
        assert "52.70442" not in Path("out", name).read_text()


def test_a_withheld_species_takes_its_deployments_out(monkeypatch):
    cameras.write("card/CAM03/1.jpg", "orange", "2026:03:05 22:00:00")
    Path("rules.csv").write_text("scientificName,action\nMare blue,withhold\n")
    done = bioclip2(*CALL, "out", "--obscure", "rules.csv", "--k", 1)
    assert done.returncode == 0, done.stderr
    assert "2 deployments are withheld" in done.stderr
    check(monkeypatch)
    assert [row["deploymentID"] for row in rows("deployments")] == ["CAM03"]
    assert [row["deploymentID"] for row in rows("media")] == ["CAM03"]
    assert "CAM01" not in "".join(Path("out", f).read_text() for f in package.FILES[:4])


# ---- What is refused


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--timezone", "Europe/Brusels", "no such time zone here; write a name"),
        ("--output", "-", "camtrap-dp needs --output FOLDER"),
        ("--output", "taxa.csv", "is no folder; --format camtrap-dp makes a folder"),
        ("--columns", "dwc", "Camtrap DP has columns of its own"),
        ("--format", "csv", "--deployments goes with --format camtrap-dp"),
        ("--taxa", None, "needs the lineages of --taxa"),
        ("--deployments", None, "needs --deployments TABLE: where and when each camera stood"),
        ("--timezone", None, "needs --timezone ZONE"),
        ("--package", None, "needs --package JSON: contributors and project"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_a_sentence(option, value, sentence):
    call = [*CALL, "out"]
    if value is None:
        place = call.index(option)
        del call[place : place + 2]
        if option == "--taxa":
            Path("labels.txt").write_text("red\nblue\n")
            call += ["--labels", "labels.txt"]
    else:
        call += [option, value]
    done = bioclip2(*call)
    assert done.returncode == 2 and sentence in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and not Path("out").exists()


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("latitude,", "lat,", "no column latitude; a deployment needs"),
        ("52.70442", "152.7", "line 2: latitude '152.7' is not between -90 and 90"),
        ("2026-03-01 08:00", "2026-03-01", "line 2: deploymentStart '2026-03-01' is no time"),
        ("2026-03-01 08:00", "", "line 2: deploymentStart is missing"),
        ("CAM02,", "CAM01,", "line 3: the deploymentID 'CAM01' is there twice"),
        ("2026-05-01T", "2025-05-01T", "line 3: deploymentEnd is before deploymentStart"),
        ("CAM02,", "CAM04,", "card/CAM02/1.jpg: lies in no folder of a deployment"),
    ],
)
def test_a_table_of_deployments_is_refused_by_line_and_column(before, after, sentence):
    table = Path("cameras.csv")
    table.write_text(table.read_text().replace(before, after, 1))
    done = bioclip2(*CALL, "out")
    assert done.returncode in (1, 2) and sentence in done.stderr, done.stderr
    assert not Path("out").exists() and not Path("out.part").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"contributors": []}, "no `contributors`; write"),
        ({"project": None}, "`project` has no title"),
        ({"project": {"title": "x", "samplingDesign": "bold"}}, "samplingDesign must be one of"),
        ({"licenses": [{"scope": "data", "name": "CC0-1.0"}]}, "one with `media`, or none"),
    ],
)
def test_what_is_said_of_the_project_is_looked_at_first(change, sentence):
    Path("project.json").write_text(json.dumps(PROJECT | change))
    done = bioclip2(*CALL, "out")
    assert done.returncode == 1 and sentence in done.stderr


def test_files_of_somebody_else_are_not_overwritten():
    Path("card/media.csv").write_text("mine")
    done = bioclip2(*CALL, "card")
    assert done.returncode == 2 and "card/media.csv is there and was not written by" in done.stderr
    assert Path("card/media.csv").read_text() == "mine"


def test_zones_and_times_are_read_as_people_write_them():
    zone = schemas.zone_of("+01:00")
    for text in ("2026:03:01 22:00:00", "2026-03-01 22:00", "2026-03-01T22:00:00.5"):
        assert schemas.time_of(text, zone).isoformat() == "2026-03-01T22:00:00+01:00"
    assert schemas.time_of("2026-03-01T22:00Z", zone).utcoffset() == datetime.timedelta(0)
    with pytest.raises(UsageError, match="no such time zone"):
        schemas.zone_of("../etc/passwd")
