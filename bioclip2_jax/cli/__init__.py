"""`bioclip2`: one command for everything. Each sub-command is imported only when it is used."""

import errno
import importlib
import sys
import traceback

import click

from bioclip2_jax import __version__
from bioclip2_jax.errors import exit_on_user_error, reason
from bioclip2_jax.workers import platforms

# Name, also of the module → one-line help, so that `--help` imports nothing heavy.
_COMMANDS = {
    "prepare": "Make a dataset: from pictures with a table, or simulated.",
    "train": "Train a model, or go on with a run that was interrupted.",
    "plan": "Tell whether a recipe fits accelerators, without having them.",
    "evaluate": "Measure a model: species, and the paper's other tasks.",
    "compare": "Tell whether one of two models is better on the same pictures.",
    "export": "Write a model for PyTorch's open_clip.",
    "convert": "Turn weights of open_clip, PyTorch or transformers to and fro.",
    "labels": "Write the label files that pybioclip reads.",
    "predict": "Name the organisms in pictures.",
    "calibrate": "Find out which scores are to be believed.",
    "fit": "Learn classes of your own from a few labelled pictures.",
    "embed": "Keep the features of many pictures, as Parquet.",
    "search": "Find pictures in kept features: by a picture, by words, or near duplicates.",
    "analyze": "Look for what a model knows beyond the names of species.",
    "report": "Write one HTML page about results.",
    "inspect": "Describe a dataset, a model or a training run.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return getattr(importlib.import_module(f"bioclip2_jax.cli.{cmd_name}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="bioclip2")
def cli() -> None:
    """BioCLIP 2 in JAX: train, evaluate, export and use models of the tree of life.

    \b
    Example:
      bioclip2 predict bird.jpg --model runs/quickstart --taxa runs/quickstart/data/taxa.csv
    """


def main() -> None:
    """Entry point; exit code 0 for success, 1 for failure, 2 for a wrong call."""
    platforms.settle()
    try:
        exit_on_user_error(lambda: cli(prog_name="bioclip2"))
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        what = _refusal(error)
        if not what:
            raise  # a bug's trace
        print(f"bioclip2: error: {what}", file=sys.stderr)
        sys.exit(1)


def _refusal(error: Exception) -> str:
    """What a disk or a bucket says that will not be read or written; "" for other errors."""
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    if any(frame.f_globals.get("__name__", "").startswith("gcsfs.") for frame in frames):
        return f"a bucket cannot be used ({reason(error)})"
    return ""
