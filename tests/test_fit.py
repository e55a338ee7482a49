import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from colour_world import COLOURS, ColourModel
from commands import call, said
from PIL import Image

from bioclip2_jax.identify import heads
from bioclip2_jax.weights import load as loading


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The current folder: pictures in shades of three colours, and a table of their classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel())
    rng = np.random.default_rng(0)
    rows = []
    Path("photos").mkdir()
    for number in range(36):
        colour = ("red", "blue", "green")[number % 3]
        shade = np.clip(np.asarray(COLOURS[colour]) + rng.integers(-50, 50, 3), 0, 255)
        name = f"{number}.png"
        Image.new("RGB", (20, 16), tuple(shade.tolist())).save(Path("photos", name))
        rows.append([name, {"red": "male", "blue": "female", "green": "juvenile"}[colour]])
        rows[-1].append(f"bird{number // 3}")
    rows.append(["0.png", "male", "bird0"])
    rows.append(["none.png", "", "bird1"])
    write(rows)
    return tmp_path


def write(rows: list[list[str]], path: str = "sexed.csv") -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["filename", "sex", "individual"], *rows])


def fit(*more: str, images: str = "photos") -> Result:
    return call(
        *("fit", "sexed.csv", "--images", images, "--model", "m", "--column", "sex"),
        *("--out", "head", *more),
    )


def test_a_head_is_fitted_and_names_pictures(folder):
    done = fit("--group", "individual")
    assert done.exit_code == 0, done.output
    assert "12 groups of individual kept whole" in done.output
    assert "1 rows without sex are left out" in done.output
    assert sorted(path.name for path in Path("head").iterdir()) == [heads.ABOUT, heads.TENSORS]
    about = heads.read("head").about
    assert about.classes == ["female", "juvenile", "male"] and about.counts == [12, 12, 12]
    assert about.verdict.figures["chosen"].accuracy > 0.95
    assert about.verdict.figures["prior"].accuracy < 0.4
    assert "zero_shot" in about.verdict.figures
    assert [point.k for point in about.verdict.curve] == [1, 2, 4, 8]
    named = call("predict", "photos", "--model", "m", "--head", "head", "--k", "2")
    assert named.exit_code == 0, named.output
    rows = list(csv.DictReader(io.StringIO(named.stdout)))
    assert list(rows[0]) == ["file_name", "classification", "score", "note", "error"]
    first = {row["file_name"]: row["classification"] for row in reversed(rows)}
    truth = {f"photos/{n}.png": ("male", "female", "juvenile")[n % 3] for n in range(36)}
    right = [first[name] == truth[name] for name in truth]
    unknown = [first[name] == "unknown" for name in truth]
    assert np.mean(np.logical_or(right, unknown)) == 1 and np.mean(unknown) < 0.2


def test_kept_features_and_pictures_give_the_same_head_and_answers(folder):
    assert fit().exit_code == 0
    assert call("embed", "photos", "--model", "m", "--out", "kept").exit_code == 0
    again = call(
        "fit",
        "sexed.csv",
        "--features",
        "kept",
        "--model",
        "m",
        *"--column sex --out kept_head".split(),
    )
    assert again.exit_code == 0, again.output
    one, other = (heads.read(name).linear for name in ("head", "kept_head"))
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-4)
    named = []
    for source in ("photos", "kept"):
        done = call("predict", source, "--model", "m", "--head", "head", "--k", "1")
        rows = csv.DictReader(io.StringIO(done.stdout.replace("photos/", "")))
        named.append(sorted((row["file_name"], row["classification"]) for row in rows))
    assert named[0] == named[1] and len(named[0]) == 36


def test_a_head_is_for_one_model_and_has_classes_of_its_own(folder, monkeypatch):
    assert fit("--no-text").exit_code == 0
    for beside in (
        ["--rank", "genus"],
        ["--labels", "x"],
        ["--columns", "dwc"],
        ["--decode", "top_down"],
    ):
        assert beside[0] in said(
            call("predict", "photos", "--model", "m", "--head", "head", *beside)
        )
    other = ColourModel(params={"w": np.ones(2, np.float32)})
    monkeypatch.setattr(loading, "load", lambda *_: other)
    refused = call("predict", "photos", "--model", "m", "--head", "head")
    assert "a head for another model" in said(refused)


def test_a_damaged_head_is_refused(folder):
    assert "no head here" in said(call("predict", "photos", "--model", "m", "--head", "photos"))
    assert fit("--no-text").exit_code == 0
    assert "a head is there" in said(fit())
    tensors = Path("head", heads.TENSORS)
    data = tensors.read_bytes()
    tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "head: a damaged head" in said(
        call("predict", "photos", "--model", "m", "--head", "head")
    )
    tensors.write_bytes(data)
    about = json.loads(Path("head", heads.ABOUT).read_text())
    Path("head", heads.ABOUT).write_text(json.dumps(about | {"classes": ["a", "b"]}))
    assert "a damaged head" in said(call("predict", "photos", "--model", "m", "--head", "head"))


@pytest.mark.parametrize(
    "rows, sentence",
    [
        ([["0.png", "male", "a"], ["0.png", "female", "a"]], "line 3: 0.png is 'female' here"),
        ([["0.png", "unknown", "a"]], "line 2: sex is 'unknown'"),
        ([["", "male", "a"]], "line 2: no file in filename"),
        ([["0.png", "male", ""]], "line 2: no individual"),
        ([["x.png", "male", "a"]], "none of the table's pictures is here, such as x.png"),
        ([[f"{n}.png", "male", "a"] for n in range(5)], "only 'male'"),
        ([[f"{n}.png", "ab"[n > 3], "a"] for n in range(6)], "class 'b' has 2"),
        ([[f"{n}.png", "ab"[n % 2], "xy"[n > 3]] for n in range(8)], "there are 2 groups"),
    ],
)
def test_a_table_that_cannot_be_used_is_answered_in_one_sentence(folder, rows, sentence):
    write(rows)
    assert sentence in said(fit("--group", "individual"))
    assert not Path("head").exists()


def test_a_call_that_cannot_be_meant_is_refused(folder):
    assert "no column 'age'" in said(fit("--group", "age"))
    assert "give either --features STORE or --images DIR" in said(
        call("fit", "sexed.csv", "--column", "sex", "--out", "head")
    )
    assert "--images needs --model" in said(
        call("fit", "sexed.csv", "--images", "photos", "--column", "sex", "--out", "head")
    )


def test_what_may_deceive_is_told(folder):
    for colour, place in enumerate(("a", "b", "c")):
        Path("photos", place).mkdir(exist_ok=True)
        for number in range(colour, 36, 3):
            Path("photos", f"{number}.png").rename(Path("photos", place, f"{number}.png"))
    rows = [
        [f"{'abc'[n % 3]}/{n}.png", ("m", "f", "j")[n % 3], f"i{n if n % 3 else 0}"]
        for n in range(36)
    ]
    write(rows)
    done = fit("--group", "individual", "--no-text")
    assert "1 of 3 classes have pictures of one individual alone (m)" in done.output, done.output
    assert "the folder of a picture alone tells the class of" in done.output
