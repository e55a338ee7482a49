"""What cannot go well is said before anything is compiled."""

import collections
import time

import jax
import pytest
from processes import arguments, finish, kill, rows, short_data, start, start_each, wait_until

from bioclip2_jax import train
from bioclip2_jax.errors import UserError
from bioclip2_jax.training import preflight, recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return short_data(tmp_path_factory.mktemp("short") / "short")


def test_processes_with_folders_of_their_own_end_in_one_sentence(data, tmp_path):
    before = time.monotonic()
    both = [arguments(tmp_path / name, data, recipe="hasty") for name in ("here", "there")]
    codes, messages = finish(start_each(both), timeout=120)
    assert codes[0] == 1 and codes[1] != 0 and time.monotonic() - before < 60
    assert "is not the same folder for all 2 processes" in messages[0]
    assert "Traceback" not in messages[0] and "compiled" not in messages[0]


def test_processes_with_different_data_end_in_one_sentence(data, tiny_data, tmp_path):
    both = [arguments(tmp_path, folder) for folder in (data, tiny_data)]
    codes, messages = finish(start_each(both), timeout=120)
    assert codes[0] == 1 and codes[1] != 0
    assert "is not the same dataset for all 2 processes" in messages[0]


def test_a_second_trainer_is_refused_and_touches_nothing(data, tmp_path):
    process = start(arguments(tmp_path, data, recipe="slowly", steps=400, checkpoint_every=400))
    try:
        wait_until(lambda: rows(tmp_path), [process])
        names = {path.name for path in tmp_path.iterdir()}
        config = (tmp_path / "config.json").read_bytes()
        seen = len(rows(tmp_path))
        with pytest.raises(UserError, match=f"another training is at work .*{process.pid}"):
            train.main(arguments(tmp_path, data, learning_rate=1e-5))
        assert {path.name for path in tmp_path.iterdir()} == names
        assert (tmp_path / "config.json").read_bytes() == config
        wait_until(lambda: len(rows(tmp_path)) > seen, [process])
    finally:
        kill([process])


def test_a_disk_without_room_for_two_checkpoints_is_named(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "free")
    state = {"kernel": jax.ShapeDtypeStruct((1000, 1000), "float32")}
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _path: usage(8_000_000))
    preflight.check_space(state, tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _path: usage(7_999_999))
    with pytest.raises(UserError, match=r"need 0.0 GB, and 0.0 GB are free; make room"):
        preflight.check_space(state, tmp_path)


def test_a_batch_larger_than_its_split_is_told(data):
    for size, told in ((48, 0), (49, 1)):
        args = arguments(data, data, batch_size=size)
        notes = preflight.repeats(recipe.compose(recipe.parse_arguments(args)[0]))
        assert len(notes) == told
    assert "batch_size=49 is more than the 48 pictures" in notes[0]
