"""The scripts for GPU hosts and Slurm, with stand-ins for what they call."""

import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from launch_host import ROOT, TRAIN, UNTIL_TOLD, Host, is_usage_error, saves

SCRIPTS = ["gpu_host.sh", "slurm.sbatch", "tpu_pod.sh"]
POD = ["--name=tol", "--zone=z-a", "--accelerator=v5litepod-256"]


@pytest.fixture
def host(tmp_path) -> Host:
    return Host(tmp_path)


# ---- All


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_and_starts_nothing(host, script):
    done = host.run(script, "--help")
    assert done.returncode == 0 and "--dry-run" in done.stdout and "Example" in done.stdout
    assert not host.calls()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_needs_a_folder(host, script):
    arguments = [*POD, "--"] if script == "tpu_pod.sh" else []
    done = host.run(script, *arguments, "--config=configs/a.py", SLURM_JOB_ID="7")
    assert is_usage_error(done) and "--workdir=DIR is missing" in done.stderr and not host.calls()


# ---- A GPU host


def test_a_gpu_host_does_what_its_dry_run_shows(host):
    shown = host.run("gpu_host.sh", "--dry-run", *TRAIN)
    assert shown.returncode == 0 and not host.calls()
    host.stand_in("bioclip2", "")
    done = host.run("gpu_host.sh", *TRAIN)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in shown.stdout.splitlines()]
    commands = [words for words in lines if words[0] not in ("cd", "source")]
    assert [[Path(words[0]).name, *words[1:]] for words in commands] == host.calls()
    assert host.calls()[-1] == ["bioclip2", "train", *TRAIN]


@pytest.mark.parametrize(
    ("gpus", "extra"),
    [
        ("580.65.06, 9.0", "cuda13"),
        ("575.57.08, 9.0", "cuda12"),
        ("580.65.06, 7.0", "cuda12"),
        ("580.65.06, 9.0\n580.65.06, 7.0", "cuda12"),
        ("580.65.06, 12.0\n580.65.06, 12.0", "cuda13"),
        ("525.60.13, 8.0", "cuda12"),
    ],
)
def test_the_driver_and_the_oldest_gpu_choose_cuda(host, gpus, extra):
    host.stand_in("nvidia-smi", f"echo '{gpus}'")
    assert f".[{extra}]" in host.run("gpu_host.sh", "--dry-run", *TRAIN).stdout


def test_an_old_driver_or_none_is_named(host):
    host.stand_in("nvidia-smi", "echo '470.82.01, 8.0'")
    old = host.run("gpu_host.sh", *TRAIN)
    assert old.returncode == 1 and "driver 470 is too old" in old.stderr
    host.stand_in("nvidia-smi", "exit 9")
    none = host.run("gpu_host.sh", *TRAIN)
    assert none.returncode == 1 and "finds no GPU here" in none.stderr and not host.calls()


@pytest.mark.parametrize(
    ("part", "code", "starts"),
    [
        ("exit 0", 0, 1),
        ("exit 1", 1, 1),
        # Each start saves one checkpoint more and crashes, until the fourth ends well.
        ("n=$(ls 'my run/checkpoints' | wc -l); mkdir -p \"my run/checkpoints/$((n * 10 + 10))\"; "
         "[ $n -eq 3 ] || kill -9 $$", 0, 4),
        # The second start saves nothing new.
        (saves(8, 10) + "exit 1", 1, 2),
        # A wrong call is never repeated, whatever it saved.
        (saves(10) + "exit 2", 2, 1),
        # An unfinished save is no checkpoint.
        ("mkdir -p 'my run/checkpoints/9.orbax-checkpoint-tmp'; exit 1", 1, 1),
    ],
)  # fmt: skip
def test_a_crashed_training_is_started_again_while_it_gets_on(host, part, code, starts):
    (host.folder / "my run" / "checkpoints").mkdir(parents=True)
    host.stand_in("bioclip2", part)
    done = host.run("gpu_host.sh", *TRAIN)
    assert done.returncode == code, done.stderr
    assert host.calls("bioclip2") == [["bioclip2", "train", *TRAIN]] * starts
    assert done.stderr.count("starting it again") == starts - 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_has_the_training_saved(host, number):
    host.stand_in("bioclip2", UNTIL_TOLD)
    process = host.start("gpu_host.sh", *TRAIN)
    host.wait_for("started")
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 0 and (host.folder / "saved").exists()
    assert len(host.calls("bioclip2")) == 1


def test_a_stopped_training_is_not_started_again_even_if_it_fails(host):
    host.stand_in("bioclip2", saves(3) + UNTIL_TOLD.replace("exit 0", "exit 1"))
    process = host.start("gpu_host.sh", *TRAIN)
    host.wait_for("started")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 1 and len(host.calls("bioclip2")) == 1


# ---- Slurm


@pytest.fixture
def slurm(host) -> Host:
    """A job: the script is a copy elsewhere, `srun` runs what comes after its own options."""
    host.stand_in("srun", 'while [[ "$1" == --* ]]; do shift; done; "$@"')
    host.stand_in("scontrol", "")
    host.submit = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(host.checkout)}
    (host.folder / "spool").mkdir()
    shutil.copy(host.checkout / "launch/slurm.sbatch", host.folder / "spool" / "slurm_script")
    return host


def submit(host: Host, *arguments: str, **environment: str) -> subprocess.Popen:
    return host.start("../../spool/slurm_script", *arguments, **host.submit, **environment)


REQUEUE = ["scontrol", "requeue", "7"]


def test_a_slurm_job_does_what_its_dry_run_shows(slurm):
    shown = slurm.run("slurm.sbatch", "--dry-run", *TRAIN, SLURM_CPUS_PER_TASK="16")
    assert not slurm.calls() and shown.stdout.splitlines()[-1] == "scontrol requeue JOB"
    slurm.stand_in("bioclip2", "")  # ends well with steps left: it was told to stop
    job = submit(slurm, *TRAIN, SLURM_CPUS_PER_TASK="16")
    assert job.communicate(timeout=60) and job.returncode == 0
    lines = [shlex.split(line) for line in shown.stdout.splitlines()]
    commands = [words for words in lines if words[0] not in ("cd", "source")]
    expected = [[Path(words[0]).name, *words[1:]] for words in commands[:-1]]
    assert slurm.calls() == [*expected, ["bioclip2", "train", *TRAIN], REQUEUE]
    (srun,) = slurm.calls("srun")
    assert {"--kill-on-bad-exit=1", "--ntasks-per-node=1", "--cpus-per-task=16"} <= set(srun)


@pytest.mark.parametrize(
    ("part", "code", "requeued"),
    [
        ("mkdir -p 'my run'; touch 'my run/done.json'", 0, False),
        (saves(5), 0, True),  # stopped by the warning
        (saves(5) + "exit 1", 0, True),  # a crash, having got on
        ("exit 1", 1, False),
        (saves(5) + "exit 2", 2, False),
    ],
)
def test_a_job_returns_to_the_queue_while_it_gets_on(slurm, part, code, requeued):
    slurm.stand_in("bioclip2", part)
    job = submit(slurm, *TRAIN)
    job.communicate(timeout=60)
    assert job.returncode == code and slurm.calls("scontrol") == [REQUEUE] * requeued


def test_a_cancelled_job_stays_cancelled(slurm):
    slurm.stand_in("bioclip2", UNTIL_TOLD)
    slurm.stand_in("srun", 'while [[ "$1" == --* ]]; do shift; done; exec "$@"')
    job = submit(slurm, *TRAIN)
    slurm.wait_for("started")
    job.terminate()  # `scancel` tells the script and the steps
    os.kill(int((slurm.folder / "started").read_text()), signal.SIGTERM)
    job.communicate(timeout=30)
    assert job.returncode == 0 and (slurm.folder / "saved").exists()
    assert not slurm.calls("scontrol")


def test_the_warning_of_the_time_limit_goes_to_the_training():
    options = [line.split("#SBATCH ")[1] for line in _slurm_lines() if line.startswith("#SBATCH")]
    (warning,) = [option for option in options if option.startswith("--signal=")]
    assert warning.startswith("--signal=TERM@")  # with "B:" it would go to the script alone
    assert {"--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(options)


def _slurm_lines() -> list[str]:
    return (ROOT / "launch" / "slurm.sbatch").read_text().splitlines()


def test_outside_slurm_or_of_the_checkout_a_job_is_refused(slurm):
    done = slurm.run("slurm.sbatch", *TRAIN)
    assert is_usage_error(done) and "this is no Slurm job" in done.stderr
    job = slurm.start("../../spool/slurm_script", *TRAIN, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR="/")
    assert "submit from the checkout" in job.communicate(timeout=30)[1] and job.returncode == 2
