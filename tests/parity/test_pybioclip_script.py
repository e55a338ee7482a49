"""A script for pybioclip, run as it stands and once more with its import changed: equal rows."""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from kept_models import export_open_clip
from PIL import Image

from bioclip2_jax.cli import labels
from bioclip2_jax.data.images import eval_transform
from bioclip2_jax.identify import pybioclip
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights.description import Preprocess

torch = pytest.importorskip("torch")
bioclip = pytest.importorskip("bioclip")
TINY = PRESETS["tiny"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAXA = """kingdom,phylum,class,order,family,genus,species,common_name
Animalia,Chordata,Aves,Passeriformes,Corvidae,Pica,pica,Eurasian Magpie
Animalia,Chordata,Aves,Passeriformes,Corvidae,Corvus,corax,Raven
Animalia,Chordata,Aves,Passeriformes,Corvidae,Corvus,corone,Carrion Crow
Animalia,Chordata,,Cypriniformes,Cyprinidae,Tinca,tinca,Tench
Plantae,Tracheophyta,Liliopsida,Poales,Poaceae,Poa,annua,
"""
SCRIPT = """
import glob
from PIL import Image
from bioclip import CustomLabelsBinningClassifier, CustomLabelsClassifier
from bioclip import Rank, TreeOfLifeClassifier

paths = sorted(glob.glob("*.png"))
opened = [Image.open(path) for path in paths]
done = []
classifier = TreeOfLifeClassifier(device="cpu")
rows = {"one": classifier.predict(paths[0], Rank.SPECIES)}
for rank in Rank:
    rows[rank.get_label()] = classifier.predict(paths, rank, k=4, batch_size=2)
rows["pillow"] = classifier.predict(opened, Rank.GENUS, min_prob=0.1, k=9)
rows["told"] = classifier.predict(paths, Rank.SPECIES, callback=lambda *at: done.append(at))
taxa = classifier.get_label_data()
birds = classifier.create_taxa_filter(Rank.CLASS, ["Aves"])
magpie = classifier.create_taxa_filter(Rank.SPECIES, ["Pica pica"])
classifier.apply_filter(birds & ~magpie)
rows["filtered"] = classifier.predict(paths, Rank.SPECIES, k=9)
classifier.apply_filter(classifier.create_taxa_filter_from_csv("wanted.csv"))
rows["from csv"] = classifier.predict(paths, Rank.FAMILY)
rows["names"] = classifier.get_classification_dict(1, Rank.SPECIES)
features = [classifier.create_image_features_for_image(path, normalize=False) for path in paths]
unit = classifier.create_image_features([classifier.ensure_rgb_image(path) for path in paths])

own = CustomLabelsClassifier(["magpie ", "tench"], model_str="local-dir:own")
rows["own"] = own.predict(paths)
rows["best"] = own.predict(opened, k=1)
features.append(own.create_image_features_for_image(paths[1], normalize=True))
texts = own.txt_embeddings
bins = {"magpie": "bird", "tench": "fish", "raven": "bird"}
rows["bins"] = CustomLabelsBinningClassifier(bins, model_str="local-dir:own").predict(paths, k=2)
"""


@pytest.fixture
def place(tmp_path, random_params, monkeypatch):
    """Pictures of all kinds, a model, and a Hub's cache with pybioclip's own; no compiler."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    rng = np.random.default_rng(0)
    for number, (mode, size) in enumerate(
        [("RGB", (300, 260)), ("RGBA", (400, 150)), ("L", (90, 200)), ("P", (224, 224))]
    ):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 4), np.uint8), "RGBA")
        coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(f"{number}.png")
    params = random_params(TINY)
    export_open_clip(params, TINY, Preprocess(64), tmp_path / "own")
    vision = dataclasses.replace(TINY.vision, image_size=224, patch_size=32)
    whole = dataclasses.replace(TINY, vision=vision)
    hub = tmp_path / "hub"
    model = hub / "models--imageomics--bioclip-2"
    export_open_clip(random_params(whole), whole, Preprocess(224), model / "snapshots" / COMMIT)
    (tmp_path / "taxa.csv").write_text(TAXA)
    (tmp_path / "wanted.csv").write_text("genus\nCorvus\nPoa\n")
    files = hub / "datasets--imageomics--TreeOfLife-200M"
    arguments = ["taxa.csv", "--model", str(model / "snapshots" / COMMIT), "--out", "labels"]
    result = CliRunner().invoke(labels.labels, arguments)
    assert result.exit_code == 0, result.exception
    shutil.copytree("labels", files / "snapshots" / COMMIT / "embeddings")
    for repository in (model, files):
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def run(place: Path, module: str) -> dict:
    """What the script has in the end, its import changed to `module`."""
    path = place / f"with_{module}.py"
    path.write_text(SCRIPT.replace("from bioclip import", f"from {module} import"))
    return runpy.run_path(str(path))


def differences(theirs: list[dict], ours: list[dict]) -> list[float]:
    """Of scores; all else is equal, the order of keys and rows too."""
    assert len(theirs) == len(ours) > 0
    for their, our in zip(theirs, ours, strict=True):
        assert list(their) == list(our)
        assert {**their, "score": 0} == {**our, "score": 0}
        assert type(our["score"]) is float
    return [abs(t["score"] - o["score"]) for t, o in zip(theirs, ours, strict=True)]


def test_a_script_gives_equal_rows_after_changing_its_import(place):
    theirs, ours = run(place, "bioclip"), run(place, "bioclip2_jax.identify.pybioclip")
    found = {
        name: max(differences(rows, ours["rows"][name]))
        for name, rows in theirs["rows"].items()
        if name != "names"
    }
    print(json.dumps(found, indent=1))
    assert max(found.values()) <= 1e-5
    assert theirs["rows"]["names"] == ours["rows"]["names"]
    assert theirs["done"] == ours["done"] and ours["done"]
    assert theirs["taxa"].equals(ours["taxa"])
    for name in ("birds", "magpie"):
        assert list(theirs[name]) == list(ours[name])
    for their, our in zip(theirs["features"], ours["features"], strict=True):
        np.testing.assert_allclose(our, their.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours["unit"], theirs["unit"].numpy(), atol=1e-5)
    np.testing.assert_allclose(ours["texts"], theirs["texts"].numpy(), atol=1e-5)
    best = [row["score"] for row in ours["rows"]["species"]]
    assert max(best) - min(best) > 0.02  # far enough from uniform for a mistake to show


def test_what_its_own_transform_costs(place):
    classifier = pybioclip.TreeOfLifeClassifier()
    paths = [f"{number}.png" for number in range(4)]

    def scores() -> np.ndarray:
        rows = classifier.predict(paths, pybioclip.Rank.SPECIES, k=9)
        by_name = sorted(rows, key=lambda row: (row["file_name"], row["species"]))
        return np.array([row["score"] for row in by_name])

    as_it_is = scores()
    classifier.preprocess = eval_transform(224, "squash", "bilinear")
    rounding = np.abs(scores() - as_it_is).max()
    classifier.preprocess = eval_transform(224)
    other = np.abs(scores() - as_it_is).max()
    print(f"8 bits {rounding:.1e}, the model's own transform {other:.1e}")
    assert 0 < rounding <= 2e-3 and rounding < other
