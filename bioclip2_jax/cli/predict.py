"""`bioclip2 predict`."""

from collections.abc import Iterable, Iterator
from typing import Any

import click

from bioclip2_jax.cli import options
from bioclip2_jax.text.taxonomy import RANKS

SOME_FAILED, INTERRUPTED = 3, 130


@click.command()
@click.argument("pictures", metavar="[PICTURES]...", nargs=-1, type=options.Place())
@click.option(
    "--list",
    "list_file",
    type=options.Place(),
    help="File with one name a line; '-' is standard input.",
)
@options.MODEL
@click.option("--labels", type=options.Place(), help="Text file with one free label a line.")
@click.option(
    "--taxa", type=options.Place(), help="Table with rank columns, such as a dataset's taxa.csv."
)
@click.option(
    "--names",
    type=options.Place(here="label files are mapped; copy them to this machine"),
    metavar="DIR",
    help="Label files of `bioclip2 labels` or pybioclip; with --taxa, what that names of them.",
)
@click.option(
    "--head",
    type=options.Place(),
    metavar="DIR",
    help="Classes of `bioclip2 fit`, instead of names.",
)
@click.option(
    "--within",
    multiple=True,
    metavar="RANK=NAME",
    help="Of --taxa or --names only what is below NAME, or, given again, below one of several.",
)
@click.option(
    "--without", multiple=True, metavar="RANK=NAME", help="Of them nothing that is below NAME."
)
@click.option(
    "--rank",
    type=click.Choice(RANKS),
    help="With --taxa or --names: the rank to answer at.  [default: species]",
)
@options.DECODE
@options.PRIOR
@options.PRIOR_STRENGTH
@click.option(
    "--occurrences",
    type=options.Place(),
    metavar="TABLE",
    help="What was recorded where, such as a download of GBIF or a checklist: names that are likely"
    " at a picture's place gain.",
)
@click.option(
    "--place",
    metavar="LAT,LON|TABLE|REGION",
    help="With --occurrences: where pictures were taken.  [default: as their EXIF or --deployments"
    " says]",
)
@click.option(
    "--place-strength",
    type=click.FloatRange(min=0),
    metavar="A",
    help="With --occurrences: a name's score grows by A times the log of its share at the place."
    "  [default: 0.5]",
)
@click.option("--k", type=click.IntRange(min=1), help="Names a picture.  [default: 5]")
@click.option(
    "--sure",
    type=click.FloatRange(0.5, 0.99),
    metavar="P",
    help="One answer a picture, at the deepest rank at which so large a share of answers is right,"
    " or `none of these`.",
)
@click.option(
    "--calibration",
    type=options.Place(),
    metavar="FILE",
    help="For --sure: of `bioclip2 calibrate`, for this model and these names.",
)
@click.option("--split", help="Only this split of a dataset.  [default: all]")
@click.option(
    "--truncated",
    default="refuse",
    type=click.Choice(["refuse", "use"]),
    help="JPEGs that end early: an error each, or named by what there is, with a note.",
)
@click.option("--output", default="-", type=options.Place(), help="'-' is standard output.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "parquet", "jsonl", "table", "camtrap-dp"]),
    help="Of the output; a table is for people to look at, camtrap-dp a folder (Camtrap DP 1.0)."
    "  [default: parquet or jsonl by the ending of --output, else csv]",
)
@click.option(
    "--columns",
    default="pybioclip",
    type=click.Choice(["pybioclip", "dwc"]),
    help="Named as by pybioclip, or terms of Darwin Core.",
)
@click.option(
    "--coordinates",
    is_flag=True,
    help="Copy where pictures were taken (EXIF GPS) into --columns dwc, or a detector's file; else"
    " they are left out.",
)
@click.option(
    "--obscure",
    type=options.Place(),
    metavar="TABLE",
    help="Sensitive species: scientificName and an action (withhold, 10 km, 1 decimal), for"
    " coordinates.",
)
@click.option(
    "--deployments",
    type=options.Place(),
    metavar="TABLE",
    help="For camtrap-dp: deploymentID (a folder above the pictures), latitude, longitude,"
    " deploymentStart, deploymentEnd.",
)
@click.option(
    "--media",
    type=options.Place(),
    metavar="TABLE",
    help="For camtrap-dp, if wanted: filePath, and the picture's deploymentID or timestamp.",
)
@click.option(
    "--package",
    type=options.Place(),
    metavar="JSON",
    help="For camtrap-dp: contributors and project, as a datapackage.json has them.",
)
@click.option(
    "--timezone",
    metavar="ZONE",
    help="For camtrap-dp: of the cameras' clocks, such as Europe/Brussels or +01:00.",
)
@click.option("--bom", is_flag=True, help="Begin CSV with the mark by which Excel knows UTF-8.")
@click.option(
    "--boxes", type=options.Place(), help="JSON of MegaDetector or SpeciesNet: each box is named."
)
@click.option("--box-threshold", default=0.2, help="Confidence that a box must have.")
@click.option("--box-padding", default=0.1, help="Shares of its sides to add on each side.")
@click.option("--box-square/--no-box-square", default=True, help="Cut squares around boxes.")
@click.option("--log", type=options.Place(), help="JSON file to write about the run.")
@options.batch_size(32, "Pictures")
@options.PRECISION
def predict(model_path: str, form: str | None, **how: Any) -> None:
    """Name the organisms in PICTURES.

    They are files, folders, quoted patterns, tar and zip archives, Parquet with pictures, datasets
    of `prepare`, or one feature store of `embed`, whose pictures are not looked at again.

    Prints a table, the best name first. A picture that cannot be read is a row with its `error`;
    the exit code is then 3, or 1 if none could be read. With --output FILE, rows go to FILE.part as
    they come; interrupted and called again, the same command goes on.

    With --boxes there is a row for each box of a detector, whose file names count from the folder
    PICTURES; an --output FILE.json is the detector's file with the names in it, as Timelapse reads.

    With --format camtrap-dp, --output is a folder: a package for camera traps. Pictures without a
    time of capture are set aside in it, and counted; the exit code is then 3.

    \b
    Examples:
      bioclip2 predict bird.jpg --model runs/first --taxa data/birds/taxa.csv
      bioclip2 predict photos/ --model export/ --labels names.txt --output answers.csv
      bioclip2 predict photos/ --model export/ --names labels/ --within class=Aves --rank family
      bioclip2 predict card/ --model export/ --taxa taxa.csv --format camtrap-dp --output package \\
        --deployments cameras.csv --package project.json --timezone Europe/Brussels
      find /media/card -name '*.JPG' | bioclip2 predict --list - --model export/ --taxa taxa.csv
    """
    from bioclip2_jax.data import folders
    from bioclip2_jax.errors import UsageError
    from bioclip2_jax.identify.run import Request, run

    if not how["pictures"] and not how["list_file"] and not how["boxes"]:
        raise UsageError("no pictures: name files, folders or archives, or give --list FILE")
    ending = how["output"].lower().rpartition(".")[2]
    form = form or (ending if ending in ("parquet", "jsonl") else "csv")
    try:
        done = run(Request(model=model_path, format=form, **how), watch=_watch, say=_say)
    except KeyboardInterrupt:
        on = "" if how["output"] == "-" else "; the same command goes on where it was"
        click.echo(f"interrupted{on}", err=True)
        raise SystemExit(INTERRUPTED) from None
    if done.others:
        click.echo(folders.remark(done.others), err=True)
    if done.unplaced:
        click.echo(
            f"{done.unplaced} of {done.asked} pictures have no place: their scores are unweighted",
            err=True,
        )
    if done.failed:
        click.echo(f"{done.failed} of {done.count} pictures could not be read", err=True)
    for sentence in done.told.sentences if done.told else ():
        click.echo(sentence, err=True)
    if done.failed or (done.told and done.told.set_aside):
        is_nothing = done.failed == done.count or (done.told and not done.told.pictures)
        raise SystemExit(1 if is_nothing else SOME_FAILED)


def _say(note: str) -> None:
    click.echo(note, err=True)


def _watch(position: int, count: int, batches: Iterable[list]) -> Iterator[list]:
    """Says what fails and, on a terminal, how far it is."""
    import sys

    from tqdm import tqdm

    if position:
        click.echo(f"going on behind {position:,} of {count:,} pictures", err=True)
    is_quiet = not sys.stderr.isatty()
    with tqdm(
        initial=position, total=count, unit=" pictures", file=sys.stderr, disable=is_quiet
    ) as bar:
        for batch in batches:
            for picture in batch:
                if picture.error:
                    bar.clear()
                    click.echo(f"{picture.file_name}: {picture.error}", err=True)
            yield batch
            bar.update(len(batch))
