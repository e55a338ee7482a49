"""Names for new pictures, chosen from a list of taxa or of free labels.

The score of a name is its share in softmax(exp(logit_scale) · cosine) over the list, each name in
the 80 sentences that pybioclip takes (the evaluation has one more, the original's). Above species
it is the sum over the taxa of a lineage, which names higher ranks better than asking for them.
"""

import csv
import glob
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from bioclip2_jax.data.images import SUFFIXES
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features.encode import embed_classes, embed_images
from bioclip2_jax.measures.metrics import number, top_k
from bioclip2_jax.measures.scores import probabilities, sum_groups
from bioclip2_jax.text import captions
from bioclip2_jax.text.taxonomy import RANKS, Taxon
from bioclip2_jax.text.templates import IMAGENET_TEMPLATES
from bioclip2_jax.weights.load import Model

COMMON_NAME_COLUMNS = ("vernacularName", "common_name", "vernacular_name", "common")


@dataclass(frozen=True)
class LabelSet:
    """A closed list of names.

    Attributes:
      names: [texts] as they go into the templates.
      groups: [texts] int, the output row each text's score is added to.
      columns: of the output, between `file_name` and `score`.
      rows: the cells of those columns, one tuple a group.
    """

    names: list[str]
    groups: np.ndarray
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Prediction:
    """The first answers for one picture; `error` instead if it could not be read."""

    file_name: str
    answers: list[tuple[tuple[str, ...], float]]
    error: str = ""


# ---- Label lists


def read_labels(path: str | Path) -> LabelSet:
    """Free labels, one a line; empty lines are skipped.

    Raises:
      UserError: unreadable, empty, or the same label twice.
    """
    seen: dict[str, int] = {}
    for line, text in enumerate(_read_text(path).splitlines(), start=1):
        label = text.strip()
        if label and label in seen:
            raise UserError(
                f"{path}: line {line} repeats the label {label!r} of line {seen[label]};"
                " list every label once"
            )
        if label:
            seen[label] = line
    if not seen:
        raise UserError(f"{path}: no label in it; write one label a line")
    labels = list(seen)
    return LabelSet(labels, np.arange(len(labels)), ("classification",), [(x,) for x in labels])


def read_taxa(path: str | Path, rank: str = "species") -> LabelSet:
    """The label list of the taxa in a table, see `taxa_of`, answered at `rank`.

    Raises:
      UserError: as `taxa_of`.
    """
    return taxa_labels(taxa_of(path), rank)


def taxa_of(path: str | Path) -> list[tuple[Taxon, str]]:
    """(taxon, common name) from a CSV or tab-separated table with rank columns.

    Takes Darwin Core and our column names. Rows of the same lineage count once.

    Args:
      path: the table, or a dataset folder, which holds `taxa.csv`.

    Raises:
      UserError: unreadable, no rank column, an empty row, or no row at all.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "taxa.csv"
    text = _read_text(path)
    delimiter = max(",\t;", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    common: dict[Taxon, str] = {}
    try:
        for row in reader:
            taxon = Taxon.from_row({key: value for key, value in row.items() if key and value})
            if taxon.deepest_rank is None:
                raise UserError(
                    f"{path}: line {reader.line_num} names no taxon; fill one of the columns"
                    f" {', '.join(RANKS)} or scientificName"
                )
            name = next((row[key] for key in COMMON_NAME_COLUMNS if row.get(key)), "").strip()
            common[taxon] = common.get(taxon) or name
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is no CSV ({error})") from error
    if not common:
        raise UserError(f"{path}: no taxon in it; give a table with columns {', '.join(RANKS)}")
    return list(common.items())


def taxa_labels(taxa: Sequence[tuple[Taxon, str]], rank: str = "species") -> LabelSet:
    """The label list of (taxon, common name) pairs, answered at `rank`."""
    names = [captions.class_name("taxon_com", taxon, common) for taxon, common in taxa]
    if rank != "species":
        lineages, groups = number([taxon.lineage(rank) for taxon, _ in taxa])
        return LabelSet(names, groups, RANKS[: RANKS.index(rank) + 1], lineages)
    columns = (*RANKS[:-1], "species_epithet", "species", "common_name")
    rows = [
        (*t.ranks, f"{t.genus} {t.species}" if t.genus and t.species else "", common)
        for t, common in taxa
    ]
    return LabelSet(names, np.arange(len(names)), columns, rows)


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from error


# ---- Pictures


def find_images(arguments: Sequence[str]) -> list[str]:
    """Expands folders (all pictures below them) and glob patterns, sorted; keeps file names.

    Raises:
      UsageError: a folder or pattern without any picture.
    """
    found = []
    for argument in arguments:
        if os.path.isdir(argument):
            below = Path(argument).rglob("*")
            paths = sorted(str(p) for p in below if p.suffix.lower() in SUFFIXES and p.is_file())
        elif not os.path.exists(argument) and glob.has_magic(argument):
            paths = sorted(p for p in glob.glob(argument, recursive=True) if os.path.isfile(p))
        else:
            paths = [argument]
        if not paths:
            raise UsageError(f"{argument}: no picture here ({', '.join(SUFFIXES)})")
        found += paths
    return found


def predict(
    model: Model, paths: Sequence[str], labels: LabelSet, k: int = 5, batch_size: int = 32
) -> Iterator[Prediction]:
    """The k best names of every picture, in the order of `paths`.

    Args:
      model: from `load`.
      paths: picture files.
      labels: the closed list; `k` is clipped to its length.
      k: answers a picture.
      batch_size: pictures, and texts, encoded at a time.
    """
    label_features = embed_classes(model, labels.names, max(batch_size, 128), IMAGENET_TEMPLATES)

    def read(index: int) -> bytes:
        return Path(paths[index]).read_bytes()

    for batch in embed_images(model, len(paths), read, batch_size):
        answers = {index: Prediction(paths[index], [], reason) for index, reason in batch.bad}
        if batch.indices:
            scores = probabilities(batch.features, label_features, model.logit_scale)
            scores = sum_groups(scores, labels.groups)
            for index, row, best in zip(batch.indices, scores, top_k(scores, k), strict=True):
                pairs = [(labels.rows[group], float(row[group])) for group in best]
                answers[index] = Prediction(paths[index], pairs)
        yield from (answers[index] for index in sorted(answers))


@contextmanager
def open_output(path: str) -> Iterator[TextIO]:
    """Standard output for "-"; otherwise a file that appears only once it is complete.

    Raises:
      UsageError: the file cannot be made.
    """
    if path == "-":
        yield sys.stdout
        return
    partial = f"{path}.tmp"
    try:
        with open(partial, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"--output {path}: cannot be written ({error.strerror})") from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)
