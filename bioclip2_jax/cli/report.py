"""`bioclip2 report`."""

import click

from bioclip2_jax.cli import options


@click.command()
@click.option(
    "--results",
    multiple=True,
    type=options.Place(),
    help="Folder of results, of a run, or one above such folders; may be given again.",
)
@click.option("--workdir", type=options.Place(), help="A training run; with --data.")
@click.option("--data", type=options.Place(), help="Dataset that run was evaluated on.")
@click.option("--out", default="report.html", type=options.Place(), help="HTML file.")
def report(results: tuple[str, ...], workdir: str | None, data: str | None, out: str) -> None:
    """Write one self-contained HTML page about what was measured.

    --results takes what `bioclip2 evaluate` and `bioclip2 analyze` wrote, of one model or of
    several; --workdir and --data one evaluated training run.

    \b
    Examples:
      bioclip2 report --workdir runs/first --data data/birds --out report.html
      bioclip2 report --results results/bioclip-2 --results runs/first --out both.html
    """
    from bioclip2_jax.errors import UsageError
    from bioclip2_jax.report.build import build, build_results

    if results and not (workdir or data):
        click.echo(build_results(results, out))
    elif workdir and data and not results:
        click.echo(build(workdir, data, out))
    else:
        raise UsageError("give --results, or --workdir and --data")
