"""`bioclip2 embed`."""

import click

from bioclip2_jax.cli import options


@click.command()
@click.argument("source", metavar="SRC", type=options.Place())
@options.MODEL
@click.option("--out", required=True, type=options.Place(file_okay=False), help="Folder to make.")
@click.option("--split", help="Only this split of a dataset.  [default: all]")
@options.dtype("float16", help="Of the kept features.")
@options.batch_size(128, "Pictures")
def embed(
    source: str, model_path: str, out: str, split: str | None, dtype: str, batch_size: int
) -> None:
    """Encode the pictures of SRC, a dataset or any folder with pictures, and keep the features.

    OUT becomes a folder of Parquet files with the columns key, embedding (of length 1), norm (the
    length before), index, the seven ranks, scientificName, vernacularName, datasetName, split and
    one for every label. Killed and started again, it goes on where it was.

    \b
    Examples:
      bioclip2 embed data/birds --model runs/birds --out features/birds
      bioclip2 embed photos/ --model hf-hub:imageomics/bioclip-2 --out features/photos
    """
    from bioclip2_jax.data import folders
    from bioclip2_jax.features import embed as program
    from bioclip2_jax.features.encode import spread
    from bioclip2_jax.features.pictures import open_pictures
    from bioclip2_jax.weights.load import load

    pictures = open_pictures(source, split)
    about = program.embed(
        spread(load(model_path)),
        model_path,
        pictures,
        out,
        dtype=dtype,
        batch_size=batch_size,
        say=lambda line: click.echo(line, err=True),
    )
    skipped = f", {len(about.bad):,} could not be read" if about.bad else ""
    skipped += f", {folders.remark(pictures.others)}" if pictures.others else ""
    click.echo(f"{out}: {about.num_rows:,} features of {about.dim} numbers{skipped}")
