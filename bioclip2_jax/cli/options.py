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


DECODE = click.option(
    "--decode",
    default="flat",
    type=click.Choice(["flat", "top_down"]),
    help="Answer among all species, or rank by rank among the children of the answer above.",
)
PRIOR = click.option(
    "--prior",
    type=click.Path(),
    metavar="CSV",
    help="Table of taxa with a column `count` (or `train`, as in a dataset's taxa.csv): common ones"
    " gain.",
)
PRIOR_STRENGTH = click.option(
    "--prior-strength",
    type=click.FloatRange(min=0),
    metavar="A",
    help="With --prior: a name's score grows by A times the log of its count.  [default: 0.25]",
)


def dtype(*choices: str, help: str) -> Callable:
    """`--dtype`, float32 unless another is chosen."""
    return click.option(
        "--dtype", default="float32", type=click.Choice(["float32", *choices]), help=help
    )


def overwrite(thing: str) -> Callable:
    """`--overwrite`, of what stands at `--out`."""
    return click.option("--overwrite", is_flag=True, help=f"Replace a {thing} at --out.")
