"""Two models on the same pictures."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from colour_world import ColourModel, write_world

from bioclip2_jax.cli.compare import compare as command
from bioclip2_jax.cli.evaluate import evaluate as evaluate_command
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.evaluation.compare import compare
from bioclip2_jax.evaluation.run import run_once
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.evaluation.tasks import parse_tasks
from bioclip2_jax.measures.paired import paired
from bioclip2_jax.text.taxonomy import RANKS


def sign_test(one: int, other: int) -> float:
    """Two-sided, by adding up the binomial distribution."""
    count = one + other
    chances = [math.comb(count, i) / 2**count for i in range(count + 1)]
    return sum(chance for chance in chances if chance <= chances[one] * (1 + 1e-9))


def test_the_p_value_is_mcnemars_exact_one():
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=120)
    first, second = rng.random(120) < 0.5, rng.random(120) < 0.65
    found = paired(first, second, labels)
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    assert (found.first_only, found.second_only) == (one, other)
    assert found.p == pytest.approx(sign_test(one, other))
    assert found.difference == pytest.approx(second.mean() - first.mean())
    by_class = [second[labels == c].mean() - first[labels == c].mean() for c in range(5)]
    assert found.macro_difference == pytest.approx(np.mean(by_class))
    # The interval has the width of the normal approximation to a paired difference.
    spread = (second.astype(int) - first).std() / np.sqrt(120)
    low, high = found.interval
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.12)
    assert low < found.difference < high
    low, high = found.macro_interval
    assert low < found.macro_difference < high


def test_p_is_uniform_enough_where_there_is_no_difference(monkeypatch):
    monkeypatch.setattr("bioclip2_jax.measures.intervals.RESAMPLES", 10)
    rng = np.random.default_rng(1)
    values = [
        paired(rng.random(60) < 0.5, rng.random(60) < 0.5, np.zeros(60, int), seed=i).p
        for i in range(40)
    ]
    assert np.mean(np.asarray(values) < 0.05) < 0.15 and np.mean(values) > 0.4


def test_images_that_were_asked_more_often_weigh_more():
    first, second, trials = np.array([5, 0]), np.array([5, 1]), np.array([5, 1])
    found = paired(first, second, np.array([0, 1]), trials)
    assert (found.first, found.second) == pytest.approx((5 / 6, 1.0))
    assert found.macro_difference == pytest.approx(0.5)
    assert paired(first, first, np.array([0, 1]), trials).p == 1.0


def test_models_that_never_differ_may_still_do_so_on_other_images():
    right = np.array([1, 0, 1, 1])
    found = paired(right, right, np.arange(4) % 2)
    low, high = found.interval
    assert high == -low == pytest.approx(1.96**2 / (4 + 1.96**2), abs=1e-3)
    assert found.macro_interval == found.interval
    found = paired(np.zeros(4), np.ones(4), np.arange(4) % 2)
    assert found.interval[1] == 1 and 0 < found.interval[0] < 0.6


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Results of a model that confuses two colours, and of one that does not."""
    root = tmp_path_factory.mktemp("compare")
    data = str(write_world(root / "d", {"red": 4, "orange": 3, "blue": 6, "green": 2}))
    confused = ColourModel(confuse={"red": "orange", "orange": "red"})
    for name, model in (("a", confused), ("b", ColourModel())):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate, "load", lambda path, model=model: model)
            tasks = parse_tasks("zero_shot,few_shot")
            run_once(Settings(data), tasks, root / name, model_path=name, say=lambda line: None)
    return root / "a", root / "b"


def test_the_command_compares_what_both_folders_hold(folders, tmp_path):
    out = tmp_path / "new" / "found.json"
    done = CliRunner().invoke(command, [*map(str, folders), "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert (found["first"], found["second"]) == ("a", "b")
    zero = found["tasks"]["zero_shot"]
    assert zero["num_images"] == 15 and (zero["first_only"], zero["second_only"]) == (0, 7)
    assert zero["difference"] == pytest.approx(7 / 15)
    assert zero["macro_difference"] == pytest.approx(0.5)
    assert zero["p"] == pytest.approx(2 / 2**7)
    assert found["tasks"]["few_shot_1"]["p"] == 1.0  # both have the same eyes
    line = next(line for line in done.output.splitlines() if line.startswith("zero_shot"))
    assert line.startswith("zero_shot: 53.3 and 100.0 %, difference +46.7 [")
    assert line.endswith("better on 0 and 7 of 15 images, p = 0.016")


def rows_of(folder: Path) -> dict[str, dict]:
    with (folder / "zero_shot_images.csv").open(newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


@pytest.mark.usefixtures("few_resamples")
def test_every_rank_is_compared_on_the_pictures_that_know_it(folders):
    found = compare(*folders).tasks["zero_shot"]
    first, second = map(rows_of, folders)
    results = [json.loads((folder / "zero_shot.json").read_text()) for folder in folders]
    assert list(found.ranks) == list(RANKS[:-1])
    columns = {f"{rank}_{key}": one for rank, of in found.ranks.items() for key, one in of.items()}
    assert len(columns) == 18
    for column, one in (columns | {"full_path": found.full_path}).items():
        pairs = [(int(first[k][column]), int(second[k][column])) for k in first if first[k][column]]
        assert (
            one.num_images == len(pairs) == (13 if "phylum" in column or "class" in column else 15)
        )
        assert (one.first, one.second) == pytest.approx(tuple(np.mean(pairs, axis=0)))
        assert one.first_only == pairs.count((1, 0)) and one.second_only == pairs.count((0, 1))
        assert one.p == pytest.approx(sign_test(one.first_only, one.second_only))
        low, high = one.interval
        assert low <= one.difference <= high
    assert found.full_path.second_only > 0 and columns["genus_prompted_top1"].first < 1
    for rank, of in found.ranks.items():
        ours, theirs = (result["ranks"][rank]["prompted_macro_top1"] for result in results)
        assert of["prompted_top1"].macro_difference == pytest.approx(theirs - ours)


@pytest.mark.usefixtures("few_resamples")
def test_ranks_are_shown_below_the_species_and_left_out_where_a_result_lacks_them(
    folders, tmp_path
):
    said = CliRunner().invoke(command, [*map(str, folders)]).output.splitlines()
    at = said.index(next(line for line in said if line.startswith("zero_shot:")))
    assert said[at + 1].split() == ["summed", "asked", "down", "the", "tree"]
    assert [line.split()[0] for line in said[at + 2 : at + 8]] == list(RANKS[:-1])
    assert re.match(r"  kingdom +100\.0 → 100\.0 \+0\.0 \[-20\.4, \+20\.4\]", said[at + 2])
    assert said[at + 8].startswith("  full path  ")
    # As earlier versions wrote it.
    earlier = shutil.copytree(folders[0], tmp_path / "earlier")
    with (earlier / "zero_shot_images.csv").open("w", newline="") as file:
        rows = list(rows_of(folders[0]).values())
        names = [name for name in rows[0] if not name.endswith("_top1") and name != "full_path"]
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    for pair in ((earlier, folders[1]), (folders[1], earlier)):
        found = compare(*pair).tasks["zero_shot"]
        assert found.ranks == {} and found.full_path is None and found.num_images == 15
    assert (
        len(CliRunner().invoke(command, [str(earlier), str(folders[1])]).output.splitlines()) == 2
    )


@pytest.fixture
def few_resamples(monkeypatch):
    """Where intervals are of no concern."""
    monkeypatch.setattr("bioclip2_jax.measures.intervals.RESAMPLES", 20)


@pytest.fixture
def evaluate_again(folders, tmp_path, monkeypatch):
    """The command, with a perfect model and the pictures of `folders`."""
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel())
    data = json.loads((folders[0] / "zero_shot.json").read_text())["settings"]["data"]
    fixed = ["--model", "b", "--data", data, "--out", str(tmp_path / "out")]
    return lambda *more: CliRunner().invoke(evaluate_command, [*fixed, *map(str, more)])


@pytest.mark.usefixtures("few_resamples")
def test_an_evaluation_is_compared_with_earlier_results(folders, tmp_path, evaluate_again):
    done = evaluate_again("--tasks", "zero_shot", "--compare-to", folders[0])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    other = tmp_path / "by_hand.json"
    told = CliRunner().invoke(
        command, [str(folders[0]), str(tmp_path / "out"), "--out", str(other)]
    )
    assert found == json.loads(other.read_text()) and list(found["tasks"]) == ["zero_shot"]
    _, head, *lines = done.output.splitlines()
    assert head == "compared with a:" and lines == told.output.splitlines()
    # Results that the new ones take the place of are those of before.
    before = shutil.copytree(folders[0], tmp_path / "out", dirs_exist_ok=True)
    assert evaluate_again("--tasks", "zero_shot,few_shot_1", "--compare-to", before).exit_code == 0
    again = json.loads((tmp_path / "out/comparison.json").read_text())
    assert again["tasks"]["zero_shot"] == found["tasks"]["zero_shot"]
    assert list(again["tasks"]) == ["zero_shot", "few_shot_1"]


@pytest.mark.usefixtures("few_resamples")
def test_that_the_questions_differ_is_said_with_the_differences(
    folders, tmp_path, evaluate_again, monkeypatch
):
    asked = "--tasks", "zero_shot", "--compare-to", folders[0]
    (tmp_path / "counts.csv").write_text("genus,species,count\nIgnis,red,9\n")
    prior = "--prior", tmp_path / "counts.csv", "--prior-strength"
    done = evaluate_again(*asked, "--decode", "top_down", *prior, 0)
    assert "  asked otherwise: decode flat, then top_down\n" in done.output
    found = json.loads((tmp_path / "out/comparison.json").read_text())["tasks"]["zero_shot"]
    assert found["asked_otherwise"] == {"decode": ["flat", "top_down"]}
    done = evaluate_again(*asked, *prior, 0.5, "--text-kind", "sci")
    said = "text_kind taxon_com, then sci; prior none, then "
    said += f"{tmp_path / 'counts.csv'}; prior_strength none, then 0.5"
    assert f"  asked otherwise: {said}\n" in done.output
    shutil.copytree(tmp_path / "out", tmp_path / "with_prior")
    monkeypatch.chdir(tmp_path)  # where the same table has another name
    again = "--tasks", "zero_shot", "--compare-to", "with_prior", "--text-kind", "sci"
    done = evaluate_again(*again, "--prior", "counts.csv", "--prior-strength", 0.5)
    assert "compared with" in done.output and "asked otherwise" not in done.output


def test_what_cannot_be_compared_with_is_refused_before_anything_is_encoded(
    folders, tmp_path, evaluate_again, monkeypatch
):
    monkeypatch.setattr(evaluate, "load", lambda path: pytest.fail("loaded"))
    for step in (90, 400):
        shutil.copytree(folders[0], tmp_path / "run/eval" / str(step))
    for given, said in (
        ("hf-hub:imageomics/bioclip-2", "such as WORKDIR/eval/STEP"),
        (tmp_path / "run", f"such as {tmp_path}/run/eval/400"),
        (tmp_path, "no results image by image here"),
    ):
        failed = evaluate_again("--compare-to", given).exception
        assert isinstance(failed, UsageError) and said in str(failed)
        assert str(failed).startswith(f"--compare-to: {given}: ")
    (tmp_path / "run/eval/90/zero_shot_classes.csv").unlink()
    failed = evaluate_again("--compare-to", tmp_path / "run/eval/90").exception
    assert isinstance(failed, UserError) and "no table of classes" in str(failed)


def test_few_shot_answers_are_listed_picture_by_picture(folders):
    with (folders[0] / "few_shot_1_images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    result = json.loads((folders[0] / "few_shot_1.json").read_text())
    trials, right = (sum(int(row[name]) for row in rows) for name in ("trials", "correct"))
    assert len(rows) == 15 and trials == 5 * (15 - 4)
    assert right / trials == pytest.approx(result["top1"])


def test_results_that_cannot_be_compared_are_named(folders, tmp_path):
    first = str(folders[0])
    with pytest.raises(UsageError, match="no results image by image here"):
        compare(first, tmp_path)
    other = tmp_path / "other"

    def change(name: str, old: str, new: str) -> None:
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(folders[1], other)
        text = (other / name).read_text()
        changed = re.sub(old, new, text, flags=re.MULTILINE)
        assert changed != text
        (other / name).write_text(changed)

    change("zero_shot_images.csv", r"^(\d+),", r"\1,elsewhere/")
    with pytest.raises(UserError, match="zero_shot: .* have no picture in common"):
        compare(first, other)
    checksum = json.loads((folders[1] / "zero_shot.json").read_text())["classes_sha256"]
    change("zero_shot.json", checksum, "0" * 64)
    with pytest.raises(UserError, match="from different lists of classes"):
        compare(first, other)
    change("few_shot_1_images.csv", ",4,4$", ",3,3")
    with pytest.raises(UserError, match="drew other examples to learn from"):
        compare(first, other)
    change("zero_shot_images.csv", "correct", "wrong")
    with pytest.raises(UserError, match="no table of results"):
        compare(first, other)
