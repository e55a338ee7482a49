"""`bioclip2 compare`."""

import click

from bioclip2_jax.cli import options


@click.command()
@click.argument("first", type=options.Place(file_okay=False))
@click.argument("second", type=options.Place(file_okay=False))
@click.option("--out", type=options.Place(dir_okay=False), help="JSON file for the comparison.")
def compare(first: str, second: str, out: str | None) -> None:
    """Compare two models picture by picture, on the results that `evaluate` wrote.

    For each of zero-shot, few-shot and NeWT that FIRST and SECOND both hold: the difference of the
    accuracies (SECOND less FIRST) with its 95 % bootstrap interval, and McNemar's exact test on
    the pictures that only one of them got right. Of zero-shot also each rank above species (summed
    over the species, asked for by its own names, down the tree) and the full path, of the pictures
    whose rank is known, where both results tell it picture by picture. Searches are compared text
    by text and picture by picture.

    \b
    Example:
      bioclip2 compare runs/birds/eval/1000 runs/birds/eval/9000 --out comparison.json
    """
    from bioclip2_jax import files
    from bioclip2_jax.evaluation import schema
    from bioclip2_jax.evaluation.compare import compare as compare_folders
    from bioclip2_jax.evaluation.compare import lines

    comparison = compare_folders(first, second)
    if out:
        files.make_folder(files.place(out).parent)
        schema.write(out, comparison)
    for line in lines(comparison):
        click.echo(line)
