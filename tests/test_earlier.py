"""What version 0.1.0 wrote is read by this one, with the same content (tests/data/earlier)."""

import contextlib
import functools
import hashlib
import json
import shutil
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from commands import bioclip2 as call

import bioclip2_jax
from bioclip2_jax.data import dataset
from bioclip2_jax.features import store
from bioclip2_jax.training import sharding

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "tests" / "data" / "earlier"
EXPECTED = json.loads((KEPT / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """A copy that tests may write into."""
    folder = tmp_path_factory.mktemp("earlier") / "kept"
    shutil.copytree(KEPT, folder)
    shutil.unpack_archive(folder / "converted.tar.gz", folder, filter="data")
    return folder


def checksums(params: dict) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {
        "/".join(str(key.key) for key in path): hashlib.sha256(
            np.asarray(leaf).tobytes()
        ).hexdigest()
        for path, leaf in leaves
    }


def test_a_checkpoint(earlier):
    model = bioclip2_jax.load(str(earlier / "run"))
    expected = {name: row["sha256"] for name, row in EXPECTED["params"].items()}
    assert checksums(model.params) == expected


@pytest.mark.parametrize("form", ["converted", "open_clip"])
def test_converted_weights(earlier, form):
    assert checksums(bioclip2_jax.load(str(earlier / form)).params) == EXPECTED["converted_params"]


def test_a_dataset(earlier):
    for split, expected in EXPECTED["data"].items():
        source = dataset.open_split(earlier / "data", split)
        assert len(source) == expected["count"]
        assert [source[index]["key"] for index in range(5)] == expected["keys"]


def test_a_feature_store(earlier):
    kept, expected = store.read(earlier / "features"), EXPECTED["features"]
    assert list(kept.features.shape) == expected["shape"]
    assert float(kept.features.astype(np.float64).sum()) == pytest.approx(expected["sum"], rel=1e-9)
    assert kept.features[0].tolist() == expected["first_row"]
    assert kept.keys[:5] == expected["keys"]


def test_a_report_of_results_and_analyses(earlier):
    bioclip2(earlier, "report", "--results=run", "--results=analysis", "--out=report.html")
    text = (earlier / "report.html").read_text(encoding="utf-8")
    assert [heading for heading in EXPECTED["headings"] if f">{heading}<" not in text] == []


def test_results_are_compared(earlier):
    said = bioclip2(earlier, "compare", "run/eval/2", "run/eval/2")
    assert "zero_shot" in said and "few_shot_1" in said


def test_a_run_goes_on_where_it_stopped(earlier):
    overrides = json.loads((earlier / "run" / "config.json").read_text(encoding="utf-8"))
    train = overrides["train"] | {"steps": 4}
    arguments = [f"--config.train.{key}={train[key]}" for key in EXPECTED["changed"]["train"]]
    recipe = ROOT / "configs" / "quickstart.py"
    bioclip2(
        *(earlier, "train", f"--config={recipe}", "--workdir=run", "--config.data.dir=data"),
        *("--config.data.replay_dir=data", "--config.init=init", "--config.model.name=init"),
        # A run keeps the pixels and the order that it began with, whatever the recipe says.
        *(*arguments, "--config.data.decode=simd", "--config.data.order=2"),
        f"--config.compile_cache={jax.config.jax_compilation_cache_dir}",
    )
    lines = (earlier / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = {str(row["step"]): row["loss"] for row in map(json.loads, lines)}
    assert losses == pytest.approx(EXPECTED["losses"], rel=1e-5)


def bioclip2(folder: Path, *arguments: str) -> str:
    """What the command line says in a folder, with one device."""
    mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    with contextlib.chdir(folder), mock.patch.object(sharding, "make_mesh", mesh):
        done = call(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout
