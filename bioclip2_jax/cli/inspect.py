"""`bioclip2 inspect`: what a dataset, a run or a model holds."""

from pathlib import Path

import click

from bioclip2_jax.errors import UsageError


@click.command()
@click.option("--data", type=click.Path(), help="A dataset folder made by `bioclip2 prepare`.")
@click.option(
    "--model", type=click.Path(), help="Any model that `convert` reads, such as a workdir."
)
@click.option("--split", default="test", show_default=True, help="Split for --extract.")
@click.option("--extract", type=click.IntRange(min=1), help="Write this many pictures of --data.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for --extract.")
def inspect(
    data: str | None, model: str | None, split: str, extract: int | None, out: str | None
) -> None:
    """Describe a dataset (--data) or a model (--model), or take pictures out of a dataset.

    \b
    Examples:
      bioclip2 inspect --data runs/quickstart/data
      bioclip2 inspect --data runs/quickstart/data --extract 8 --out pictures
      bioclip2 inspect --model runs/quickstart
    """
    from bioclip2_jax.cli import inspection

    if not data and not model:
        raise UsageError("nothing to inspect: give --data DIR or --model PATH")
    if extract and not (data and out):
        raise UsageError("--extract needs --data DIR and --out DIR")
    if data and extract:
        paths = inspection.extract_pictures(data, split, extract, Path(out))
        click.echo("\n".join(str(path) for path in paths))
    elif data:
        click.echo(inspection.describe_data(data))
    if model:
        click.echo(inspection.describe_model(model))
