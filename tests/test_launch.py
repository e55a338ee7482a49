"""The launch scripts: correct shell, and one clear sentence when something is missing."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / ".ci" / "run"])


def run(script: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(ROOT / script)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_the_first_failure(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text or script.name == "environment.sh"


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/test.sh"])
def test_a_missing_interpreter_is_named(script, tmp_path):
    done = run(script, PYTHON="python9.99", VENV=str(tmp_path / "venv"), HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: no working 'python9.99' here")


def test_an_old_interpreter_is_named(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ -z "$2" ]\n')  # runs, but every check fails
    old.chmod(0o755)
    done = run("launch/test.sh", PYTHON=str(old), VENV=str(tmp_path / "venv"))
    assert done.returncode == 1 and "older than Python 3.11" in done.stderr


def test_an_interpreter_without_venv_is_named(tmp_path):
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\n[ "$1" = -m ] && exit 1\nexit 0\n')
    bare.chmod(0o755)
    done = run("launch/test.sh", PYTHON=str(bare), VENV=str(tmp_path / "venv"))
    assert done.returncode == 1 and "python3-venv" in done.stderr


def test_packages_that_cannot_be_installed_are_named(tmp_path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (venv / "bin" / "python").chmod(0o755)
    done = run("launch/test.sh", VENV=str(venv))
    assert done.returncode == 1 and "could not be installed" in done.stderr


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        ["bash", str(ROOT / "launch/quickstart.sh"), str(tmp_path / "file" / "run")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "cannot make the folder" in done.stderr
