"""`bioclip2 calibrate`."""

from typing import Any

import click

from bioclip2_jax.cli import options
from bioclip2_jax.text.taxonomy import RANKS


@click.command()
@click.argument("source", type=options.Place())
@click.option(
    "--features",
    type=options.Place(),
    metavar="STORE",
    help="Of `bioclip2 embed`, of the pictures of a table SOURCE.",
)
@click.option(
    "--images",
    type=options.Place(),
    metavar="DIR",
    help="Or the folder from which a table SOURCE names pictures.",
)
@click.option("--split", help="Of a dataset or feature store SOURCE.  [default: val]")
@options.MODEL
@click.option("--taxa", type=options.Place(), help="As for `predict`: the names.")
@click.option(
    "--names",
    type=options.Place(here="label files are mapped; copy them to this machine"),
    metavar="DIR",
    help="As for `predict`: label files, with --taxa what that names of them.",
)
@click.option("--within", multiple=True, metavar="RANK=NAME", help="As for `predict`.")
@click.option("--without", multiple=True, metavar="RANK=NAME", help="As for `predict`.")
@click.option(
    "--rank", type=click.Choice(RANKS), help="The deepest to answer at.  [default: species]"
)
@options.PRIOR
@options.PRIOR_STRENGTH
@click.option(
    "--false-none",
    default=0.05,
    type=click.FloatRange(0, 0.5),
    help="Share of pictures of listed names that may be answered by `none of these`.",
)
@click.option("--seed", default=0, help="Of the shares that judge each other.")
@click.option("--out", required=True, type=options.Place(), help="JSON file to write.")
@options.batch_size(32, "Pictures")
@options.overwrite("calibration")
def calibrate(model_path: str, **how: Any) -> None:
    """Find out, by the pictures of SOURCE whose names are known, which scores are to be believed.

    SOURCE is a table with file names and lineages (with --features or --images), a dataset of
    `prepare`, or a feature store of one. They should be like those that are to be named, not of the
    training, and some hundreds. The names and all that weighs them are those of the later call of
    `predict --sure P --calibration OUT`, which refuses others.

    Prints what that is worth on pictures that the thresholds were not made on.

    \b
    Example:
      bioclip2 calibrate checked.csv --images photos/ --model runs/birds --taxa region.csv \\
        --out calibration.json
      bioclip2 predict new/ --model runs/birds --taxa region.csv --sure 0.9 \\
        --calibration calibration.json
    """
    from bioclip2_jax.identify import sure
    from bioclip2_jax.identify.calibrate import Request, run

    made = run(Request(model=model_path, **how), say=lambda note: click.echo(note, err=True))
    for line in sure.report(made):
        click.echo(line)
    click.echo(f"{how['out']}: a calibration of {made.model.path}")
