"""Several processes train as one, stop together, and go on as fewer or more."""

import itertools
import shutil
import signal

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from processes import (
    LONG,
    arguments,
    finish,
    kill,
    losses,
    parameters,
    rows,
    run_here,
    run_together,
    short_data,
    start_together,
    wait_until,
)

from bioclip2_jax.errors import UsageError
from bioclip2_jax.training import sharding
from bioclip2_jax.weights import checkpoint
from bioclip2_jax.workers import processes as workers


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return short_data(tmp_path_factory.mktemp("short") / "short")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    run_here(arguments(workdir, data, **LONG))
    return losses(workdir)


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pair")
    run_together(2, arguments(workdir, data, **LONG))
    return workdir


def test_two_processes_repeat_the_run_of_one(pair, alone):
    assert len(alone) == LONG["steps"]
    np.testing.assert_allclose(losses(pair), alone, rtol=1e-5)


@pytest.mark.parametrize(("count", "devices"), [(4, 1), (2, 2)])
def test_more_processes_and_devices_repeat_the_run_of_one(data, alone, tmp_path, count, devices):
    args = arguments(tmp_path, data, "--config.mesh.fsdp=2", **LONG)
    processes = start_together(count, args, devices)
    try:
        wait_until(lambda: len(rows(tmp_path)) >= 8, processes)
    finally:
        kill(processes)
    found = losses(tmp_path)
    np.testing.assert_allclose(found, alone[: len(found)], rtol=1e-5)


def test_a_signal_to_one_process_stops_all_at_one_step_and_nothing_is_lost(
    pair, data, tmp_path, capfd
):
    processes = start_together(2, arguments(tmp_path, data, recipe="slowly", **LONG))
    wait_until(lambda: len(rows(tmp_path)) >= 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, messages = finish(processes)
    assert codes == [0, 0], messages
    (stopped,) = checkpoint.steps(tmp_path)
    assert f"stopped and saved after step {stopped}" in messages[0]
    assert 3 <= stopped < LONG["steps"] and not (tmp_path / "done.json").exists()
    assert "stopped" not in messages[1] and "step" not in messages[1]  # one process speaks
    run_here(arguments(tmp_path, data, **LONG), devices=2)  # to the bit what two processes do
    assert f"going on after step {stopped}" in capfd.readouterr().err
    assert losses(tmp_path) == losses(pair)
    ours, undisturbed = (parameters(folder, LONG["steps"]) for folder in (tmp_path, pair))
    jax.tree.map(np.testing.assert_array_equal, ours, undisturbed)


@pytest.fixture
def told_every_fourth_step(monkeypatch):
    """A run in this process is told to stop before every fourth step."""
    real, taken = sharding.global_batch, itertools.count(1)

    def global_batch(*args):
        if next(taken) % 4 == 0:
            signal.raise_signal(signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(sharding, "global_batch", global_batch)


@pytest.mark.usefixtures("told_every_fourth_step")
@pytest.mark.parametrize(("moment", "stopped"), [("starting", 5), ("saving", 7)])
def test_a_signal_to_one_process_of_a_resumed_run_is_never_lost(
    data, tmp_path, monkeypatch, moment, stopped
):
    monkeypatch.setenv("BIOCLIP2_TOLD", moment)
    settings = LONG | {"checkpoint_every": 6}
    run_here(arguments(tmp_path, data, **settings), devices=2)
    codes, messages = finish(
        start_together(2, arguments(tmp_path, data, recipe="told", **settings))
    )
    assert codes == [0, 0], messages
    assert "going on after step 4" in messages[0]
    assert f"stopped and saved after step {stopped}" in messages[0]
    assert checkpoint.latest_step(tmp_path) == stopped


@pytest.mark.usefixtures("told_every_fourth_step")
def test_a_run_goes_on_with_fewer_devices(alone, data, tmp_path, capfd):
    for before, devices, fsdp in ((0, 8, 1), (4, 4, 2), (8, 2, 1)):
        run_here(arguments(tmp_path, data, f"--config.mesh.fsdp={fsdp}", **LONG), devices)
        told = capfd.readouterr().err
        assert f"stopped and saved after step {before + 4}" in told
        assert before == 0 or f"going on after step {before}" in told
    found = losses(tmp_path)
    assert len(found) == checkpoint.latest_step(tmp_path) == 12
    # The same examples in the same order: another batch has quite another loss.
    np.testing.assert_allclose(found, alone[: len(found)], rtol=1e-5)
    assert np.median(np.abs(np.diff(alone)) / alone[1:]) > 1e-3


def test_an_error_of_one_process_ends_all(pair, data, tmp_path):
    workdir = shutil.copytree(pair, tmp_path / "run")
    args = arguments(workdir, data, **LONG | {"steps": 100})
    codes, messages = finish(start_together(2, [*args, "--config.model.name=small"]))
    assert codes[0] == 1 and codes[1] != 0
    assert "the checkpoint is of another model" in messages[0]
    assert checkpoint.steps(workdir) == [LONG["steps"]]


# ---- The parts


def test_without_flags_nothing_is_taken():
    given = ["--config=a.py", "--workdir", "w"]
    assert workers.take_flags(given) == (None, given)


@pytest.mark.parametrize("equals", [False, True])
def test_flags_are_taken_in_both_spellings(equals):
    pairs = {"--coordinator": "host:123", "--num-processes": "4", "--process-id": "3"}
    words = [f"{k}={v}" if equals else (k, v) for k, v in pairs.items()]
    given = ["--workdir=w", *(words if equals else [part for pair in words for part in pair])]
    found, rest = workers.take_flags([*given, "--config=c"])
    assert found == workers.Processes("host:123", 4, 3)
    assert rest == ["--workdir=w", "--config=c"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("--coordinator=a:1", "--num-processes and --process-id: missing"),
        ("--num-processes=2 --process-id=0", "--coordinator: missing"),
        ("--coordinator=a --num-processes=2 --process-id=0", "HOST:PORT"),
        ("--coordinator=a:0 --num-processes=2 --process-id=0", "HOST:PORT"),
        ("--coordinator=a:x --num-processes=2 --process-id=0", "HOST:PORT"),
        ("--coordinator=a:1 --num-processes=two --process-id=0", "not a whole number"),
        ("--coordinator=a:1 --num-processes=2 --process-id=-1", "not a whole number"),
        ("--coordinator=a:1 --num-processes=2 --process-id=2", "one of 0 ... 1"),
        ("--coordinator=a:1 --num-processes=0 --process-id=0", "at least 1"),
        ("--process-id=0 --coordinator=a:1 --num-processes=2 --process-id=1", "given twice"),
        ("--coordinator=a:1 --num-processes=2 --process-id", "--process-id: missing"),
    ],
)
def test_wrong_flags_are_named(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        workers.take_flags(given.split())


def test_one_process_initialises_nothing(monkeypatch):
    def never(**_):
        raise AssertionError

    monkeypatch.setattr(jax.distributed, "initialize", never)
    for name in ("SLURM_STEP_NUM_TASKS", "MEGASCALE_NUM_SLICES", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    workers.start(None, 300)
    workers.start(workers.Processes("host:1", 1, 0), 300)


def test_slurm_and_tpu_pods_are_recognised(monkeypatch):
    started = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: started.append(options))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x4)")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    workers.start(None, 300)
    assert started[0]["local_device_ids"] == [0, 1]  # the node's only task takes both GPUs
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x2)")
    workers.start(None, 300)
    assert "local_device_ids" not in started[1]  # JAX gives each task its own
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # JAX sets it where no TPU is
    monkeypatch.setattr(workers.platforms, "has_tpu", lambda: True)
    monkeypatch.setattr(workers, "_metadata", lambda name: "")
    assert not workers.is_tpu_pod()
    monkeypatch.setattr(workers, "_metadata", lambda name: "10.0.0.1,10.0.0.2")
    assert workers.is_tpu_pod()
    monkeypatch.setattr(workers, "_metadata", lambda name: "MEGASCALE_NUM_SLICES: '2'")
    assert workers.is_tpu_pod()
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert not workers.is_tpu_pod()


def test_a_batch_is_put_where_its_rows_belong():
    rows_of = np.random.default_rng(0).normal(size=(16, 3))
    devices = np.array(jax.devices())[::-1].reshape([-1] + [1] * (len(sharding.BATCH[0]) - 1))
    mesh = Mesh(devices, sharding.BATCH[0])
    found = sharding.global_batch(mesh, {"images": rows_of.astype(np.float32)})["images"]
    np.testing.assert_array_equal(found, rows_of.astype(np.float32))
    assert found.sharding.spec == sharding.BATCH
