"""The command line: fast help, one-line errors, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import bioclip2

from bioclip2_jax import __version__, cli

COMMANDS = list(cli.cli.list_commands(None))
PARTS = {
    "prepare": ("folder", "tree", "webdataset", "img2dataset", "parquet", "dwca", "simulate"),
    "analyze": ("between", "within", "theory", "scaling"),
}


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['bioclip2', '--help']\n"
        "from bioclip2_jax.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'tensorflow_datasets', 'grain', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


def test_version():
    command = [sys.executable, "-m", "bioclip2_jax", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == f"bioclip2, version {__version__}"


@pytest.mark.parametrize(
    "command",
    [[name] for name in COMMANDS] + [[name, part] for name in PARTS for part in PARTS[name]],
    ids=" ".join,
)
def test_every_command_explains_itself_with_an_example(command):
    done = bioclip2(*command, "--help")
    assert done.returncode == 0 and "Example" in done.stdout
    assert f"bioclip2 {' '.join(command)} " in done.stdout.partition("Example")[2]


def test_help_of_a_command_imports_nothing_that_takes_a_second():
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent / 'helpers')!r})\n"
        "from commands import bioclip2\n"
        f"for command in {COMMANDS!r}:\n"
        "    assert bioclip2(command, '--help').returncode == 0\n"
        "heavy = {'jax', 'tensorflow', 'tensorflow_datasets', 'grain', 'flax'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nosuch"], 2, "No such command"),
        (["export", "--workdir", "/nowhere", "--out", "x"], 1, "no model here"),
        (["inspect"], 2, "nothing to inspect"),
        (["inspect", "--data", "/nowhere"], 1, "no dataset here"),
        (["train", "--workdir=x"], 2, "--config is missing"),
        (["train", "--config=configs/quickstart.py", "--config.train.stepz=1"], 2, "did you mean"),
        (["prepare", "simulate", "--out", "x", "--species", "3"], 2, "--species 3"),
        (["prepare", "folder", "--metadata", "/nowhere.csv", "--out", "x"], 1, "/nowhere.csv"),
        (
            [
                "prepare",
                "folder",
                "--metadata",
                "a",
                "--images",
                "b",
                "--images",
                "c",
                "--out",
                "x",
            ],
            2,
            "one --images for each --metadata",
        ),
        (["evaluate", "--workdir", "/nowhere", "--data", "/nowhere"], 2, "there is no such folder"),
        (["compare", "/nowhere", "/nowhere"], 2, "no results image by image here"),
    ],
)
def test_mistakes_end_in_one_line_and_the_right_exit_code(arguments, code, sentence, tmp_path):
    done = bioclip2(*[a if a != "x" else str(tmp_path / "x") for a in arguments])
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_path_that_cannot_be_written_is_named(tiny_data, tmp_path):
    (tmp_path / "file").write_text("")
    done = bioclip2(
        *("inspect", "--data", str(tiny_data), "--split", "test"),
        *("--extract", "1", "--out", str(tmp_path / "file" / "pictures")),
    )
    assert done.returncode == 1
    assert done.stderr == f"bioclip2: error: {tmp_path}/file/pictures: Not a directory\n"


def test_an_error_that_is_no_ones_input_keeps_its_trace(monkeypatch):
    def broken(**_):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(cli, "cli", broken)
    with pytest.raises(ConnectionResetError):
        cli.main()


def test_output_may_be_cut_off_by_a_pipe(tiny_data):
    command = f"{sys.executable} -m bioclip2_jax inspect --data {tiny_data} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(tiny_data) and "Traceback" not in done.stderr


def test_pictures_are_taken_out_of_a_dataset_as_they_came(tiny_data, tmp_path):
    done = bioclip2(
        *("inspect", "--data", str(tiny_data), "--split", "test"),
        *("--extract", "4", "--out", str(tmp_path / "pictures")),
    )
    paths = done.stdout.split()
    assert len(paths) == 4 and all(path.endswith(".jpg") for path in paths)


def test_a_dataset_is_described(tiny_data):
    text = bioclip2("inspect", "--data", str(tiny_data)).stdout
    assert "train             64 images" in text and "kingdom            3 taxa" in text
