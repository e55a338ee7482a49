"""A run of two processes is killed again and again; what it ends with is not to be told apart.

In between a scheduler tells it to stop while it saves. So is one in a bucket, killed once while it
saves; `benchmarks/bucket_kills.py` is the full run of that.

`BIOCLIP2_CHAOS_KILLS=20 python -m pytest -s tests/test_chaos.py` is the full run.
"""

import collections
import os
import random
import signal
import time

import buckets
import jax
import numpy as np
import pytest
from processes import (
    arguments,
    finish,
    kill,
    losses,
    rows,
    run_here,
    run_together,
    short_data,
    start,
    start_together,
    state_at,
    wait_until,
)

from bioclip2_jax.data import order, pipeline
from bioclip2_jax.weights import checkpoint, seal

KILLS = int(os.environ.get("BIOCLIP2_CHAOS_KILLS", 1))
STEPS = 15 * KILLS - 3  # 16 of 48 pictures a step: every picture is seen as often as any other
EVERY = {"steps": STEPS, "checkpoint_every": 1, "keep_checkpoints": 2}  # nearly always saving
IN_BUCKET = EVERY | {"checkpoint_every": 3}  # there a save takes seconds
START_SECONDS = 8  # about as long as a start takes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return short_data(tmp_path_factory.mktemp("short") / "short")


def stop_while_saving(workdir, processes, victim):
    """SIGTERM to one process, in the middle of a checkpoint: both save and end."""
    before = len(rows(workdir))
    saving = workdir.glob
    wait_until(lambda: len(rows(workdir)) > before and any(saving("checkpoints/*tmp*")), processes)
    processes[victim].send_signal(signal.SIGTERM)
    codes, messages = finish(processes, timeout=300)
    assert codes == [0, 0] and "stopped and saved after step" in messages[0], messages
    saved = int(messages[0].partition("stopped and saved after step ")[2].split()[0])
    assert checkpoint.latest_step(workdir) == saved and not any(saving("checkpoints/*tmp*"))


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    run_here(arguments(workdir, data, steps=STEPS, checkpoint_every=STEPS), devices=2)
    return workdir


def test_a_run_in_a_bucket_that_is_killed_ends_as_the_undisturbed_one(
    undisturbed, data, bucket, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # where a folder called "gs:" would be
    workdir, there = f"{bucket}/run", buckets.upload(data, f"{bucket}/data")
    process = start(arguments(workdir, there, recipe="slowly", **IN_BUCKET), devices=2)
    wait_until(lambda: is_saving_again(workdir), [process])
    kill([process])
    messages = run_together(2, arguments(workdir, there, **IN_BUCKET))
    assert "going on after step" in messages[0] and "damaged" not in messages[0]
    jax.tree.map(np.testing.assert_array_equal, *map(last_state, (workdir, undisturbed)))
    assert losses(workdir) == losses(undisturbed)
    assert checkpoint.steps(workdir) == [STEPS - 3, STEPS]
    assert seal.damage(checkpoint.step_dir(workdir, STEPS)) is None
    assert not list(tmp_path.iterdir())


def is_saving_again(workdir):
    """A checkpoint is complete, a later one has begun."""
    complete = checkpoint.steps(workdir)
    folder = checkpoint.step_dir(workdir, 0).parent
    return complete and {path.name for path in folder.iterdir()} - {*map(str, complete)}


def last_state(workdir):
    return state_at(workdir, STEPS)


def test_a_run_killed_at_random_ends_as_the_undisturbed_one(undisturbed, data, tmp_path):
    began = time.time()
    dice = random.Random(KILLS)
    workdir = tmp_path / "killed"
    met = collections.Counter()
    for number in range(KILLS):
        before = len(rows(workdir))
        processes = start_together(2, arguments(workdir, data, recipe="slowly", **EVERY))
        victim = dice.randrange(2)
        if number % 3 == 1:
            stop_while_saving(workdir, processes, victim)
            met["told to stop while saving"] += 1
            continue
        if number % 4 == 3:  # while it starts, or resumes
            time.sleep(dice.uniform(0, START_SECONDS))
        else:
            goal = min((checkpoint.latest_step(workdir) or 0) + dice.randint(1, 4), before + 4)
            wait_until(lambda: len(rows(workdir)) >= max(goal, 1), processes)  # noqa: B023
            time.sleep(dice.uniform(0, 0.4))
        kill([processes[victim]])
        time.sleep(dice.choice((0, 0.2)))  # the scheduler takes the other one down
        kill(processes)
        met[f"process {victim}"] += 1
        met["while saving"] += any(workdir.glob("checkpoints/*tmp*"))
        assert not (workdir / "done.json").exists(), "the run ended before it could be killed"
    messages = run_together(2, arguments(workdir, data, **EVERY))
    assert "damaged" not in messages[0]

    jax.tree.map(np.testing.assert_array_equal, *map(last_state, (workdir, undisturbed)))
    assert losses(workdir) == losses(undisturbed) and len(losses(workdir)) == STEPS
    corpus = pipeline.open_corpus(str(data), "train", 42, 16)
    steps = [row["step"] - 1 for row in rows(workdir)]
    seen = collections.Counter(
        index
        for step in steps
        for host in range(2)
        for _, index in order.examples_at(corpus, step, range(8 * host, 8 * (host + 1)))
    )
    assert set(seen.values()) == {STEPS * 16 // 48} and len(seen) == 48
    print(f"{KILLS} ends, {dict(met)}, {time.time() - began:.0f} s")
