"""`bioclip2 labels`: text features of a list of taxa, in pybioclip's form."""

from pathlib import Path

import click

from bioclip2_jax.cli import options


@click.command()
@click.argument("taxa", metavar="TAXA.csv", type=options.Place())
@options.MODEL
@click.option("--out", required=True, type=options.PATH, help="Folder to fill.")
@options.batch_size(256, "Texts")
def labels(taxa: str, model_path: str, out: Path, batch_size: int) -> None:
    """Write txt_emb_species.npy and txt_emb_species.json for the taxa of a table.

    The table is read as that of `bioclip2 prepare`, such as a dataset's taxa.csv. pybioclip's
    TreeOfLifeClassifier takes the files through its methods get_txt_emb and get_txt_names.

    \b
    Example:
      bioclip2 labels data/birds/taxa.csv --model export --out labels
    """
    from tqdm import tqdm

    from bioclip2_jax.features.encode import spread
    from bioclip2_jax.identify.label_writer import FEATURES_FILE, NAMES_FILE, write_labels
    from bioclip2_jax.identify.name_lists import taxa_of
    from bioclip2_jax.weights.load import load

    rows = taxa_of(taxa)
    with tqdm(total=len(rows), unit="taxa", disable=None) as bar:
        count = write_labels(
            spread(load(model_path)),
            rows,
            out,
            batch_size,
            lambda done: bar.update(done - bar.n),
        )
    click.echo(f"{out}: {FEATURES_FILE} and {NAMES_FILE} of {count:,} taxa")
