import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from colour_world import ColourModel, write_world

from bioclip2_jax.cli.report import report as command
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.report import gather, pictures
from bioclip2_jax.report.build import build, percent
from bioclip2_jax.report.figures import species as figures
from bioclip2_jax.report.figures import style
from bioclip2_jax.report.pictures import choose_pictures, worst_classes

VAL = {"red": 4, "orange": 3, "blue": 7, "green": 2}
METRICS = [
    {
        "step": step,
        "loss": 3 - step / 10,
        "contrastive_loss": 3 - step / 10,
        "logit_scale": 14.3,
        "learning_rate": 1e-4,
        "samples_per_second": 100.0,
        "data_wait_fraction": 0.01,
    }
    for step in range(1, 21)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """A workdir with two evaluated checkpoints whose names of red and orange are swapped."""
    root = tmp_path_factory.mktemp("run")
    data = str(write_world(root / "data", VAL))
    workdir = root / "workdir"
    for step in (10, 20):
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)
    vision = {"width": 32, "layers": 1, "image_size": 16, "patch_size": 8}
    (workdir / "model.json").write_text(json.dumps({"model_cfg": {"vision_cfg": vision}}))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    with pytest.MonkeyPatch.context() as patch:
        confused = ColourModel(confuse={"red": "orange", "orange": "red"})
        patch.setattr(evaluate, "load", lambda path: confused)
        evaluate.run(workdir, Settings(data), step="all", say=lambda line: None)
    return workdir, data


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> str:
    workdir, data = run
    return build(workdir, data, tmp_path_factory.mktemp("out") / "report.html").read_text("utf-8")


class Tags(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    VOID = {"meta", "link", "img", "br", "path", "use"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_well_formed(page):
    tags = Tags(page)
    assert tags.open == []
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_loads_nothing_from_outside(page):
    for _, attributes in Tags(page).seen:
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/")), value
    assert "@import" not in page and "<script" not in page


def test_the_page_is_made_for_small_screens_too(page):
    assert '<meta name="viewport" content="width=device-width' in page
    assert not re.search(r'<svg[^>]* width="', page)


def test_the_page_states_the_results(page):
    flat = " ".join(page.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "Checkpoint of step 20" in flat
    assert "<dt>Species, first answer</dt><dd>56.2 %" in flat  # 9 of 16
    assert "<dt>Class average</dt><dd>50.0 %" in flat
    assert "<dt>Times chance</dt><dd>2 ×" in flat
    assert "<dt>1-shot</dt><dd>100.0 %" in flat
    assert "<dt>5-shot</dt>" not in flat  # only blue has six pictures


CURVES = ("loss", "learning rate", "logit scale", "samples per second")


def test_the_page_shows_the_figures(page):
    labels = [a.get("aria-label") for tag, a in Tags(page).seen if tag == "svg"]
    assert labels == [
        "Accuracy per rank",
        "Reliability of the probabilities",
        "Species accuracy over training",
        "Taxa by their pictures",
        "Taxa by their names",
        *(f"Training: {name}" for name in CURVES),
    ]


def test_pictures_are_shown_with_truth_answer_and_credit(page):
    right, wrong = page.split("<h2>Wrong answers</h2>")
    assert 'alt="Mare blue"' in right and "sea bird" in right
    assert 'alt="Ignis red"' in wrong and 'class="miss"' in wrong
    assert "tests, CC0" in wrong


def test_pictures_are_small_jpegs(page):
    from base64 import b64decode

    from PIL import Image

    urls = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page)
    assert len(urls) == 10  # 2 right, 2 wrong, and 3 of each hard taxon
    with Image.open(io.BytesIO(b64decode(urls[0]))) as image:
        assert max(image.size) <= pictures.CARD_PIXELS


def test_hardest_taxa_and_datasets_are_listed(page):
    hardest = page.split("<h2>Hardest taxa</h2>")[1]
    assert "Ignis red" in hardest and "Mare blue" not in hardest  # which is always named rightly
    assert "greens" in page.split("<h2>By dataset</h2>")[1]


def test_the_page_is_the_same_every_time(run, tmp_path):
    first, again = (build(*run, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == again


def test_names_cannot_inject_markup(run, tmp_path, monkeypatch):
    read_csv = gather.read_csv

    def hostile(path, columns):
        rows = read_csv(path, columns)
        return [{**row, "scientificName": "<script>alert(1)</script>"} for row in rows]

    monkeypatch.setattr(gather, "read_csv", hostile)
    text = build(*run, tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text


def test_a_run_without_metrics_has_no_curves(run, tmp_path):
    workdir, data = run
    text = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").unlink()
    try:
        assert "Training curves" not in build(workdir, data, tmp_path / "r.html").read_text("utf-8")
    finally:
        (workdir / "metrics.jsonl").write_text(text)


def test_a_run_that_was_not_evaluated_says_how_to(tmp_path):
    with pytest.raises(UserError, match="run `bioclip2 evaluate"):
        build(tmp_path, "data", tmp_path / "report.html")


def test_another_dataset_is_noticed(run, tmp_path):
    other = write_world(tmp_path / "other", {"red": 1})
    with pytest.raises(UserError, match="give --data the dataset that was evaluated"):
        build(run[0], other, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command_prints_the_path(run, tmp_path):
    out = str(tmp_path / "deep" / "report.html")
    arguments = ["--workdir", str(run[0]), "--data", run[1], "--out", out]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0 and done.output.strip() == out
    assert Path(out).stat().st_size > 10_000


def answer(key: int, truth: str, first: str, score: float) -> dict:
    row = {"key": str(key), "scientificName": truth, "answer_1": first, "score_1": str(score)}
    return row | {"correct": str(int(truth == first))}


def test_wrong_pictures_are_the_surest_mistakes_one_a_taxon():
    rows = [answer(0, "a", "b", 0.5), answer(1, "a", "b", 0.9), answer(2, "c", "b", 0.7)]
    right, wrong = choose_pictures([*rows, answer(3, "b", "b", 0.2)])
    assert [row["key"] for row in wrong] == ["1", "2"]
    assert [row["key"] for row in right] == ["3"]


def test_right_pictures_are_spread_over_the_taxa():
    rows = [answer(i, f"{i:03}", f"{i:03}", 0.5) for i in range(101)]
    right, wrong = choose_pictures(rows)
    assert [row["key"] for row in right] == ["0", "20", "40", "60", "80", "100"]
    assert wrong == []


def test_worst_classes_prefer_the_better_proven():
    rows = [
        {"top1": "0.0", "num_images": "1"},
        {"top1": "0.5", "num_images": "9"},
        {"top1": "0.0", "num_images": "5"},
        {"top1": "0.0423", "num_images": "142"},
        {"top1": "1.0", "num_images": "1"},
    ]
    worst = worst_classes(rows)
    assert [row["num_images"] for row, _ in worst] == ["142", "5", "9", "1"]
    assert [most for _, most in worst] == pytest.approx([0.089, 0.434, 0.733, 0.793], abs=0.001)


def test_the_map_names_the_largest_groups_and_greys_the_rest():
    features = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    groups = [f"Order{min(i // 4, 11)}" for i in range(60)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style.STYLE, "svg.fonttype", "none")
        svg = figures.class_map(features, groups, "map")
    assert "Order11 (16)" in svg
    assert "other (4 groups, 16)" in svg


def test_percent_takes_numbers_texts_and_nothing():
    space = "\N{NO-BREAK SPACE}"
    assert percent(0.1234) == f"12.3{space}%" and percent("0.5", 0) == f"50{space}%"
    assert percent(None) == percent("") == "–"
