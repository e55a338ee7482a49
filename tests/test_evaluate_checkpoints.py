"""Which checkpoints are evaluated, when, and how often."""

import threading
import time
from pathlib import Path

import pytest
from colour_world import ColourModel, write_world
from evaluations import VAL, add_checkpoints, result

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import follow
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.evaluation.follow import new_checkpoints
from bioclip2_jax.evaluation.run import run
from bioclip2_jax.evaluation.schema import Settings


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_world(tmp_path_factory.mktemp("data") / "squares", VAL))


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch) -> Path:
    """A training folder with the checkpoints 10 and 20, all of them perfect models."""
    monkeypatch.setattr(evaluate, "load", lambda path: ColourModel())
    return add_checkpoints(tmp_path / "run", 10, 20)


def test_latest_all_and_numbers_choose_checkpoints(workdir):
    assert follow.chosen_steps(workdir, "latest") == [20]
    assert follow.chosen_steps(workdir, "all") == [10, 20]
    assert follow.chosen_steps(workdir, "10") == [10]
    with pytest.raises(UsageError, match="15: not one of latest, all, 10, 20"):
        follow.chosen_steps(workdir, "15")


def test_a_folder_without_checkpoints_is_a_clear_error(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint here"):
        follow.chosen_steps(tmp_path, "latest")


def test_following_ends_with_the_training_and_misses_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    workdir = add_checkpoints(tmp_path, 1)

    def train():
        time.sleep(0.1)
        add_checkpoints(workdir, 2)
        time.sleep(0.1)
        add_checkpoints(workdir, 3)
        (workdir / "done.json").write_text("{}")

    trainer = threading.Thread(target=train)
    trainer.start()
    assert list(new_checkpoints(workdir, None)) == [1, 2, 3]
    trainer.join()


def test_following_gives_up_after_the_timeout(tmp_path):
    lines = []
    assert list(new_checkpoints(tmp_path, 0.05, lines.append)) == []
    assert "no new checkpoint for 0.05 s" in lines[0]


def test_following_never_evaluates_twice(workdir, data):
    (workdir / "done.json").write_text("{}")
    lines: list[str] = []
    run(workdir, Settings(data), follow=True, say=lines.append)
    assert len(lines) == 6
    (workdir / "eval/10/few_shot_1.json").unlink()
    lines.clear()
    run(workdir, Settings(data), follow=True, say=lines.append)
    assert [line.split(":")[0] for line in lines] == ["step 10 few_shot_1"]


def test_following_with_other_settings_evaluates_again(workdir, data):
    (workdir / "done.json").write_text("{}")
    run(workdir, Settings(data), follow=True, say=lambda line: None)
    run(workdir, Settings(data, text_kind="sci"), follow=True, say=lambda line: None)
    assert result(workdir, 10)["settings"]["text_kind"] == "sci"


def test_a_half_written_result_is_made_again(workdir, data):
    (workdir / "done.json").write_text("{}")
    run(workdir, Settings(data), follow=True, say=lambda line: None)
    whole = result(workdir, 10)
    path = workdir / "eval/10/zero_shot.json"
    path.write_text(path.read_text()[:50])
    run(workdir, Settings(data), follow=True, say=lambda line: None)
    assert result(workdir, 10) == whole


def test_a_checkpoint_that_vanishes_while_followed_is_passed_over(workdir, data, monkeypatch):
    (workdir / "done.json").write_text("{}")

    def load(path: Path) -> ColourModel:
        if path.name == "10":
            path.rmdir()
            raise UserError("unreadable checkpoint")
        return ColourModel()

    monkeypatch.setattr(evaluate, "load", load)
    lines: list[str] = []
    run(workdir, Settings(data), follow=True, say=lines.append)
    assert "step 10: the checkpoint was removed" in lines[0]
    assert result(workdir, 20)["top1"] == 1.0


def test_a_damaged_checkpoint_that_stays_is_an_error(workdir, data, monkeypatch):
    def load(path: Path) -> ColourModel:
        raise UserError("unreadable checkpoint")

    monkeypatch.setattr(evaluate, "load", load)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    with pytest.raises(UserError, match="unreadable checkpoint"):
        run(workdir, Settings(data), follow=True, say=lambda line: None)


def test_no_temporary_file_remains(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    assert not list(workdir.rglob("*.tmp"))


def test_results_are_the_same_every_time(workdir, data):
    run(workdir, Settings(data), say=lambda line: None)
    first = {path.name: path.read_bytes() for path in (workdir / "eval/20").iterdir()}
    run(workdir, Settings(data), say=lambda line: None)
    again = {path.name: path.read_bytes() for path in (workdir / "eval/20").iterdir()}
    del first["zero_shot_embeddings.npz"], again["zero_shot_embeddings.npz"]  # holds the time
    assert first == again
