"""`bioclip2 fit`."""

from typing import Any

import click

from bioclip2_jax.cli import options


@click.command()
@click.argument("table", type=options.Place())
@click.option("--features", type=options.Place(), metavar="STORE", help="Of `bioclip2 embed`.")
@click.option(
    "--images", type=options.Place(), metavar="DIR", help="Folder from which TABLE names pictures."
)
@click.option(
    "--model",
    type=options.Place(),
    help="Any model that `convert` reads; with --features only for the text.",
)
@click.option("--column", required=True, help="Of TABLE: the classes. Rows without are left out.")
@click.option(
    "--group",
    metavar="COLUMN",
    help="Of TABLE: what no fold divides, such as the individual or the camera.",
)
@click.option("--out", required=True, type=options.Place(), help="Folder to make.")
@click.option(
    "--false-unknown",
    default=0.05,
    type=click.FloatRange(0, 0.5),
    help="Share of pictures of known classes that may be answered by `unknown`.",
)
@click.option("--text/--no-text", default=True, help="Also try the names of the classes.")
@click.option("--seed", default=0, help="Of folds, draws and intervals.")
@options.batch_size(32, "Pictures")
@options.overwrite("head")
def fit(**how: Any) -> None:
    """Learn classes of your own from the labelled pictures of TABLE.

    A small head on the model's features: nearest class mean, ridge or logistic regression, or one
    of these with the text, whichever names held-out pictures best. It is told what that is worth,
    on pictures that neither the fit nor the choice saw, what more pictures would bring, and what
    may deceive. `bioclip2 predict --head OUT` then answers with these classes, or `unknown`.

    \b
    Example:
      bioclip2 embed photos/ --model runs/birds --out features/photos
      bioclip2 fit photos/sexed.csv --features features/photos --model runs/birds --column sex \\
        --group individual --out heads/sex
      bioclip2 predict new/ --model runs/birds --head heads/sex --output answers.csv
    """
    from bioclip2_jax.identify import heads
    from bioclip2_jax.identify.fit import Request, run

    about = run(Request(**how), say=lambda note: click.echo(note, err=True))
    for line in heads.report(about):
        click.echo(line)
    click.echo(f"{how['out']}: a head for {about.model.path}")
