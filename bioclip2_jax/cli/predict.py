"""`bioclip2 predict`."""

import click

from bioclip2_jax.cli import options
from bioclip2_jax.text.taxonomy import RANKS

SOME_FAILED = 3


@click.command()
@click.argument("images", nargs=-1, required=True, type=options.Place())
@options.MODEL
@click.option("--labels", type=options.Place(), help="Text file with one free label a line.")
@click.option(
    "--taxa", type=options.Place(), help="Table with rank columns, such as a dataset's taxa.csv."
)
@click.option(
    "--rank",
    type=click.Choice(RANKS),
    help="With --taxa: the rank to answer at.  [default: species]",
)
@options.DECODE
@options.PRIOR
@options.PRIOR_STRENGTH
@click.option("--k", default=5, type=click.IntRange(min=1), help="Names a picture.")
@click.option(
    "--output", default="-", type=options.Place(), help="CSV file; '-' is standard output."
)
@options.batch_size(32, "Pictures")
def predict(
    images: tuple[str, ...],
    model_path: str,
    labels: str | None,
    taxa: str | None,
    rank: str | None,
    decode: str,
    prior: str | None,
    prior_strength: float | None,
    k: int,
    output: str,
    batch_size: int,
) -> None:
    """Name the organisms in IMAGES: files, folders or quoted patterns.

    Prints CSV, the best name first. Pictures that cannot be read are named on standard error; the
    exit code is then 3, or 1 if none could be read.

    \b
    Examples:
      bioclip2 predict bird.jpg --model runs/first --taxa data/birds/taxa.csv
      bioclip2 predict photos/ --model export/ --labels names.txt --output answers.csv
    """
    import csv

    from bioclip2_jax.data import folders
    from bioclip2_jax.data.counts import counts_of
    from bioclip2_jax.errors import UsageError
    from bioclip2_jax.features.encode import spread
    from bioclip2_jax.features.pictures import find_files
    from bioclip2_jax.identify import name_lists
    from bioclip2_jax.identify import predict as program
    from bioclip2_jax.weights.load import load

    if labels is None and taxa is not None:
        label_set = name_lists.read_taxa(taxa, rank or "species")
    elif labels is None or taxa is not None:
        raise UsageError("give either --labels FILE or --taxa CSV")
    elif rank:
        raise UsageError("--rank needs the lineages of --taxa; free --labels have no ranks")
    elif prior or decode != "flat":
        option = "--prior" if prior else "--decode"
        raise UsageError(f"{option} needs the lineages of --taxa; free --labels have none")
    else:
        label_set = name_lists.read_labels(labels)
    if prior_strength is not None and not prior:
        raise UsageError("--prior-strength goes with --prior")
    strength = 0.25 if prior_strength is None else prior_strength
    counts = counts_of(prior, label_set.taxa) if prior else None
    paths, others = find_files(images)
    failed = 0
    with program.open_output(output) as file:
        model = spread(load(model_path))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_name", *label_set.columns, "score"])
        for answer in program.predict(
            model, paths, label_set, k, batch_size, decode=decode, counts=counts, strength=strength
        ):
            if answer.error:
                failed += 1
                click.echo(f"{answer.file_name}: {answer.error}", err=True)
            for cells, score in answer.answers:
                writer.writerow([answer.file_name, *cells, score])
            file.flush()
    if others:
        click.echo(folders.remark(others), err=True)
    if failed:
        click.echo(f"{failed} of {len(paths)} pictures could not be read", err=True)
        raise SystemExit(1 if failed == len(paths) else SOME_FAILED)
