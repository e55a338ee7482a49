"""The scripts for Cloud TPU, with stand-ins for `gcloud` and for what its workers call."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launch_host import UNTIL_TOLD, Host, is_usage_error

POD = ["--name", "tol", "--zone=z-a", "--accelerator", "v5litepod-256"]

# A part of `bioclip2`: the last step is saved.
DONE = 'mkdir -p "$CLOUD/../my run"; touch "$CLOUD/../my run/done.json"; '


@pytest.fixture
def cloud(tmp_path) -> Host:
    """A checkout under git and a cloud without a TPU; a new machine is a copy of `machine`."""
    host = Host(tmp_path)
    host.stand_in_program("gcloud")
    host.stand_in("uname", 'echo "t-$WORKER"')
    host.environment(host.folder / "cloud" / "machine" / "bioclip2_jax.venv")
    commit(host)
    return host


def commit(host: Host) -> None:
    """All that is in the checkout."""
    git = ["git", "-C", str(host.checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "all"], check=True)


def commit_folder(host: Host) -> str:
    """Of the code on the workers."""
    git = ["git", "-C", str(host.checkout), "rev-parse", "--short=12", "HEAD"]
    return f"bioclip2_jax.code/{subprocess.check_output(git, text=True).strip()}"


def run_of(host: Host) -> list[str]:
    """The options of `bioclip2 train`; all workers see its folder."""
    return ["--config=configs/a.py", f"--workdir={host.folder}/my run"]


def pod(host: Host, *options: str, **environment: str) -> subprocess.CompletedProcess:
    return host.run(
        *["tpu_pod.sh", *POD, *options, "--", *run_of(host)],
        **{"CLOUD": str(host.folder / "cloud")} | environment,
    )


def kinds(host: Host) -> list[str]:
    """What was asked of gcloud, without questions: `create`, `scp`, `mkdir`, `start`, ..."""
    found = []
    for words in host.calls("gcloud"):
        what = words[words.index("tpus") + 2]
        if what == "ssh":
            what = words[-1].removeprefix("--command=").split("tpu_worker.sh ")[-1].split()[0]
        if what not in ("describe", "status;"):
            found.append(what.rstrip(";"))
    return found


START = ["scp", "mkdir", "install", "start"]


@pytest.mark.parametrize(
    ("options", "alpha", "reach"),
    [
        (["--spot", "--project=p"], [], []),
        (["--internal-ips", "--iap"], ["scp", "ssh"], ["--tunnel-through-iap"]),
        (["--flex-start", "3d", "--valid-until-duration=1d"], ["create"], []),
    ],
)
def test_a_pod_does_what_its_dry_run_shows(cloud, options, alpha, reach):
    options = [*options, "--delete", "--setup", 'echo "set up" >>log']
    shown = pod(cloud, "--dry-run", *options)
    assert shown.returncode == 0 and not cloud.calls(), shown.stderr
    cloud.stand_in("bioclip2", DONE)
    done = pod(cloud, *options)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in shown.stdout.splitlines()]
    said = [words for words in lines if words[0] == "gcloud"]
    asked = [w for w in cloud.calls("gcloud") if "describe" not in w and "status;" not in w[-1]]
    assert said == asked
    assert kinds(cloud) == [
        "create",
        "scp",
        "mkdir",
        "echo",
        "install",
        "start",
        "follow",
        "delete",
    ]
    assert all("--zone=z-a" in words for words in said)
    for words in said:
        verb = words[words.index("tpus") + 2]
        assert (words[1] == "alpha") == (verb in alpha)
        assert set(reach) <= set(words) or verb not in ("ssh", "scp")
    assert "--runtime-version=v2-alpha-tpuv5-lite" in said[0]
    assert not (cloud.folder / "cloud" / "vm").exists()


def test_options_for_gcloud_arrive_as_they_are(cloud):
    given = (
        "--network=n --subnetwork=s --service-account=a@b --scopes=c --tags=t --labels=k=v".split()
    )
    given += ["--metadata=k=v", "--data-disk=source=d,mode=read-only", "--valid-until-duration=1d"]
    spaced = [word for option in given for word in option.split("=", 1)]
    for options in (given, spaced):
        words = shlex.split(pod(cloud, "--dry-run", *options).stdout.splitlines()[0])
        assert words[-len(given) :] == given
    reserved = pod(cloud, "--dry-run", "--reserved", "--internal-ips").stdout
    assert " --reserved --internal-ips\n" in reserved and reserved.count(" --internal-ip ") == 5
    flex = shlex.split(pod(cloud, "--dry-run", "--flex-start=3d").stdout.splitlines()[0])
    assert flex[-2:] == ["--provisioning-model=flex-start", "--max-run-duration=3d"]


def test_a_pod_trains_the_committed_code_and_shows_its_log(cloud):
    cloud.stand_in("bioclip2", DONE + 'echo "first loss 10.4 in $(pwd -P)"')
    (cloud.checkout / "launch" / "note").write_text("not committed")
    done = pod(cloud)
    home = cloud.folder / "cloud" / "home-0"
    assert done.returncode == 0, done.stderr
    assert f"first loss 10.4 in {home}/{commit_folder(cloud)}" in done.stdout
    assert cloud.calls("bioclip2") == [["bioclip2", "train", *run_of(cloud)]]
    assert [words[-1] for words in cloud.calls("python")] == [".[tpu]"]
    assert not (home / commit_folder(cloud) / "launch" / "note").exists()


def test_a_run_in_a_bucket_installs_what_reads_it(cloud):
    cloud.stand_in("bioclip2", 'b="$CLOUD/../buckets/b/run"; mkdir -p "$b"; touch "$b/done.json"')
    arguments = [*POD, "--", "--config=configs/a.py", "--workdir=gs://b/run"]
    done = cloud.run("tpu_pod.sh", *arguments, CLOUD=str(cloud.folder / "cloud"))
    assert done.returncode == 0, done.stderr
    assert [words[-1] for words in cloud.calls("python")] == [".[tpu,gcs]"]


def test_nothing_of_an_earlier_run_is_deleted(cloud):
    """Neither by a second call, nor by one of newer code, wherever it lies."""
    cloud.stand_in("bioclip2", DONE + 'mkdir -p "$HOME/run"; echo >>"$HOME/run/rows"')
    assert pod(cloud).returncode == 0
    home = cloud.folder / "cloud" / "home-0"
    first = commit_folder(cloud)
    kept = [home / "run/rows", home / first / "my run" / "rows", home / "bioclip2_jax" / "rows"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    (cloud.checkout / "launch" / "newer").write_text("")
    commit(cloud)
    assert pod(cloud).returncode == 0 and commit_folder(cloud) != first
    assert kept[0].read_text() == "1\n\n"
    assert all(path.exists() for path in kept) and (home / first / "launch").is_dir()
    assert (home / "bioclip2_jax.code/current/launch/newer").exists()


@pytest.mark.parametrize(
    "workdir",
    ["runs/a", "~/a", "gs://", "/home/u/bioclip2_jax.code/current/a", "bioclip2_jax.code"],
)
def test_a_workdir_that_could_be_lost_is_refused(cloud, workdir):
    arguments = [*POD, "--", "--config=configs/a.py", f"--workdir={workdir}"]
    for _ in range(2):
        done = cloud.run("tpu_pod.sh", *arguments, CLOUD=str(cloud.folder / "cloud"))
        assert is_usage_error(done) and f"--workdir={workdir}: " in done.stderr
    assert not cloud.calls()


def test_a_preempted_pod_is_requested_anew(cloud):
    preempt = "touch preempted; echo PREEMPTED >$CLOUD/vm; kill -9 $PPID"
    cloud.stand_in("bioclip2", f'cd "$CLOUD"; [ -f preempted ] || {{ {preempt}; }}; {DONE}')
    done = pod(cloud)
    assert done.returncode == 0, done.stderr
    found = [kind for kind in kinds(cloud) if kind != "follow"]
    assert found == ["create", *START, "delete", "create", *START]
    assert len(cloud.calls("bioclip2")) == 2 and "PREEMPTED" in done.stderr


def test_machines_that_somebody_deleted_are_requested_anew(cloud):
    gone = 'cd "$CLOUD"; [ -f gone ] || { touch gone; rm vm; kill -9 $PPID; }'
    cloud.stand_in("bioclip2", f"{gone}; {DONE}")
    done = pod(cloud)
    assert done.returncode == 0, done.stderr
    assert kinds(cloud).count("create") == 2 and kinds(cloud).count("delete") == 1


@pytest.mark.parametrize("option", ["--delete", "--delete-always"])
def test_a_failed_training_fails_the_pod_and_says_why(cloud, option):
    part = "[ $WORKER -ne 1 ] || { echo 'bioclip2: error: no such recipe' >&2; exit 2; }; "
    cloud.stand_in("bioclip2", part + DONE)
    done = pod(cloud, option, WORKERS="2")
    assert done.returncode == 1 and "ended with code 2, " in done.stderr
    assert "t-0: ended 0" in done.stderr and "t-1: ended 2" in done.stderr
    deleted = option == "--delete-always"
    assert ("delete" in kinds(cloud)) == deleted == ("TPUs are deleted" in done.stderr)
    assert (cloud.folder / "cloud" / "vm").exists() != deleted


def test_a_worker_that_has_restarted_has_all_started_again(cloud):
    """Its training is gone without a trace, that of the other waits for it."""
    wait = "for _ in {1..3000}; do /bin/sleep 0.02; done"
    lose = "until [ -f waiting ]; do /bin/sleep 0.01; done; touch lost; kill -9 $PPID; exit"
    first = f"[ $WORKER = 1 ] && {{ {lose}; }}; touch waiting; {wait}"
    cloud.stand_in("bioclip2", f'cd "$CLOUD"; [ -f lost ] || {{ {first}; }}; {DONE}')
    done = pod(cloud, WORKERS="2")
    assert done.returncode == 0, done.stderr
    assert "t-0: running" in done.stderr and "t-1: none" in done.stderr
    assert [kind for kind in kinds(cloud) if kind != "follow"] == ["create", *START, "end", *START]
    assert len(cloud.calls("bioclip2")) == 4


def test_what_the_machines_stopped_is_started_again(cloud):
    """Maintenance, for example: SIGTERM to all, so that the run is saved with steps left."""
    cloud.stand_in("bioclip2", f'[ -f "$HOME/told" ] || {{ touch "$HOME/told"; exit 0; }}; {DONE}')
    done = pod(cloud, WORKERS="2")
    assert done.returncode == 0 and "t-1: ended 143" in done.stderr, done.stderr
    assert len(cloud.calls("bioclip2")) == 4 and kinds(cloud).count("create") == 1


def test_all_are_not_started_again_for_ever(cloud):
    cloud.stand_in("bioclip2", "kill -9 $PPID")
    done = pod(cloud)
    assert done.returncode == 1 and "started again three times" in done.stderr
    assert len(cloud.calls("bioclip2")) == 4


def test_some_that_have_ended_while_others_run_are_waited_for_and_then_started_again(cloud):
    """Even what is deaf to all but SIGKILL."""
    first = "[ $WORKER = 0 ] || exit 1; echo $$ >stopped; kill -STOP $$"
    once = f"[ -f was-$WORKER ] || {{ touch was-$WORKER; {first}; }}"
    cloud.stand_in("bioclip2", f'cd "$CLOUD"; {once}; {DONE}')
    done = pod(cloud, WORKERS="2")
    assert done.returncode == 0 and "t-1: ended 1" in done.stderr, done.stderr
    assert sum("status;" in words[-1] for words in cloud.calls("gcloud")) > 15
    process = Path("/proc", (cloud.folder / "cloud" / "stopped").read_text().strip(), "stat")
    assert not process.exists() or process.read_text().rpartition(")")[2].split()[0] == "Z"
    assert kinds(cloud).count("end") == 1


def test_a_worker_that_does_not_answer_is_waited_for(cloud):
    """The TPU is ready, so nothing is started or deleted."""
    cloud.stand_in("bioclip2", DONE + UNTIL_TOLD)
    job = cloud.start(
        "tpu_pod.sh", *POD, "--", *run_of(cloud), CLOUD=str(cloud.folder / "cloud"), WORKERS="2"
    )
    cloud.wait_for("cloud/home-0/bioclip2_jax.code/current/started")
    cloud.wait_for("cloud/home-1/bioclip2_jax.code/current/started")
    before = len(cloud.calls("gcloud"))
    (cloud.folder / "cloud" / "down-1").touch()
    wait_until(lambda: len(cloud.calls("gcloud")) > before + 8)
    (cloud.folder / "cloud" / "down-1").unlink()
    for worker in (0, 1):
        folder = cloud.folder / f"cloud/home-{worker}/bioclip2_jax.code/current"
        os.kill(int((folder / "started").read_text()), signal.SIGTERM)
    _, errors = job.communicate(timeout=30)
    assert job.returncode == 0 and "the training has ended" in errors
    assert [kind for kind in kinds(cloud) if kind != "follow"] == ["create", *START]


def wait_until(holds) -> None:
    for _ in range(1500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("not within half a minute")


def test_a_running_training_is_followed_and_stopped(cloud):
    cloud.stand_in("bioclip2", UNTIL_TOLD)
    clouds = {"CLOUD": str(cloud.folder / "cloud")}
    first = cloud.start("tpu_pod.sh", *POD, "--", *run_of(cloud), **clouds)
    cloud.wait_for("cloud/home-0/bioclip2_jax.code/current/started")
    first.send_signal(signal.SIGINT)  # the lid is closed
    first.communicate(timeout=30)
    assert first.returncode == 130
    second = cloud.start("tpu_pod.sh", *POD, "--delete", "--", *run_of(cloud), **clouds)
    assert "READY" in second.stderr.readline()
    assert "following it" in second.stderr.readline()
    stop = cloud.run("tpu_pod.sh", "--name=tol", "--zone=z-a", "--stop", **clouds)
    assert stop.returncode == 0, stop.stderr
    assert "saved and stopped; the TPUs stay" in second.communicate(timeout=30)[1]
    folder = cloud.folder / "cloud/home-0/bioclip2_jax.code/current"
    assert second.returncode == 0 and (folder / "saved").exists()
    assert kinds(cloud).count("start") == len(cloud.calls("bioclip2")) == 1
    assert "delete" not in kinds(cloud)


def test_a_training_that_ended_before_does_not_count(cloud):
    cloud.stand_in("bioclip2", DONE)
    assert pod(cloud).returncode == 0 and pod(cloud).returncode == 0
    assert len(cloud.calls("bioclip2")) == 2 and kinds(cloud).count("create") == 1


def test_several_slices_are_one_request(cloud):
    lines = pod(cloud, "--slices=2", "--dry-run").stdout.splitlines()
    assert "--node-count=2 --node-prefix=tol" in lines[0]
    for node in ("tol-0", "tol-1"):
        assert sum(f" ssh {node} " in line and "start" in line for line in lines) == 1
    starts = [i for i, line in enumerate(lines) if "tpu_worker.sh start" in line]
    installs = [i for i, line in enumerate(lines) if "tpu_worker.sh install" in line]
    assert max(installs) < min(starts)  # the slices wait for each other for minutes, not for pip


def test_a_refused_request_and_a_broken_gcloud_are_named(cloud):
    (cloud.folder / "cloud" / "refused").touch()
    refused = pod(cloud)
    assert refused.returncode == 1 and "queued-resources describe tol" in refused.stderr
    (cloud.folder / "cloud" / "broken").touch()
    broken = pod(cloud)
    assert broken.returncode == 1 and "please log in" in broken.stderr
    assert kinds(cloud) == ["create"]


def test_a_request_that_gcloud_does_not_take_is_not_repeated(cloud):
    (cloud.folder / "cloud" / "quota").touch()
    done = pod(cloud)
    assert done.returncode == 1 and "Quota limit" in done.stderr and kinds(cloud) == ["create"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--zone=z", "--accelerator=v6e-8"], "--name NAME is missing"),
        (["--name=a", "--accelerator=v6e-8"], "--zone ZONE is missing"),
        (["--name=a", "--zone=z"], "--accelerator TYPE is missing"),
        (["--name=a", "--zone=z", "--accelerator=v9-8"], "--version"),
        (["--name=a", "--zone=z", "--accelerator=v6e-8", "--slices=0"], "--slices 0"),
        (["--name=a", "--zone"], "--zone: its value is missing"),
        (["--name=a", "--config=a.py"], "come after --"),
        (["--name=a", "--zone=z", "--spot", "--flex-start=1d"], "--spot --flex-start: choose one"),
        (["a"], "a: unknown"),
    ],
)
def test_wrong_options_of_a_pod_are_named(cloud, arguments, said):
    done = cloud.run("tpu_pod.sh", *arguments, "--", *run_of(cloud))
    assert is_usage_error(done) and said in done.stderr and not cloud.calls()


def test_a_worker_with_an_old_python_gets_another(tmp_path):
    host = Host(tmp_path)
    tools = host.folder / "tools"
    tools.mkdir()
    for name in "bash cat cksum dirname flock mkdir rm printf cp echo touch chmod".split():
        (tools / name).symlink_to(shutil.which(name))
    new = host.folder / "python3.12"
    old = f"""case "$*" in
      *"version_info[:2]"*) echo 3.10 ;; *sys.exit*) exit 1 ;; *"python find"*) echo {new} ;;
    esac"""
    host.stand_in("python3", old)
    made = """case "$2" in
      venv) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/bin/activate" ;;
      import*) echo 3.12 ;; tpu) echo all ;;
    esac"""
    host.stand_in("python3.12", made, host.folder)
    done = host.run("tpu_worker.sh", "install", "tpu", PATH=f"{host.bin}:{tools}")
    assert done.returncode == 0, done.stderr
    asked = [" ".join(words) for words in host.calls()]
    assert "python3 -m pip install --quiet --user uv" in asked
    assert any(call.startswith("python3.12 -m venv") for call in asked)
    assert any(call.endswith("--editable .[tpu]") for call in asked)
