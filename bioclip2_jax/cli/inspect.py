"""`bioclip2 inspect`: what a dataset, a run or a model holds."""

from pathlib import Path

import click

from bioclip2_jax import files
from bioclip2_jax.cli import options
from bioclip2_jax.errors import UsageError, UserError

_SUFFIX = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"GI": ".gif", b"BM": ".bmp"}


@click.command()
@click.option("--data", type=options.Place(), help="A dataset folder made by `bioclip2 prepare`.")
@click.option(
    "--model", type=options.Place(), help="Any model that `convert` reads, such as a workdir."
)
@click.option("--workdir", type=options.Place(), help="Folder of a training run.")
@click.option("--split", default="test", help="Split for --extract.")
@click.option("--extract", type=click.IntRange(min=1), help="Write this many pictures of --data.")
@click.option("--out", type=options.Place(file_okay=False), help="Folder for --extract.")
def inspect(
    data: str | None,
    model: str | None,
    workdir: str | None,
    split: str,
    extract: int | None,
    out: str | None,
) -> None:
    """Describe a dataset, a model or a training run, or take pictures out of a dataset.

    \b
    Examples:
      bioclip2 inspect --data runs/quickstart/data
      bioclip2 inspect --data runs/quickstart/data --extract 8 --out pictures
      bioclip2 inspect --model runs/quickstart
      bioclip2 inspect --workdir runs/quickstart
    """
    if not (data or model or workdir):
        raise UsageError("nothing to inspect: give --data DIR, --model PATH or --workdir DIR")
    if extract:
        if not (data and out):
            raise UsageError("--extract needs --data DIR and --out DIR")
        _extract(data, split, extract, files.place(out))
    elif data:
        _describe_data(data)
    if model:
        _describe_model(model)
    if workdir:
        from bioclip2_jax.training import status

        click.echo("\n".join(status.describe(files.place(workdir))))


def _describe_data(data_dir: str) -> None:
    """Splits with their image counts, taxa per rank, and the most and least pictured taxa."""
    from bioclip2_jax.data import dataset
    from bioclip2_jax.text.taxonomy import RANKS

    lines = [data_dir]
    for name, count in dataset.splits(data_dir).items():
        lines.append(f"  {name:<10} {count:>9,} images")
    taxa = dataset.read_taxa(data_dir)
    for rank in RANKS:
        names = {e.taxon.lineage(rank) for e in taxa if e.taxon.lineage(rank)[-1]}
        lines.append(f"  {rank:<10} {len(names):>9,} taxa")
    named = [
        f"{entry.scientific_name or '?'} ({sum(entry.counts.values()):,})"
        for entry in sorted(taxa, key=lambda entry: -sum(entry.counts.values()))
    ]
    lines.append("  most pictured:  " + ", ".join(named[:3]))
    lines.append("  least pictured: " + ", ".join(named[-3:]))
    click.echo("\n".join(lines))


def _describe_model(path: str) -> None:
    """Step, sizes, preprocessing and every tensor with its shape and root mean square."""
    import jax
    import numpy as np

    from bioclip2_jax.weights.load import load

    model = load(path)
    leaves = jax.tree_util.tree_leaves_with_path(model.params)
    total = sum(np.size(leaf) for _, leaf in leaves)
    step = "" if model.step is None else f", step {model.step:,}"
    lines = [f"{path}: {total:,} parameters{step}", f"  {model.config}", f"  {model.preprocess}"]
    for keys, leaf in leaves:
        name = "/".join(key.key for key in keys)
        size = np.sqrt(np.mean(np.square(np.asarray(leaf, np.float32))))
        lines.append(f"  {name:<44} {str(np.shape(leaf)):<18} rms {size:.4g}")
    click.echo("\n".join(lines))


def _extract(data_dir: str, split: str, count: int, out: Path) -> None:
    """Writes `count` images, evenly spread over a split, as they came, named by their taxon."""
    import re

    import numpy as np

    from bioclip2_jax.data import dataset

    source = dataset.open_split(data_dir, split)
    if not len(source):
        raise UserError(f"{data_dir}: split {split!r} is empty")
    files.make_folder(out)
    for index in np.unique(np.linspace(0, len(source) - 1, count).astype(int)):
        record = source[int(index)]
        name = re.sub(r"\W+", "_", f"{record['scientificName']} {index}").strip("_")
        path = out / (name + _SUFFIX.get(record["image"][:2], ".img"))
        files.write_bytes(path, record["image"])
        click.echo(path)
