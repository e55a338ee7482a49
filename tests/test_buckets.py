"""Commands whose sources, models, tables and results lie in a bucket."""

import csv
import json
import os
import shutil
from pathlib import Path

import click
import jax
import numpy as np
import pytest
from colour_world import COLOURS, ColourModel, square
from commands import bioclip2
from kept_models import export_open_clip
from smallest import PRESETS

import bioclip2_jax
from bioclip2_jax import cli, files
from bioclip2_jax.cli.options import Place
from bioclip2_jax.data import buckets, dataset
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import run as evaluation
from bioclip2_jax.features import store
from bioclip2_jax.models import clip
from bioclip2_jax.prepare import publish
from bioclip2_jax.prepare.source import Part
from bioclip2_jax.prepare.tree import Tree
from bioclip2_jax.weights import load as loading
from bioclip2_jax.weights.description import Preprocess

CASES = Path(__file__).parent / "data/cases/formats"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The current folder and that of caches; at the end nothing in it is called like a bucket."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    assert not {"gs:", "s3:"} & {*os.listdir(tmp_path)}


def put(folder: Path | str, target: str) -> str:
    buckets.upload(Path(folder), files.place(target))
    return target


def run(*arguments: object, code: int = 0) -> str:
    """What a command says, which must be one sentence if it fails."""
    done = bioclip2(*arguments)
    assert done.returncode == code, done.stderr
    if code in (1, 2):
        assert done.stderr.startswith("bioclip2: error: ") and done.stderr.count("\n") == 1
    return done.stdout + done.stderr


# ---- prepare


def pictures(folder: Path) -> None:
    """Two ways to say what is in pictures, some of which repeat, are damaged or missing."""
    names = ("b/Pica pica/0", "b/Pica pica/z/0", "b/Pica pica/a", "b/Picus viridis/0")
    for number, name in enumerate(names):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(square("red") + bytes([number // 2]))
    (folder / "b/Pica pica/bad.jpg").write_bytes(b"no picture")
    (folder / "b/notes.txt").write_text("to be passed over")
    rows = ["file,species", "Pica pica/a.png,Pica pica", "none.png,Pica pica"]
    (folder / "b/table.csv").write_text("\n".join(rows))


@pytest.mark.parametrize(
    ("kind", "source", "options"),
    [
        ("tree", "b", {}),
        ("folder", "b/table.csv", {}),
        ("webdataset", "shard-{00000..00000}.tar", {"--tables": "catalog.parquet"}),
        ("img2dataset", "tars", {}),
        ("parquet", "successes.parquet", {"--tables": "catalog.parquet"}),
        ("dwca", "dwca", {}),
        ("dwca", "dwca.zip", {"--media": "dwca/media"}),
    ],
    ids=["tree", "folder", "webdataset", "img2dataset", "parquet", "dwca", "zip"],
)
def test_a_source_in_a_bucket_gives_the_same_dataset(home, bucket, kind, source, options):
    there = home / "sources"
    if kind in ("tree", "folder"):
        pictures(there)
    else:
        shutil.copytree(CASES, there)
        shutil.make_archive(str(there / "dwca"), "zip", there / "dwca")
        (there / "tars").mkdir()
        shutil.copy(there / "00000.tar", there / "tars")
    put(there, bucket)
    for place in (there, bucket):
        named = [part for name, path in options.items() for part in (name, f"{place}/{path}")]
        out = Path("far" if place is bucket else "near")
        run("prepare", kind, f"{place}/{source}", *named, "--out", out, "--processes", 1)
    names = sorted(os.listdir("near"))
    assert names == sorted(os.listdir("far")) and "features.json" in names
    for name in names:
        near, far = (Path(out, name).read_bytes() for out in ("near", "far"))
        if name == "quarantine.csv":
            near = near.replace(str(there).encode(), bucket.encode())
        elif name == "summary.json":
            near, far = (json.loads(text) | {"made_from": ""} for text in (near, far))
        assert near == far, name


def test_a_dataset_appears_in_a_bucket_at_once_and_an_interrupted_upload_is_gone_on_with(
    home, bucket, monkeypatch
):
    pictures(home)
    out = f"{bucket}/data"
    call = ("prepare", "tree", home / "b", "--out", out, "--processes", 1)
    whole = buckets.upload

    def interrupted(source: Path, target: Path, *, last: tuple[str, ...]) -> None:
        short = shutil.copytree(source, home / "short")
        for name in last:
            (short / name).unlink()
        whole(short, target)
        raise UserError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(publish.buckets, "upload", interrupted)
        assert "line is cut" in run(*call, code=1)
    with pytest.raises(UserError, match="no dataset here"):
        dataset.dataset_folder(out)
    shutil.rmtree(home / "b")  # what was read is not read again
    assert "2 images" in run(*call)
    assert not list(home.glob("cache/*/*/*"))
    assert sum(dataset.splits(out).values()) == 2

    pictures(home)
    assert "add --overwrite" in run(*call, code=2)
    run(*call, "--name", "other", "--overwrite")
    assert sum(dataset.splits(out).values()) == 2
    assert not [name for name in buckets.sizes_below(out) if name.startswith("photos")]
    assert "--task needs an --out on a disk" in run(*call, "--task", "0/2", code=2)
    (files.place(out) / "mine.txt").write_text("x")
    assert "holds other files (mine.txt)" in run(*call, "--overwrite", code=2)


def test_a_bucket_that_does_not_answer_sets_no_picture_aside(home, bucket, monkeypatch):
    pictures(home)
    tree = Tree(paths=(put(home / "b", f"{bucket}/b"),))
    Path("parts").mkdir()
    parts = tree.parts(Path("parts"))

    class Silent:
        def info(self, name):
            raise RuntimeError("503")

    monkeypatch.setattr(buckets, "_client", lambda path: (Silent(), ""))
    with pytest.raises(UserError, match=r"Pica pica/0.png: the bucket does not answer \(503"):
        list(tree.read(Part(file=parts[0].file)))


# ---- Models and what is done with them


def test_a_model_goes_into_a_bucket_and_out_of_it(home, bucket):
    config, rng = PRESETS["smallest"], np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), clip.abstract_params(config)
    )
    export_open_clip(params, config, Preprocess(config.vision.image_size), home / "model")
    first = put("model", f"{bucket}/model")
    for source, kind in ((first, "orbax"), (f"{bucket}/orbax", "transformers")):
        run("convert", source, f"{bucket}/{kind}", "--to", kind)
        model = bioclip2_jax.load(f"{bucket}/{kind}")
        assert model.config == config
        jax.tree.map(np.testing.assert_array_equal, model.params, params)
    run("export", "--workdir", f"{bucket}/orbax", "--out", f"{bucket}/export")
    weights = "open_clip_model.safetensors"
    exported = files.place(f"{bucket}/export")
    assert (exported / weights).read_bytes() == (home / "model" / weights).read_bytes()
    assert "parameters" in run("inspect", "--model", f"{bucket}/export/{weights}")

    export = ("export", "--workdir", first, "--out", exported)
    assert "add --overwrite" in run(*export, code=2)
    (exported / "open_clip_config.json").unlink()  # an upload that did not get there
    run(*export)
    assert (exported / "open_clip_config.json").exists()
    (exported / "mine.txt").write_text("x")
    (exported / "open_clip_config.json").unlink()
    assert "holds other files" in run(*export, code=2)
    assert "no model here" in run("inspect", "--model", f"{bucket}/none", code=1)


def test_pictures_tables_features_and_results_in_a_bucket(home, bucket, tiny_data, monkeypatch):
    for module in (loading, evaluation):
        monkeypatch.setattr(module, "load", lambda *_: ColourModel())
    for colour in COLOURS:
        Path("photos/deep").mkdir(parents=True, exist_ok=True)
        Path("photos/deep", f"{colour}.png").write_bytes(square(colour))
    Path("photos/notes.txt").write_text("no picture")
    Path("taxa.csv").write_text("genus,species,vernacularName\nIgnis,red,fire\nMare,blue,sea\n")
    photos, taxa = put("photos", f"{bucket}/photos"), put("taxa.csv", f"{bucket}/taxa.csv")

    options = ("--model", "m", "--taxa", taxa, "--k", 1, "--output", f"{bucket}/answers.csv")
    assert ".txt" in run("predict", photos, f"{photos}/*/r*.png", *options)
    answers = csv.DictReader(files.read_text(f"{bucket}/answers.csv").splitlines())
    found = {row["file_name"]: row["species_epithet"] for row in answers}
    assert list(found) == [f"{photos}/deep/{colour}.png" for colour in sorted(COLOURS)]
    assert found[f"{photos}/deep/red.png"] == "red" and found[f"{photos}/deep/blue.png"] == "blue"
    assert "none.png: No such file" in bioclip2("predict", f"{photos}/none.png", *options).stderr
    assert "No such file" in run("predict", photos, "--model", "m", "--taxa", "gs://b/t", code=1)

    run("labels", taxa, "--model", "m", "--out", f"{bucket}/labels")
    run("labels", "taxa.csv", "--model", "m", "--out", "labels")
    for name in os.listdir("labels"):
        assert (
            files.place(f"{bucket}/labels/{name}").read_bytes() == Path("labels", name).read_bytes()
        )

    data = put(tiny_data, f"{bucket}/data")
    for source, name in ((photos, "kept"), (data, "features")):
        for _ in range(2):  # the second time it is there
            run("embed", source, "--model", "m", "--out", f"{bucket}/{name}")
    run("embed", tiny_data, "--model", "m", "--out", "features")
    far, near = store.read(f"{bucket}/features"), store.read("features")
    np.testing.assert_array_equal(far.features, near.features)
    assert far.keys == near.keys and far.labels.keys() == near.labels.keys() == {"sex"}
    assert store.read(f"{bucket}/kept").keys == [f"deep/{colour}.png" for colour in sorted(COLOURS)]

    how = ("--features", f"{bucket}/features", "--out", f"{bucket}/results")
    run("analyze", "within", *how, "--variant", "sex", "--permutations", 9)
    run("evaluate", *how, "--data", data, "--tasks", "few_shot_1")
    table = files.place(f"{bucket}/table.csv")
    files.write_text(table, "file,class\n" + "".join(f"deep/{x}.png,{x}\n" for x in COLOURS))
    how = ("--model", "m", "--tasks", "zero_shot", "--out", f"{bucket}/named")
    assert "top1 1.000" in run("evaluate", *how, "--data", photos, "--annotations", table)
    run("compare", f"{bucket}/results", f"{bucket}/results", "--out", f"{bucket}/new/both.json")
    run("inspect", "--data", data, "--extract", 2, "--out", f"{bucket}/some")
    names = buckets.sizes_below(bucket)
    assert {"results/within.json", "results/few_shot_1.json", "new/both.json"} <= names.keys()
    assert sum(name.startswith("some/") for name in names) == 2


# ---- Every option


def places() -> list[tuple[tuple[str, ...], click.Parameter]]:
    """(names of a command, an option or argument of it that is a path), of all commands."""
    found = []

    def search(command: click.Command, names: tuple[str, ...]) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                search(command.get_command(context, name), (*names, name))
            return
        found.extend((names, each) for each in command.params if isinstance(each.type, click.Path))

    search(cli.cli, ())
    return found


def value(parameter: click.Parameter, text: str) -> list[str]:
    return [text] if isinstance(parameter, click.Argument) else [parameter.opts[0], text]


def test_no_option_makes_a_folder_of_an_address(home):
    asked = places()
    assert len(asked) > 50 and {names[0] for names, _ in asked} >= {*cli._COMMANDS} - {
        "train",
        "plan",
    }
    for names, parameter in asked:
        assert isinstance(parameter.type, Place), (names, parameter.name)
        address = value(parameter, "s3://mine/x")
        assert "s3:// is not read or written" in run(*names, *address, code=2)
    assert not os.listdir(home)


def test_what_cannot_be_in_a_bucket_says_so(home):
    said = run("analyze", "scaling", "--config=configs/x.py", "--out", "gs://bucket/x", code=2)
    assert "--out gs://bucket/x: dozens of small runs" in said
