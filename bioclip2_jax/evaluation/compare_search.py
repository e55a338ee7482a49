"""Compares two results of a search query by query."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.search import TABLES, TASK
from bioclip2_jax.evaluation.search_schema import RetrievalResult
from bioclip2_jax.measures.paired import paired
from bioclip2_jax.measures.scores import number

_KEYS = {"text_to_image": "query", "image_to_text": "key"}
_SHOWN = {
    "text_to_image": ("ndcg_50", "ap_50", "mrr", "recall_10"),
    "image_to_text": ("hit_1", "hit_10"),
}

Rows = dict[str, dict[str, str]]  # text, or key of a picture → its row


class HeldSearch(NamedTuple):
    """What a folder holds of a search: the result, and direction → the rows of what was asked."""

    folder: Path
    result: RetrievalResult
    rows: dict[str, Rows]


def held_search(folder: Path) -> HeldSearch | None:
    """Reads it; None where there is none.

    Raises:
      UserError: a file is damaged.
    """
    if not all((folder / name).is_file() for name in (f"{TASK}.json", *TABLES.values())):
        return None
    result = schema.read(folder / f"{TASK}.json", RetrievalResult)
    rows = {direction: _rows(folder / name, _KEYS[direction]) for direction, name in TABLES.items()}
    return HeldSearch(folder, result, rows)


def compare_search(
    first: HeldSearch, second: HeldSearch
) -> dict[str, dict[str, schema.ComparedQueries]]:
    """Direction → figure → how the two compare on the queries, which are the same.

    Raises:
      UserError: they searched for other things, or among others, or a file is damaged.
    """
    if first.result.queries_sha256 != second.result.queries_sha256:
        raise UserError(
            f"{TASK}: {first.folder} and {second.folder} searched for other texts or among other"
            " pictures; evaluate both with the same --data, --queries, --split and --candidates"
        )
    groups = next(iter(first.result.by_group), "")
    try:
        return {
            direction: {
                figure: _compare(first.rows[direction], second.rows[direction], figure, groups)
                for figure in getattr(first.result, direction).figures
            }
            for direction in TABLES
        }
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{first.folder}, {second.folder}: tables of other results ({error!r}); evaluate again"
        ) from error


def search_lines(comparison: schema.Comparison) -> list[str]:
    """A line a figure that is worth one."""
    lines = []
    for direction, figures in comparison.retrieval.items():
        for name in _SHOWN[direction]:
            result = figures[name]
            low, high = result.interval
            lines.append(
                f"{TASK}, {direction.replace('_', ' ')}: {name} {result.first:.3f} and"
                f" {result.second:.3f}, difference {result.difference:+.3f} [{low:+.3f},"
                f" {high:+.3f}]; better on {result.first_only:,} and {result.second_only:,} of"
                f" {result.num_queries:,} queries, p = {result.p:.2g}"
            )
    return lines


def _compare(first: Rows, second: Rows, figure: str, groups: str) -> schema.ComparedQueries:
    ours, theirs = (
        np.asarray([float(rows[key][figure]) for key in first]) for rows in (first, second)
    )
    labels = number([row.get(groups, "") for row in first.values()])[1]
    result = paired(ours, theirs, labels)
    return schema.ComparedQueries(**vars(result), num_queries=len(first))


def _rows(path: Path, key: str) -> Rows:
    """Of those that were asked, whose figures are not empty."""
    try:
        return {row[key]: row for row in files.read_csv(path) if row["hit_1"]}
    except (UserError, KeyError) as error:
        raise UserError(f"{path}: no table of results ({error!r}); evaluate again") from error
