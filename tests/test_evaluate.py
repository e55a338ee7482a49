"""What an evaluation writes about names and few examples, and what its command says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from colour_world import ColourModel, write_world
from evaluations import VAL, add_checkpoints, quiet, result, table

from bioclip2_jax.cli.evaluate import evaluate as command
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import questions
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.evaluation.run import run, run_once
from bioclip2_jax.evaluation.schema import Settings


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_world(tmp_path_factory.mktemp("data") / "squares", VAL))


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch) -> Path:
    """A training folder with the checkpoints 10 and 20, all of them perfect models."""
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel())
    return add_checkpoints(tmp_path / "run", 10, 20)


# ---- Results


def test_a_perfect_model_names_everything(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    found = result(workdir, 20)
    assert found["top1"] == found["top3"] == found["macro_top1"] == 1.0
    assert found["num_images"] == 15 and found["num_classes"] == 4
    assert found["chance"] == 0.25 and found["num_excluded"] == found["num_bad"] == 0
    assert {rank: row["top1"] for rank, row in found["ranks"].items()} == dict.fromkeys(
        ("kingdom", "phylum", "class", "order", "family", "genus", "species"), 1.0
    )
    assert found["ranks"]["family"]["num_classes"] == 3
    assert found["ranks"]["kingdom"]["chance"] == 0.5
    assert found["settings"]["text_kind"] == "taxon_com"


def test_wrong_names_are_counted_where_they_belong(workdir, data, monkeypatch):
    # The text of "red" looks orange and the other way round: a mistake within the genus.
    confused = ColourModel(confuse={"red": "orange", "orange": "red"})
    monkeypatch.setattr(evaluate, "load", lambda path: confused)
    run(workdir, Settings(data), say=lambda line: None)
    found = result(workdir, 20)
    assert found["top1"] == pytest.approx(8 / 15)
    assert found["macro_top1"] == pytest.approx(0.5)
    assert found["ranks"]["species"]["top1"] == pytest.approx(8 / 15)
    assert found["ranks"]["genus"]["top1"] == 1.0
    low, high = found["intervals"]["top1"]
    assert low < 8 / 15 < high
    rows = {row["scientificName"]: row for row in table(workdir, 20, "zero_shot_classes")}
    assert rows["Ignis red"]["confused_with"] == "Ignis orange"
    assert rows["Ignis red"]["num_images"] == rows["Ignis red"]["confused_images"] == "4"
    assert rows["Mare blue"]["top1"] == "1.0" and rows["Mare blue"]["train_images"] == "2"


def test_datasets_have_rows_of_their_own(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    rows = {row["datasetName"]: row for row in table(workdir, 20, "zero_shot_datasets")}
    assert rows["greens"]["num_images"] == "2" and rows["squares"]["num_images"] == "13"
    assert rows["squares"]["num_classes"] == "3"
    few = {row["datasetName"] for row in table(workdir, 20, "few_shot_1_datasets")}
    assert few == {"greens", "squares"}


def test_closed_accuracy_chooses_among_the_taxa_of_the_dataset(workdir, data, monkeypatch):
    # Green is taken for blue, but no blue is in its own dataset.
    confused = ColourModel(confuse={"green": "red", "blue": "green"})
    monkeypatch.setattr(evaluate, "load", lambda path: confused)
    run(workdir, Settings(data), say=lambda line: None)
    rows = {row["datasetName"]: row for row in table(workdir, 20, "zero_shot_datasets")}
    assert float(rows["greens"]["top1"]) == 0 and float(rows["greens"]["closed_top1"]) == 1


def test_every_image_is_listed_with_its_answers(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    rows = table(workdir, 20, "zero_shot_images")
    assert len(rows) == 15 and len({row["key"] for row in rows}) == 15
    assert all(row["answer_1"] == row["scientificName"] for row in rows)
    assert {row["correct"] for row in rows} == {"1"}
    scores = [[float(row[f"score_{place}"]) for place in range(1, 5)] for row in rows]
    assert np.allclose(np.sum(scores, axis=1), 1)


def test_class_embeddings_are_stored_for_the_report(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    stored = np.load(workdir / "eval/20/zero_shot_embeddings.npz", allow_pickle=False)
    assert stored["image"].shape == stored["text"].shape == (4, 4)
    assert len(table(workdir, 20, "zero_shot_classes")) == len(stored["classes"])


def test_few_shot_leaves_out_and_names_small_classes(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    one, five = (result(workdir, 20, f"few_shot_{k}") for k in (1, 5))
    assert one["top1"] == 1.0 and one["num_classes"] == 4 and one["left_out"] == []
    assert len(one["folds"]) == 5 and one["std"] == 0.0
    # Only blue has five images or more: nothing is left to tell apart.
    assert five["top1"] is None and five["num_classes"] == 1
    assert sorted(five["left_out"]) == ["Green", "Ignis orange", "Ignis red"]


# ---- Names


def test_few_shot_intervals_are_wider_for_other_draws(tmp_path, monkeypatch):
    # Of the four colours two look alike, so that much hangs on which pictures are drawn.
    def encode(self, images, normalize=True):
        noise = np.random.default_rng(int(images.sum())).normal(size=(len(images), 4))
        return (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)

    monkeypatch.setattr(ColourModel, "encode_image", encode)
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel())
    data = str(write_world(tmp_path / "d", VAL))
    run_once(Settings(data), ["few_shot_1"], tmp_path / "o", model_path="m", say=lambda line: None)
    found = json.loads((tmp_path / "o" / "few_shot_1.json").read_text())
    assert len(set(found["folds"])) > 1 and list(found["draw_intervals"]) == list(
        found["intervals"]
    )
    low, high = found["intervals"]["top1"]
    wide_low, wide_high = found["draw_intervals"]["top1"]
    assert 0 <= wide_low < low < found["top1"] < high < wide_high <= 1


def test_classes_that_are_asked_for_by_one_text_are_named(tmp_path, monkeypatch):
    same = {"red": "fire bird", "orange": "Fire  bird", "blue": "sea bird", "green": "leaf"}
    monkeypatch.setattr("colour_world.COMMON", same)
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel())
    data, lines = str(write_world(tmp_path / "d", {"red": 1, "blue": 1})), []
    settings = Settings(data, text_kind="com")
    run_once(settings, ["zero_shot"], tmp_path / "o", model_path="m", say=lines.append)
    (shared,) = json.loads((tmp_path / "o" / "zero_shot.json").read_text())["same_text"]
    assert sorted(shared["classes"]) == ["Ignis orange", "Ignis red"]
    assert len(lines) == 2 and lines[1].startswith("caution: Ignis ")
    assert "no picture can tell such classes apart" in lines[1]


def test_taxa_without_training_images_are_left_out_and_counted(workdir, tmp_path):
    data = write_world(tmp_path / "d", VAL, train=("red", "orange", "blue"))
    run(workdir, Settings(str(data)), say=lambda line: None)
    found = result(workdir, 20)
    assert found["num_classes"] == 3 and found["num_excluded"] == 2 and found["num_images"] == 13
    assert (
        found["open_set"]["excluded"] is None
    )  # green is known to its genus: perhaps a listed one
    assert result(workdir, 20, "few_shot_1")["num_classes"] == 4


def test_pictures_of_species_off_the_list_are_unknown_organisms(workdir, tmp_path):
    data = write_world(tmp_path / "d", VAL, train=("red", "orange", "green"))
    run(workdir, Settings(str(data)), ["zero_shot"], say=quiet)
    excluded = result(workdir, 20)["open_set"]["excluded"]
    # The six blue ones; nothing on the list looks like them.
    assert (excluded["num_known"], excluded["num_unknown"]) == (9, 6)
    assert excluded["auroc_cosine"] == 1.0


@pytest.mark.parametrize("labels, count", [("train", 3), ("split", 2), ("all", 4)])
def test_the_list_of_names_follows_the_labels_option(tmp_path, labels, count):
    data = write_world(tmp_path / "d", {"red": 1, "green": 1}, train=("red", "orange", "blue"))
    assert len(questions.dataset_classes(str(data), "val", labels)) == count


def test_text_kinds_change_the_names(data):
    classes = questions.dataset_classes(data, "val", "train")
    assert questions.class_names(classes, "sci")[-1] == "Green"
    assert questions.class_names(classes, "taxon_com")[0] == (
        "Animalia Chordata Aves Fireformes Firidae Ignis orange"
    )
    assert "with common name fire bird" in questions.class_names(classes, "taxon_com")[1]
    assert questions.class_names(classes, "asis")[0] == "Ignis orange"


def test_lineage_names_leave_out_holes_and_never_are_empty(data):
    classes = questions.dataset_classes(data, "val", "train")
    assert questions.lineage_names(classes, "class") == ["Animalia Chordata Aves", "Plantae"]


def test_no_image_of_a_listed_taxon_is_a_clear_error(workdir, tmp_path):
    data = write_world(tmp_path / "d", {"green": 2}, train=("red", "blue"))
    with pytest.raises(UserError, match="choose other --labels"):
        run(workdir, Settings(str(data)), say=lambda line: None)


def test_an_unknown_split_names_those_there_are(workdir, data):
    with pytest.raises(UsageError, match="no split 'test'; it has train, val"):
        run(workdir, Settings(data, split="test"), say=lambda line: None)


# ---- Command line and process


def test_the_command_prints_a_line_a_task(workdir, data):
    out = CliRunner().invoke(command, ["--workdir", str(workdir), "--data", data])
    assert out.exit_code == 0, out.output
    lines = out.output.splitlines()
    assert lines[0].startswith("step 20 zero_shot: top1 1.000 [0.796, 1.000]")  # of 15 pictures
    assert lines[2] == "step 20 few_shot_5: too few images a taxon"


def test_the_evaluator_does_not_import_the_trainer():
    code = (
        "import sys, bioclip2_jax.evaluation.run;"
        "bad = {'bioclip2_jax.train', 'bioclip2_jax.training.step', 'tensorflow', 'torch'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_wrong_combinations_of_options_are_named(tmp_path):
    for options, said in (
        ([], "give one of --workdir, --model and --features"),
        (["--workdir", "a", "--model", "b"], "give one of"),
        (["--model", "a"], "--out is missing"),
        (["--model", "a", "--out", "b", "--follow"], "--follow needs the --workdir"),
        (["--workdir", "a", "--support", "s"], "--support is of one kind"),
        (["--workdir", "a"], "--data is missing"),
    ):
        failed = CliRunner().invoke(command, options).exception
        assert isinstance(failed, UsageError) and said in str(failed)
