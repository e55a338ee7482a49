"""The launch scripts: environments made, reused and renewed; one clear sentence otherwise."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*ROOT.glob("launch/*.s*"), ROOT / ".ci" / "run"])
CALLER = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}

# Answers what the scripts ask of an interpreter, and notes what they ask of pip and pytest.
_INTERPRETER = """#!/bin/sh
case "$1 $2" in
  --version*) echo "Python VERSION" ;;
  "-c import sys; print"*) echo VERSION ;;
  "-c import sys; sys.exit"*) exit SUPPORTED ;;
  "-m venv")
    for folder; do :; done
    [ "$3" != --clear ] || rm -rf "$folder"
    mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" || exit 1
    echo "PATH='$folder/bin':\\$PATH" >"$folder/bin/activate"
    exit VENV_STATUS ;;
  *) echo "VERSION $*" >>"CALLS" ; [ "$2" != pip ] || exit PIP_STATUS ;;
esac
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The scripts and what they read, in a folder whose name has a space."""
    folder = tmp_path / "a checkout"
    shutil.copytree(ROOT / "launch", folder / "launch")
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def interpreter(tmp_path):
    """name, version → a stand-in for Python; `pip` and `venv` are its exit codes."""

    def make(name: str, version: str, *, venv: int = 0, pip: int = 0) -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        text = _INTERPRETER.replace("VENV_STATUS", str(venv)).replace("PIP_STATUS", str(pip))
        text = text.replace("SUPPORTED", str(int(int(version.split(".")[1]) < 11)))
        path.write_text(text.replace("VERSION", version).replace("CALLS", str(tmp_path / "calls")))
        path.chmod(0o755)
        return str(path)

    return make


def run(script: Path, *arguments: str, cwd: Path, **environment: str):
    return subprocess.run(
        ["bash", str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=CALLER | environment,
        timeout=120,
    )


def calls(tmp_path: Path) -> list[str]:
    """`VERSION pip|pytest` for each call so far."""
    lines = (tmp_path / "calls").read_text().splitlines()
    return [" ".join(line.split()[:3:2]) for line in lines]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_the_first_failure(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text or script.name in ("environment.sh", "training.sh")


def test_a_second_run_installs_nothing(checkout, interpreter, tmp_path):
    python = interpreter("python", "3.12")
    for _ in range(2):
        done = run(checkout / "launch/test.sh", cwd=tmp_path, PYTHON=python)
        assert done.returncode == 0, done.stderr
    assert calls(tmp_path) == ["3.12 pip", "3.12 pytest", "3.12 pytest"]
    assert (checkout / ".venv" / "bin" / "python").exists()


def test_changed_requirements_are_installed(checkout, interpreter, tmp_path):
    python = interpreter("python", "3.12")
    run(checkout / "launch/test.sh", cwd=tmp_path, PYTHON=python)
    with (checkout / "requirements.txt").open("a") as file:
        file.write("another\n")
    run(checkout / "launch/test.sh", cwd=tmp_path, PYTHON=python)
    assert calls(tmp_path) == ["3.12 pip", "3.12 pytest"] * 2


def test_a_failed_installation_is_named_and_tried_again(checkout, interpreter, tmp_path):
    python = interpreter("python", "3.12", pip=1)
    for _ in range(2):
        done = run(checkout / "launch/test.sh", cwd=tmp_path, PYTHON=python)
        assert done.returncode == 1 and "could not be installed" in done.stderr
    assert calls(tmp_path) == ["3.12 pip"] * 2


def test_another_interpreter_makes_the_environment_anew(checkout, interpreter, tmp_path):
    for version in ("3.12", "3.13"):
        python = interpreter(f"python{version}", version)
        run(checkout / "launch/test.sh", cwd=tmp_path, PYTHON=python)
    run(checkout / "launch/test.sh", cwd=tmp_path)  # no wish: what is there is good
    assert calls(tmp_path) == ["3.12 pip", "3.12 pytest", "3.13 pip"] + ["3.13 pytest"] * 2


def test_an_environment_of_another_origin_is_not_replaced(checkout, interpreter, tmp_path):
    subprocess.run([interpreter("python3.12", "3.12"), "-m", "venv", tmp_path / "mine"], check=True)
    python = interpreter("python3.13", "3.13")
    done = run(checkout / "launch/test.sh", cwd=tmp_path, PYTHON=python, VENV="mine")
    assert done.returncode == 1 and "is not Python 3.13; name another folder" in done.stderr
    assert (tmp_path / "mine" / "bin" / "activate").exists() and not (tmp_path / "calls").exists()


def test_relative_names_count_from_where_the_caller_stands(checkout, interpreter, tmp_path):
    interpreter("python", "3.12")
    done = run(checkout / "launch/test.sh", cwd=tmp_path, PYTHON="bin/python", VENV="somewhere")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "somewhere" / "bin" / "python").exists()


def test_an_old_python3_is_passed_over_for_a_newer_one(checkout, interpreter, tmp_path):
    interpreter("python3", "3.10")
    folder = Path(interpreter("python3.13", "3.13")).parent
    done = run(checkout / "launch/test.sh", cwd=tmp_path, PATH=f"{folder}:{CALLER['PATH']}")
    assert done.returncode == 0 and calls(tmp_path) == ["3.13 pip", "3.13 pytest"], done.stderr


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_a_missing_interpreter_is_named(checkout, script, tmp_path):
    done = run(checkout / "launch" / script, cwd=tmp_path, PYTHON="python9.99")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no working 'python9.99' here")
    assert len(done.stderr.splitlines()) == 1


def test_an_old_interpreter_is_named(checkout, interpreter, tmp_path):
    python = interpreter("python3.8", "3.8")
    done = run(checkout / "launch/test.sh", cwd=tmp_path, PYTHON=python)
    assert done.returncode == 1 and "is older than Python 3.11" in done.stderr


def test_an_interpreter_without_venv_is_named_each_time(checkout, interpreter, tmp_path):
    python = interpreter("python", "3.12", venv=1)
    for _ in range(2):
        done = run(checkout / "launch/test.sh", cwd=tmp_path, PYTHON=python)
        assert done.returncode == 1 and "python3-venv" in done.stderr
    assert not (tmp_path / "calls").exists()


def test_a_workdir_that_cannot_be_made_is_named(checkout, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(checkout / "launch/quickstart.sh", "file/run", cwd=tmp_path)
    assert done.returncode == 1 and "cannot make the folder" in done.stderr


def test_the_quickstart_stops_at_the_step_that_failed(checkout, interpreter, tmp_path):
    python = interpreter("python", "3.12")
    command = tmp_path / "bin" / "bioclip2"
    command.write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/steps"\n[ "$1" != train ]\n')
    command.chmod(0o755)
    done = run(
        checkout / "launch/quickstart.sh",
        "my run",
        cwd=tmp_path,
        PYTHON=python,
        PATH=f"{command.parent}:{CALLER['PATH']}",
    )
    steps = (tmp_path / "steps").read_text().splitlines()
    assert done.returncode == 1 and [step.split()[0] for step in steps] == ["prepare", "train"]
    assert steps[0].endswith(f"--out {tmp_path}/my run/data")
