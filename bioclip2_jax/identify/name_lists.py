"""Closed lists of names to choose from: free labels, or the taxa of a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import tables
from bioclip2_jax.data.dataset import TAXA_FILE
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.measures.scores import number
from bioclip2_jax.text import captions
from bioclip2_jax.text.names import common_name
from bioclip2_jax.text.taxonomy import RANKS, Taxon


@dataclass(frozen=True)
class LabelSet:
    """A closed list of names.

    Attributes:
      names: [texts] as they go into the templates.
      groups: [texts] int, the output row each text's score is added to.
      columns: of the output, between `file_name` and `score`.
      rows: the cells of those columns, one tuple a group.
      taxa: [texts] the lineages that they name; none of free labels.
      rank: that is answered at; "" for free labels.
    """

    names: list[str]
    groups: np.ndarray
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    taxa: tuple[Taxon, ...] = ()
    rank: str = ""


def read_labels(path: str | Path) -> LabelSet:
    """Free labels, one a line; empty lines are skipped.

    Raises:
      UserError: unreadable, empty, or the same label twice.
    """
    lines: dict[str, int] = {}
    for line, label in tables.read_lines(files.place(path)):
        if label in lines:
            raise UserError(
                f"{path}: line {line} repeats the label {label!r} of line {lines[label]};"
                " list every label once"
            )
        lines[label] = line
    if not lines:
        raise UserError(f"{path}: no label in it; write one label a line")
    labels = list(lines)
    return LabelSet(
        names=labels,
        groups=np.arange(len(labels)),
        columns=("classification",),
        rows=[(label,) for label in labels],
    )


def read_taxa(path: str | Path, rank: str = "species") -> LabelSet:
    """The label list of the taxa in a table, see `taxa_of`, answered at `rank`.

    Raises:
      UsageError: no taxon has a name at `rank`.
      UserError: as `taxa_of`.
    """
    taxa = taxa_of(path)
    whole: dict[str, Any] = {"taxa": tuple(taxon for taxon, _ in taxa), "rank": rank}
    names = [captions.class_name("taxon_com", taxon, common) for taxon, common in taxa]
    if rank == "species":
        rows = [
            (*t.ranks, f"{t.genus} {t.species}" if t.genus and t.species else "", common)
            for t, common in taxa
        ]
        columns = (*RANKS[:-1], "species_epithet", "species", "common_name")
        groups = np.arange(len(names))
        return LabelSet(names=names, groups=groups, columns=columns, rows=rows, **whole)
    lineages, groups = number([taxon.lineage(rank) for taxon, _ in taxa])
    if not any(lineage[-1] for lineage in lineages):
        raise UsageError(
            f"--rank {rank}: no row of {path} names its {rank}; add a column {rank!r}, or ask for"
            " another rank"
        )
    columns = RANKS[: RANKS.index(rank) + 1]
    return LabelSet(names=names, groups=groups, columns=columns, rows=lineages, **whole)


def taxa_of(path: str | Path) -> list[tuple[Taxon, str]]:
    """(taxon, common name) from any table that `data.tables` reads, see `Taxon.from_row`.

    Rows of the same lineage count once.

    Args:
      path: the table, or a dataset folder, which holds `taxa.csv`.

    Raises:
      UserError: unreadable, or a row that names no taxon.
    """
    path = files.place(path)
    table = tables.open_table(path / TAXA_FILE if path.is_dir() else path)
    columns = table.columns(tables.COMMON_NAME_COLUMNS)
    common: dict[Taxon, str] = {}
    for line, row in table.rows():
        taxon = Taxon.from_row(row)
        if taxon.deepest_rank is None:
            raise UserError(
                f"{table.path}: line {line} names no taxon; fill one of the columns"
                f" {', '.join(RANKS)} or scientificName"
            )
        names = (common_name(row[column]) for column in columns)
        common[taxon] = common.get(taxon) or next(filter(None, names), "")
    return list(common.items())
