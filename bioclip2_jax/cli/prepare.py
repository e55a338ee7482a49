"""`bioclip2 prepare`: makes the dataset folders that training and evaluation read."""

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bioclip2_jax.cli import options
from bioclip2_jax.errors import UsageError

_SOURCES = click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=options.PATH)
_CAPTIONS = click.option(
    "--captions",
    default="",
    show_default=False,
    metavar="COLUMN",
    help="Column of captions to train on, for replay.",
)
_TABLES = click.option(
    "--tables",
    multiple=True,
    type=options.PATH,
    help="Table with more about the pictures, by their keys, such as catalog.parquet.",
)


def _running(name: str, *, may_be_named: bool = True) -> Callable:
    """The options of every conversion; the command makes its source of the others."""

    def decorate(command: Callable) -> Callable:
        @options.OUT
        @options.overwrite("dataset")
        @click.option(
            "--corrections", type=options.PATH, help="CSV of names to correct, see docs/data.md."
        )
        @click.option(
            "--processes",
            default=None,
            type=click.IntRange(min=1),
            help="Processes on this machine. [default: one a core]",
        )
        @click.option(
            "--runner",
            default="local",
            type=click.Choice(["local", "ray"]),
            help="Run on this machine or on a Ray cluster.",
        )
        @click.option("--address", help="Of the Ray cluster. [default: the one here]")
        @click.option("--task", metavar="I/N", help="Do one of N shares, for arrays of jobs.")
        @functools.wraps(command)
        def run(**values: Any) -> None:
            common = ("out", "overwrite", "corrections", "processes", "runner", "address", "task")
            taken = {key: values.pop(key) for key in common}
            dataset_name = values.pop("name", name)
            _build(command(**values), dataset_name, **taken)

        if not may_be_named:
            return run
        return click.option("--name", default=name, help="Name of the dataset.")(run)

    return decorate


def _build(
    source: Any,
    name: str,
    *,
    out: Path,
    overwrite: bool,
    corrections: Path | None,
    processes: int | None,
    runner: str,
    address: str | None,
    task: str | None,
) -> None:
    from bioclip2_jax.prepare.build import build
    from bioclip2_jax.prepare.hygiene import Corrections
    from bioclip2_jax.prepare.workshop import Order
    from bioclip2_jax.workers.tasks import Runner, share_of

    if runner == "ray" and (task or processes):
        raise UsageError("--runner ray shares the work out: leave out --task and --processes")
    if address and runner != "ray":
        raise UsageError("--address is of a Ray cluster; add --runner ray")
    order = Order(
        source=source,
        out=out,
        name=name,
        overwrite=overwrite,
        corrections=Corrections.read(corrections) if corrections else None,
        runner=Runner(
            processes=processes or os.cpu_count() or 1,
            ray=(address or "auto") if runner == "ray" else None,
            share=share_of(task) if task else None,
        ),
    )
    # What is done is kept, and what is half-written removed, as with Ctrl-C.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        summary = build(order, click.echo)
    finally:
        signal.signal(signal.SIGTERM, before)
    if summary:
        click.echo(f"{out}: {summary}")


def _texts(paths: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(map(str, paths))


@click.group()
def prepare() -> None:
    """Make a dataset: from archives, tables and folders of pictures, or simulated.

    \b
    What there is               command
    a table and pictures        folder
    folders named by species    tree
    TreeOfLife tars             webdataset
    LAION tars                  img2dataset
    pictures in Parquet         parquet
    a Darwin Core Archive       dwca
    nothing yet                 simulate

    SRC and OUT may be in a bucket (gs://…).

    A conversion that was interrupted goes on when it is called again. OUT/summary.json counts what
    was found, OUT/quarantine.csv lists what was set aside, OUT/conflicts.csv what looks odd about
    names.

    \b
    Example:
      bioclip2 prepare folder --images birds --metadata birds/metadata.csv --out data/birds
    """


@prepare.command()
@click.argument("sources", metavar="[SRC]...", nargs=-1, type=options.PATH)
@click.option(
    "--metadata",
    multiple=True,
    type=options.PATH,
    help="CSV with a file column and taxonomy (Darwin Core names). Repeat to merge sets.",
)
@click.option(
    "--images",
    multiple=True,
    type=options.PATH,
    help="Folder the file column counts from, one for each table. [default: the table's folder]",
)
@_CAPTIONS
@_running("photos")
def folder(
    sources: tuple[Path, ...], metadata: tuple[Path, ...], images: tuple[Path, ...], captions: str
) -> Any:
    """Pictures in folders, with one CSV row a picture: SRC is such a table, or a folder with one.

    Every column that is not taxonomy, file, split, source or licence is kept as a label.
    Unusable pictures are listed in OUT/quarantine.csv.

    \b
    Example:
      bioclip2 prepare folder --images birds --metadata birds/metadata.csv --out data/birds
    """
    from bioclip2_jax.prepare.folder import Folder
    from bioclip2_jax.prepare.recognise import table_in

    # A folder stands for the table in it.
    tables = [*metadata, *(path.is_dir() and table_in(path) or path for path in sources)]
    if not tables:
        raise UsageError("--metadata is missing: the table that says what the pictures show")
    if images and len(images) != len(tables):
        raise UsageError(
            f"--images is given {len(images)} times and --metadata {len(tables)} times;"
            " give one --images for each --metadata, or none"
        )
    pairs = zip(images or [None] * len(tables), tables, strict=True)
    return Folder(tables=tuple(pairs), captions=captions)


@prepare.command()
@_SOURCES
@_running("photos")
def tree(sources: tuple[Path, ...]) -> Any:
    """Pictures in folders whose names say what they show.

    Genus_species, Genus/species, whole lineages as folders or in one name (iNaturalist), and common
    names are understood. Folders called train, val or test at the top are splits.

    \b
    Example:
      bioclip2 prepare tree inat/train --out data/inat
    """
    from bioclip2_jax.prepare.tree import Tree

    return Tree(paths=_texts(sources))


@prepare.command()
@_SOURCES
@_TABLES
@_running("treeoflife")
def webdataset(sources: tuple[Path, ...], tables: tuple[Path, ...]) -> Any:
    """TreeOfLife's tars: pictures with their names and captions as texts.

    SRC is a tar, a folder of them, or a pattern like shard-{00000..00010}.tar.

    \b
    Example:
      bioclip2 prepare webdataset shards/ --tables catalog.parquet --out data/treeoflife
    """
    from bioclip2_jax.prepare.webdataset import Webdataset

    return Webdataset(paths=_texts(sources), tables=_texts(tables))


@prepare.command()
@_SOURCES
@_running("replay")
def img2dataset(sources: tuple[Path, ...]) -> Any:
    """Tars of img2dataset, such as LAION's: pictures with a caption each, for replay.

    SRC is a tar, a folder of them, or a pattern like {00000..00010}.tar.

    \b
    Example:
      bioclip2 prepare img2dataset laion/ --out data/replay
    """
    from bioclip2_jax.prepare.img2dataset import Img2dataset

    return Img2dataset(paths=_texts(sources))


@prepare.command()
@_SOURCES
@_TABLES
@_CAPTIONS
@_running("photos")
def parquet(sources: tuple[Path, ...], tables: tuple[Path, ...], captions: str) -> Any:
    """Parquet files that hold pictures: Hugging Face's, or distributed-downloader's.

    SRC is a file or a folder of them.

    \b
    Example:
      bioclip2 prepare parquet downloads/ --tables resolved.parquet --out data/gbif
    """
    from bioclip2_jax.prepare.parquet import ParquetSource

    return ParquetSource(sources=sources, tables=tables, captions=captions)


@prepare.command()
@click.argument("archive", metavar="SRC", type=options.PATH)
@click.option("--media", type=options.PATH, help="Folder of the pictures. [default: the archive's]")
@_running("archive")
def dwca(archive: Path, media: Path | None) -> Any:
    """A Darwin Core Archive, a folder or a zip, whose pictures lie on this machine.

    \b
    Example:
      bioclip2 prepare dwca gbif.zip --media pictures/ --out data/gbif
    """
    from bioclip2_jax.prepare.dwca import DwcaSource

    return DwcaSource(archive=archive, media=media)


@prepare.command()
@click.option("--species", default=64, type=click.IntRange(min=2))
@click.option("--images", default=8000, type=click.IntRange(min=2))
@click.option("--size", default=64, type=click.IntRange(min=16), help="Pixels.")
@click.option("--seed", default=0)
@_running("simulated", may_be_named=False)
def simulate(species: int, images: int, size: int, seed: int) -> Any:
    """A simulated tree of life: species, traits and pictures grown from a seed.

    \b
    Example:
      bioclip2 prepare simulate --out data/simulated --species 64 --images 8000
    """
    from bioclip2_jax.prepare.simulated.individuals import SimulatedTree

    return SimulatedTree(seed=seed, num_species=species, num_images=images, image_size=size)
