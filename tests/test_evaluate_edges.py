"""What the evaluator says of calls and data that cannot be, in one sentence and one exit code."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from colour_world import COLOURS, ColourModel, square, write_world

from bioclip2_jax import cli
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.features import embed, store
from bioclip2_jax.features.pictures import open_pictures, pictures_below
from bioclip2_jax.weights import load as loading


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A dataset, a folder with its table, features of both, and things that are broken."""
    home = tmp_path_factory.mktemp("world")
    write_world(home / "dataset", {"red": 3, "blue": 3})
    photos = home / "photos"
    photos.mkdir()
    rows = ["filename,genus,species,split"]
    for number, colour in enumerate([*COLOURS] * 2):
        (photos / f"{number}.png").write_bytes(square(colour))
        rows.append(f"{number}.png,Color,{colour},train")
    table(home / "table.csv", *rows)
    table(home / "no_file.csv", "genus,species", "Pica,pica")
    table(home / "no_class.csv", "filename,genus", "0.png,Pica")
    table(home / "others.csv", "filename,class", "x.png,red", "y.png,blue")
    table(home / "nothing_said.csv", "filename,class", "0.png,red", "1.png,")
    table(home / "half.csv", *rows, "lost.png,Color,red,train", "gone.png,Color,red,train")
    (home / "binary.csv").write_bytes(b"PK\0\0\0")
    (home / "support.json").write_text(json.dumps([["elsewhere.png", "1.png"]]))
    (home / "no_support.json").write_text('{"red": 1}')
    (home / "empty").mkdir()
    packed = home / "packed"
    packed.mkdir()
    (packed / "train-0.parquet").write_bytes(b"PAR1")
    table(packed / "metadata.csv", "file_name,genus,species", "a.jpg,Pica,pica")
    for name, source in (("of_dataset", home / "dataset"), ("of_folder", photos)):
        pictures = open_pictures(source)
        embed.embed(ColourModel(), "colours", pictures, home / name, say=lambda line: None)
    shutil.copytree(home / "of_folder", home / "cut")
    part = store.part_path(home / "cut", 0)
    part.write_bytes(part.read_bytes()[:-100])
    shutil.copytree(home / "of_folder", home / "flipped")
    part = store.part_path(home / "flipped", 0)
    content = bytearray(part.read_bytes())
    content[60] ^= 1
    part.write_bytes(content)
    shutil.copytree(home / "of_folder", home / "half_said")
    (home / "half_said" / "_embedding.parquet").write_bytes(b"PAR1")
    shutil.copytree(home / "of_folder", home / "unfinished")
    about = store.read_about(home / "unfinished")
    store.write_about(home / "unfinished", replace(about, complete=False))
    return home


def table(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n")


def call(world: Path, monkeypatch, options: str) -> tuple[int, str]:
    """Exit code and what was said; `@` stands for the folder of the world."""
    monkeypatch.setattr(evaluate, "load", load)
    arguments = ["evaluate", *options.replace("@", f"{world}/").split()]
    done = CliRunner().invoke(cli.cli, arguments)
    if isinstance(done.exception, UserError):
        return done.exception.exit_code, str(done.exception)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def load(path: str):
    """The perfect model, another one, or whatever there is."""
    if str(path) in ("colours", "other"):
        return ColourModel(params={} if path == "colours" else {"a": 1.0})
    return loading.load(path)


MODEL, KEPT = "--model colours --out @out ", "--features @of_folder --out @out --tasks few_shot_1 "
WRONG = {
    # Paths
    "--model colours --out @out": (2, "--data is missing: the pictures to evaluate on"),
    MODEL + "--data @nowhere": (2, "--data @nowhere: there is no such folder"),
    MODEL + "--data @empty": (2, "neither a dataset made by `bioclip2 prepare` nor a published"),
    MODEL + "--data @photos": (2, "give --annotations, a table with a column of file names"),
    MODEL + "--data @empty --annotations @table.csv": (2, "@empty: no picture here"),
    MODEL + "--data @packed": (2, "if they are in train-0.parquet, unpack them into files first"),
    MODEL + "--data @photos --annotations @no.csv": (1, "@no.csv: cannot be read (No such file"),
    "--model @nowhere --out @out --data @dataset": (1, "@nowhere: no model here"),
    "--workdir @empty --data @dataset": (2, "@empty: no checkpoint here"),
    "--features @nowhere --out @out --tasks few_shot": (1, "@nowhere: no feature store here"),
    "--features @table.csv --out @out --tasks few_shot": (1, "no feature store here"),
    # Tables
    MODEL + "--data @photos --annotations @no_file.csv": (1, "no column 'filepath' that names the"),
    MODEL + "--data @photos --annotations @binary.csv": (1, "@binary.csv: not a text table"),
    MODEL + "--data @photos --annotations @no_class.csv --text-kind asis": (
        *(1, "@no_class.csv: no column 'class' with the names of the classes"),
    ),
    MODEL + "--data @photos --annotations @nothing_said.csv": (1, "line 3 names nothing"),
    MODEL + "--data @photos --annotations @others.csv": (
        *(1, "@others.csv: none of its 2 pictures has features; it calls one x.png, the features"),
    ),
    MODEL + "--data @photos --annotations @table.csv --class-column specie": (
        *(2, "--class-column specie: @table.csv has no such column, only filename, genus, species"),
    ),
    MODEL + "--data @photos --annotations @table.csv --class-column species --text-kind sci": (
        *(2, "leave out --text-kind"),
    ),
    MODEL + "--data @photos --annotations @table.csv --where genus=Pica": (2, "there are Color"),
    MODEL + "--data @dataset --class-column sex": (2, "choose from an annotation table"),
    MODEL + "--data @photos --annotations @table.csv --class-column genus --decode top_down": (
        *(2, "--decode top_down needs lineages, and the classes of @table.csv have none: leave it"),
    ),
    MODEL + "--data @dataset --tasks few_shot_1 --decode top_down": (2, "goes with --tasks zero"),
    MODEL + "--data @dataset --tasks newt --prior @table.csv": (2, "--prior goes with --tasks zer"),
    MODEL + "--data @dataset --annotations @table.csv": (1, "none of its 8 pictures has features"),
    # Splits and tasks
    MODEL + "--data @dataset --split test": (2, "no split 'test'; it has train, val"),
    MODEL + "--data @photos --annotations @table.csv --split val": (2, "no row has split 'val'"),
    MODEL + "--data @photos --annotations @others.csv --split val": (2, "has no column 'split'"),
    MODEL + "--data @dataset --tasks zeroshot": (2, "there are few_shot, zero_shot"),
    MODEL + "--data @dataset --tasks few_shot,plantdok": (2, "did you mean plantdoc?"),
    MODEL + "--data @photos --tasks newt": (1, "newt2021_labels.csv: cannot be read"),
    MODEL + "--data @photos --tasks herbarium19": (1, "small-train: no folder of a class here"),
    # Features
    "--features @of_folder --out @out --tasks zero_shot": (2, "zero_shot encodes names: give the"),
    KEPT: (2, "it was made of a plain folder: give --annotations"),
    KEPT.replace("of_folder", "of_dataset") + "--split test": (2, "it has train, val"),
    KEPT.replace("of_folder", "of_dataset") + "--annotations @table.csv": (
        *(1, "@table.csv: none of its 8 pictures has features; it calls one 0.png, the features"),
    ),
    KEPT + "--model other --annotations @table.csv": (
        *(2, "made by another model (colours) than --model other"),
    ),
    KEPT.replace("of_folder", "cut") + "--annotations @table.csv": (1, "@cut: damaged"),
    KEPT.replace("of_folder", "flipped") + "--annotations @table.csv": (
        *(1, "run the same `bioclip2 embed` again, which makes only the damaged parts"),
    ),
    KEPT.replace("of_folder", "half_said") + "--annotations @table.csv": (
        *(1, "_embedding.parquet: damaged"),
    ),
    KEPT.replace("of_folder", "unfinished"): (1, "these features are not complete; run the same"),
    # Support
    KEPT + "--annotations @table.csv --support @none.json": (1, "@none.json: no list of lists"),
    KEPT + "--annotations @table.csv --support @no_support.json": (1, "no_support.json"),
    MODEL + "--data @dataset --tasks few_shot_1 --support @table.csv": (1, "no list of lists"),
    KEPT + "--annotations @table.csv --support @support.json": (
        *(1, "names the picture 'elsewhere.png', which is not among those evaluated"),
    ),
    # Options that do not go together
    "--workdir @empty --data @dataset --follow --step 3": (2, "leave out --step"),
    "--workdir @empty --data @dataset --timeout 3": (2, "--timeout goes with --follow"),
    MODEL + "--data @dataset --step 3": (2, "--step needs the --workdir of a training"),
}


@pytest.mark.parametrize("options", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(world, monkeypatch, options):
    code, said = WRONG[options]
    found, message = call(world, monkeypatch, options)
    assert found == code and said.replace("@", f"{world}/") in message
    assert "\n" not in message.strip() and not list(world.glob("out/*.json"))


def test_missing_pictures_are_counted_named_and_set_aside(world, monkeypatch, tmp_path):
    options = f"--model colours --out {tmp_path} --data @photos --annotations @half.csv"
    code, said = call(world, monkeypatch, options)
    assert code == 0 and "8 images" in said.splitlines()[1]
    assert "2 not read (lost.png: no such picture)" in said
    found = json.loads((tmp_path / "zero_shot.json").read_text())
    assert found["num_bad"] == 2 and found["num_images"] == 8
    assert [one["key"] for one in found["bad"]] == ["lost.png", "gone.png"]


def test_a_table_and_features_may_count_from_different_folders(world, monkeypatch, tmp_path):
    pictures = pictures_below(world)
    embed.embed(ColourModel(), "colours", pictures, tmp_path / "kept", say=lambda line: None)
    options = f"--features {tmp_path}/kept --out {tmp_path} --annotations @table.csv"
    code, said = call(world, monkeypatch, options + " --tasks few_shot_1")
    assert code == 0 and "top1 1.000" in said


def test_one_set_can_be_evaluated_alone_from_features_of_several(world, monkeypatch, tmp_path):
    # Keys of a dataset begin with the name of the set where several were merged.
    options = f"--features @of_folder --out {tmp_path} --annotations @table.csv --tasks few_shot_1"
    code, said = call(world, monkeypatch, f"{options} --where genus=Color --split train")
    assert code == 0 and "8 images, 4 taxa" in said
