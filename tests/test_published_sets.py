"""Every set of the paper in its own folders, through the commands that a user gives."""

import csv
import functools
import json
from pathlib import Path

import numpy as np
import published_sets
import pytest
from click.testing import CliRunner
from colour_world import TAXA, ColourModel

from bioclip2_jax import cli
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import beyond
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.evaluation import species as species_tasks
from bioclip2_jax.evaluation.protocols import newt
from bioclip2_jax.evaluation.published import species as species_layouts
from bioclip2_jax.evaluation.published.species import find, read
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.features import store
from bioclip2_jax.measures import heads

TASKS = "zero_shot,few_shot"


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for name, make in (published_sets.SPECIES | published_sets.BEYOND).items():
        make(root / name)
    return root


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A model that knows colours, and less of what the protocols repeat."""
    monkeypatch.setattr("bioclip2_jax.weights.load.load", lambda *_: ColourModel())
    monkeypatch.setattr(evaluate, "load", lambda *_: ColourModel())
    monkeypatch.setattr(beyond, "SEEDS", (0, 1))
    searched = functools.partial(newt.newt, iterations=3, jobs=1)
    monkeypatch.setattr(beyond, "newt", searched)
    trained = functools.partial(heads.train_head, epochs=3)
    monkeypatch.setattr(heads, "train_head", trained)


def bioclip2(*arguments: object) -> str:
    done = CliRunner().invoke(cli.cli, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def results(folder: Path) -> dict[str, dict]:
    """Results by task, or by set and task."""
    found = {}
    for path in sorted(folder.glob("**/*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and "task" in content:
            found[path.relative_to(folder).with_suffix("").as_posix()] = content
    return found


def figures(found: dict[str, dict]) -> dict[str, dict]:
    """What does not depend on where the features came from."""
    left_out = ("model", "settings", "top5", "calibration")
    return {key: {n: v for n, v in one.items() if n not in left_out} for key, one in found.items()}


# ---- End to end


@pytest.mark.parametrize("name", ["nabirds", "PLK_Mini", "rare-species", "rare-species-bioclip"])
def test_species_sets_are_known_by_their_folder(sets, name, tmp_path):
    out = tmp_path / "out"
    bioclip2("evaluate", "--model", "m", "--data", sets / name, "--tasks", TASKS, "--out", out)
    found = results(out)
    assert set(found) == {"zero_shot", "few_shot_1", "few_shot_5"}
    for task, one in found.items():
        assert one["dataset"] == name and one["top1"] == 1.0 and one["num_classes"] == 4, task
    assert found["zero_shot"]["num_images"] == 24
    ranked = name.startswith("rare")
    assert found["zero_shot"]["settings"]["text_kind"] == ("taxon_com" if ranked else "asis")
    assert bool(found["zero_shot"]["ranks"]) == ranked

    kept, again = tmp_path / "kept", tmp_path / "again"
    bioclip2("embed", sets / name, "--model", "m", "--out", kept)
    bioclip2(
        *("evaluate", "--model", "m", "--features", kept, "--data", sets / name),
        *("--tasks", TASKS, "--out", again),
    )
    assert figures(results(again)) == figures(found)


def test_five_camera_trap_sets_share_their_pictures(sets, tmp_path):
    root, out = sets / "IDLE-OO-Camera-Traps", tmp_path / "out"
    lines = bioclip2(
        "evaluate", "--model", "m", "--data", root, "--tasks", TASKS, "--out", out
    ).splitlines()
    found = results(out)
    names = published_sets.CAMERA_TRAPS
    assert len(found) == 15 and all(f"{name}/few_shot_5" in found for name in names)
    assert all(one["top1"] == 1.0 and one["num_bad"] == 0 for one in found.values())
    assert {one["dataset"] for one in found.values()} == set(names)
    assert len(list((out / "features").iterdir())) == 1
    assert any(line.startswith("ENA24 zero_shot: top1 1.000") for line in lines)

    kept, again = tmp_path / "kept", tmp_path / "again"
    bioclip2("embed", root / "data" / "test", "--model", "m", "--out", kept)
    bioclip2(
        *("evaluate", "--features", kept, "--annotations", root / "ENA24-balanced.csv"),
        *("--tasks", "few_shot", "--out", again),
    )
    assert results(again)["few_shot_1"]["folds"] == found["ENA24/few_shot_1"]["folds"]
    assert results(again)["few_shot_1"]["dataset"] == "ENA24"


@pytest.mark.parametrize("name", published_sets.BEYOND)
def test_sets_beyond_species_run_from_pictures_and_from_features(sets, name, tmp_path):
    out, kept, again = tmp_path / "out", tmp_path / "kept", tmp_path / "again"
    bioclip2("evaluate", "--model", "m", "--data", sets, "--tasks", name, "--out", out)
    (found,) = results(out).values()
    assert found["task"] == found["dataset"] == name and found["num_missing"] == 0
    assert len(found["runs"]) == (5 if name == "plantdoc" else 2)
    assert found["value"] == np.mean(found["runs"]) and found["std"] == np.std(found["runs"])
    if name in ("newt", "herbarium19", "plantdoc"):
        assert found["value"] == 1.0
    bioclip2("embed", sets / name, "--model", "m", "--out", kept)
    bioclip2(
        *("evaluate", "--features", kept, "--data", sets / name, "--tasks", name),
        *("--out", again),
    )
    assert figures(results(again)) == figures(results(out))


# ---- What the readers read


def test_every_set_below_a_folder_is_found(sets):
    names = [one.name for one in find(sets)]
    species = set(published_sets.SPECIES) - {"IDLE-OO-Camera-Traps"}
    assert set(names) == species | set(published_sets.CAMERA_TRAPS) and len(names) == 9


def test_sets_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for part in ("set0", "set1"):
        published_sets.meta_album(tmp_path / part / "PLK_Mini")
    assert [one.name for one in find(tmp_path)] == ["set0-PLK_Mini", "set1-PLK_Mini"]


def test_nabirds_has_a_class_for_each_plumage_in_the_order_of_the_list(sets):
    (one,) = find(sets / "nabirds")
    told = read(one, "asis")
    first = "red Duck (Adult male)", "orange Duck", "blue Heron", "green Parrot (Female/Immature)"
    assert told.names == list(first) and told.labels.tolist() == [0, 1, 2, 3] * 6
    assert told.files[0] == "images/0295/000002955c064a6aad53ad18b9377b24.jpg"
    train, test = (read(one, "asis", Settings(split=name)) for name in ("train", "test"))
    assert len(train.files) == len(test.files) == 12 and not set(train.files) & set(test.files)
    with pytest.raises(UsageError, match="no split 'val'; it has train, test"):
        read(one, "asis", Settings(split="val"))
    with pytest.raises(UsageError, match="--text-kind sci.* has only the names of its classes"):
        read(one, "sci")


def test_broken_nabirds_files_are_named(tmp_path):
    published_sets.nabirds(tmp_path)
    (one,) = find(tmp_path)
    labels = tmp_path / "image_class_labels.txt"
    whole = labels.read_text()
    labels.write_text("\n".join(whole.splitlines()[1:]))
    with pytest.raises(UserError, match="picture 00000295-5c06.* has the class None"):
        read(one, "asis")
    labels.write_text(whole.replace(" 296", " 12345"))
    with pytest.raises(UserError, match="has the class 12345, which is not in classes.txt"):
        read(one, "asis")
    labels.write_text("alone\n")
    with pytest.raises(UserError, match="the line 'alone' is not an id, a blank and a value"):
        read(one, "asis")


def test_meta_album_may_name_its_columns_otherwise(tmp_path):
    published_sets.meta_album(tmp_path)
    table, info = tmp_path / "labels.csv", tmp_path / "info.json"
    table.write_text(table.read_text().replace("FILE_NAME,CATEGORY", "picture,taxon"))
    info.write_text('{"image_column_name": "picture", "category_column_name": "taxon"}')
    (one,) = find(tmp_path)
    assert read(one, "asis").names[0] == "red_interaction"
    grouped = read(one, "asis", Settings(class_column="SUPER_CATEGORY"))
    assert grouped.names == ["plankton"]
    info.write_text("[")
    with pytest.raises(UserError, match="info.json: not the description of a Meta-Album set"):
        find(tmp_path)


@pytest.mark.parametrize("name", ["rare-species", "rare-species-bioclip"])
def test_lineages_are_read_under_either_name_of_the_class(sets, name):
    (one,) = find(sets / name)
    told = read(one, "taxon_com")
    assert [entry.taxon for entry in told.classes] == list(TAXA.values())
    assert told.names[0] == (
        "Animalia Chordata Aves Fireformes Firidae Ignis red with common name fire bird"
    )
    assert read(one, "asis").names[0] == "Ignis red"


def test_the_rank_class_is_not_taken_for_the_name_of_a_class(tmp_path):
    published_sets.text(
        tmp_path / "t.csv", "file,kingdom,class,species", "a.png,Animalia,Aves,Pica pica"
    )
    one = species_layouts.of_table(tmp_path / "t.csv", None)
    with pytest.raises(UserError, match="no column 'class' with the names of the classes"):
        read(one, "asis")
    assert read(one, "sci").names == ["Pica pica"]


def test_a_column_a_split_and_conditions_choose_rows_and_classes(tmp_path):
    rows = ["filename,genus,species,split,disease"]
    for number, (species, disease) in enumerate(
        [("tuberosum", "blight"), ("tuberosum", ""), ("domestica", "scab"), ("tuberosum", "scab")]
    ):
        rows.append(f"{number}.png,Solanum,{species},{'Training' if number else 'test'},{disease}")
    published_sets.text(tmp_path / "t.csv", *rows)
    one = species_layouts.of_table(tmp_path / "t.csv", tmp_path)
    told = read(one, "asis", Settings(class_column="disease", where=("species = tuberosum",)))
    assert told.files == ["0.png", "1.png", "3.png"] and told.names == ["blight", "scab"]
    assert told.labels.tolist() == [0, -1, 1]
    assert read(one, "sci", Settings(where=("split=train",))).files == ["1.png", "2.png", "3.png"]
    for name in ("train", "Training"):
        assert read(one, "sci", Settings(split=name)).files == ["1.png", "2.png", "3.png"]
    for choice, said in (
        (Settings(class_column="diseas"), "has no such column.*did you mean disease"),
        (Settings(where=("species",)), "write COLUMN=VALUE"),
        (Settings(where=("species=rosa",)), "no row has species 'rosa'; there are domestica, tub"),
        (Settings(split="val"), "no row has split 'val'; there are Training, test"),
        (Settings(split="val", where=("species=tuberosum",)), "no row has split 'val'; there are"),
        (
            Settings(split="test", where=("disease=scab",)),
            "disease 'scab' and split 'test' at once",
        ),
    ):
        with pytest.raises(UsageError, match=said):
            read(one, "sci", choice)


# ---- File names that count from elsewhere


@pytest.mark.parametrize(
    "files, keys",
    [
        (["ENA24/1.png", "ENA24/2.png"], ["data/test/ENA24/2.png", "data/test/ENA24/1.png"]),
        (["images/a/1.png", "images/b/2.png"], ["b/2.png", "a/1.png"]),
        (["old/a/1.png", "old/b/1.png"], ["new/deep/b/1.png", "new/deep/a/1.png"]),
    ],
)
def test_files_are_found_though_the_folders_above_them_differ(files, keys):
    found = store.align(files, keys)
    assert sorted(found) == sorted(keys)
    assert [name.split("/")[-2:] for name in found][0] == (files[0].split("/")[-2:])


def test_names_that_only_happen_to_be_alike_are_not_matched():
    files = [f"{number}.png" for number in range(9)]
    keys = [f"class{number % 3}/{number}.png" for number in range(9)]
    assert store.align(files, keys) == files
    assert store.align(files, files[:5]) == files
    assert store.align([], keys) == [] and store.align(files, []) == files


def test_support_of_a_published_set_lists_files_that_can_be_fed_back(sets, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    call = ("evaluate", "--model", "m", "--data", sets / "PLK_Mini", "--tasks", "few_shot_1")
    bioclip2(*call, "--out", first)
    drawn = first / "few_shot_1_support.json"
    keys = json.loads(drawn.read_text())
    assert all((sets / "PLK_Mini" / key).is_file() for fold in keys for key in fold)
    bioclip2(*call, "--out", again, "--support", drawn)
    assert (again / "few_shot_1_support.json").read_bytes() == drawn.read_bytes()
    with (again / "few_shot_1_classes.csv").open(newline="") as file:
        assert {row["scientificName"] for row in csv.DictReader(file)} == {
            f"{colour}_interaction" for colour in TAXA
        }


def test_the_templates_are_chosen_and_recorded(sets, tmp_path, monkeypatch):
    asked = []
    embed_classes = species_tasks.embed_classes

    def listen(model, names, batch_size, templates):
        asked.append(templates)
        return embed_classes(model, names, batch_size, templates)

    monkeypatch.setattr(species_tasks, "embed_classes", listen)
    for name in ("bioclip2", "pybioclip"):
        bioclip2(
            *("evaluate", "--model", "m", "--data", sets / "PLK_Mini", "--tasks", "zero_shot"),
            *("--templates", name, "--out", tmp_path / name),
        )
        assert results(tmp_path / name)["zero_shot"]["settings"]["templates"] == name
    paper, theirs = asked
    assert len(paper) == 81 and len(theirs) == 80 and np.isin(theirs, paper).all()
    assert set(paper) - set(theirs) == {"a photo of {}."}


# ---- Beside other results


def test_the_same_task_on_another_set_takes_a_folder_of_its_own(tmp_path):
    names = ("first", "second", "more/second")
    for name in names:
        published_sets.meta_album(tmp_path / name)
    for name in (*names, "first"):
        call = ("--model", "m", "--data", tmp_path / name, "--tasks", "few_shot_1")
        bioclip2("evaluate", *call, "--out", tmp_path / "out")
    found = results(tmp_path / "out")
    assert {key: Path(one["settings"]["data"]) for key, one in found.items()} == {
        "few_shot_1": tmp_path / "first",
        "second/few_shot_1": tmp_path / "second",
        "second-2/few_shot_1": tmp_path / "more" / "second",
    }


def test_newt_is_compared_picture_by_picture(sets, tmp_path):
    call = ("--data", sets / "newt", "--tasks", "newt")
    for name in ("a", "b"):
        bioclip2("evaluate", "--model", "m", *call, "--out", tmp_path / name)
    table = tmp_path / "b" / "newt_images.csv"
    lines = table.read_text().splitlines()
    assert lines[1] == "newt2021_images/age-red-5.jpg,age,0,2,2" and len(lines) == 13
    table.write_text("\n".join([*lines[:9], *(line[:-1] + "0" for line in lines[9:])]) + "\n")
    told = bioclip2("compare", tmp_path / "a", tmp_path / "b")
    assert told.startswith("newt: 100.0 and 66.7 %, difference -33.3 [")
    assert "class average -33.3" in told and "better on 4 and 0 of 12 images" in told
    bioclip2("evaluate", "--model", "m", *call, "--protocol", "v1", "--out", tmp_path / "c")
    with pytest.raises(UserError, match="ran it a different number of times; .* same --protocol"):
        bioclip2("compare", tmp_path / "a", tmp_path / "c")
