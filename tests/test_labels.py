"""`bioclip2 labels`: pybioclip's two files, column for column."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from kept_models import export_open_clip
from test_convert_forms import random_params

import bioclip2_jax
from bioclip2_jax.cli.labels import labels
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features.encode import embed_texts
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.text.templates import IMAGENET_TEMPLATES
from bioclip2_jax.weights.description import Preprocess

CONFIG = ClipConfig(
    embed_dim=24,
    vision=VisionConfig(image_size=16, patch_size=8, width=32, layers=1, head_width=16),
    text=TextConfig(width=32, heads=2, layers=1),
)
TABLE = """kingdom,phylum,class,order,family,genus,species,common_name
Animalia,Chordata,Aves,Passeriformes,Corvidae,Pica,pica,Eurasian Magpie
Animalia,Chordata,,Cypriniformes,Cyprinidae,Tinca,tinca,
Plantae,Tracheophyta,Liliopsida,Poales,Poaceae,Poa,annua,Größes Rispengras
"""


@pytest.fixture
def model(tmp_path):
    export_open_clip(random_params(CONFIG), CONFIG, Preprocess(16), tmp_path / "model")
    return tmp_path / "model"


def call(*arguments):
    return CliRunner().invoke(labels, [str(argument) for argument in arguments])


def test_columns_and_names_are_those_of_the_table_in_its_order(model, tmp_path):
    (tmp_path / "taxa.csv").write_text(TABLE, encoding="utf-8")
    result = call(tmp_path / "taxa.csv", "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    names = json.loads((tmp_path / "out" / "txt_emb_species.json").read_text("utf-8"))
    features = np.load(tmp_path / "out" / "txt_emb_species.npy", allow_pickle=False)
    assert features.shape == (24, 3) and features.dtype == np.float32
    assert features.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(features, axis=0), 1, rtol=1e-6)
    lineage = ["Animalia", "Chordata", "", "Cypriniformes", "Cyprinidae", "Tinca", "tinca"]
    assert names[1] == [lineage, ""]
    assert names[2][1] == "Größes Rispengras"
    # Made again by hand from the definition.
    text = "Animalia Chordata Aves Passeriformes Corvidae Pica pica Eurasian Magpie"
    texts = [template.format(text) for template in IMAGENET_TEMPLATES]
    mean = embed_texts(bioclip2_jax.load(model), texts, 16).mean(axis=0)
    np.testing.assert_allclose(features[:, 0], mean / np.linalg.norm(mean), atol=1e-6)


def test_label_files_are_never_overwritten(model, tmp_path):
    (tmp_path / "taxa.csv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "txt_emb_species.json").write_text("mine")
    result = call(tmp_path / "taxa.csv", "--model", model, "--out", tmp_path)
    assert isinstance(result.exception, UsageError) and "exists already" in str(result.exception)
    assert (tmp_path / "txt_emb_species.json").read_text() == "mine"
    assert not (tmp_path / "txt_emb_species.npy").exists()


def test_a_table_without_taxa_is_an_error_and_leaves_nothing(model, tmp_path):
    (tmp_path / "taxa.csv").write_text("a,b\n1,2\n")
    result = call(tmp_path / "taxa.csv", "--model", model, "--out", tmp_path / "out")
    assert isinstance(result.exception, UserError) and "taxa.csv" in str(result.exception)
    assert not (tmp_path / "out").exists()
