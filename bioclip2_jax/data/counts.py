"""How often each taxon was met, as a table says: what answers may take for known beforehand."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from etils import epath

from bioclip2_jax import files
from bioclip2_jax.data import tables
from bioclip2_jax.data.dataset import TAXA_FILE
from bioclip2_jax.errors import UserError
from bioclip2_jax.text.taxonomy import Taxon

COUNT_COLUMNS = ("count", "numimages", "train")


def counts_of(path: epath.PathLike, taxa: Iterable[Taxon]) -> np.ndarray:
    """[taxa] float64: the count of each; 0 where the table has none.

    A taxon is found by its lineage, or else by its scientific name; rows of the same one add up.

    Args:
      path: a table with rank columns and one of `COUNT_COLUMNS`, or a dataset folder, whose
        `taxa.csv` says how many training pictures there are.
      taxa: to be found.

    Raises:
      UserError: unreadable, without counts, or of no taxon asked for.
    """
    path = files.place(path)
    table = tables.open_table(path / TAXA_FILE if path.is_dir() else path)
    column = table.column(COUNT_COLUMNS)
    if column is None:
        raise UserError(f"{table.path}: no column of counts; call it `count`")
    by_lineage, by_name = defaultdict[Taxon, float](float), defaultdict[str, float](float)
    for line, row in table.rows():
        taxon = Taxon.from_row(row)
        try:
            count = float(row[column] or 0)
            if not 0 <= count < float("inf"):
                raise ValueError
        except ValueError as error:
            raise UserError(
                f"{table.path}: line {line}, column {column!r}: {row[column]!r} is no count"
            ) from error
        by_lineage[taxon] += count
        by_name[taxon.scientific_name] += count
    counts = np.array(
        [by_lineage.get(taxon, by_name.get(taxon.scientific_name, 0)) for taxon in taxa], float
    )
    if not counts.any():
        raise UserError(f"{table.path}: counts none of the {len(counts):,} taxa asked for")
    return counts
