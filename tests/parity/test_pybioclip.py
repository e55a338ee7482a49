"""pybioclip runs on our export and our label files, and answers as we do."""

import csv
import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from kept_models import export_open_clip
from PIL import Image

import bioclip2_jax
from bioclip2_jax.cli import labels, predict
from bioclip2_jax.data import images
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights.description import Preprocess

torch = pytest.importorskip("torch")
bioclip = pytest.importorskip("bioclip")

TINY = PRESETS["tiny"]
NAMES = ["Pica pica", "Corvus corax", "Poa annua", "Tinca tinca"]
TAXA = """kingdom,phylum,class,order,family,genus,species,common_name
Animalia,Chordata,Aves,Passeriformes,Corvidae,Pica,pica,Eurasian Magpie
Animalia,Chordata,Aves,Passeriformes,Corvidae,Corvus,corax,Raven
Animalia,Chordata,,Cypriniformes,Cyprinidae,Tinca,tinca,Tench
Plantae,Tracheophyta,Liliopsida,Poales,Poaceae,Poa,annua,
"""


@pytest.fixture
def place(tmp_path, random_params, monkeypatch):
    """A folder with an export, three pictures, and no compiler asked for."""
    monkeypatch.setattr(torch, "compile", lambda model: model)
    params = random_params(TINY)
    export_open_clip(params, TINY, Preprocess(64), tmp_path / "model")
    rng = np.random.default_rng(0)
    for number in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        coarse.resize((100, 80), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
    return tmp_path


def run_bioclip(monkeypatch, *arguments):
    from bioclip.__main__ import main

    monkeypatch.setattr(sys, "argv", ["bioclip", *map(str, arguments)])
    main()


def rows_of(path):
    with open(path, newline="") as file:
        return {
            (row["file_name"], row["classification"]): float(row["score"])
            for row in csv.DictReader(file)
        }


def test_its_predictions_from_our_export_are_ours(place, monkeypatch):
    pictures = [str(place / f"{number}.png") for number in range(3)]
    run_bioclip(
        monkeypatch,
        *("predict", *pictures, "--cls", ",".join(NAMES), "--output", place / "theirs.csv"),
        *("--model", f"local-dir:{place / 'model'}"),
    )
    (place / "names.txt").write_text("\n".join(NAMES))
    result = CliRunner().invoke(
        predict.predict,
        [*pictures, "--model", str(place / "model"), "--labels", str(place / "names.txt")]
        + ["--output", str(place / "ours.csv")],
    )
    assert result.exit_code == 0, result.exception
    theirs, ours = rows_of(place / "theirs.csv"), rows_of(place / "ours.csv")
    assert theirs.keys() == ours.keys() and len(ours) == 12
    assert max(ours.values()) > 0.3  # far enough from uniform for a mistake to show
    for key, score in ours.items():
        assert abs(score - theirs[key]) <= 1e-4


def test_its_embeddings_from_our_export_are_ours(place, monkeypatch):
    picture = place / "0.png"
    run_bioclip(
        monkeypatch,
        *("embed", picture, "--output", place / "out.json"),
        *("--model", f"local-dir:{place / 'model'}"),
    )
    found = json.loads((place / "out.json").read_text())["embeddings"][str(picture)]
    model = bioclip2_jax.load(place / "model")
    pixels = images.eval_transform(64)(Image.open(picture))
    ours = np.asarray(model.encode_image(pixels[None]))[0]
    np.testing.assert_allclose(found / np.linalg.norm(found), ours, atol=1e-5)


def test_its_tree_of_life_classifier_takes_our_label_files(place):
    (place / "taxa.csv").write_text(TAXA)
    result = CliRunner().invoke(
        labels.labels,
        [str(place / "taxa.csv"), "--model", str(place / "model"), "--out", str(place / "labels")],
    )
    assert result.exit_code == 0, result.exception

    class Classifier(bioclip.TreeOfLifeClassifier):
        def get_txt_emb(self):
            return torch.from_numpy(np.load(place / "labels" / "txt_emb_species.npy"))

        def get_txt_names(self):
            return json.loads((place / "labels" / "txt_emb_species.json").read_text())

    classifier = Classifier(model_str=f"local-dir:{place / 'model'}")
    answers = classifier.predict(str(place / "0.png"), bioclip.Rank.SPECIES, k=4)
    assert {row["species"] for row in answers} == set(NAMES)
    assert next(row for row in answers if row["genus"] == "Tinca")["class"] == ""
    features = np.load(place / "labels" / "txt_emb_species.npy")
    model = bioclip2_jax.load(place / "model")
    pixels = images.eval_transform(64)(Image.open(place / "0.png"))
    logits = model.logit_scale * np.asarray(model.encode_image(pixels[None])) @ features
    expected = np.exp(logits[0] - logits.max())
    expected = np.sort(expected / expected.sum())[::-1]
    np.testing.assert_allclose([row["score"] for row in answers], expected, atol=1e-4)
    by_family = classifier.predict(str(place / "0.png"), bioclip.Rank.FAMILY, k=9)
    assert len(by_family) == 3
