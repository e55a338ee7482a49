"""What an evaluation tells beyond its first answers: ranks, confidence, the unknown, priors."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from colour_world import ColourModel, write_world
from evaluations import VAL, add_checkpoints, quiet, result, table

from bioclip2_jax.cli.evaluate import evaluate as command
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import questions
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.evaluation.run import run
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.text.taxonomy import RANKS


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_world(tmp_path_factory.mktemp("data") / "squares", VAL))


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch) -> Path:
    """A training folder with the checkpoints 10 and 20, all of them perfect models."""
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel())
    return add_checkpoints(tmp_path / "run", 10, 20)


def test_higher_ranks_that_are_asked_for_directly_are_scored_apart(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    ranks = result(workdir, 20)["ranks"]
    # No colour is mentioned above the species, save for the plant's genus.
    assert ranks["family"]["prompted_top1"] < 1.0 == ranks["family"]["top1"]
    assert ranks["species"]["prompted_top1"] == 1.0


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
