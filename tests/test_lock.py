"""One training a folder: a living one is named, a dead one's lock is taken over."""

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.training import lock


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)


@pytest.fixture
def other():
    """A process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def leave(workdir, process, **changes):
    """The lock of another training."""
    holder = lock.Holder(
        token="other",
        host=socket.gethostname(),
        process=process,
        born=lock._born(process),
        since=time.time() - 3600,
        beat=time.time(),
    )
    holder = dataclasses.replace(holder, **changes)
    (workdir / lock.LOCK_FILE).write_bytes(msgspec.json.encode(holder))
    return holder


def test_the_lock_names_its_holder_beats_and_goes(tmp_path):
    with lock.held(tmp_path):
        first = lock._read(tmp_path / lock.LOCK_FILE)
        assert (first.process, first.host) == (os.getpid(), socket.gethostname())
        end = time.monotonic() + 20
        while lock._read(tmp_path / lock.LOCK_FILE) == first:
            assert time.monotonic() < end
            time.sleep(0.05)
        later = lock._read(tmp_path / lock.LOCK_FILE)
        assert later.beat > first.beat and later.token == first.token
    assert not list(tmp_path.iterdir())


def test_a_living_training_is_named(tmp_path, other):
    holder = leave(tmp_path, other.pid)
    with pytest.raises(UserError, match=f"at work there .process {other.pid} on ") as caught:
        lock.held(tmp_path).__enter__()
    assert "\n" not in str(caught.value) and "--workdir" in str(caught.value)
    assert lock._read(tmp_path / lock.LOCK_FILE) == holder


@pytest.mark.parametrize("how", ["killed", "another process has its number", "silent elsewhere"])
def test_the_lock_of_a_dead_training_is_taken_over(tmp_path, other, capsys, how):
    leave(tmp_path, other.pid)
    if how == "killed":
        other.kill()
        other.wait()
    elif how == "another process has its number":
        leave(tmp_path, other.pid, born="another boot-12")
    else:
        leave(tmp_path, 1, host="elsewhere", beat=time.time() - lock.SILENT_SECONDS - 1)
    with lock.held(tmp_path):
        assert lock._read(tmp_path / lock.LOCK_FILE).process == os.getpid()
    assert "is gone" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_training_elsewhere_that_beats_is_refused(tmp_path):
    leave(tmp_path, 1, host="elsewhere")
    beats = threading.Timer(1.0, leave, (tmp_path, 1), {"host": "elsewhere"})
    beats.start()
    with pytest.raises(UserError, match="process 1 on elsewhere"):
        lock.held(tmp_path).__enter__()
    beats.join()


def test_a_training_elsewhere_that_falls_silent_is_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "SILENT_SECONDS", 2.0)
    leave(tmp_path, 1, host="elsewhere")
    with lock.held(tmp_path):
        assert lock._read(tmp_path / lock.LOCK_FILE).process == os.getpid()
    assert "waiting to see whether its holder lives" in capsys.readouterr().err


def test_a_lock_cut_off_by_a_crash_does_not_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    (tmp_path / lock.LOCK_FILE).write_bytes(b'{"token": "x", "ho')
    with lock.held(tmp_path):
        assert lock._read(tmp_path / lock.LOCK_FILE).process == os.getpid()


def test_a_training_whose_lock_was_taken_over_ends(tmp_path):
    script = (
        "import pathlib, sys, time\nfrom bioclip2_jax.training import lock\n"
        "lock.BEAT_SECONDS = 0.1\n"
        "with lock.held(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    leave(tmp_path, 1, host="elsewhere")
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 1 and "process 1 on elsewhere" in messages
    assert lock._read(tmp_path / lock.LOCK_FILE).host == "elsewhere"


def test_a_living_training_in_a_bucket_is_named_by_the_client_itself(bucket):
    workdir = files.place(bucket)
    named = f"at work there .process {os.getpid()} on "
    with lock.held(workdir), pytest.raises(UserError, match=named):
        lock.held(workdir).__enter__()
    assert not (workdir / lock.LOCK_FILE).exists()
