import csv
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from colour_world import ColourModel, write_world

from bioclip2_jax import evaluate
from bioclip2_jax.cli_evaluate import evaluate as command
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluate import Settings, candidate_classes, new_checkpoints, run

VAL = {"red": 4, "orange": 3, "blue": 6, "green": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_world(tmp_path_factory.mktemp("data") / "squares", VAL))


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch) -> Path:
    """A training folder with the checkpoints 10 and 20, all of them perfect models."""
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel())
    return add_checkpoints(tmp_path / "run", 10, 20)


def add_checkpoints(folder: Path, *steps: int) -> Path:
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    return folder


def result(workdir: Path, step: int, task: str = "zero_shot") -> dict:
    return json.loads((workdir / "eval" / str(step) / f"{task}.json").read_text())


def table(workdir: Path, step: int, name: str) -> list[dict]:
    with (workdir / "eval" / str(step) / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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


def test_higher_ranks_that_are_asked_for_directly_are_scored_apart(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    ranks = result(workdir, 20)["ranks"]
    # No colour is mentioned above the species, save for the plant's genus.
    assert ranks["family"]["prompted_top1"] < 1.0 == ranks["family"]["top1"]
    assert ranks["species"]["prompted_top1"] == 1.0


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
    # Only blue has six images: nothing is left to tell apart.
    assert five["top1"] is None and five["num_classes"] == 1
    assert sorted(five["left_out"]) == ["Green", "Ignis orange", "Ignis red"]


# ---- Names


def test_taxa_without_training_images_are_left_out_and_counted(workdir, tmp_path):
    data = write_world(tmp_path / "d", VAL, train=("red", "orange", "blue"))
    run(workdir, Settings(str(data)), say=lambda line: None)
    found = result(workdir, 20)
    assert found["num_classes"] == 3 and found["num_excluded"] == 2 and found["num_images"] == 13
    assert result(workdir, 20, "few_shot_1")["num_classes"] == 4


@pytest.mark.parametrize("labels, count", [("train", 3), ("split", 2), ("all", 4)])
def test_the_list_of_names_follows_the_labels_option(tmp_path, labels, count):
    data = write_world(tmp_path / "d", {"red": 1, "green": 1}, train=("red", "orange", "blue"))
    assert len(candidate_classes(Settings(str(data), labels=labels))) == count


def test_text_kinds_change_the_names(data):
    classes = candidate_classes(Settings(data))
    assert evaluate.class_names(classes, "sci")[-1] == "Green"
    assert evaluate.class_names(classes, "taxon_com")[0] == (
        "Animalia Chordata Aves Fireformes Firidae Ignis orange"
    )
    assert "with common name fire bird" in evaluate.class_names(classes, "taxon_com")[1]
    assert evaluate.class_names(classes, "asis")[0] == "Ignis orange"


def test_lineage_names_leave_out_holes_and_never_are_empty(data):
    classes = candidate_classes(Settings(data))
    assert evaluate.lineage_names(classes, "class") == ["Animalia Chordata Aves", "Plantae"]


def test_no_image_of_a_listed_taxon_is_a_clear_error(workdir, tmp_path):
    data = write_world(tmp_path / "d", {"green": 2}, train=("red", "blue"))
    with pytest.raises(UserError, match="choose other --labels"):
        run(workdir, Settings(str(data)), say=lambda line: None)


def test_an_unknown_split_names_those_there_are(workdir, data):
    with pytest.raises(UsageError, match="no split 'test'; it has train, val"):
        run(workdir, Settings(data, split="test"), say=lambda line: None)


# ---- Which checkpoints


def test_latest_all_and_numbers_choose_checkpoints(workdir):
    assert evaluate.chosen_steps(workdir, "latest") == [20]
    assert evaluate.chosen_steps(workdir, "all") == [10, 20]
    assert evaluate.chosen_steps(workdir, "10") == [10]
    with pytest.raises(UsageError, match="15: not one of latest, all, 10, 20"):
        evaluate.chosen_steps(workdir, "15")


def test_a_folder_without_checkpoints_is_a_clear_error(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint here"):
        evaluate.chosen_steps(tmp_path, "latest")


def test_following_ends_with_the_training_and_misses_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "POLL_SECONDS", 0.01)
    workdir = add_checkpoints(tmp_path, 1)

    def train():
        time.sleep(0.1)
        add_checkpoints(workdir, 2)
        time.sleep(0.1)
        add_checkpoints(workdir, 3)
        (workdir / "done.json").write_text("{}")

    trainer = threading.Thread(target=train)
    trainer.start()
    assert list(new_checkpoints(workdir, None)) == [1, 2, 3]
    trainer.join()


def test_following_gives_up_after_the_timeout(tmp_path):
    lines = []
    assert list(new_checkpoints(tmp_path, 0.05, lines.append)) == []
    assert "no new checkpoint for 0.05 s" in lines[0]


def test_following_never_evaluates_twice(workdir, data):
    (workdir / "done.json").write_text("{}")
    lines: list[str] = []
    run(workdir, Settings(data), follow=True, say=lines.append)
    assert len(lines) == 6
    (workdir / "eval/10/few_shot_1.json").unlink()
    lines.clear()
    run(workdir, Settings(data), follow=True, say=lines.append)
    assert [line.split(":")[0] for line in lines] == ["step 10 few_shot_1"]


def test_following_with_other_settings_evaluates_again(workdir, data):
    (workdir / "done.json").write_text("{}")
    run(workdir, Settings(data), follow=True, say=lambda line: None)
    run(workdir, Settings(data, text_kind="sci"), follow=True, say=lambda line: None)
    assert result(workdir, 10)["settings"]["text_kind"] == "sci"


def test_a_half_written_result_is_made_again(workdir, data):
    (workdir / "done.json").write_text("{}")
    run(workdir, Settings(data), follow=True, say=lambda line: None)
    whole = result(workdir, 10)
    path = workdir / "eval/10/zero_shot.json"
    path.write_text(path.read_text()[:50])
    run(workdir, Settings(data), follow=True, say=lambda line: None)
    assert result(workdir, 10) == whole


def test_a_checkpoint_that_vanishes_while_followed_is_passed_over(workdir, data, monkeypatch):
    (workdir / "done.json").write_text("{}")

    def load(path: Path) -> ColourModel:
        if path.name == "10":
            path.rmdir()
            raise UserError("unreadable checkpoint")
        return ColourModel()

    monkeypatch.setattr(evaluate, "load", load)
    lines: list[str] = []
    run(workdir, Settings(data), follow=True, say=lines.append)
    assert "step 10: the checkpoint was removed" in lines[0]
    assert result(workdir, 20)["top1"] == 1.0


def test_a_damaged_checkpoint_that_stays_is_an_error(workdir, data, monkeypatch):
    def load(path: Path) -> ColourModel:
        raise UserError("unreadable checkpoint")

    monkeypatch.setattr(evaluate, "load", load)
    with pytest.raises(UserError, match="unreadable checkpoint"):
        run(workdir, Settings(data), follow=True, say=lambda line: None)


def test_no_temporary_file_remains(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    assert not list(workdir.rglob("*.tmp"))


def test_results_are_the_same_every_time(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    first = {path.name: path.read_bytes() for path in (workdir / "eval/20").iterdir()}
    run(workdir, Settings(data), say=lambda line: None)
    again = {path.name: path.read_bytes() for path in (workdir / "eval/20").iterdir()}
    del first["zero_shot_embeddings.npz"], again["zero_shot_embeddings.npz"]  # holds the time
    assert first == again


# ---- Command line and process


def test_the_command_prints_a_line_a_task(workdir, data):
    out = CliRunner().invoke(command, ["--workdir", str(workdir), "--data", data])
    assert out.exit_code == 0, out.output
    lines = out.output.splitlines()
    assert lines[0].startswith("step 20 zero_shot: top1 1.000 [1.000, 1.000]")
    assert lines[2] == "step 20 few_shot_5: too few images a taxon"


def test_the_evaluator_does_not_import_the_trainer():
    code = (
        "import sys, bioclip2_jax.evaluate;"
        "bad = {'bioclip2_jax.train', 'bioclip2_jax.train_step', 'tensorflow', 'torch'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
