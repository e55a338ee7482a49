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
from colour_world import ColourModel, square, write_world

from bioclip2_jax.cli.evaluate import evaluate as command
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import follow, questions
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.evaluation.follow import new_checkpoints
from bioclip2_jax.evaluation.run import run, run_once
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.evaluation.tasks import parse_tasks
from bioclip2_jax.features import embed
from bioclip2_jax.features.pictures import open_pictures
from bioclip2_jax.text.taxonomy import RANKS

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


# ---- Which checkpoints


def test_latest_all_and_numbers_choose_checkpoints(workdir):
    assert follow.chosen_steps(workdir, "latest") == [20]
    assert follow.chosen_steps(workdir, "all") == [10, 20]
    assert follow.chosen_steps(workdir, "10") == [10]
    with pytest.raises(UsageError, match="15: not one of latest, all, 10, 20"):
        follow.chosen_steps(workdir, "15")


def test_a_folder_without_checkpoints_is_a_clear_error(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint here"):
        follow.chosen_steps(tmp_path, "latest")


def test_following_ends_with_the_training_and_misses_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
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


# ---- Models and kept features


def quiet(line: str) -> None:
    pass


@pytest.fixture
def features(data, tmp_path) -> Path:
    """What the perfect model makes of both splits."""
    pictures = open_pictures(data)
    embed.embed(ColourModel(), "colours", pictures, tmp_path / "kept", part_rows=8, say=quiet)
    return tmp_path / "kept"


def results_in(folder: Path, task: str) -> dict:
    return json.loads((folder / f"{task}.json").read_text())


def test_features_give_what_the_checkpoint_gives(workdir, data, features, tmp_path):
    run(workdir, Settings(data), say=quiet)
    tasks = parse_tasks("zero_shot,few_shot")
    for settings in (Settings(data), Settings()):
        out = tmp_path / "out"
        run_once(settings, tasks, out, model_path="colours", features=features, say=quiet)
        for task in tasks:
            ours, theirs = results_in(out, task), result(workdir, 20, task)
            for name in ("top1", "macro_top1", "intervals", "num_images", "chance", "ranks"):
                assert ours[name] == theirs[name]
        with (out / "zero_shot_images.csv").open(newline="") as file:
            ours = list(csv.DictReader(file))
        for one, other in zip(ours, table(workdir, 20, "zero_shot_images"), strict=True):
            for name in ("index", "key", "datasetName", "scientificName", "answer_1", "answer_4"):
                assert one[name] == other[name]
            assert float(one["score_1"]) == pytest.approx(float(other["score_1"]), rel=1e-5)


def test_few_shot_needs_no_model_and_its_draws_can_be_taken_again(features, tmp_path, workdir):
    first, again = tmp_path / "first", tmp_path / "again"
    run_once(Settings(), ["few_shot_1"], first, features=features, say=quiet)
    drawn = first / "few_shot_1_support.json"
    folds = json.loads(drawn.read_text())
    assert len(folds) == 5 and all(len(fold) == len(set(fold)) == 4 for fold in folds)
    chosen = tmp_path / "chosen.json"
    chosen.write_text(json.dumps(folds[3:]))
    settings = Settings(support=str(chosen))
    run_once(settings, ["few_shot_1"], again, features=features, say=quiet)
    assert results_in(again, "few_shot_1")["folds"] == results_in(first, "few_shot_1")["folds"][3:]
    assert json.loads((again / "few_shot_1_support.json").read_text()) == folds[3:]


def test_an_annotation_table_is_a_question_of_its_own(workdir, data, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = ["index,filepath,class"]
    for number, colour in enumerate(["green", "red", "blue", "red", "green"]):
        (photos / f"{number}.png").write_bytes(square(colour))
        rows.append(f"{number},{number}.png,a {colour} thing")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    settings = Settings(str(photos), text_kind="asis", annotations=str(tmp_path / "table.csv"))
    run_once(settings, ["zero_shot", "few_shot_1"], tmp_path / "out", model_path="c", say=quiet)
    found = results_in(tmp_path / "out", "zero_shot")
    assert found["top1"] == 1.0 and found["num_classes"] == 3 and found["ranks"] == {}
    found = results_in(tmp_path / "out", "few_shot_1")
    assert found["left_out"] == [] and found["num_classes"] == 3 and found["num_images"] == 4
    (tmp_path / "table.csv").write_text("\n".join([*rows, "9,lost.png,a red thing"]))
    lines: list[str] = []
    run_once(settings, ["few_shot_1"], tmp_path / "out", model_path="c", say=lines.append)
    found = results_in(tmp_path / "out", "few_shot_1")
    assert found["bad"] == [{"key": "lost.png", "reason": "no such picture"}]
    assert found["num_bad"] == 1 and found["num_images"] == 4
    assert "1 not read (lost.png: no such picture)" in lines[-1]


def test_calibration_and_heights_are_reported(workdir, data, monkeypatch):
    confused = ColourModel(confuse={"red": "orange", "orange": "red"})
    monkeypatch.setattr(evaluate, "load", lambda path: confused)
    run(workdir, Settings(data), ["zero_shot"], say=quiet)
    found = result(workdir, 20)
    assert found["hierarchy"]["heights"] == [8, 7, 0, 0, 0, 0, 0, 0]
    assert found["hierarchy"]["mistake_height"] == 1.0
    assert found["calibration"]["ece"] == pytest.approx(
        abs(found["calibration"]["confidence"] - 8 / 15), abs=0.2
    )
    assert sum(part["count"] for part in found["calibration"]["bins"]) == 15
    scaled = found["calibration"]["scaled"]
    assert (scaled["num_fitted"], scaled["num_judged"]) == (7, 8)
    assert scaled["temperature"] > 1 and scaled["nll_after"] < scaled["nll_before"]


def test_consistency_strata_and_the_open_set_are_reported(workdir, data, monkeypatch):
    confused = ColourModel(confuse={"red": "orange", "orange": "red"})
    monkeypatch.setattr(evaluate, "load", lambda path: confused)
    run(workdir, Settings(data), ["zero_shot"], say=quiet)
    found = result(workdir, 20)
    # Every taxon has two training pictures.
    assert found["strata"] == {
        "few": {"num_classes": 4, "num_images": 15, "top1": 8 / 15, "macro_top1": 0.5}
    }
    for rank in RANKS:
        row = found["ranks"][rank]
        assert row["macro_top1"] == pytest.approx(0.5 if rank == "species" else 1.0)
        assert 0 <= row["prompted_macro_top1"] <= 1
    told = found["hierarchy"]["consistency"]
    # No colour is mentioned above the species, so the answers hardly fit together.
    assert told["consistent"] <= min(told["agreement"].values()) < 1
    assert (
        told["full_path"]
        <= told["top_down"]["kingdom"]
        == found["ranks"]["kingdom"]["prompted_top1"]
    )
    hidden = found["open_set"]["hidden"]
    assert hidden["num_hidden_classes"] == 2 and found["open_set"]["excluded"] is None
    assert hidden["num_known"] + hidden["num_unknown"] == 15
    assert 0 <= hidden["auroc_cosine"] <= 1


def test_answers_down_the_tree_are_consistent_and_ranks_without_a_name_are_not_asked(workdir, data):
    run(workdir, Settings(data, decode="top_down"), ["zero_shot"], say=quiet)
    found = result(workdir, 20)
    told = found["hierarchy"]["consistency"]
    assert told["consistent"] == 1 and told["full_path"] == found["top1"]
    assert 0 < found["hierarchy"]["nlca"] <= 1
    for rank, row in found["ranks"].items():
        assert row["top_down_top1"] <= 1 and (row["known_top1"] == row["top_down_top1"]), rank
    # The plant has no phylum: the one that there is cannot be mistaken.
    assert found["ranks"]["phylum"]["prompted_top1"] == 1.0


@pytest.mark.parametrize("decode", ["flat", "top_down"])
def test_the_ranks_of_every_picture_are_listed_and_add_up_to_the_figures(
    workdir, data, monkeypatch, decode
):
    confused = ColourModel(confuse={"orange": "blue"})
    monkeypatch.setattr(evaluate, "load", lambda path: confused)
    run(workdir, Settings(data, decode=decode), ["zero_shot"], say=quiet)
    found, rows = result(workdir, 20), table(workdir, 20, "zero_shot_images")
    classes = questions.dataset_classes(data, "val", "train")
    known = {
        entry.scientific_name: dict(zip(RANKS, entry.taxon.ranks, strict=True)) for entry in classes
    }
    keys = {
        "top1": "known_top1",
        "prompted_top1": "prompted_top1",
        "top_down_top1": "top_down_top1",
    }
    seen = set()
    for rank in RANKS[:-1]:
        for column, key in keys.items():
            cells = [row[f"{rank}_{column}"] for row in rows]
            judged = [known[row["scientificName"]][rank] != "" for row in rows]
            assert [cell != "" for cell in cells] == judged
            hits = [int(cell) for cell in cells if cell]
            assert set(hits) <= {0, 1}
            assert np.mean(hits) == pytest.approx(found["ranks"][rank][key])
            seen |= {(column, hit) for hit in hits}
    assert seen == {(column, hit) for column in keys for hit in (0, 1)}
    full = np.array([int(row["full_path"]) for row in rows])
    consistency = found["hierarchy"]["consistency"]
    assert full.mean() == pytest.approx(consistency["full_path"])
    asked = "top_down_top1" if decode == "top_down" else "prompted_top1"
    by_hand = [
        row["correct"] == "1" and all(row[f"{rank}_{asked}"] != "0" for rank in RANKS[:-1])
        for row in rows
    ]
    np.testing.assert_array_equal(full, by_hand)


def test_a_prior_moves_answers_to_what_was_met_more_often(workdir, data, tmp_path):
    table_of_counts = tmp_path / "counts.csv"
    table_of_counts.write_text("genus,species,count\nIgnis,red,1000000\nMare,blue,10\n")
    settings = Settings(data, prior=str(table_of_counts), prior_strength=50.0)
    run(workdir, settings, ["zero_shot"], say=quiet)
    found = result(workdir, 20)
    assert [point["strength"] for point in found["prior"]][::9] == [0.0, 50.0]
    assert found["prior"][0]["top1"] == 1.0 and found["top1"] == pytest.approx(4 / 15)
    assert found["prior"][9]["top1"] == found["top1"] and found["prior_fit"] is None
    assert found["commonest"] == {"name": "Ignis red", "num_images": 4, "top1": 1.0}
    assert found["ranks"]["kingdom"]["top1"] < 1
    table_of_counts.write_text("genus,species,count\nNo,one,5\n")
    with pytest.raises(UserError, match="counts none of the 4 taxa"):
        run(workdir, settings, ["zero_shot"], say=quiet)


def test_without_a_strength_one_is_fitted_and_the_answers_stay_as_they_are(
    workdir, data, tmp_path, monkeypatch
):
    # It names all rightly, but is not sure of anything, and red is on 3 of the 7 pictures.
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel(logit_scale=0.5))
    (tmp_path / "counts.csv").write_text("genus,species,count\nIgnis,red,1000\n")
    options = ["--workdir", str(workdir), "--data", data, "--tasks", "zero_shot"]
    CliRunner().invoke(command, [*options, "--out", str(tmp_path / "plain")])
    options += ["--prior", str(tmp_path / "counts.csv")]
    done = CliRunner().invoke(command, [*options, "--out", str(tmp_path / "fitted")])
    assert done.exit_code == 0, done.output
    plain, found = (
        json.loads((tmp_path / name / "20/zero_shot.json").read_text())
        for name in ("plain", "fitted")
    )
    fit = found["prior_fit"]
    assert (fit["num_fitted"], fit["num_judged"], len(found["prior"])) == (7, 8, 9)
    assert fit["strength"] > 0 and fit["after"]["strength"] == fit["strength"]
    assert fit["before"]["top1"] == 1.0 and "7 pictures" in fit["caution"]
    assert f"prior of {fit['strength']:.2f}, fitted on 7 of them" in done.output
    # All else is as without a prior, the answers too.
    assert found["prior"][-1]["top1"] == pytest.approx(4 / 15) and found["top1"] == 1.0
    assert found["commonest"] == {"name": "Ignis red", "num_images": 4, "top1": 1.0}
    assert plain["settings"]["prior_strength"] is found["settings"]["prior_strength"] is None
    for key in plain.keys() - {"settings", "prior", "prior_fit", "commonest"}:
        assert plain[key] == found[key], key
    for name in ("images", "classes", "datasets"):
        path = f"20/zero_shot_{name}.csv"
        assert (tmp_path / "plain" / path).read_bytes() == (tmp_path / "fitted" / path).read_bytes()


def test_results_of_a_run_may_go_elsewhere(workdir, data, tmp_path):
    run(workdir, Settings(data), ["few_shot_1"], out=tmp_path / "else", step="all", say=quiet)
    assert (tmp_path / "else/10/few_shot_1.json").exists() and not (workdir / "eval").exists()


def test_features_of_another_model_or_split_are_named(workdir, data, features, tmp_path):
    with pytest.raises(UsageError, match="zero_shot encodes names: give the --model"):
        run_once(Settings(), ["zero_shot"], tmp_path / "o", features=features, say=quiet)
    with pytest.raises(UsageError, match="no features of split 'dev'; it has train, val"):
        run_once(Settings(split="dev"), ["few_shot_1"], tmp_path, features=features, say=quiet)
    with pytest.raises(UsageError, match="--tasks newt needs --data"):
        run_once(Settings(), ["newt"], tmp_path / "o", features=features, say=quiet)
    with pytest.raises(UsageError, match="--tasks herbarium: unknown"):
        parse_tasks("few_shot,herbarium")


def test_features_and_model_must_belong_together(data, features, tmp_path, monkeypatch):
    other = ColourModel(params={"weight": np.ones(3, np.float32)})
    monkeypatch.setattr(evaluate, "load", lambda path: other)
    with pytest.raises(UsageError, match=r"made by another model \(colours\) than --model m"):
        run_once(Settings(), ["zero_shot"], tmp_path, model_path="m", features=features, say=quiet)


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
