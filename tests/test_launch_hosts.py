"""The scripts for GPU hosts and Slurm, with stand-ins for what they call."""

import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from launch_host import ROOT, TRAIN, UNTIL_TOLD, Host, is_usage_error, saves

SCRIPTS = ["gpu_host.sh", "slurm.sbatch", "tpu_pod.sh", "container.sh", "install.sh"]

# Stuck at each start; the third has saved before.
STUCK_BUT_ONE = """
echo >>starts
[ "$(wc -l <starts)" -ne 3 ] || mkdir -p 'my run/checkpoints/5'
exit 4
"""
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


@pytest.mark.parametrize("script", SCRIPTS[:-1])
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
        # Stuck: three times without a new checkpoint; one more starts the count anew.
        ("exit 4", 4, 3),
        (STUCK_BUT_ONE, 4, 6),
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


def test_a_run_in_a_bucket_is_looked_at_there(host):
    """And its extra installed. A folder there is a checkpoint when Orbax has said so."""
    train = ["--config=configs/a.py", "--workdir=gs://b/my run"]
    saving = "mkdir -p 10 20; touch 10/commit_success.txt; exit 1"
    folder = "'buckets/b/my run/checkpoints'"
    host.stand_in("bioclip2", f"mkdir -p {folder}; cd {folder}; {saving}")
    done = host.run("gpu_host.sh", *train)
    assert done.returncode == 1 and len(host.calls("bioclip2")) == 2, done.stderr
    assert "after checkpoint 10;" in done.stderr
    assert host.calls("python")[0][-1] == ".[cuda13,gcs]"


# ---- A container


@pytest.mark.parametrize(
    ("part", "code"),
    [("mkdir -p 'my run'; touch 'my run/done.json'", 0), (saves(5), 143)]
    + [(saves(5) + f"exit {code}", code) for code in (1, 2, 4)],
)
def test_a_container_says_whether_steps_are_left(host, part, code):
    shown = host.run("container.sh", "--dry-run", *TRAIN)
    assert shown.returncode == 0 and not host.calls()
    host.stand_in("bioclip2", part)
    done = host.run("container.sh", *TRAIN)
    assert done.returncode == code, done.stderr
    assert host.calls() == [shlex.split(shown.stdout)] == [["bioclip2", "train", *TRAIN]]


def test_a_container_that_is_stopped_saves(host):
    host.stand_in("bioclip2", UNTIL_TOLD)
    process = host.start("container.sh", *TRAIN)
    host.wait_for("started")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143 and (host.folder / "saved").exists()


# ---- Slurm


@pytest.fixture
def slurm(host) -> Host:
    """A job: the script is a copy elsewhere; Slurm ends it when it takes it back into the queue."""
    host.stand_in_program("srun")
    host.stand_in("scontrol", "(/bin/sleep 0.05; kill -TERM $PPID 2>/dev/null) >/dev/null 2>&1 &")
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
    slurm.stand_in("bioclip2", saves(5))  # ends well with steps left: it was told to stop
    job = submit(slurm, *TRAIN, SLURM_CPUS_PER_TASK="16")
    assert job.communicate(timeout=60) and job.returncode == 0
    lines = [shlex.split(line) for line in shown.stdout.splitlines()]
    commands = [words for words in lines if words[0] not in ("cd", "source")]
    expected = [[Path(words[0]).name, *words[1:]] for words in commands[:-1]]
    assert slurm.calls() == [*expected, ["bioclip2", "train", *TRAIN], REQUEUE]
    (srun,) = slurm.calls("srun")
    assert {"--kill-on-bad-exit=1", "--ntasks-per-node=1", "--cpus-per-task=16"} <= set(srun)


@pytest.mark.parametrize(
    ("part", "code", "starts", "requeued"),
    [
        ("mkdir -p 'my run'; touch 'my run/done.json'", 0, 1, False),
        (saves(5), 0, 1, True),  # stopped by the warning
        ("", 1, 1, False),  # likewise, without one step: a longer limit is needed
        ("exit 1", 1, 1, False),
        (saves(5) + "exit 1", 1, 2, False),  # a crash, having got on, and another
        (saves(5) + "exit 2", 2, 1, False),
        ("exit 4", 4, 3, False),
    ],
)
def test_a_job_goes_on_only_while_it_gets_on(slurm, part, code, starts, requeued):
    slurm.stand_in("bioclip2", part)
    job = submit(slurm, *TRAIN)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == code and slurm.calls("scontrol") == [REQUEUE] * requeued, errors
    assert len(slurm.calls("srun")) == starts


@pytest.mark.parametrize(("code", "starts"), [(1, 1), (2, 1), (4, 3)])
def test_what_ended_one_node_counts_not_the_signal_that_ends_the_others(slurm, code, starts):
    """The other hangs, deaf to SIGTERM; srun's own code is that of the SIGKILL."""
    deaf = "trap '' TERM; touch deaf; for _ in {1..3000}; do /bin/sleep 0.02; done"
    first = f"until [ -f deaf ]; do /bin/sleep 0.01; done; exit {code}"
    slurm.stand_in("bioclip2", f'[ "$SLURM_PROCID" = 1 ] || {{ {first}; }}; {deaf}')
    job = submit(slurm, *TRAIN, TASKS="2")
    output, errors = job.communicate(timeout=60)
    assert f"task 0: Exited with exit code {code}" in errors and "task 1: Killed" in errors
    assert job.returncode == (137 if code == 1 else code) and len(slurm.calls("srun")) == starts


def test_a_job_that_slurm_does_not_take_back_says_so(slurm):
    refusal = "Requested operation is presently disabled for job 7"
    slurm.stand_in("scontrol", f"echo '{refusal}' >&2; exit 1")
    slurm.stand_in("bioclip2", saves(5))
    job = submit(slurm, *TRAIN)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 1 and refusal in errors and "sbatch the same command" in errors


def test_the_warning_has_all_tasks_saved_and_the_job_queued_again(slurm):
    (slurm.folder / "warn").touch()
    part = UNTIL_TOLD.replace("started", "started$SLURM_PROCID").replace(
        "saved", "saved$SLURM_PROCID"
    )
    slurm.stand_in("bioclip2", saves(5) + part)
    job = submit(slurm, *TRAIN, TASKS="2")
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    assert all((slurm.folder / f"saved{rank}").exists() for rank in (0, 1))
    assert slurm.calls("scontrol") == [REQUEUE] and len(slurm.calls("srun")) == 1


def test_a_cancelled_job_stays_cancelled(slurm):
    slurm.stand_in("bioclip2", saves(5) + UNTIL_TOLD)
    job = submit(slurm, *TRAIN)
    slurm.wait_for("started")
    job.terminate()  # `scancel` tells the script and the tasks, not srun, which would kill them
    os.kill(int((slurm.folder / "started").read_text()), signal.SIGTERM)
    _, errors = job.communicate(timeout=30)
    assert job.returncode == 0 and (slurm.folder / "saved").exists()
    assert not slurm.calls("scontrol") and "forcing" not in errors


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
