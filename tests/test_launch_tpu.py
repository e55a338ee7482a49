"""The scripts for Cloud TPU, with stand-ins for `gcloud` and for what its workers call."""

import shlex
import shutil
import subprocess

import pytest
from launch_host import TRAIN, UNTIL_TOLD, Host, is_usage_error

POD = ["--name", "tol", "--zone=z-a", "--accelerator", "v5litepod-256"]

# One Cloud TPU whose workers are one folder: `vm` and `request` hold states, `home` its files.
_GCLOUD = """
cd "$CLOUD" || exit 1
absent() { echo "ERROR: (gcloud) NOT_FOUND: no such resource" >&2; exit 1; }
case "$*" in
  *"tpu-vm describe"*) [ ! -f broken ] || { echo "ERROR: please log in" >&2; exit 1; }
    cat vm 2>/dev/null || absent ;;
  *"queued-resources describe"*) cat request 2>/dev/null || absent ;;
  *"queued-resources create"*) echo "${ANSWER:-ACTIVE}" >request
    [ -n "${ANSWER:-}" ] || { echo READY >vm; cp -r machine home; } ;;
  *"queued-resources delete"*) rm -rf request vm home ;;
  *" scp "*) cp "$5" home ;;
  *" ssh "*) [ "$(cat vm)" = READY ] || exit 255
    cd home && command="${*: -1}" && HOME="$PWD" exec bash -c "${command#--command=}" ;;
esac
"""


@pytest.fixture
def cloud(tmp_path) -> Host:
    """A checkout under git and a cloud without a TPU; a new machine is a copy of `machine`."""
    host = Host(tmp_path)
    host.stand_in("gcloud", _GCLOUD)
    host.environment(host.folder / "cloud" / "machine" / "bioclip2_jax.venv")
    git = ["git", "-C", str(host.checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "all"], check=True)
    return host


def pod(host: Host, *options: str, **environment: str) -> subprocess.CompletedProcess:
    return host.run(
        "tpu_pod.sh", *POD, *options, "--", *TRAIN, CLOUD=str(host.folder / "cloud"), **environment
    )


def kinds(host: Host) -> list[str]:
    """What was asked of gcloud, without questions: `create`, `scp`, `start`, ..."""
    found = []
    for words in host.calls("gcloud"):
        what = words[4]
        if what == "ssh":
            what = words[-1].removeprefix("--command=").split("tpu_worker.sh ")[-1].split()[0]
        if what not in ("describe", "status;"):
            found.append(what)
    return found


def test_a_pod_does_what_its_dry_run_shows(cloud):
    options = ["--spot", "--delete", "--setup", 'echo "set up" >>log', "--project=p"]
    shown = pod(cloud, "--dry-run", *options)
    assert shown.returncode == 0 and not cloud.calls(), shown.stderr
    cloud.stand_in("bioclip2", "")
    done = pod(cloud, *options)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in shown.stdout.splitlines()]
    said = [words for words in lines if words[0] == "gcloud"]
    asked = [w for w in cloud.calls("gcloud") if w[4] != "describe" and "status;" not in w[-1]]
    assert said == asked
    assert kinds(cloud) == ["create", "scp", "echo", "install", "start", "follow", "delete"]
    assert "--spot" in said[0] and "--runtime-version=v2-alpha-tpuv5-lite" in said[0]
    assert all("--zone=z-a" in words and "--project=p" in words for words in said)
    assert not (cloud.folder / "cloud" / "vm").exists()


def test_a_pod_trains_the_committed_code_and_shows_its_log(cloud):
    cloud.stand_in("bioclip2", 'echo "first loss 10.4 in $PWD"')
    (cloud.checkout / "launch" / "note").write_text("not committed")
    done = pod(cloud)
    home = cloud.folder / "cloud" / "home"
    assert done.returncode == 0, done.stderr
    assert f"first loss 10.4 in {home}/bioclip2_jax" in done.stdout
    assert cloud.calls("bioclip2") == [["bioclip2", "train", *TRAIN]]
    assert [words[-1] for words in cloud.calls("python")] == [".[tpu]"]
    assert not (home / "bioclip2_jax" / "launch" / "note").exists()


def test_a_preempted_pod_is_requested_anew(cloud):
    preempt = "touch preempted; echo PREEMPTED >$CLOUD/vm; kill -9 $PPID"
    cloud.stand_in("bioclip2", f'cd "$CLOUD"; [ -f preempted ] || {{ {preempt}; }}')
    done = pod(cloud)
    assert done.returncode == 0, done.stderr
    once = ["create", "scp", "install", "start", "follow"]
    assert [k for k in kinds(cloud) if k != "follow"] == [
        *once[:-1], "delete", *once[:-1],
    ]  # fmt: skip
    assert len(cloud.calls("bioclip2")) == 2 and "PREEMPTED" in done.stderr


def test_a_failed_training_fails_the_pod_and_says_why(cloud):
    cloud.stand_in("bioclip2", "echo 'bioclip2: error: no such recipe' >&2; exit 2")
    done = pod(cloud, "--delete")
    assert done.returncode == 1 and "ended with code 2" in done.stderr
    assert "no such recipe" in done.stdout and "delete" not in kinds(cloud)


def test_a_running_training_is_followed_and_stopped(cloud):
    cloud.stand_in("bioclip2", UNTIL_TOLD)
    clouds = {"CLOUD": str(cloud.folder / "cloud")}
    first = cloud.start("tpu_pod.sh", *POD, "--", *TRAIN, **clouds)
    cloud.wait_for("cloud/home/bioclip2_jax/started")
    first.kill()  # the laptop goes to sleep
    first.wait()
    first.stdout.close()
    first.stderr.close()
    second = cloud.start("tpu_pod.sh", *POD, "--", *TRAIN, **clouds)
    assert "READY" in second.stderr.readline()
    assert "following it" in second.stderr.readline()
    stop = cloud.run("tpu_pod.sh", "--name=tol", "--zone=z-a", "--stop", **clouds)
    assert stop.returncode == 0, stop.stderr
    second.communicate(timeout=30)
    assert second.returncode == 0 and (cloud.folder / "cloud/home/bioclip2_jax/saved").exists()
    assert kinds(cloud).count("start") == len(cloud.calls("bioclip2")) == 1


def test_a_training_that_ended_before_does_not_count(cloud):
    cloud.stand_in("bioclip2", "")
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
    refused = pod(cloud, ANSWER="FAILED")
    assert refused.returncode == 1 and "queued-resources describe tol" in refused.stderr
    (cloud.folder / "cloud" / "broken").touch()
    broken = pod(cloud)
    assert broken.returncode == 1 and "please log in" in broken.stderr
    assert kinds(cloud) == ["create"]


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
        (["a"], "a: unknown"),
    ],
)
def test_wrong_options_of_a_pod_are_named(cloud, arguments, said):
    done = cloud.run("tpu_pod.sh", *arguments, "--", *TRAIN)
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
      import*) echo 3.12 ;;
    esac"""
    host.stand_in("python3.12", made, host.folder)
    done = host.run("tpu_worker.sh", "install", PATH=f"{host.bin}:{tools}")
    assert done.returncode == 0, done.stderr
    asked = [" ".join(words) for words in host.calls()]
    assert "python3 -m pip install --quiet --user uv" in asked
    assert any(call.startswith("python3.12 -m venv") for call in asked)
    assert any(call.endswith("--editable .[tpu]") for call in asked)
