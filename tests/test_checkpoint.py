"""Saving, listing and reading checkpoints, and what happens when they are damaged."""

import errno
import os
import random
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.training import resume
from bioclip2_jax.training.step import TrainState
from bioclip2_jax.weights import checkpoint, seal


def small_params(value: float = 1.0) -> dict:
    return {"text": {"kernel": jnp.full((4, 6), value)}, "logit_scale": jnp.float32(value)}


def write(workdir, steps, keep=9):
    writer = checkpoint.Writer(workdir, keep)
    for step in steps:
        writer.save(step, small_params(step), {"step": jnp.int32(step)})
    writer.close()


def abstract(tree):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    write(tmp_path, [1, 2, 3, 10], keep=2)
    assert checkpoint.steps(tmp_path) == [3, 10]
    assert checkpoint.latest_step(tmp_path) == 10


@pytest.mark.parametrize("name", ["007", "²", "٣", "4 (copy)", "-1", "1_0"])
def test_folders_of_other_names_are_no_checkpoints(tmp_path, name):
    for folder in (name, "12", "0"):
        (tmp_path / checkpoint.FOLDER / folder).mkdir(parents=True)
    assert checkpoint.steps(tmp_path) == [0, 12]


def test_a_folder_without_checkpoints_has_no_step(tmp_path):
    assert checkpoint.latest_step(tmp_path / "nowhere") is None


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    write(tmp_path, [1])
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.steps(tmp_path) == [1]


def test_state_returns_as_it_was(tmp_path):
    write(tmp_path, [5])
    training = {"step": jnp.int32(0)}
    params, rest = checkpoint.restore(tmp_path, 5, abstract(small_params()), abstract(training))
    np.testing.assert_array_equal(params["text"]["kernel"], np.full((4, 6), 5.0))
    assert rest["step"] == 5


def test_parameters_are_readable_alone_as_numpy(tmp_path):
    write(tmp_path, [5])
    params = checkpoint.restore_params(checkpoint.step_dir(tmp_path, 5))
    assert isinstance(params["text"]["kernel"], np.ndarray)
    assert params["logit_scale"] == 5.0


def test_another_model_is_refused_with_every_tensor_that_differs(tmp_path):
    write(tmp_path, [5])
    other = {"text": {"kernel": jnp.zeros((4, 7))}, "extra": jnp.zeros(3)}
    with pytest.raises(UserError) as caught:
        checkpoint.restore(tmp_path, 5, abstract(other), abstract({"step": jnp.int32(0)}))
    for name in ("text/kernel", "(4, 6)", "(4, 7)", "extra", "logit_scale"):
        assert name in str(caught.value)


@pytest.mark.parametrize("victim", ["params/_METADATA", "params", "_CHECKPOINT_METADATA"])
def test_a_damaged_checkpoint_is_named(tmp_path, victim):
    write(tmp_path, [5])
    folder = checkpoint.step_dir(tmp_path, 5)
    target = folder / victim
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    if victim == "_CHECKPOINT_METADATA":
        shutil.rmtree(folder / "params" / "d")
    with pytest.raises(UserError, match="5: unreadable checkpoint"):
        checkpoint.restore_params(folder)


# ---- Sealed: damage is found, whatever it is


def damaged_copies(workdir, step):
    """Runs in which one file of the checkpoint has a flipped bit, is cut off, empty or gone."""
    folder = checkpoint.step_dir(workdir, step)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    dice = random.Random(0)
    for name in names:
        whole = (folder / name).read_bytes()
        position, bit = dice.randrange(len(whole)), dice.randrange(8)
        flipped = bytearray(whole)
        flipped[position] ^= 1 << bit
        for what in (bytes(flipped), whole[:-1], whole[: len(whole) // 2], b"", None):
            (folder / name).unlink()
            if what is not None:
                (folder / name).write_bytes(what)
            yield name
            (folder / name).write_bytes(whole)


def test_every_damage_to_any_file_is_found(tmp_path):
    write(tmp_path, [5])
    folder = checkpoint.step_dir(tmp_path, 5)
    assert seal.damage(folder) is None
    count = 0
    for name in damaged_copies(tmp_path, 5):
        assert seal.damage(folder), name
        count += 1
    assert count > 50 and seal.damage(folder) is None


def test_sha256sum_agrees(tmp_path):
    write(tmp_path, [5])
    command = shutil.which("sha256sum")
    if not command:
        pytest.skip("no sha256sum here")
    folder = checkpoint.step_dir(tmp_path, 5)
    done = subprocess.run([command, "-c", seal.NAME], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_other_readers_refuse_a_damaged_model(tmp_path):
    write(tmp_path, [5])
    folder = checkpoint.step_dir(tmp_path, 5)
    largest = max((folder / "params" / "d").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    with pytest.raises(UserError, match=f"5: unreadable checkpoint .*{largest.name}"):
        checkpoint.stored_shapes(folder)


def test_parameters_are_readable_without_the_rest(tmp_path):
    write(tmp_path, [5])
    folder = checkpoint.step_dir(tmp_path, 5)
    shutil.rmtree(folder / "training")
    assert "text/kernel" in checkpoint.stored_shapes(folder)


def test_a_crash_right_after_the_rename_leaves_a_sound_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(seal, "complete", lambda folder: None)
    write(tmp_path, [5])
    assert seal.damage(checkpoint.step_dir(tmp_path, 5)) is None


# ---- Resumed: the newest sound one is taken


def train_state(value):
    return TrainState(jnp.int32(value), small_params(value), {"momentum": jnp.full(3, value)})


def write_run(workdir, steps):
    writer = checkpoint.Writer(workdir, 9)
    for step in steps:
        state = train_state(step)
        writer.save(step, state.params, {"step": state.step, "opt_state": state.opt_state})
    writer.close()


def resume_run(workdir):
    state = abstract(train_state(0))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, train_state(0))
    return resume.restore_newest(workdir, resume.newest_sound_step(workdir), state, shardings)


def spoil(workdir, step):
    path = next((checkpoint.step_dir(workdir, step) / "params" / "d").iterdir())
    path.write_bytes(path.read_bytes()[:-1])


def test_damaged_checkpoints_are_named_and_the_one_before_is_used(tmp_path, capsys):
    write_run(tmp_path, [1, 2, 3])
    spoil(tmp_path, 2)
    spoil(tmp_path, 3)
    state, step = resume_run(tmp_path)
    assert step == 1 and state.step == 1 and state.params["logit_scale"] == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("damaged checkpoint (params/d/" in line for line in lines)
    # Nothing is lost, and the steps can be saved again.
    assert {path.name for path in (tmp_path / "damaged").iterdir()} == {"2", "3"}
    write_run(tmp_path, [2, 3])
    assert resume_run(tmp_path)[1] == 3
    spoil(tmp_path, 3)
    assert resume_run(tmp_path)[1] == 2
    assert (tmp_path / "damaged" / "3-2").is_dir()


def test_where_all_are_damaged_nothing_is_touched(tmp_path):
    write_run(tmp_path, [1, 2])
    spoil(tmp_path, 1)
    spoil(tmp_path, 2)
    with pytest.raises(UserError, match="2: damaged checkpoint .* no older one is sound"):
        resume_run(tmp_path)
    assert checkpoint.steps(tmp_path) == [1, 2]


def test_checkpoints_of_versions_without_a_seal_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(seal, "MARK", None)
    monkeypatch.setattr(seal, "write", lambda folder: None)
    monkeypatch.setattr(seal, "complete", lambda folder: None)
    write_run(tmp_path, [1, 2])
    assert resume_run(tmp_path)[1] == 2
    shutil.rmtree(checkpoint.step_dir(tmp_path, 2) / "params" / "d")
    assert resume_run(tmp_path)[1] == 1
    assert "2: damaged checkpoint" in capsys.readouterr().err


def test_a_run_without_checkpoints_starts_anew(tmp_path):
    assert resume_run(tmp_path) == (None, 0)


# ---- A full disk


def test_a_full_disk_is_named_and_older_checkpoints_stay(tmp_path, monkeypatch):
    write_run(tmp_path, [1])

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(seal, "write", full)  # in the background, after the arrays
        with pytest.raises(UserError, match="checkpoints: the disk is full, .* step 2"):
            write_run(tmp_path, [2, 3])
    assert checkpoint.steps(tmp_path) == [1]
    assert resume_run(tmp_path)[1] == 1
    write_run(tmp_path, [2])
    assert resume_run(tmp_path)[1] == 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_disk_that_fills_up_is_named_too(small_disk):
    writer = checkpoint.Writer(small_disk, 9)
    noise = np.random.default_rng(0).normal(size=(10, 40_000)).astype(np.float32)
    writer.save(1, {"kernel": noise[:5]}, {"step": jnp.int32(1)})
    writer.save(2, {"kernel": noise}, {"step": jnp.int32(2)})
    with pytest.raises(UserError, match="checkpoints: the disk is full, .* step 2"):
        writer.close()
    assert checkpoint.steps(small_disk) == [1]
    assert seal.damage(checkpoint.step_dir(small_disk, 1)) is None
    # A write that failed leaves others under way, which a new process would find ended.
    before, now = None, sorted(small_disk.rglob("*"))
    while now != before:
        time.sleep(1)
        before, now = now, sorted(small_disk.rglob("*"))
    writer = checkpoint.Writer(small_disk, 9)  # makes room by removing the half-written one
    writer.save(2, {"kernel": noise[:2]}, {"step": jnp.int32(2)})
    writer.close()
    assert checkpoint.steps(small_disk) == [1, 2]


# ---- In a bucket


def test_in_a_bucket_a_checkpoint_is_complete_when_it_says_so(bucket):
    write(bucket, [1, 2, 3], keep=2)
    assert checkpoint.steps(bucket) == [2, 3] and checkpoint.steps(bucket, known={2}) == [3]
    folder = checkpoint.step_dir(bucket, 3)
    assert seal.damage(folder) is None
    (folder / "commit_success.txt").unlink()
    assert checkpoint.steps(bucket) == [2] and checkpoint.latest_step(f"{bucket}/none") is None
    checkpoint.Writer(bucket, 9).close()  # the next start takes away what is not complete
    assert not folder.exists()
    write(bucket, [3])
    assert checkpoint.steps(bucket) == [2, 3]


def test_a_complete_checkpoint_in_a_bucket_is_sealed_before(bucket, monkeypatch):
    seen = []

    def watched(folder):
        seen.append(checkpoint.steps(bucket))
        assert str(folder) == f"{bucket}/checkpoints/1"

    monkeypatch.setattr(seal, "write", watched)
    monkeypatch.setattr(seal, "complete", lambda folder: seen.append(checkpoint.steps(bucket)))
    write(bucket, [1])
    assert seen == [[], [1]]


def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(bucket, capsys):
    write(bucket, [1, 2])
    folder = checkpoint.step_dir(bucket, 2)
    name = next(n for n in files.below(folder) if "/d/" in n)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert seal.damage(folder) == f"{name} is not what was written"
    assert resume.newest_sound_step(files.place(bucket)) == 1
    aside = files.place(bucket) / "damaged" / "2"
    assert f"moved to {aside}; step 1 is used" in capsys.readouterr().err
    assert not folder.exists() and (aside / name).stat().length == len(content)
    (checkpoint.step_dir(bucket, 1) / "params" / "_METADATA").unlink()
    assert seal.damage(checkpoint.step_dir(bucket, 1)) == "params/_METADATA is missing"
