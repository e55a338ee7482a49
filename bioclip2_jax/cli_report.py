"""`bioclip2 report`."""

import click


@click.command()
@click.option("--workdir", required=True, type=click.Path(), help="Folder of the training run.")
@click.option("--data", required=True, type=click.Path(), help="Dataset it was evaluated on.")
@click.option(
    "--out", default="report.html", show_default=True, type=click.Path(), help="HTML file."
)
def report(workdir: str, data: str, out: str) -> None:
    """Write one self-contained HTML page about an evaluated training run.

    \b
    Example:
      bioclip2 report --workdir runs/first --data data/birds --out report.html
    """
    from bioclip2_jax.report.build import build

    click.echo(build(workdir, data, out))
