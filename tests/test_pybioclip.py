"""pybioclip's classifiers on our models, without pybioclip; beside it: tests/parity."""

import csv
import json

import numpy as np
import pytest
from colour_world import COMMON, TAXA, ColourModel, square
from PIL import Image

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify.label_writer import write_labels
from bioclip2_jax.identify.pybioclip import (
    BaseClassifier,
    CustomLabelsBinningClassifier,
    CustomLabelsClassifier,
    Rank,
    TreeOfLifeClassifier,
    base,
)
from bioclip2_jax.weights.load import Model

COLUMNS = ["kingdom", "phylum", "class", "order", "family", "genus"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with pictures, label files and a model that knows colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "load", lambda where: ColourModel())
    for colour in TAXA:
        (tmp_path / f"{colour}.png").write_bytes(square(colour))
    write_labels(ColourModel(), [(t, COMMON[c]) for c, t in TAXA.items()], tmp_path / "labels")
    (tmp_path / "model").mkdir()
    return tmp_path


@pytest.fixture
def classifier(place):
    return TreeOfLifeClassifier(model_str="local-dir:model", labels="labels")


def test_the_rows_of_species(classifier):
    rows = classifier.predict("blue.png", Rank.SPECIES, k=2)
    assert len(rows) == 2
    keys = ["file_name", *COLUMNS, "species_epithet", "species", "common_name", "score"]
    assert list(rows[0]) == keys
    assert rows[0]["file_name"] == "blue.png" and rows[0]["species"] == "Mare blue"
    assert rows[0]["common_name"] == "sea bird" and rows[0]["score"] > 0.9


def test_ranks_above_are_sums_and_pictures_without_a_file_have_numbers(classifier):
    opened = [Image.open("red.png"), Image.open("blue.png")]
    told = []
    rows = classifier.predict(
        opened, Rank.FAMILY, k=9, batch_size=1, callback=lambda *at: told.append(at)
    )
    assert told == [(1, 2), (2, 2)]
    best = {row["file_name"]: row["family"] for row in reversed(rows)}
    assert best == {"0": "Firidae", "1": "Maridae"}
    assert list(rows[0]) == ["file_name", *COLUMNS[:5], "score"]
    species = classifier.predict(opened[0], Rank.SPECIES, k=9)
    fire = sum(row["score"] for row in species if row["family"] == "Firidae")
    assert rows[0]["family"] == "Firidae" and abs(rows[0]["score"] - fire) < 1e-6
    few = classifier.predict(opened[0], Rank.FAMILY, min_prob=0.01, k=9)
    assert [row["family"] for row in few] == ["Firidae"]


def test_filters(classifier, place):
    birds = classifier.create_taxa_filter(Rank.CLASS, ["Aves"])
    red = classifier.create_taxa_filter(Rank.SPECIES, ["Ignis red"])
    assert birds.tolist() == [True, True, True, False]
    classifier.apply_filter(birds & ~red)
    rows = classifier.predict(["red.png", "blue.png"], Rank.SPECIES)
    assert [row["species"] for row in rows if row["score"] > 0.5] == ["Ignis orange", "Mare blue"]
    assert len(rows) == 4 and abs(sum(row["score"] for row in rows) - 2) < 1e-5
    assert classifier.get_txt_embeddings().shape == (4, 2)
    with open("kept.csv", "w", newline="") as file:
        csv.writer(file).writerows([["Genus", "why"], ["Mare", "sea"]])
    classifier.apply_filter(classifier.create_taxa_filter_from_csv("kept.csv"))
    assert [r["genus"] for r in classifier.predict("red.png", Rank.GENUS)] == ["Mare"]
    with pytest.raises(ValueError, match="no class of the label files is called Reptilia, Fishes"):
        classifier.create_taxa_filter(Rank.CLASS, ["Reptilia", "Aves", "Fishes"])
    with pytest.raises(ValueError, match="one value for each of the 4 taxa, not 3"):
        classifier.apply_filter([True] * 3)
    with pytest.raises(ValueError, match="keeps no taxon"):
        classifier.apply_filter([False] * 4)
    (place / "kept.csv").write_text("name\nMare\n")
    with pytest.raises(ValueError, match="the first column is 'name', not one of kingdom"):
        classifier.create_taxa_filter_from_csv("kept.csv")


def test_names_and_features_may_be_replaced(classifier):
    classifier.predict("red.png", Rank.GENUS)
    classifier.txt_embeddings = np.load("labels/txt_emb_species.npy")[:, [2, 0]]
    with pytest.raises(UserError, match="4 names and a model of 4 numbers need"):
        classifier.predict("red.png", Rank.GENUS)
    classifier.txt_names = [classifier.txt_names[2], classifier.txt_names[0]]
    rows = classifier.predict("red.png", Rank.SPECIES)
    assert [row["genus"] for row in rows] == ["Ignis", "Mare"]


def test_a_subclass_brings_its_own_label_files(place):
    class Own(TreeOfLifeClassifier):
        def get_txt_emb(self):
            return np.load("labels/txt_emb_species.npy")

        def get_txt_names(self):
            with open("labels/txt_emb_species.json") as file:
                return json.load(file)[: self.taxa]

    Own.taxa = 4
    row = Own(model_str="local-dir:model").predict("red.png", Rank.GENUS, k=1)[0]
    assert row["genus"] == "Ignis"
    Own.taxa = 3
    with pytest.raises(UserError, match="3 names and a model of 4 numbers need"):
        Own(model_str="local-dir:model")


def test_names_and_bins_of_ones_own(place):
    classifier = CustomLabelsClassifier([" red ", "blue"], model_str="model")
    assert classifier.classes == ["red", "blue"] and classifier.txt_embeddings.shape == (4, 2)
    rows = classifier.predict(["blue.png", "red.png"], k=1)
    assert [row["classification"] for row in rows] == ["blue", "red"]
    assert list(rows[0]) == ["file_name", "classification", "score"]
    bins = {"red": "warm", "orange": "warm", "blue": "cold"}
    rows = CustomLabelsBinningClassifier(bins, model_str="model").predict("orange.png")
    assert [row["classification"] for row in rows] == ["warm", "cold"]
    assert abs(sum(row["score"] for row in rows) - 1) < 1e-6
    with pytest.raises(ValueError, match="'blue' has no bin"):
        CustomLabelsBinningClassifier({"red": "warm", "blue": float("nan")}, model_str="model")


def test_features(classifier):
    one = classifier.create_image_features_for_image("red.png", normalize=False)
    unit = classifier.create_image_features([Image.open("red.png")])
    assert one.shape == (4,) and abs(np.linalg.norm(one) - 2) < 1e-5  # as the model has it
    np.testing.assert_allclose(unit, one[None] / 2, atol=1e-6)
    texts = classifier.get_txt_embeddings()
    shares = classifier.create_probabilities_for_images(["red.png"], ["r"], texts)
    np.testing.assert_allclose(shares["r"], classifier.create_probabilities(unit, texts)[0])


def test_recorders_are_told(classifier):
    class Recorder:
        def add_prediction(self, images, **settings):
            self.told = images, settings

    recorder = Recorder()
    classifier.set_recorder(recorder)
    classifier.predict(["red.png"], Rank.ORDER, k=1)
    settings = {"rank": "order", "min_prob": 1e-9, "k": 1, "batch_size": 10}
    assert recorder.told == (["red.png"], settings)


def test_a_picture_that_cannot_be_read_ends_the_call(classifier, place):
    (place / "text.png").write_text("no picture")
    for name in ("missing.png", "text.png"):
        with pytest.raises(OSError):
            classifier.predict(name, Rank.SPECIES)


def test_models_and_devices_that_are_not_there(place):
    with pytest.raises(UsageError, match="ViT-B-16: no folder, file or hf-hub: name"):
        CustomLabelsClassifier(["red"], model_str="ViT-B-16", pretrained_str="openai")
    with pytest.raises(ValueError, match="local-dir:model: no label files on the Hub but for"):
        TreeOfLifeClassifier(model_str="local-dir:model")
    with pytest.warns(UserWarning, match="device 'mps' is not used: JAX computes on"):
        CustomLabelsClassifier(["red"], model_str="model", device="mps")


@pytest.mark.parametrize("name, is_quick", [("ViT-B-16", False), ("ViT-B-16-quickgelu", True)])
def test_the_name_of_an_architecture_tells_what_no_weight_file_does(monkeypatch, name, is_quick):
    seen = ColourModel()
    model = Model(config=seen.config, params={}, preprocess=seen.preprocess)
    monkeypatch.setattr(base, "load", {"weights.pt": model}.__getitem__)
    classifier = BaseClassifier(model_str=name, pretrained_str="weights.pt")
    assert classifier.model.config.quick_gelu is is_quick


def test_pictures_of_its_own_models_are_squashed_as_floats(place):
    classifier = CustomLabelsClassifier(["red"])
    pixels = classifier.preprocess(Image.new("RGB", (30, 60), (255, 0, 127)))
    assert pixels.shape == (224, 224, 3) and pixels.dtype == np.float32
    expected = (np.array([1, 0, 127 / 255]) - base.pictures_.CLIP_MEAN) / base.pictures_.CLIP_STD
    np.testing.assert_allclose(pixels[100, 7], expected, atol=1e-5)
