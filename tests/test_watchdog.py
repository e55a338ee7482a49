"""A process that is stuck ends with its stacks and exit code 4; one that is slow does not."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from processes import (
    arguments,
    finish,
    kill,
    losses,
    rows,
    run_here,
    short_data,
    start_together,
    wait_until,
)

from bioclip2_jax.training import watchdog
from bioclip2_jax.weights import checkpoint

STEPS = 12
RUN = {"steps": STEPS, "checkpoint_every": 2}  # two are stopped long before the end
BEGIN = "import time\nfrom bioclip2_jax.training.watchdog import Watchdog\ndog = Watchdog(0.02)\n"


def end_of(script):
    """(exit code, standard error) of a process."""
    command = [sys.executable, "-c", BEGIN + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_step_that_does_not_come_ends_the_process():
    code, messages = end_of("with dog.watching():\n    dog.step(6)\n    time.sleep(50)")
    assert code == watchdog.STUCK
    assert 'File "<string>", line 6' in messages and "stuck: step 7 has not come" in messages


@pytest.mark.parametrize(
    "script",
    [
        "with dog.watching():\n    with dog.paused():\n        time.sleep(2.5)",
        "with dog.watching():\n    time.sleep(0.3)\n    dog.step(1)\n    time.sleep(2.5)",
    ],
    ids=["compiling", "slow steps"],
)
def test_what_is_slow_is_left_alone(script):
    assert end_of(script) == (0, "")


def test_the_others_leave_a_process_that_stands_still_and_the_next_start_goes_on(tmp_path):
    data, workdir = short_data(tmp_path / "short"), tmp_path / "run"
    for stopped in (0, 1):
        before = checkpoint.latest_step(workdir) or 0
        args = arguments(workdir, data, recipe="patient", stuck_minutes=0.1, **RUN)
        processes = start_together(2, args)
        try:
            wait_until(lambda: (checkpoint.latest_step(workdir) or 0) > before, processes)  # noqa: B023
            processes[stopped].send_signal(signal.SIGSTOP)
            (code,), (messages,) = finish([processes.pop(1 - stopped)], timeout=120)
        finally:
            kill(processes)
        assert code == watchdog.STUCK and "has not come for" in messages, messages
        assert "in finish_step" in messages or "in loop" in messages  # where it waits
    assert f"going on after step {before}" in messages
    for folder in (workdir, tmp_path / "undisturbed"):
        run_here(arguments(folder, data, **RUN), devices=2)
    assert len(rows(workdir)) == STEPS
    np.testing.assert_array_equal(losses(workdir), losses(tmp_path / "undisturbed"))
