"""Nothing is lost: runs killed anywhere, settings that differ, formats and what tells of a run."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from colour_world import COLOURS, ColourModel, square
from commands import bioclip2

from bioclip2_jax.cli.predict import _watch
from bioclip2_jax.identify import outputs
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.identify.predict import Namer, Prediction
from bioclip2_jax.measures.scores import unit
from bioclip2_jax.weights import load as loading

TAXA_CSV = """kingdom,class,order,family,genus,species,vernacularName
Animalia,Aves,Fireformes,Firidae,Ignis,red,fire bird
Animalia,Aves,Fireformes,Firidae,Ignis,orange major,
Animalia,Aves,Seaformes,Maridae,Mare,blue,Meeresvögel
Plantae,,Leafales,Leafaceae,Green,,leaf
"""
COUNT = 40  # five batches of eight, one for each device
CALL = ("predict", "photos", "--taxa", "taxa.csv", "--model", "m", "--k", 2, "--batch-size", 8)


class Counted(ColourModel):
    """Counts its batches."""

    batches = 0

    def encode_image(self, images, normalize=True):
        Counted.batches += 1
        return super().encode_image(images, normalize)


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *_: Counted())
    Counted.batches = 0


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The current folder, with 40 pictures, of which one is none, and a list of names."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(COUNT):
        colour = list(COLOURS)[number % 4]
        data = square(colour) if number != 13 else b"no picture"
        Path("photos", f"{number:02}.png").write_bytes(data)
    Path("taxa.csv").write_text(TAXA_CSV, encoding="utf-8")
    return tmp_path


def rows_of(path: str) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- Killed and called again


class Killed(BaseException):
    """As SIGKILL, at one place."""


def kill_at(patch: pytest.MonkeyPatch, place: int) -> None:
    """The write number `place` of an output is cut in the middle, and is the last."""
    left = [place]
    write = outputs._write

    def cut(file, data):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        if left[0] == 0:
            write(file, data[: len(data) // 2])
            raise Killed
        write(file, data)

    patch.setattr(outputs, "_write", cut)
    patch.setattr(outputs.Resumed, "close", lambda self: self._file.close())


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_run_killed_at_any_write_goes_on_to_the_same_bytes(home, form):
    call = (*CALL, "--format", form, "--output")
    assert bioclip2(*call, "whole").returncode == 3
    whole, batches = Path("whole").read_bytes(), Counted.batches
    assert batches == 5
    for place in range(1, 100):
        Counted.batches = 0
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, place)
            try:
                bioclip2(*call, "cut")
            except Killed:
                assert not Path("cut").exists()
            else:
                break
        done = bioclip2(*call, "cut")
        assert done.returncode == 3, done.stderr
        assert Path("cut").read_bytes() == whole, place
        assert Counted.batches <= batches + 2  # those that were in flight
        assert sorted(os.listdir()) == ["cut", "photos", "taxa.csv", "whole"]
        Path("cut").unlink()
    assert place > 3 + 2 * batches


@pytest.mark.parametrize("function", ["replace", "unlink"])
def test_a_run_killed_while_it_renames_is_not_done_again(home, function, monkeypatch):
    call = (*CALL, "--output")
    bioclip2(*call, "whole")
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_):
            raise Killed

        patch.setattr(outputs.os, function, killed)
        with pytest.raises(Killed):
            bioclip2(*call, "cut")
    Counted.batches = 0
    assert bioclip2(*call, "cut").returncode == 3
    assert Counted.batches == 0
    assert Path("cut").read_bytes() == Path("whole").read_bytes()
    assert sorted(os.listdir()) == ["cut", "photos", "taxa.csv", "whole"]
    assert bioclip2(*call, "cut").returncode == 3 and Counted.batches == 5  # as ever


def test_processes_that_are_killed_lose_nothing(home):
    program = (
        "import signal, sys, time; sys.path.insert(0, sys.argv.pop(1))\n"
        # A shell's background job, such as these tests, hands an ignored SIGINT down.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from colour_world import ColourModel\n"
        "from bioclip2_jax import cli\n"
        "from bioclip2_jax.weights import load as loading\n"
        "class Waits(ColourModel):\n"
        "    batches = 0\n"
        "    def encode_image(self, images, normalize=True):\n"
        "        Waits.batches += 1\n"
        "        time.sleep(0 if Waits.batches < 3 else 100)  # for what will end it\n"
        "        return super().encode_image(images, normalize)\n"
        "loading.load = lambda *_: Waits()\n"
        "cli.main()\n"
    )
    helpers = Path(__file__).parent / "helpers"
    call = [*map(str, CALL), "--output", "cut.csv", "--log", "log.json"]
    done = 0
    for end in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(helpers), *call],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        while len(lines := marks("cut.csv")) <= done:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(end)
        _, said = process.communicate()
        assert process.returncode == (130 if end == signal.SIGINT else -end), said
        assert "Traceback" not in said
        assert ("the same command goes on" in said) == (end == signal.SIGINT)
        assert ("going on behind" in said) == bool(done)
        done = len(marks("cut.csv"))
        assert 1 <= len(lines) <= done < 6
    assert bioclip2(*call).returncode == 3
    assert bioclip2(*CALL, "--output", "whole.csv").returncode == 3
    assert Path("cut.csv").read_bytes() == Path("whole.csv").read_bytes()
    log = json.loads(Path("log.json").read_text())
    assert log["complete"] and len(log["calls"]) == 4
    assert [call["position"] for call in log["calls"]] == sorted(
        call["position"] for call in log["calls"]
    )


def marks(path: str) -> list[str]:
    """What the journal says of batches."""
    journal = Path(f"{path}.part.jsonl")
    text = journal.read_text() if journal.exists() else ""
    return [line for line in text.splitlines() if '"position": 0' not in line and '"crc"' in line]


@pytest.fixture
def cut(home):
    """An output that was cut after its first batches."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 9)
        with pytest.raises(Killed):
            bioclip2(*CALL, "--output", "cut.csv")
    return Path("cut.csv.part").read_bytes()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--k", 3], "(--k: 2; now 3)"),
        (["--batch-size", 16], "(--batch-size: 8; now 16)"),
        (["--columns", "dwc"], "(--columns: pybioclip; now dwc)"),
        (["--rank", "genus"], "names: "),
        (["taxa.csv"], "pictures: 40 pictures"),
    ],
)
def test_a_run_is_not_gone_on_with_under_other_settings(cut, change, sentence):
    done = bioclip2(*CALL, *change, "--output", "cut.csv")
    assert done.returncode == 2 and sentence in done.stderr
    assert "call it with those again, or delete that file" in done.stderr
    assert Path("cut.csv.part").read_bytes() == cut and Counted.batches <= 4
    Path("cut.csv.part").unlink()
    assert bioclip2(*CALL, *change, "--output", "cut.csv").returncode == 3


def test_another_model_or_other_pictures_do_not_go_on(cut, monkeypatch):
    Path("photos/02.png").write_bytes(square("red") + b"more")
    assert "pictures: 40 pictures" in bioclip2(*CALL, "--output", "cut.csv").stderr
    Path("photos/02.png").write_bytes(square("blue"))
    other = ColourModel(params={"logit_scale": 2.0})
    monkeypatch.setattr(loading, "load", lambda *_: other)
    done = bioclip2(*CALL, "--output", "cut.csv")
    assert done.returncode == 2 and "(model: " in done.stderr
    assert Path("cut.csv.part").read_bytes() == cut


def test_what_a_power_cut_left_is_noticed(cut):
    bioclip2(*CALL, "--output", "whole.csv")
    part = bytearray(cut)
    part[-300:] = bytes(300)
    Path("cut.csv.part").write_bytes(part)
    Counted.batches = 0
    assert bioclip2(*CALL, "--output", "cut.csv").returncode == 3
    assert Path("cut.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert Counted.batches == 3  # one of those that were done is done again


def test_two_calls_do_not_write_one_output(home):
    with outputs.opened("a.csv", {}, count=1, grows=True):
        done = bioclip2(*CALL, "--output", "a.csv")
        assert done.returncode == 2 and "another call is writing it" in done.stderr


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("nowhere/a.csv", "No such file or directory"),
        ("photos", "is a folder"),
        ("photos/00.png/a.csv", "Not a directory"),
        ("mine.csv", "was not written by `predict`"),
        ("x" * 255, "File name too long"),
    ],
)
def test_an_output_is_checked_before_the_model_is_loaded(home, monkeypatch, output, sentence):
    Path("mine.csv.part").write_text("mine")

    def load(path):
        raise AssertionError("loaded")

    monkeypatch.setattr(loading, "load", load)
    done = bioclip2(*CALL, "--output", output)
    assert done.returncode == 2 and sentence in done.stderr
    assert Path("mine.csv.part").read_text() == "mine"
    assert bioclip2(*CALL, "--log", "nowhere/log.json").returncode == 2


# ---- Formats and columns


def test_every_format_says_the_same(home):
    for form in ("csv", "jsonl", "parquet"):
        assert bioclip2(*CALL, "--format", form, "--output", f"a.{form}").returncode == 3
    rows = rows_of("a.csv")
    assert len(rows) == 2 * (COUNT - 1) + 1
    lines = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert lines == pq.read_table("a.parquet").to_pylist()
    for row, line in zip(rows, lines, strict=True):
        assert row == {k: "" if v is None else str(v) for k, v in line.items()}
    assert pq.read_table("a.parquet").schema.field("score").type == "double"
    table = bioclip2(*CALL, "--format", "table").stdout.splitlines()
    assert len(table) == len(rows) + 2 and "note" not in table[0]
    assert bioclip2(*CALL, "--format", "jsonl").stdout == Path("a.jsonl").read_text()


def test_scores_never_exceed_one():
    # Sums of shares, some of which would miss one by a last digit.
    names = [f"{number} {colour}" for number in range(24) for colour in COLOURS]
    labels = LabelSet(names, np.zeros(len(names), int), ("genus",), [("Genus",)])
    features = unit(np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32))
    scores = [score for ((_, score),) in Namer(ColourModel(), labels).name(features)]
    assert 1 - 1e-9 < min(scores) <= max(scores) <= 1


def test_darwin_core_says_who_identified_what_and_how(home):
    assert bioclip2(*CALL, "--columns", "dwc", "--output", "a.csv").returncode == 3
    rows = {(row["associatedMedia"], row["scientificName"]): row for row in rows_of("a.csv")}
    red = rows["photos/00.png", "Ignis red"]
    wanted = {"family": "Firidae", "genus": "Ignis", "specificEpithet": "red"}
    wanted |= {"taxonRank": "species", "vernacularName": "fire bird", "infraspecificEpithet": ""}
    wanted |= {"identificationVerificationStatus": "unverified"}
    assert wanted.items() <= red.items()
    assert red["identifiedBy"].startswith("bioclip2_jax ") and len(red["dateIdentified"]) == 10
    assert "answer 1 of a list of 4 names" in red["identificationRemarks"]
    orange = rows["photos/01.png", "Ignis orange major"]
    assert (orange["taxonRank"], orange["infraspecificEpithet"]) == ("subspecies", "major")
    leaf = rows["photos/03.png", "Green"]
    assert (leaf["taxonRank"], leaf["class"], leaf["specificEpithet"]) == ("genus", "", "")
    assert rows["photos/13.png", ""]["error"]
    by_family = bioclip2(*CALL, "--columns", "dwc", "--rank", "family").stdout
    first = next(csv.DictReader(io.StringIO(by_family)))
    assert (first["scientificName"], first["taxonRank"]) == ("Firidae", "family")


def test_a_mark_for_excel_is_written_on_request(home):
    bioclip2(*CALL, "--bom", "--output", "a.csv")
    bioclip2(*CALL, "--output", "b.csv")
    assert Path("a.csv").read_bytes() == b"\xef\xbb\xbf" + Path("b.csv").read_bytes()
    assert "Meeresvögel".encode() in Path("b.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--format", "parquet"], "needs --output FILE"),
        (["--format", "jsonl", "--bom"], "--bom is for --format csv"),
        (["--prior-strength", 1], "goes with --prior"),
    ],
)
def test_options_that_do_not_fit_are_refused(home, options, sentence):
    done = bioclip2(*CALL, *options)
    assert done.returncode == 2 and sentence in done.stderr


def test_free_labels_are_no_darwin_core(home):
    Path("labels.txt").write_text("red\n")
    call = ("predict", "photos", "--labels", "labels.txt", "--model", "m", "--columns", "dwc")
    assert "needs the lineages of --taxa" in bioclip2(*call).stderr


# ---- What tells of a run


def test_the_log_tells_how_the_answers_were_made(home):
    bioclip2(*CALL, "--log", "log.json", "--output", "a.csv")
    log = json.loads(Path("log.json").read_text())
    assert log["complete"] and (log["count"], log["failed"]) == (COUNT, 1)
    assert log["start"] <= log["end"] and log["settings"]["k"] == 2
    assert len(log["model"]["sha256"]) == 64 and log["model"]["path"] == "m"
    assert log["bioclip2_jax_version"] and log["command_line"][:2] == ["bioclip2", "predict"]


def test_a_console_that_lacks_letters_gets_backslashes(home, monkeypatch):
    class Console(io.TextIOWrapper):
        def isatty(self):
            return True

    console = Console(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", console)
    output = outputs.Stream("-", grows=True)
    output.add("Meeresvögel\n".encode(), position=1, failed=0)
    assert console.buffer.getvalue() == b"Meeresv\\xf6gel\n"


def test_a_pipe_is_written_as_it_comes(home):
    os.mkfifo("pipe")
    reader = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, text=True)
    assert bioclip2(*CALL, "--output", "pipe").returncode == 3
    assert reader.communicate()[0] == bioclip2(*CALL).stdout


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_alone_sees_how_far_it_is(monkeypatch, is_terminal):
    class Terminal(io.StringIO):
        def isatty(self):
            return is_terminal

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    batches = [[Prediction(file_name="a.png", answers=[], error="cut")]]
    assert list(_watch(8, 40, batches)) == batches
    assert "going on behind 8 of 40 pictures\n" in shown.getvalue()
    assert "a.png: cut\n" in shown.getvalue()
    assert ("9/40" in shown.getvalue()) == is_terminal
