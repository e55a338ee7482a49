"""Evaluation beside a training that goes on, is killed, and starts again."""

import json
import threading
import time
from collections import Counter
from pathlib import Path

import published_sets
import pytest
from colour_world import ColourModel, write_world
from tensorboardX.proto.event_pb2 import Event

from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import beyond, follow
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.evaluation.run import run
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.training.tensorboard import Board


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel())
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    add_checkpoints(tmp_path / "run", 10, 20)
    return tmp_path / "run"


def add_checkpoints(workdir: Path, *steps: int, done: bool = False) -> None:
    for step in steps:
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)
    if done:
        (workdir / "done.json").write_text("{}")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_world(tmp_path_factory.mktemp("data") / "squares", {"red": 3, "blue": 2}))


def quiet(line: str) -> None:
    pass


def events(folder: Path) -> list[Event]:
    """Events of the newest file, read by the format: length, checksum, event, checksum."""
    found = []
    content = max(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns).read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def curves(folder: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]


class Killed(BaseException):
    """As a kill: nothing on the way may catch it."""


def test_a_kill_at_any_write_loses_and_repeats_nothing_that_was_done(workdir, data, monkeypatch):
    add_checkpoints(workdir, done=True)
    run(workdir, Settings(data), follow=True, out=workdir / "whole", say=quiet)
    whole = {path.name for path in (workdir / "whole" / "10").iterdir()}
    evaluated: Counter[str] = Counter()
    write_bytes = files.write_bytes

    def counted(path: Path, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        write_bytes(path, content)
        if "step" in (json.loads(content) if path.suffix == ".json" else {}):
            evaluated[f"{path.parent.name}/{path.name}"] += 1

    monkeypatch.setattr(files, "write_bytes", counted)
    starts = 0
    while True:
        left, starts = 5 + starts % 3, starts + 1  # a task takes five: dies within and between
        try:
            run(workdir, Settings(data), follow=True, say=quiet)
            break
        except Killed:
            assert starts < 50
    assert starts > 3
    wanted = {f"{step}/{task}.json" for step in (10, 20) for task in evaluate.SPECIES_TASKS}
    assert evaluated == Counter(dict.fromkeys(wanted, 1))
    assert {path.name for path in (workdir / "eval" / "20").iterdir()} == whole
    for step in (10, 20):
        for task in evaluate.SPECIES_TASKS:
            ours, theirs = (
                json.loads((workdir / home / str(step) / f"{task}.json").read_text())
                for home in ("eval", "whole")
            )
            assert ours == theirs


def test_each_set_and_task_is_evaluated_once_as_checkpoints_come(workdir, tmp_path, monkeypatch):
    published_sets.camera_traps(tmp_path / "sets" / "traps")
    published_sets.plantdoc(tmp_path / "sets" / "plantdoc")
    lines: list[str] = []

    def train():
        time.sleep(0.1)
        add_checkpoints(workdir, 30, done=True)

    trainer = threading.Thread(target=train)
    trainer.start()
    settings = Settings(str(tmp_path / "sets"))
    tasks = ("few_shot_1", "plantdoc")
    run(workdir, settings, tasks, follow=True, say=lines.append)
    trainer.join()
    told = [line for line in lines if ": top1" in line or "accuracy" in line]
    assert len(told) == 3 * (5 + 1)
    assert {path.parent.name for path in workdir.glob("eval/*/ENA24/few_shot_1.json")} == {"ENA24"}
    (workdir / "eval" / "20" / "ENA24" / "few_shot_1.json").unlink()
    lines.clear()
    run(workdir, settings, tasks, follow=True, say=lines.append)
    assert [line.split(":")[0] for line in lines if "top1" in line] == ["step 20 ENA24 few_shot_1"]
    # Each set is compared with its own earlier results; PlantDoc has none picture by picture.
    lines.clear()
    run(workdir, settings, tasks, compare_to=workdir / "eval" / "20", say=lines.append)
    told = [path.parent.name for path in workdir.glob("eval/30/**/comparison.json")]
    assert len(told) == 5 and "ENA24" in told
    assert sum("difference +0.0 [" in line for line in lines) == 5


def test_results_of_before_an_option_came_still_count(workdir, data):
    add_checkpoints(workdir, done=True)
    run(workdir, Settings(data), follow=True, say=quiet)
    for path in workdir.glob("eval/*/*.json"):
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            for name in ("templates", "class_column", "where"):
                del content["settings"][name]
            path.write_text(json.dumps(content))
    lines: list[str] = []
    run(workdir, Settings(data), follow=True, say=lines.append)
    assert lines == []
    run(workdir, Settings(data, templates="pybioclip"), follow=True, say=lines.append)
    assert [line.split(":")[0] for line in lines] == ["step 10 zero_shot", "step 20 zero_shot"]


@pytest.mark.parametrize(
    "change, again",
    [
        ({"protocol": "corrected"}, 0),
        ({"protocol": "faithful"}, 0),
        ({"protocol": "v1"}, 2),
        ({"labels": "all"}, 1),
        ({"text_kind": "sci"}, 3),
        ({"split": "train"}, 3),
    ],
)
def test_only_settings_that_bear_on_a_task_make_it_be_done_again(workdir, data, change, again):
    lines: list[str] = []
    add_checkpoints(workdir, done=True)
    (workdir / "checkpoints" / "10").rmdir()
    run(workdir, Settings(data), follow=True, say=quiet)
    run(workdir, Settings(data, **change), follow=True, say=lines.append)
    assert len(lines) == again


def test_another_spelling_of_a_path_is_no_other_setting(workdir, data, monkeypatch):
    lines: list[str] = []
    add_checkpoints(workdir, done=True)
    run(workdir, Settings(data), follow=True, say=quiet)
    monkeypatch.chdir(Path(data).parent)
    for spelling in (f"{data}/", Path(data).name, f"./{Path(data).name}/"):
        run(workdir, Settings(spelling), follow=True, say=lines.append)
    assert lines == []


def test_a_checkpoint_that_is_being_removed_is_passed_over(workdir, data, monkeypatch):
    lines: list[str] = []
    add_checkpoints(workdir, done=True)

    def load(path):
        if Path(path).name == "10":  # its files are gone, its folder goes in a moment
            threading.Timer(0.3, Path(path).rmdir).start()
            raise UserError("unreadable checkpoint")
        return ColourModel()

    monkeypatch.setattr(evaluate, "load", load)
    run(workdir, Settings(data), ["zero_shot"], follow=True, say=lines.append)
    assert "step 10: the checkpoint was removed" in lines[0] and "step 20 zero_shot" in lines[1]


def test_what_goes_wrong_after_reading_a_checkpoint_is_not_put_down_to_its_removal(
    workdir, data, monkeypatch
):
    add_checkpoints(workdir, done=True)

    def fails(*_):
        for path in (workdir / "checkpoints").iterdir():
            path.rmdir()
        raise UserError("the disk is full")

    monkeypatch.setattr(evaluate, "evaluate_subject", fails)
    with pytest.raises(UserError, match="the disk is full"):
        run(workdir, Settings(data), follow=True, say=quiet)


def test_a_damaged_checkpoint_that_stays_is_an_error(workdir, data, monkeypatch):
    def load(path):
        raise UserError("flipped bits")

    monkeypatch.setattr(evaluate, "load", load)
    monkeypatch.setattr(follow, "REMOVAL_SECONDS", 0.2)
    with pytest.raises(UserError, match="flipped bits"):
        run(workdir, Settings(data), follow=True, say=quiet)


def test_an_old_result_does_not_vouch_for_new_tables(workdir, data, monkeypatch):
    run(workdir, Settings(data), ["zero_shot"], say=quiet)
    write_bytes = files.write_bytes

    def dies(path: Path, content: bytes) -> None:
        if path.name == "zero_shot_images.csv":
            raise Killed
        write_bytes(path, content)

    monkeypatch.setattr(files, "write_bytes", dies)
    with pytest.raises(Killed):
        run(workdir, Settings(data, labels="all"), ["zero_shot"], say=quiet)
    assert not (workdir / "eval" / "20" / "zero_shot.json").exists()


# ---- Curves


def test_results_of_other_models_in_the_same_folder_are_not_drawn(workdir, data):
    evaluate.run_once(
        Settings(data), ["zero_shot"], workdir / "eval" / "7" / "x", model_path="m", say=quiet
    )
    run(workdir, Settings(data), ["zero_shot"], say=quiet)
    assert {step for _, step, _ in curves(workdir / "tensorboard" / "eval")} == {20}


def test_figures_appear_in_tensorboard_at_the_step_of_the_checkpoint(workdir, data):
    add_checkpoints(workdir, done=True)
    run(workdir, Settings(data), follow=True, say=quiet)
    found = curves(workdir / "tensorboard" / "eval")
    at = {(tag, step): value for tag, step, value in found}
    assert len(at) == len(found)
    for step in (10, 20):
        assert at["eval/zero_shot/top1", step] == at["eval/few_shot_1/macro_top1", step] == 1.0
        assert ("eval/zero_shot/top1_family", step) in at and ("eval/zero_shot/ece", step) in at
    assert not any("num_" in tag or "chance" in tag for tag, _, _ in found)
    assert not any(tag.startswith("eval/few_shot_5/top1") for tag, _, _ in found)  # there is none


def test_a_restart_draws_every_result_once_and_hides_what_was_drawn_before(workdir, data):
    run(workdir, Settings(data), ["zero_shot"], step="10", say=quiet)
    first = curves(workdir / "tensorboard" / "eval")
    add_checkpoints(workdir, done=True)
    run(workdir, Settings(data), ["zero_shot"], follow=True, say=quiet)
    again = curves(workdir / "tensorboard" / "eval")
    assert again[: len(first)] == first and len(again) == 2 * len(first)
    start = events(workdir / "tensorboard" / "eval")[1]
    assert start.session_log.status == start.session_log.START and start.step == 0


def test_the_curves_of_the_training_are_left_alone(workdir, data):
    board = Board(workdir / "tensorboard", 1)
    board.write(5, {"loss": 2.0})
    board.close()
    run(workdir, Settings(data), ["zero_shot"], say=quiet)
    assert curves(workdir / "tensorboard") == [("train/loss", 5, 2.0)]
    assert len([path for path in (workdir / "tensorboard").iterdir() if path.is_file()]) == 1


def test_results_that_go_elsewhere_are_drawn_there(workdir, tmp_path, monkeypatch):
    published_sets.plantdoc(tmp_path / "plantdoc")
    monkeypatch.setattr(beyond, "SEEDS", (0,))
    settings = Settings(str(tmp_path / "plantdoc"))
    run(workdir, settings, ["plantdoc"], out=tmp_path / "else", say=quiet)
    found = curves(tmp_path / "else" / "tensorboard" / "eval")
    assert ("eval/plantdoc/value", 20, 1.0) in found
    assert not (workdir / "tensorboard").exists()
