"""Closed lists of names to choose from: free labels, or the taxa of a table."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import tables
from bioclip2_jax.data.dataset import TAXA_FILE
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify import label_files, name_checks
from bioclip2_jax.measures import streamed
from bioclip2_jax.measures.scores import number
from bioclip2_jax.text import captions
from bioclip2_jax.text.names import common_name
from bioclip2_jax.text.taxonomy import RANKS, Taxon

RANK = "rank"  # the column that says how deep an answer goes, where answers differ in that


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
      vectors: features of the names, where they are made already; `names` is empty then.
      notes: what people should know of the list.
      above: [texts] the cells of all answers above a text's own, where there may be such.
    """

    names: list[str]
    groups: np.ndarray
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    taxa: tuple[Taxon, ...] = ()
    rank: str = ""
    vectors: label_files.Vectors | None = None
    notes: tuple[str, ...] = ()
    above: tuple[tuple[tuple[str, ...], ...], ...] = ()

    @property
    def is_long(self) -> bool:
        """Whether scores are better looked at by stretches."""
        return len(self.groups) > streamed.LONG

    def answers_of(self, text: int) -> tuple[tuple[str, ...], ...]:
        """The cells of all answers that stand for a text, by its number."""
        return (self.rows[self.groups[text]], *(self.above[text] if self.above else ()))

    def tells(self) -> str:
        """In few letters; two that are alike give the same answers."""
        names = (*self.names, *self.columns, *map("|".join, self.rows))
        names += (self.vectors.tells(),) if self.vectors else ()
        return f"{len(self.rows):,} with checksum {checksum(*names)}"


def tells_prior(counts: np.ndarray | None, strength: float) -> str:
    """A prior in few letters, see `Namer`."""
    if counts is None:
        return "none"
    return f"checksum {checksum(*map(repr, counts.tolist()))}, strength {strength}"


def checksum(*texts: str) -> str:
    """The first letters of SHA-256 over texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:12]


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
    return choose(taxa=path, rank=rank)


def choose(
    *,
    taxa: str | Path | None = None,
    names: str | Path | None = None,
    rank: str = "species",
    within: Sequence[str] = (),
    without: Sequence[str] = (),
) -> LabelSet:
    """A label list with lineages: of a table, or of label files, or of these what the table names.

    Args:
      taxa: the table.
      names: the label files, see `label_files.read`.
      rank: to answer at.
      within, without: "RANK=NAME" each, see `name_checks.part_of`.

    Raises:
      UsageError: no taxon has a name at `rank`, or nothing is left of the list.
      UserError: a table or file cannot be used.
    """
    kept = label_files.read(names) if names is not None else None
    place = str(taxa if kept is None else names)
    if kept is None:
        assert taxa is not None, "a table or label files"
        entries, notes = _read_table(taxa)
    else:
        entries, notes = kept.taxa, [*kept.notes]
    chosen = np.ones(len(entries), bool)
    if kept is not None and taxa is not None:
        wanted, more = _read_table(taxa)
        notes += more
        own = [taxon for taxon, _ in entries]
        chosen, more = name_checks.listed(own, [taxon for taxon, _ in wanted], str(taxa))
        notes += more
    if within or without:
        own = [taxon for taxon, _ in entries]
        part, more = name_checks.part_of(own, within, without, place)
        chosen &= part
        notes += more
        if not chosen.any():
            raise UsageError(f"{place}: --taxa, --within and --without leave no name of it")
    vectors = kept.vectors if kept else None
    if not chosen.all():
        rows = np.flatnonzero(chosen)
        entries = [entries[row] for row in rows]
        vectors = replace(vectors, picks=vectors.picks[rows]) if vectors else None
    labels = _labels_of(entries, rank, place, encode=kept is None)
    return replace(labels, vectors=vectors, notes=tuple(notes))


def _labels_of(
    entries: list[tuple[Taxon, str]], rank: str, place: str, *, encode: bool
) -> LabelSet:
    """`encode`: whether the names have to be encoded yet."""
    whole: dict[str, Any] = {"taxa": tuple(taxon for taxon, _ in entries), "rank": rank}
    names = []
    if encode:
        names = [captions.class_name("taxon_com", taxon, common) for taxon, common in entries]
    if rank == "species":
        rows = [
            (*t.ranks, f"{t.genus} {t.species}" if t.genus and t.species else "", common)
            for t, common in entries
        ]
        columns = (*RANKS[:-1], "species_epithet", "species", "common_name")
        groups = np.arange(len(entries))
        return LabelSet(names=names, groups=groups, columns=columns, rows=rows, **whole)
    lineages, groups = number([taxon.lineage(rank) for taxon, _ in entries])
    if not any(lineage[-1] for lineage in lineages):
        raise UsageError(
            f"--rank {rank}: no row of {place} names its {rank}; add a column {rank!r}, or ask for"
            " another rank"
        )
    columns = RANKS[: RANKS.index(rank) + 1]
    return LabelSet(names=names, groups=groups, columns=columns, rows=lineages, **whole)


def taxa_of(path: str | Path) -> list[tuple[Taxon, str]]:
    """(taxon, common name) from any table that `data.tables` reads, see `Taxon.from_row`.

    Rows of the same lineage count once, as do those that differ in what one of them leaves out. A
    row whose acceptedNameUsage is another name stands for that.

    Args:
      path: the table, or a dataset folder, which holds `taxa.csv`.

    Raises:
      UserError: unreadable, or a row that names no taxon.
    """
    return _read_table(path)[0]


def _read_table(path: str | Path) -> tuple[list[tuple[Taxon, str]], list[str]]:
    """The taxa, and what is odd about them."""
    path = files.place(path)
    table = tables.open_table(path / TAXA_FILE if path.is_dir() else path)
    columns = table.columns(tables.COMMON_NAME_COLUMNS)
    common: dict[Taxon, str] = {}
    written: set[Taxon] = set()
    doubled, synonyms = [], []
    for line, row in table.rows():
        taxon, synonym = name_checks.accepted_taxon(row)
        if taxon.deepest_rank is None:
            raise UserError(
                f"{table.path}: line {line} names no taxon; fill one of the columns"
                f" {', '.join(RANKS)} or scientificName"
            )
        name = taxon.scientific_name
        if synonym:
            synonyms.append(f"{synonym} (line {line}) is a synonym of {name}, which is taken")
        elif taxon in written:
            doubled.append(f"{name} (line {line})")
        else:
            written.add(taxon)
        names = (common_name(row[column]) for column in columns)
        common[taxon] = common.get(taxon) or next(filter(None, names), "")
    notes = name_checks.shortened(synonyms)
    if doubled:
        notes.append(f"{len(doubled):,} rows repeat a name, which counts once: {doubled[0]} first")
    common, more = name_checks.without_doubles(common)
    return list(common.items()), [f"{table.path}: {note}" for note in (*notes, *more)]
