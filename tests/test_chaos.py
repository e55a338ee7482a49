"""A run of two processes is killed again and again; what it ends with is not to be told apart.

In between a scheduler tells it to stop while it saves.

`BIOCLIP2_CHAOS_KILLS=20 python -m pytest -s tests/test_chaos.py` is the full run.
"""

import collections
import os
import random
import signal
import time

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
from processes import (
    arguments,
    finish,
    kill,
    losses,
    rows,
    run_together,
    short_data,
    start_together,
    wait_until,
)

from bioclip2_jax.data import order, pipeline
from bioclip2_jax.weights import checkpoint

KILLS = int(os.environ.get("BIOCLIP2_CHAOS_KILLS", 2))
STEPS = 9 + 6 * KILLS  # 16 of 48 pictures a step: every picture is seen as often as any other
EVERY = {"steps": STEPS, "checkpoint_every": 1, "keep_checkpoints": 2}  # nearly always saving
START_SECONDS = 8  # about as long as a start takes


def state_at_the_end(workdir):
    """All arrays of the last checkpoint: parameters, Adam's moments, counters."""
    folder = checkpoint.step_dir(workdir, STEPS).absolute()
    stored = ocp.checkpointables_metadata(folder).metadata
    wanted = {name: stored[name] for name in ("params", "training")}
    wanted = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), wanted)
    return ocp.load_checkpointables(folder, wanted)


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


def test_a_run_killed_at_random_ends_as_the_undisturbed_one(tmp_path):
    began = time.time()
    data = short_data(tmp_path / "short")
    run_together(2, arguments(tmp_path / "undisturbed", data, **EVERY))
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

    undisturbed, killed = (state_at_the_end(tmp_path / name) for name in ("undisturbed", "killed"))
    jax.tree.map(np.testing.assert_array_equal, killed, undisturbed)
    assert losses(workdir) == losses(tmp_path / "undisturbed") and len(losses(workdir)) == STEPS
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
