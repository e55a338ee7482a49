"""The pages on names and features: each of their commands runs, in their order, as it stands."""

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cameras
import duckdb
import polars
import pyarrow.dataset
import pytest
from colour_world import COMMON, TAXA, ColourModel, square, write_world
from commands import bioclip2
from tars import write_treeoflife

from bioclip2_jax.evaluation import run
from bioclip2_jax.text.taxonomy import RANKS
from bioclip2_jax.weights import load as loading

DOCS = Path(__file__).parent.parent / "docs"


def commands(page: str, language: str = "sh") -> list[str]:
    """The lines of the page's code in that language, without comments; `\\` joins lines."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command of ours in this process, with what is piped into it."""
    left, _, right = line.rpartition(" | ")
    fed = b""
    if left:
        fed = subprocess.run(["bash", "-c", left], capture_output=True, check=True).stdout
        assert fed, f"{left}: nothing comes out"
    program, *arguments = shlex.split(right)
    if program == "duckdb":
        return  # tests/test_camtrap.py runs these
    assert program == "bioclip2", line
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(fed)))
    done = bioclip2(*arguments)
    assert done.returncode == 0, f"{line}\n{done.stderr}"


def write_table(path: str, rows: list[dict[str, str]]) -> None:
    """As CSV."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The current folder, with all that the pages name; colours stand for species."""
    monkeypatch.chdir(tmp_path)
    for module in (loading, run):
        monkeypatch.setattr(module, "load", lambda *_, **__: ColourModel())
    write_world(tmp_path / "data" / "birds", {"red": 1})
    Path("last").touch()
    for folder in ("card/CAM01", "photos", "birds/images"):
        for number, colour in enumerate(TAXA):
            cameras.write(
                f"{folder}/{number}.JPG",
                colour,
                "2026:03:05 22:00:00",
                latitude=(52.0, 42.0, 16.0),
                longitude=(23.0, 51.0, 0.0),
            )
    camera = {"deploymentID": "CAM01", "latitude": "52.7", "longitude": "23.8"}
    camera |= {"deploymentStart": "2026-03-01 08:00", "deploymentEnd": "2026-04-01 08:00"}
    write_table("cameras.csv", [camera])
    project = {"title": "Bridges", "samplingDesign": "opportunistic"}
    project["captureMethod"] = ["activityDetection"]
    contributors = [{"title": "Ada", "role": "contact"}]
    Path("project.json").write_text(json.dumps({"contributors": contributors, "project": project}))
    write_table("sensitive.csv", [{"scientificName": "Ignis red", "action": "10 km"}])
    rows = [
        dict(zip(RANKS, taxon.ranks, strict=True)) | {"common": COMMON[colour]}
        for colour, taxon in TAXA.items()
    ]
    crow = {"class": "Aves", "family": "Corvidae", "genus": "Pica", "species": "pica"}
    write_table("region.csv", [*rows, dict.fromkeys(rows[0], "") | crow])
    numbered = [row | {"filename": f"images/{number}.JPG"} for number, row in enumerate(rows)]
    write_table("birds/metadata.csv", numbered)
    checked = []
    for number in range(40):
        colour = list(TAXA)[number % 4]
        folder, name = f"images/{colour}", f"{number}.JPG"
        cameras.write(f"birds/{folder}/{name}", colour)
        checked.append(rows[number % 4] | {"filename": f"{folder}/{name}"})
    write_table("birds/checked.csv", checked)
    sexed = []
    for number in range(6):
        colour, sex = (("red", "male"), ("blue", "female"))[number % 2]
        cameras.write(f"ringed/{number}.JPG", colour)
        sexed.append({"filename": f"{number}.JPG", "sex": sex, "individual": f"ring{number // 2}"})
    write_table("ringed/sexed.csv", sexed)
    Path("tars").mkdir()
    write_treeoflife(Path("tars/0.tar"), [{**rows[0], "uuid": "one", "image": square("red")}])
    box = {"category": "1", "conf": 0.9, "bbox": [0, 0, 1, 1]}
    found = {
        "info": {"detector": "md_v5a", "format_version": "1.4"},
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
    }
    for name, folder in (("detections.json", "CAM01/"), ("birds.json", "")):
        images = [{"file": f"{folder}{number}.JPG", "detections": [box]} for number in range(4)]
        Path(name).write_text(json.dumps({**found, "images": images}))
    return tmp_path


def test_every_command_of_the_pages_runs(home, monkeypatch):
    for page in ("identify.md", "features.md"):
        assert len(lines := commands(page)) >= 3
        for line in lines:
            run_line(line.replace("/media/card", "card"), monkeypatch)
    names = {"duckdb": duckdb, "polars": polars, "pyarrow": pyarrow}
    for line in commands("features.md", "python"):
        assert eval(line, names) is not None  # noqa: S307
