"""The report's tables as plain rows: ours beside the published ones, and those of all results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bioclip2_jax.evaluation import schema
from bioclip2_jax.report.gather import ResultFile
from bioclip2_jax.report.published import BenchmarkSet, PublishedTable, find_set

CLOSE = 0.02  # copies of a set differ by a few pictures; by more it is another set


@dataclass(frozen=True)
class Cell:
    """A share between 0 and 1 with its 95 % interval or its spread over runs.

    Attributes:
      value: the share.
      low, high: the interval, None where it is not known.
      std: standard deviation over runs, None where there is one.
      odd: measured on other pictures than the published figure.
    """

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    odd: str = ""


@dataclass(frozen=True)
class Row:
    """A row of ours in a published table; `cells` holds None where nothing was measured."""

    name: str
    note: str
    cells: tuple[Cell | None, ...]
    mean: Cell | None


def paper_rows(table: PublishedTable, results: Sequence[ResultFile]) -> list[Row]:
    """Our rows of a published table, one for each model and step.

    A model that was measured on a set more than once, say with two forms of the names, has as many
    rows; a mean is given where every set was measured, else none.

    Args:
      table: that our results go into.
      results: those of other sets are passed over.
    """
    subjects: dict[str, list[dict[BenchmarkSet, ResultFile]]] = {}
    benchmarks = {benchmark for column in table.columns for benchmark in column.sets}
    for result in sorted(results, key=lambda result: (_variant(result), result.path)):
        benchmark = _set_of(result)
        if benchmark is None or benchmark not in benchmarks:
            continue
        rows = subjects.setdefault(result.subject, [])
        row = next((row for row in rows if benchmark not in row), None)
        if row is None:
            rows.append(row := {})
        row[benchmark] = result
    return [_row(table, name, row) for name, rows in sorted(subjects.items()) for row in rows]


def _set_of(result: ResultFile) -> BenchmarkSet | None:
    if result.kind == "zero_shot":
        return find_set(result.settings.get("annotations"), result.settings.get("data"))
    return find_set(result.kind, None)


def _variant(result: ResultFile) -> str:
    """What may differ between two results on one set."""
    if result.kind == "zero_shot":
        strength = result.settings.get("prior_strength")
        prior = "" if strength is None else f"prior of strength {strength:g}"
        return ", ".join(filter(None, [result.settings.get("text_kind"), prior]))
    return f"protocol {result.settings['protocol']}"


def _row(table: PublishedTable, name: str, measured: dict[BenchmarkSet, ResultFile]) -> Row:
    cells = tuple(
        mean_cell([_cell(each, measured.get(each)) for each in column.sets])
        for column in table.columns
    )
    note = ", ".join(sorted({_variant(result) for result in measured.values()} - {""}))
    return Row(name, note, cells, mean_cell(cells))


def _cell(benchmark: BenchmarkSet, result: ResultFile | None) -> Cell | None:
    if result is None:
        return None
    values = result.values
    if isinstance(values, schema.ZeroShotResult):
        low, high = values.intervals.get("top1") or (None, None)
        cell, classes = Cell(values.top1, low, high), values.num_classes
    else:
        cell = Cell(values.value, std=values.std if len(values.runs) > 1 else None)
        tasks = values.tasks if isinstance(values, schema.NewtResult) else None
        classes = None if tasks is None else len(tasks)
    odd = _differences(benchmark, values.num_images, classes)
    return replace(cell, odd=f"{result.set_name}: {odd}" if odd else "")


def _differences(benchmark: BenchmarkSet, images: int, classes: int | None) -> str:
    """As in "40 of 1,000 pictures", where a set is not the published one; else nothing."""
    parts = []
    if benchmark.images and abs(images - benchmark.images) > CLOSE * benchmark.images:
        parts.append(f"{images:,} pictures, not {benchmark.images:,}")
    if benchmark.classes and classes is not None and classes != benchmark.classes:
        parts.append(f"{classes:,} classes, not {benchmark.classes:,}")
    return " and ".join(parts)


def mean_cell(cells: Sequence[Cell | None]) -> Cell | None:
    """The plain mean of figures of different sets; None where one was not measured.

    Their errors are independent, so half-widths of intervals and deviations add up in squares.
    """
    if len(cells) == 1:
        return cells[0]
    known = [cell for cell in cells if cell]
    if len(known) < len(cells):
        return None
    figures = [(cell.value, cell.low, cell.high, cell.std) for cell in known]
    value, low, high, std = np.asarray(figures, float).T  # NaN where there is none
    mean = value.mean()
    below, above, spread = np.linalg.norm([value - low, high - value, std], axis=1) / len(cells)
    bounds = (None if np.isnan(x) else float(x) for x in (mean - below, mean + above, spread))
    return Cell(float(mean), *bounds, odd="; ".join(cell.odd for cell in known if cell.odd))


def remarks(rows: Sequence[Row]) -> list[str]:
    """What marked cells of these rows differ in, each once."""
    return list(dict.fromkeys(c.odd for row in rows for c in row.cells if c and c.odd))


def few_shot_rows(results: Sequence[ResultFile]) -> list[ResultFile]:
    """Results of few-shot that could ask anything, by model, set and number of examples."""
    asked = [
        result
        for result in results
        if isinstance(result.values, schema.FewShotResult) and result.values.top1 is not None
    ]
    return sorted(asked, key=lambda result: (result.subject, result.set_name, result.values.k))


def left_out(result: ResultFile) -> dict[str, Any] | None:
    """What an evaluation could not use; None where there is nothing.

    Returns:
      `excluded`: number of pictures off the list, or in few-shot of those that were no question;
      `num_bad`, `bad`: missing and unreadable ones; `too_few`: names of taxa without enough
      pictures; `k`: examples a taxon, None of other tasks.
    """
    names = {"excluded": "num_excluded", "num_bad": "num_bad", "bad": "bad", "too_few": "left_out"}
    if isinstance(result.values, schema.BeyondResult):
        names["num_bad"] = "num_missing"
    lost = {key: getattr(result.values, name, None) for key, name in names.items()}
    return lost | {"k": getattr(result.values, "k", None)} if any(lost.values()) else None


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in one line, those that say nothing left out."""
    said = {key: value for key, value in settings.items() if value not in (None, "", [], ())}
    return ", ".join(f"{key} {value}" for key, value in said.items())
