"""What is told about a run while it goes on: goodput, a trace, Weights & Biases, its state."""

import gzip
import json
import subprocess
import sys
import time
import types

import pytest
from click.testing import CliRunner
from processes import arguments, rows, run_here, short_data

from bioclip2_jax.cli.inspect import inspect
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.training import goodput, preflight, recipe, reporting
from bioclip2_jax.weights import checkpoint


class StandIn(types.ModuleType):
    """As much of wandb as is used, with its rules: steps only grow, an id is one run."""

    def __init__(self):
        super().__init__("wandb")
        self.kept, self.calls, self.failure = {}, [], None

    def Settings(self, **settings):
        return settings

    def init(self, *, id, resume, **rest):
        assert resume == "allow"
        self.calls.append(rest)
        history = self.kept.setdefault(id, {})
        step = max(history, default=-1) + 1
        if self.failure == "init":
            raise RuntimeError("no network\nat all")
        return types.SimpleNamespace(
            url="https://there", step=step, log=self._log(history), finish=lambda: None
        )

    def _log(self, history):
        def log(row, step):
            if self.failure == "log":
                raise RuntimeError("gone")
            assert step > max(history, default=-1), "would be dropped with a warning"
            history[step] = row

        return log


@pytest.fixture
def wandb(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(reporting.importlib.util, "find_spec", lambda name: module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return short_data(tmp_path_factory.mktemp("short") / "short")


def test_a_run_is_traced_reported_and_described(data, tmp_path, wandb, capfd):
    args = arguments(tmp_path, data, "--report=wandb", checkpoint_every=6, profile="(3, 2)")
    run_here(args)
    told = capfd.readouterr().err
    assert "wandb: https://there" in told and "perfetto" in told
    # a trace, which TensorBoard finds by its folders and Perfetto reads as Chrome's JSON
    (whole,) = tmp_path.glob("profile/plugins/profile/*/*.xplane.pb")
    (trace,) = tmp_path.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {e["args"].get("step_num") for e in events if e.get("name") == "train" and "args" in e}
    assert whole.stat().st_size and {"3", "4"} <= steps and "6" not in steps
    # the same run there, under its names
    (history,) = wandb.kept.values()
    assert list(history) == list(range(1, 13)) and wandb.calls[0]["config"]["train"]["steps"] == 12
    for row, there in zip(rows(tmp_path), history.values(), strict=True):
        assert there["train/loss"] == row["loss"] and there["train/lr"] == row["learning_rate"]
        assert there["train/scale"] == row["logit_scale"]
        assert there["train/batch_time"] == row["step_seconds"]
        assert there["train/data_time"] <= there["train/batch_time"]
        assert there["train/samples_per_second"] == row["samples_per_second"]
        assert there["train/samples_per_second_per_gpu"] == row["samples_per_second"] / 8
    # killed after step 8, whose checkpoint is of step 6: it repeats 7 and 8, and goes on as one run
    (tmp_path / "done.json").unlink()
    checkpoint.set_aside(tmp_path, 12)
    kept = json.loads((tmp_path / "goodput.json").read_text())
    assert set(kept["seconds_in_steps"]) == {"6", "12"} and all(kept["seconds_in_steps"].values())
    shown = CliRunner().invoke(inspect, ["--workdir", str(tmp_path)]).output
    assert "step 12 of 12, not running" in shown and "checkpoints  6" in shown
    for step in range(9, 13):
        del history[step]
    run_here([*args, "--config.train.profile=()"])
    assert list(wandb.kept) and list(history) == list(range(1, 13)) and len(wandb.kept) == 1
    shown = CliRunner().invoke(inspect, ["--workdir", str(tmp_path)]).output
    assert "step 12 of 12, done" in shown and f"{rows(tmp_path)[-1]['goodput']:.1%}" in shown
    with pytest.raises(UserError, match="no training run"):
        CliRunner().invoke(
            inspect, ["--workdir", str(data)], standalone_mode=False, catch_exceptions=False
        )


def test_goodput_is_of_all_starts_and_counts_nothing_twice(tmp_path, monkeypatch):
    now = types.SimpleNamespace(wall=1000.0)
    clock = types.SimpleNamespace(time=lambda: now.wall, perf_counter=lambda: now.wall)
    monkeypatch.setattr(goodput, "time", clock)
    monkeypatch.setattr(goodput, "STARTED", 995.0)

    def start(done, steps, *, saving=()):
        goodput.begin(tmp_path)
        count = goodput.Goodput(tmp_path, done)
        now.wall += 10  # starts up
        with count.apart():
            now.wall += 20  # compiles
        for step in steps:
            now.wall += 1
            count.step()
            if step in saving:
                with count.apart():
                    now.wall += 3
                count.save(step)
        return count.share()

    assert start(0, range(1, 7), saving=[2, 4]) == pytest.approx(6 / (5 + 10 + 20 + 6 + 6))
    now.wall += 100  # killed, and started again later; steps 5 and 6 were in vain
    share = start(4, range(5, 9))
    assert share == pytest.approx((4 + 4) / (47 + 100 + 10 + 20 + 4))


@pytest.mark.parametrize("failure", ["init", "log"])
def test_weights_and_biases_cannot_stop_a_run(tmp_path, wandb, capfd, failure):
    wandb.failure = failure
    report = reporting.Wandb(tmp_path, {})
    row = dict.fromkeys(
        ("data_wait_fraction", "step_seconds", "samples_per_second", "logit_scale"), 1.0
    )
    for step in (1, 2, 3):
        report.write(step, row)
        time.sleep(0.05)
    report.close()
    told = capfd.readouterr().err
    assert told.count("warning: wandb: ") == 1 and "training goes on" in told


def test_weights_and_biases_that_are_silent_are_not_waited_for(tmp_path, wandb, capfd, monkeypatch):
    monkeypatch.setattr(reporting, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(wandb, "init", lambda **_: time.sleep(5))
    reporting.Wandb(tmp_path, {}).close()
    assert "warning: wandb: no answer in 0 s" in capfd.readouterr().err


def test_what_cannot_be_reported_to_is_a_wrong_call(wandb, monkeypatch):
    assert reporting.take_flag(["--report", "wandb", "--workdir=x"]) == ("wandb", ["--workdir=x"])
    assert reporting.take_flag(["--workdir=x"]) == (None, ["--workdir=x"])
    with pytest.raises(UsageError, match="--report=mlflow"):
        reporting.take_flag(["--report=mlflow"])
    monkeypatch.setattr(reporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "bioclip2-jax\[wandb\]"') as caught:
        reporting.take_flag(["--report", "wandb"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 16}, ()),
        (
            {"batch_size": 32},
            ("at place 128 of its order, not at 64", "64 pictures are left out"),
        ),
        ({"batch_size": 8}, ("at place 32 of its order, not at 64", "32 pictures come again")),
        ({"seed": 7}, ("config.seed is another",)),
        ({"data.dir": "elsewhere", "batch_size": 8}, ("config.data.dir is another", "come again")),
    ],
)
def test_a_resume_with_other_data_says_what_is_repeated_or_left_out(tmp_path, changes, words):
    def settings(**changes):
        flags = [f"--config.{k}={v}" for k, v in changes.items() if k != "batch_size"]
        train = {k: v for k, v in changes.items() if k == "batch_size"}
        return recipe.compose(
            recipe.parse_arguments(arguments(tmp_path, "here", *flags, **train))[0]
        )

    recipe.save(settings(), tmp_path)
    assert preflight.moves(settings(**changes), tmp_path, 0) == []
    notes = preflight.moves(settings(**changes), tmp_path, 4)
    assert len(notes) == bool(words)
    assert all(word in notes[0] for word in words)


_WAITING = """
import os, signal, threading, time
from bioclip2_jax.workers import processes
processes._TELL_SECONDS, processes._OBEY_SECONDS = 0.5, 1.0
def result(seconds):
    time.sleep(seconds)
    raise TimeoutError
with processes.stop_on_signal(0):
    threading.Timer(1.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    processes.wait_for(result, "the checkpoint of step 8", lambda: [0, 3], obeying=True)
"""


def test_waiting_is_told_and_a_signal_ends_it():
    code = _WAITING.replace("_OBEY_SECONDS = 0.5, 1.0", "_OBEY_SECONDS = 0.5, -6.0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "waiting for the checkpoint of step 8 (host 0, 3), for 1 s so far" in done.stderr
    assert "told to stop while waiting for the checkpoint of step 8" in done.stderr
