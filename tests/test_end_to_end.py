"""The whole way in small: simulate, train, evaluate, export, predict, report."""

import csv
import json

import numpy as np
import pytest
from commands import bioclip2
from processes import arguments

import bioclip2_jax
from bioclip2_jax.text.taxonomy import RANKS


def succeed(*words: object) -> str:
    done = bioclip2(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    data = workdir / "data"
    succeed("prepare", "simulate", "--out", data, "--species", 12, "--images", 200)
    succeed(
        "train",
        *arguments(workdir, data, steps=4, replay_batch_size=8),
        f"--config.data.replay_dir={data}",
    )
    succeed("evaluate", "--workdir", workdir, "--data", data, "--split", "val")
    succeed("export", "--workdir", workdir, "--out", workdir / "export")
    succeed(
        *("inspect", "--data", data, "--split", "test", "--extract", 3),
        *("--out", workdir / "pictures"),
    )
    succeed("report", "--workdir", workdir, "--data", data, "--out", workdir / "report.html")
    return workdir


def test_both_losses_are_logged(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4
    assert rows[-1]["loss"] == pytest.approx(
        rows[-1]["contrastive_loss"] + rows[-1]["replay_loss"], rel=1e-6
    )


def test_results_have_the_promised_fields(run):
    result = json.loads((run / "eval" / "4" / "zero_shot.json").read_text())
    wanted = {"top1", "top3", "top5", "macro_top1", "ranks", "chance", "num_images", "num_classes"}
    assert wanted <= result.keys()
    assert set(result["ranks"]) == set(RANKS) and "top1" in result["ranks"]["kingdom"]
    assert result["num_classes"] == 12 and result["chance"] == pytest.approx(1 / 12)


def test_the_export_gives_the_features_of_the_run(run):
    ours, exported = bioclip2_jax.load(run), bioclip2_jax.load(run / "export")
    tokens = bioclip2_jax.tokenize(["a photo of a fern.", "a photo of a fish."])
    np.testing.assert_array_equal(ours.encode_text(tokens), exported.encode_text(tokens))


def test_predictions_are_csv_with_the_columns_of_pybioclip(run):
    text = succeed(
        *("predict", run / "pictures", "--model", run / "export", "--k", 2),
        *("--taxa", run / "data" / "taxa.csv"),
    )
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 6
    assert list(rows[0]) == (
        "file_name kingdom phylum class order family genus species_epithet species common_name"
        " score note error"
    ).split(" ")


def test_the_report_is_one_page_with_pictures_inside(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "data:image" in page and 'src="http' not in page
