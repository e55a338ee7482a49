"""Options that several commands share, so that they look and read the same in each."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bioclip2_jax import files
from bioclip2_jax.errors import UsageError


class Place(click.Path):
    """A path that may be in a bucket, unless `here` says in what way it has to be on this machine.

    Other addresses, such as s3://, would become folders of that name and are refused.
    """

    def __init__(self, *, here: str = "", **how: Any):
        super().__init__(**how)
        self._here = here

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """As click calls it."""
        place = files.place(value)
        if not files.is_remote(place):
            return super().convert(value, param, ctx)
        if self._here:
            name = param.human_readable_name if isinstance(param, click.Argument) else ""
            name = name or (param.opts[0] if param else "")
            raise UsageError(f"{name} {value}: {self._here}")
        return place if self.type is Path else str(place)


PATH = Place(path_type=Path)
MODEL = click.option(
    "--model",
    "model_path",
    required=True,
    type=Place(),
    help="Any model that `convert` reads, such as a workdir.",
)
OUT = click.option("--out", required=True, type=PATH, help="Folder to make.")


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
    type=Place(),
    metavar="CSV",
    help="Table of taxa with a column `count` (or `train`, as in a dataset's taxa.csv): common ones"
    " gain.",
)
PRIOR_STRENGTH = click.option(
    "--prior-strength",
    type=click.FloatRange(min=0),
    metavar="A",
    help="With --prior: a name's score grows by A times the log of its count.  [default: 0.25;"
    " `evaluate` fits it on half of the pictures and judges it on the others]",
)


def dtype(*choices: str, help: str) -> Callable:
    """`--dtype`, float32 unless another is chosen."""
    return click.option(
        "--dtype", default="float32", type=click.Choice(["float32", *choices]), help=help
    )


PRECISION = click.option(
    "--precision",
    default="float32",
    type=click.Choice(["float32", "bfloat16"]),
    help="In which pictures are encoded. CPUs that multiply bfloat16 are 1.6 times as fast in it;"
    " features differ in the third digit.",
)


def overwrite(thing: str) -> Callable:
    """`--overwrite`, of what stands at `--out`."""
    return click.option("--overwrite", is_flag=True, help=f"Replace a {thing} at --out.")
