"""Evaluation from kept features, by annotation tables, and where results go."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from colour_world import ColourModel, square, write_world
from evaluations import VAL, add_checkpoints, quiet, result, results_in, table

from bioclip2_jax.errors import UsageError
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.evaluation.run import run, run_once
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.evaluation.tasks import parse_tasks
from bioclip2_jax.features import embed
from bioclip2_jax.features.pictures import open_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_world(tmp_path_factory.mktemp("data") / "squares", VAL))


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch) -> Path:
    """A training folder with the checkpoints 10 and 20, all of them perfect models."""
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel())
    return add_checkpoints(tmp_path / "run", 10, 20)


@pytest.fixture
def features(data, tmp_path) -> Path:
    """What the perfect model makes of both splits."""
    pictures = open_pictures(data)
    embed.embed(ColourModel(), "colours", pictures, tmp_path / "kept", part_rows=8, say=quiet)
    return tmp_path / "kept"


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
