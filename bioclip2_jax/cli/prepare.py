"""`bioclip2 prepare`: makes the dataset folders that training and evaluation read."""

from pathlib import Path

import click

from bioclip2_jax.cli import options
from bioclip2_jax.errors import UsageError


@click.group()
def prepare() -> None:
    """Make a dataset: from pictures with a table, or simulated."""


@prepare.command()
@click.option(
    "--metadata",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="CSV with a file column and taxonomy (Darwin Core names). Repeat to merge sets.",
)
@click.option(
    "--images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder the file column counts from, one for each --metadata. [default: the CSV's folder]",
)
@options.OUT
@click.option("--name", default="photos", show_default=True, help="Name of the dataset.")
@options.overwrite("dataset")
def folder(
    metadata: tuple[Path, ...], images: tuple[Path, ...], out: Path, name: str, overwrite: bool
) -> None:
    """Pictures in folders, with one CSV row a picture.

    Every column that is not taxonomy, file, split, source or licence is kept as a label.
    Unusable pictures are listed in OUT/quarantine.csv.

    \b
    Example:
      bioclip2 prepare folder --images birds --metadata birds/metadata.csv --out data/birds
    """
    from bioclip2_jax.prepare.folder import prepare_folder

    if images and len(images) != len(metadata):
        raise UsageError(
            f"--images is given {len(images)} times and --metadata {len(metadata)} times;"
            " give one --images for each --metadata, or none"
        )
    sources = list(zip(images or [None] * len(metadata), metadata, strict=True))
    summary = prepare_folder(sources, out, name=name, overwrite=overwrite)
    click.echo(f"{out}: {summary}")


@prepare.command()
@options.OUT
@click.option("--species", default=64, show_default=True, type=click.IntRange(min=2))
@click.option("--images", default=8000, show_default=True, type=click.IntRange(min=2))
@click.option("--size", default=64, show_default=True, type=click.IntRange(min=16), help="Pixels.")
@click.option("--seed", default=0, show_default=True)
@options.overwrite("dataset")
def simulate(out: Path, species: int, images: int, size: int, seed: int, overwrite: bool) -> None:
    """A simulated tree of life: species, traits and pictures grown from a seed.

    \b
    Example:
      bioclip2 prepare simulate --out data/simulated --species 64 --images 8000
    """
    from bioclip2_jax.prepare.simulated.individuals import prepare_simulated

    summary = prepare_simulated(
        out, seed=seed, num_species=species, num_images=images, image_size=size, overwrite=overwrite
    )
    click.echo(f"{out}: {summary}")
