"""Options that several commands share, so that they look and read the same in each."""

from collections.abc import Callable
from pathlib import Path

import click

MODEL = click.option(
    "--model",
    "model_path",
    required=True,
    help="Any model that `convert` reads, such as a workdir.",
)
OUT = click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")


def batch_size(default: int, things: str) -> Callable:
    """`--batch-size`, of pictures or texts."""
    return click.option(
        "--batch-size",
        default=default,
        type=click.IntRange(min=1),
        help=f"{things} encoded at a time.",
    )


def dtype(*choices: str, help: str) -> Callable:
    """`--dtype`, float32 unless another is chosen."""
    return click.option(
        "--dtype", default="float32", type=click.Choice(["float32", *choices]), help=help
    )


def overwrite(thing: str) -> Callable:
    """`--overwrite`, of what stands at `--out`."""
    return click.option("--overwrite", is_flag=True, help=f"Replace a {thing} at --out.")
