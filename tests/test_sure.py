"""Answers at the deepest rank that is sure: the mathematics, and the commands on squares."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from colour_world import COLOURS, ColourModel
from commands import call, said
from PIL import Image
from scipy.special import softmax

from bioclip2_jax.identify import name_lists, sure
from bioclip2_jax.identify.ladder import NONE, RIGHT, WRONG, Ladder
from bioclip2_jax.measures import outside
from bioclip2_jax.measures import sure as measure
from bioclip2_jax.measures.calibration import best_temperature
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.weights import load as loading

# ---- The mathematics


def drawn(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are a little too high, and whether answers are right."""
    scores = rng.beta(2, 1, count)
    return scores, rng.random(count) < scores**1.2


def test_above_a_threshold_answers_are_right_as_often_as_was_wanted():
    rng, low = np.random.default_rng(0), 0
    scores, right = drawn(200_000, rng)
    for _ in range(100):
        own = measure.threshold(*drawn(400, rng), 0.9)
        above = scores >= own
        low += above.any() and right[above].mean() < 0.9
    assert low <= 100 * measure.ERROR + 5
    assert measure.threshold(*drawn(20_000, rng), 0.9) == pytest.approx(0.83, abs=0.04)


def test_few_or_wrong_answers_prove_nothing_and_equal_scores_stay_together():
    scores = np.linspace(1, 0, 100)
    assert measure.threshold(scores[:37], np.ones(37, bool), 0.9) == measure.NEVER
    assert measure.threshold(scores[:38], np.ones(38, bool), 0.9) == scores[37]
    assert measure.threshold(scores, np.zeros(100, bool), 0.5) == measure.NEVER
    right = np.arange(60) < 40
    assert measure.threshold(np.repeat([0.9, 0.5], [30, 30]), right, 0.9) == measure.NEVER
    assert measure.threshold(np.repeat([0.9, 0.5], [40, 20]), right, 0.9) == 0.9


def test_ranks_get_what_deeper_ones_leave_and_the_deepest_answers():
    scores = np.array([[1.0, 0.9]] * 50 + [[0.8, 0.3]] * 50 + [[0.4, 0.2]] * 50)
    right = np.array([[1, 1]] * 50 + [[1, 0]] * 50 + [[0, 0]] * 50)
    (thresholds,) = measure.ladder(scores, right, [0.9])
    assert thresholds.tolist() == [0.8, 0.9]
    assert measure.deepest(scores, thresholds).tolist() == [1] * 50 + [0] * 50 + [-1] * 50
    unknown = np.where(np.arange(150)[:, None] < 50, measure.UNKNOWN, right)
    assert measure.ladder(scores, unknown, [0.9])[0, 1] == measure.NEVER


def test_what_is_learned_without_strangers_finds_them():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(40, 12))
    labels = rng.integers(30, size=600)
    pictures = centres[np.append(labels, rng.integers(30, 40, size=300))]
    pictures = pictures + 0.7 * rng.normal(size=pictures.shape)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (pictures, centres)]
    cosines = unit[0] @ unit[1][:30].T
    seen = outside.evidence(cosines, 20.0)
    hidden = outside.evidence(cosines[:300], 20.0, labels[:300])
    plain = np.delete(cosines[0], labels[0])
    np.testing.assert_allclose(hidden[0], outside.evidence(plain[None], 20.0)[0])
    share = softmax(20 * cosines[7]).max()
    assert np.exp(seen[7, 1]) == pytest.approx(share)
    listed = outside.learn(seen[:300], hidden).listed(seen[300:])
    best = seen[300:, 1]
    assert outside.auroc(listed[:300], listed[300:]) > outside.auroc(best[:300], best[300:])


def test_the_temperature_is_found_again():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3000, 5))
    labels = np.array([rng.choice(5, p=row) for row in softmax(2 * logits, axis=1)])
    found = best_temperature((6 * logits).astype(np.float32), labels)
    assert found == pytest.approx(3, rel=0.1)


# ---- Lists

ROWS = [
    ("Animalia", "Chordata", "Aves", "Fireformes", "Firidae", "Ignis", "red"),
    ("Animalia", "Chordata", "Aves", "Fireformes", "Firidae", "Ignis", "orange"),
    ("Animalia", "Chordata", "Aves", "Seaformes", "Maridae", "Mare", "blue"),
    ("Plantae", "", "", "Leafales", "Leafaceae", "Green", ""),
]


def write(path: str, rows: list, header: str) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def test_an_answer_is_right_by_its_name_at_its_rank(tmp_path):
    path = str(tmp_path / "taxa.csv")
    write(path, ROWS, "kingdom,phylum,class,order,family,genus,species")
    ladder = Ladder(name_lists.read_taxa(path))
    places, scores = ladder.best(np.array([[0.4, 0.3, 0.2, 0.1], [0.0, 0.1, 0.1, 0.8]]))
    assert scores[0] == pytest.approx([0.9, 0.9, 0.9, 0.7, 0.7, 0.7, 0.4])
    assert scores[1].tolist() == [0.8, 0, 0, 0.8, 0.8, 0.8, 0]  # the others have no name there
    assert ladder.cells(3, int(places[0, 3])) == (
        *("Animalia", "Chordata", "Aves", "Fireformes", "", "", "", "", "", "order"),
    )
    judged = {
        Taxon(genus="Ignis", species="red"): [RIGHT] * 7,  # the rest is known of the list
        Taxon(genus="Ignis", species="violet"): [RIGHT] * 6 + [WRONG],
        Taxon(genus="Ignis", species="red minor"): [RIGHT] * 7,
        Taxon(class_="Aves"): [RIGHT] * 3 + [measure.UNKNOWN] * 4,
        Taxon(genus="Mare", species="blue"): [RIGHT] * 3 + [WRONG] * 4,
        Taxon(kingdom="Plantae"): [WRONG] * 7,
    }
    for truth, expected in judged.items():
        assert ladder.right(places[:1], [truth])[0].tolist() == expected, truth
    assert ladder.own(Taxon(genus="Ignis", species="red minor")) == 0
    assert ladder.own(Taxon(kingdom="Fungi", genus="Ignis", species="red")) == -1


# ---- The commands


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The current folder: pictures in shades of the colours, of which some are checked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel(12.0))
    write("taxa.csv", ROWS, "kingdom,phylum,class,order,family,genus,species")
    rng = np.random.default_rng(0)
    rows = []
    Path("photos").mkdir()
    for number in range(240):
        colour = list(COLOURS)[number % 4]
        shade = np.clip(np.asarray(COLOURS[colour]) + rng.integers(-70, 70, 3), 0, 255)
        Image.new("RGB", (20, 16), tuple(shade.tolist())).save(f"photos/{number}.png")
        rows.append([f"{number}.png", *ROWS[number % 4][5:]])
    Image.new("RGB", (20, 16), (255, 255, 255)).save("white.png")
    write("checked.csv", rows, "filename,genus,species")
    return tmp_path


CALIBRATE = "calibrate checked.csv --images photos --model m --taxa taxa.csv --out c.json".split()
PREDICT = "predict photos white.png --model m --taxa taxa.csv".split()
SURE = ["--sure", "0.9", "--calibration", "c.json"]


def test_a_calibration_is_made_and_answers_are_sure(folder):
    made = call(*CALIBRATE)
    assert made.exit_code == 0, made.output
    assert "240 pictures, 240 of them of names on the list of 4" in made.output
    assert "--sure 0.9: " in made.output and "caution: all pictures are of names" in made.output
    about = sure.read("c.json")
    assert about.thresholds.keys() == {*name_lists.RANKS} and len(about.precisions) == 50
    done = call(*PREDICT, *SURE)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 241 and list(rows[0])[-4:] == ["rank", "score", "note", "error"]
    right, at_species = [], 0
    for row in rows[:-1]:
        truth = ROWS[int(row["file_name"][7:-4]) % 4]
        if row["rank"] in name_lists.RANKS:
            depth = name_lists.RANKS.index(row["rank"])
            ours = [row[rank] for rank in (*name_lists.RANKS[:-1], "species_epithet")]
            assert ours[depth] and not any(ours[depth + 1 :])
            right.append(ours[depth] == truth[depth])
            at_species += row["rank"] == "species"
    assert np.mean(right) >= 0.9 and at_species >= 60
    assert rows[-1]["rank"] == NONE and not rows[-1]["genus"] and float(rows[-1]["score"]) > 0.5


def test_kept_features_give_the_same_calibration_and_other_outputs_take_the_answers(folder):
    assert call(*CALIBRATE, "--false-none", "0.1").exit_code == 0
    assert call("embed", "photos", "--model", "m", "--out", "kept").exit_code == 0
    own = "calibrate checked.csv --features kept --model m --taxa taxa.csv --out d.json".split()
    assert call(*own, "--false-none", "0.1").exit_code == 0
    one, other = sure.read("c.json"), sure.read("d.json")
    assert one.temperature == pytest.approx(other.temperature, rel=1e-3)
    assert one.names == other.names and one.outside.asked == other.outside.asked == 0.1
    box = {"category": "1", "conf": 0.9, "bbox": [0, 0, 1, 1]}
    images = [{"file": f, "detections": [box]} for f in ("white.png", "photos/0.png")]
    Path("boxes.json").write_text(json.dumps({"images": images}))
    boxed = "predict . --boxes boxes.json --model m --taxa taxa.csv --output named.json".split()
    assert (done := call(*boxed, *SURE)).exit_code == 0, done.output
    named = json.loads(Path("named.json").read_text())
    names = {*named["classification_categories"].values()}
    assert NONE in names and len(names) == 2
    dwc = call(*PREDICT, *SURE, "--columns", "dwc")
    rows = list(csv.DictReader(io.StringIO(dwc.stdout)))
    assert {"species"} < {row["taxonRank"] for row in rows}
    assert rows[-1]["scientificName"] == ""


def test_a_run_that_was_cut_off_goes_on_with_the_same_calibration_alone(folder):
    assert call(*CALIBRATE).exit_code == 0
    whole = call(*PREDICT, *SURE, "--output", "whole.csv")
    assert whole.exit_code == 0, whole.output

    class Broken(ColourModel):
        seen = 0

        def encode_image(self, images, normalize=True):
            Broken.seen += 1
            if Broken.seen > 3:
                raise KeyboardInterrupt
            return super().encode_image(images, normalize)

    loaded = loading.load
    loading.load = lambda *_: Broken(12.0)
    try:
        assert call(*PREDICT, *SURE, "--output", "part.csv").exit_code == 130
    finally:
        loading.load = loaded
    other = ["--sure", "0.8", "--calibration", "c.json", "--output", "part.csv"]
    assert "--sure" in said(call(*PREDICT, *other))
    assert call(*PREDICT, *SURE, "--output", "part.csv").exit_code == 0
    assert Path("part.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_what_a_calibration_is_not_for_is_refused(folder, monkeypatch):
    assert call(*CALIBRATE).exit_code == 0
    assert "is there; give --overwrite" in said(call(*CALIBRATE))
    assert "scores are not probabilities" in said(call(*PREDICT, "--sure", "0.9"))
    assert "goes with --sure" in said(call(*PREDICT, "--calibration", "c.json"))
    for more, sentence in (
        (["--k", "2"], "one answer a picture"),
        (["--decode", "top_down"], "without --decode"),
        (["--within", "class=Aves"], "made for another list of names"),
        (["--rank", "genus"], "made for another list of names"),
        (["--prior", "counts.csv"], "made for another prior"),
    ):
        write("counts.csv", [["Mare", "blue", 9]], "genus,species,count")
        assert sentence in said(call(*PREDICT, *SURE, *more))
    Path("labels.txt").write_text("red\nblue\n")
    free = ["predict", "photos", "--model", "m", "--labels", "labels.txt", *SURE]
    assert "--sure needs the lineages" in said(call(*free))
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel(params={"w": np.ones(2)}))
    assert "c.json: made for another model" in said(call(*PREDICT, *SURE))
    Path("c.json").write_text('{"model": 1}')
    assert "c.json: no calibration that can be read" in said(call(*PREDICT, *SURE))


@pytest.mark.parametrize(
    "rows, more, sentence",
    [
        ([["0.png", "Ignis", "red"]] * 2, [], "1 pictures are of names on the list"),
        ([["0.png", "", ""]], [], "no row names a taxon"),
        ([["0.png", "Ignis", "red"], ["0.png", "Mare", "blue"]], [], "line 3: 0.png is Mare blue"),
        ([["x.png", "Ignis", "red"]], [], "none of the table's pictures is here"),
        ([["0.png", "Ignis", "red"]], ["--split", "val"], "--split is for datasets"),
        ([["0.png", "Ignis", "red"]], ["--prior-strength", "1"], "goes with --prior"),
    ],
)
def test_a_calibration_that_cannot_be_made_is_answered_in_one_sentence(
    folder, rows, more, sentence
):
    write("checked.csv", rows, "filename,genus,species")
    assert sentence in said(call(*CALIBRATE, *more))
    assert not Path("c.json").exists()
