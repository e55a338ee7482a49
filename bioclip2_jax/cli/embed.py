"""`bioclip2 embed`."""

import contextlib
import signal
import sys
from collections.abc import Iterator

import click

from bioclip2_jax.cli import options


@click.command()
@click.argument("source", metavar="SRC", nargs=-1, required=True, type=options.Place())
@options.MODEL
@click.option("--out", required=True, type=options.Place(file_okay=False), help="Folder to fill.")
@click.option("--split", help="Only this split of a dataset.  [default: all]")
@options.dtype("float16", help="Of the kept features.")
@options.PRECISION
@click.option(
    "--columns",
    default="bioclip2",
    type=click.Choice(["bioclip2", "explorer"]),
    help="explorer: `uuid` and `emb`, as Imageomics' Embedding Explorer calls them.",
)
@click.option(
    "--task",
    metavar="I/N",
    help="Only share I (0 … N-1) of N: one call a machine, all with the same --out.",
)
@options.batch_size(128, "Pictures")
def embed(
    source: tuple[str, ...],
    model_path: str,
    out: str,
    split: str | None,
    dtype: str,
    precision: str,
    columns: str,
    task: str | None,
    batch_size: int,
) -> None:
    """Encode the pictures of SRC, and keep the features.

    SRC is a dataset, a folder of pictures, or tars or Parquet files with pictures (named, or the
    folder that holds them). OUT becomes a folder of Parquet files with the columns key, embedding
    (of length 1), norm (the length before), index, the seven ranks, scientificName,
    vernacularName, datasetName, split, one for every label of a dataset, file and bytes.

    Called again, it adds what is new in SRC. Killed and started again, it goes on: what was encoded
    a minute ago is on the disk.

    \b
    Examples:
      bioclip2 embed data/birds --model runs/birds --out features/birds
      bioclip2 embed photos/ --model hf-hub:imageomics/bioclip-2 --out features/photos
      bioclip2 embed tars/ --model export --out features/tars --task 0/8
    """
    import jax

    from bioclip2_jax.data import folders
    from bioclip2_jax.features import embed as program
    from bioclip2_jax.features.encode import spread
    from bioclip2_jax.features.sources import open_source
    from bioclip2_jax.weights.load import load
    from bioclip2_jax.workers import processes, tasks

    share = tasks.share_of(task) if task else None
    if share is None:  # the hosts of a TPU, or the tasks of srun, share by themselves
        processes.start(None, silent_seconds=3600)
        share = jax.process_index(), jax.process_count()
    with processes.together(), _stopping(jax.process_count() == 1):
        pictures = open_source(source, split)
        about = program.embed(
            spread(load(model_path, precision)),
            model_path,
            pictures,
            out,
            dtype=dtype,
            columns="explorer" if columns == "explorer" else "bioclip2",
            batch_size=batch_size,
            task=share,
            say=lambda line: click.echo(line, err=True),
        )
    skipped = f", {len(about.bad):,} could not be read" if about.bad else ""
    skipped += f", {folders.remark(pictures.others)}" if pictures.others else ""
    click.echo(f"{out}: {about.num_rows:,} features of {about.dim} numbers{skipped}")


@contextlib.contextmanager
def _stopping(alone: bool) -> Iterator[None]:
    """Has SIGTERM end the work as an error would: what is encoded is written. JAX's, of several."""
    before = signal.getsignal(signal.SIGTERM)
    if alone:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
