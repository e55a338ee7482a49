"""The training program as a user runs it: kill, resume, stop, refuse."""

import contextlib
import errno
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from processes import (
    arguments,
    finish,
    kill,
    losses,
    parameters,
    rows,
    run_here,
    run_together,
    short_data,
    start,
    state_at,
    wait_until,
)

from bioclip2_jax import load, tokenize, train
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.training import progress
from bioclip2_jax.weights import checkpoint
from bioclip2_jax.weights.open import open_source
from bioclip2_jax.weights.write import write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return short_data(tmp_path_factory.mktemp("short") / "short")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    run_together(1, arguments(workdir, data, "--config.compile_cache=compile_cache"))
    return workdir


def compiled(workdir):
    """Spares a run the compilation that another one did."""
    return f"--config.compile_cache={workdir / 'compile_cache'}"


def test_a_run_leaves_everything_a_reader_needs(undisturbed):
    names = {path.name for path in undisturbed.iterdir()}
    assert {"config.json", "model.json", "metrics.jsonl", "done.json", "checkpoints"} <= names
    row = json.loads((undisturbed / "metrics.jsonl").read_text().splitlines()[-1])
    wanted = "step loss contrastive_loss logit_scale learning_rate samples_per_second"
    assert set(f"{wanted} data_wait_fraction".split()) <= row.keys()
    assert checkpoint.steps(undisturbed) == [4, 8, 12]
    (events,) = (undisturbed / "tensorboard").iterdir()
    assert events.read_bytes().count(b"train/loss") == 12


def test_the_loss_falls(undisturbed):
    curve = losses(undisturbed)
    assert sum(curve[-3:]) < sum(curve[:3])


def test_kill_and_restart_repeats_the_uninterrupted_run_bit_for_bit(undisturbed, data, tmp_path):
    process = start(arguments(tmp_path, data, compiled(undisturbed), recipe="slowly"))
    wait_until(lambda: (checkpoint.latest_step(tmp_path) or 0) >= 4, [process])
    kill([process])
    assert not (tmp_path / "done.json").exists(), "the run ended before it could be killed"
    (messages,) = run_together(1, arguments(tmp_path, data, compiled(undisturbed)))
    assert "going on after step" in messages
    assert losses(tmp_path) == losses(undisturbed)


def test_sigterm_saves_and_exits_cleanly(undisturbed, data, tmp_path):
    kept_programs = compiled(undisturbed)
    process = start(
        arguments(tmp_path, data, kept_programs, recipe="slowly", checkpoint_every=1000)
    )
    wait_until(lambda: rows(tmp_path), [process])
    process.send_signal(signal.SIGTERM)
    codes, (messages,) = finish([process])
    kept = checkpoint.latest_step(tmp_path)
    assert codes == [0] and f"stopped and saved after step {kept}" in messages
    assert not (tmp_path / "done.json").exists()
    assert kept and losses(tmp_path) == losses(undisturbed)[:kept]


def test_a_flipped_bit_in_the_newest_checkpoint_costs_only_the_steps_since_the_last(
    undisturbed, data, tmp_path
):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    newest = checkpoint.step_dir(workdir, 12)
    victim = max(newest.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    (messages,) = run_together(1, arguments(workdir, data, compiled(undisturbed)))
    name = victim.relative_to(newest)
    assert f"12: damaged checkpoint ({name} is not what was written)" in messages
    assert "going on after step 8" in messages
    assert losses(workdir) == losses(undisturbed)
    assert checkpoint.steps(workdir) == [4, 8, 12] and (workdir / "damaged" / "12").is_dir()
    ours, other = parameters(workdir, 12)["image"], parameters(undisturbed, 12)["image"]
    np.testing.assert_array_equal(ours["projection"], other["projection"])


def test_compiled_steps_are_kept_for_the_next_start(undisturbed, data, tmp_path):
    assert list((undisturbed / "compile_cache").glob("jit_train_step-*"))
    off = "--config.compile_cache="
    process = start(arguments(tmp_path, data, off, steps=1, warmup_steps=1))
    assert finish([process])[0] == [0] and not (tmp_path / "compile_cache").exists()
    assert 0 < rows(tmp_path)[0]["first_step_seconds"] < 300


def test_strange_lines_among_the_metrics_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        '{"step": 1, "loss": 2.0}',
        "7",
        "[]",
        '"step"',
        "null",
        '{"step": null}',
        '{"loss": 1}',
    ]
    path.write_text("\n".join([*rows, '{"step": "2"}', "", '{"step": 2}', '{"step": 3}', '{"st']))
    with contextlib.closing(progress.MetricsWriter(tmp_path, 2, 9)):
        assert path.read_text() == '{"step": 1, "loss": 2.0}\n{"step": 2}\n'


@pytest.mark.parametrize("steps", [12, 8])
def test_a_finished_run_says_so_and_mends_what_is_missing(
    undisturbed, data, tmp_path, capsys, steps
):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    names = ("done.json", "model.json", "config.json")  # as if killed after the last save
    before = [(workdir / name).read_text() for name in names]
    for name in names:
        (workdir / name).unlink()
    train.main(arguments(workdir, data, steps=steps))
    assert "all 12 steps are done" in capsys.readouterr().err
    after = [(workdir / name).read_text() for name in names]
    assert after[:2] == before[:2] and json.loads(after[2])["train"]["steps"] == steps


def test_another_model_does_not_overwrite_what_a_finished_run_is(undisturbed, data, tmp_path):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    with pytest.raises(UserError, match="a run of another model"):
        train.main([*arguments(workdir, data), "--config.model.name=tiny"])
    for name in ("config.json", "model.json", "done.json"):
        assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    settings = {"learning_rate": 1e30, "warmup_steps": 6, "checkpoint_every": 1}
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match="last good checkpoint is step"):
        run_here(arguments(workdir, short_data(tmp_path / "data"), **settings))
    params = checkpoint.restore_params(
        checkpoint.step_dir(workdir, checkpoint.latest_step(workdir))
    )
    assert params is not None and not (workdir / "done.json").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 17}, "config.train.batch_size=17"),
        ({"steps": 0}, "config.train.steps=0"),
        ({"replay_batch_size": 8}, "config.data.replay_dir is empty"),
        ({"patch_keep": 1.5}, "config.train.patch_keep"),
    ],
)
def test_impossible_settings_are_named(data, tmp_path, changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        train.main(arguments(tmp_path, data, **changes))
    assert not (tmp_path / "checkpoints").exists()


def test_an_unknown_model_names_the_nearest(data, tmp_path):
    with pytest.raises(UsageError, match="did you mean vit_l14"):
        train.main([*arguments(tmp_path, data), "--config.model.name=vit_l41"])


def test_a_checkpoint_of_another_model_is_refused(undisturbed, data):
    with pytest.raises(UserError, match="another model"):
        train.main([*arguments(undisturbed, data, steps=20), "--config.model.name=small"])


def test_weights_of_another_run_can_start_this_one(undisturbed, data, tmp_path):
    run_here([*arguments(tmp_path, data, steps=1, warmup_steps=1), f"--config.init={undisturbed}"])
    assert losses(tmp_path)[0] < losses(undisturbed)[0]


def test_a_level_loss_and_bfloat16_parameters_train_resume_and_export(tmp_path):
    data = short_data(tmp_path / "data")
    options = ["--config.train.level_weight=0.5", "--config.train.level_draw=()"]
    options += ["--config.train.micro_batches=2", "--config.train.replay_batch_size=8"]
    options += [f"--config.data.replay_dir={data}"]
    options += ["--config.model.param_dtype=bfloat16", "--config.train.momentum_dtype=bfloat16"]
    run_here(arguments(tmp_path / "run", data, *options, steps=8), devices=2)
    killed = shutil.copytree(tmp_path / "run", tmp_path / "killed")
    shutil.rmtree(checkpoint.step_dir(killed, 8))  # as if killed before it was saved
    run_here(arguments(killed, data, *options, steps=8), devices=2)
    jax.tree.map(np.testing.assert_array_equal, state_at(killed, 8), state_at(tmp_path / "run", 8))
    for name in ("level_loss", "loss"):
        again, kept = ([row[name] for row in rows(tmp_path / n)] for n in ("killed", "run"))
        assert again == kept and len(kept) == 8
    curve = losses(tmp_path / "run")
    assert len(curve) == 8 and sum(curve[-3:]) < sum(curve[:3])
    saved = parameters(tmp_path / "run", 8)
    assert saved["image"]["projection"].dtype.name == "bfloat16"
    tokens = tokenize(["a photo of Pica pica."])
    features = np.asarray(load(tmp_path / "run").encode_text(tokens))
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features), 1, atol=1e-6)
    write(open_source(tmp_path / "run"), tmp_path / "made", "open_clip", dtype="float32")
    again = np.asarray(load(tmp_path / "made").encode_text(tokens))
    np.testing.assert_allclose(again, features, atol=1e-6)


def test_a_full_disk_while_metrics_are_written_is_named(tmp_path):
    named = pytest.raises(UserError, match=f"{tmp_path}: the disk is full")
    with named, train.naming_full_disk(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), train.naming_full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
