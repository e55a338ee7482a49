"""The launch scripts: environments made, reused and renewed; one clear sentence otherwise."""

import json
import os
import shlex
import shutil
import subprocess
import sys
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
  "launch/missing.py $2") cmp -s requirements.txt "$0.has.${2:-base}" || echo a-package ;;
  "-m pip")
    echo "VERSION $*" >>"CALLS"
    for extra; do :; done
    extra="${extra#.}" && extra="${extra#[}" && extra="${extra%]}"
    [ PIP_STATUS -ne 0 ] || cp requirements.txt "$0.has.${extra:-base}"
    exit PIP_STATUS ;;
  *) echo "VERSION $*" >>"CALLS" ;;
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


def test_a_complete_environment_needs_no_network_whoever_made_it(checkout, interpreter, tmp_path):
    done = run(
        checkout / "launch/install.sh", "dev", cwd=tmp_path, PYTHON=interpreter("new", "3.12")
    )
    assert done.returncode == 0 and "is complete" in done.stdout, done.stderr
    (checkout / ".venv" / "bioclip2_jax.stamp").unlink()
    (checkout / ".venv/bin/python").write_text(
        (checkout / ".venv/bin/python").read_text().replace("exit 0", "exit 1")
    )
    assert run(checkout / "launch/test.sh", cwd=tmp_path).returncode == 0
    assert calls(tmp_path) == ["3.12 pip", "3.12 pytest"]
    with (checkout / "requirements.txt").open("a") as file:
        file.write("another\n")
    done = run(checkout / "launch/test.sh", cwd=tmp_path)
    assert done.returncode == 1 and "(missing: a-package)" in done.stderr
    assert done.stderr.rstrip().endswith("bash launch/install.sh dev")


def test_an_installation_does_what_its_dry_run_shows(checkout, interpreter, tmp_path):
    python = interpreter("python", "3.12")
    for extra, expected in [
        ("cuda13,gcs", ".[cuda13,gcs]"),
        ("cpu", "."),
        ("tpu gcs", ".[tpu,gcs]"),
    ]:
        words = ["--dry-run", *extra.split()]
        shown = run(checkout / "launch/install.sh", *words, cwd=tmp_path, PYTHON=python)
        assert shown.returncode == 0 and not (tmp_path / "calls").exists(), shown.stderr
        done = run(checkout / "launch/install.sh", *words[1:], cwd=tmp_path, PYTHON=python)
        assert done.returncode == 0, done.stderr
        pip = [words for words in map(shlex.split, shown.stdout.splitlines()) if "pip" in words][0]
        assert pip[-1] == expected
        assert (tmp_path / "calls").read_text().split() == ["3.12", *pip[1:]]
        (tmp_path / "calls").unlink()
        shutil.rmtree(checkout / ".venv")


def test_an_installation_wants_an_extra_that_there_is(checkout, tmp_path):
    for words, said in [
        ([], "EXTRA is missing"),
        (["cuda13,tpus"], "tpus: not one of: cpu cuda12 "),
    ]:
        done = run(checkout / "launch/install.sh", *words, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr and not (checkout / ".venv").exists()


def test_what_an_environment_lacks_is_told_from_what_it_holds(tmp_path):
    """Of one environment made by hand: names, versions, extras and markers."""
    site = tmp_path / "site"

    def install(name: str, version: str, *lines: str) -> Path:
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        text = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
        (folder / "METADATA").write_text(text)
        return folder

    install("plain", "2.0")
    install("inner", "1.0")
    install("with-extra", "1.0", 'Requires-Dist: inner>=2; extra == "more"')
    checkout = tmp_path / "checkout"
    (checkout / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch/missing.py", checkout / "launch")
    (checkout / "pyproject.toml").write_text(
        '[project.optional-dependencies]\nsome = ["plain>=1", "with-extra[more]"]\n'
    )
    (checkout / "requirements.txt").write_text(
        'plain>=3  # newer\nabsent\nabsent; python_version < "3"\n\nwith-extra\n'
    )

    def lacking(*extras: str) -> list[str]:
        command = [sys.executable, str(checkout / "launch/missing.py"), *extras]
        environment = os.environ | {"PYTHONPATH": str(site)}
        return subprocess.check_output(command, env=environment, text=True).splitlines()

    base = ["this checkout itself", "plain>=3 (here is 2.0)", "absent"]
    assert lacking() == base and lacking("some") == [*base, "inner>=2 (here is 1.0)"]
    origin = {"url": checkout.as_uri(), "dir_info": {"editable": True}}
    (install("bioclip2-jax", "1") / "direct_url.json").write_text(json.dumps(origin))
    assert lacking() == base[1:]


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
