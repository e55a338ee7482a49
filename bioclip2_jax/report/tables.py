"""The report's tables as plain rows: ours beside the published ones, and those of all results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bioclip2_jax.report.gather import Result
from bioclip2_jax.report.published import BenchmarkSet, Column, PublishedTable, find_set

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


def paper_rows(table: PublishedTable, results: Sequence[Result]) -> list[Row]:
    """Our rows of a published table, one for each model and step.

    A model that was measured on a set more than once, say with two forms of the names, has as many
    rows; a mean is given where every set was measured, else none.

    Args:
      table: that our results go into.
      results: those of other sets are passed over.
    """
    subjects: dict[str, list[dict[BenchmarkSet, Result]]] = {}
    keys = {one for column in table.columns for one in column.sets}
    for result in sorted(results, key=lambda result: (_variant(result), result.path)):
        one = _set_of(result)
        if one not in keys:
            continue
        rows = subjects.setdefault(result.subject, [])
        row = next((row for row in rows if one not in row), None)
        if row is None:
            rows.append(row := {})
        row[one] = result
    return [_row(table, name, row) for name, rows in sorted(subjects.items()) for row in rows]


def _set_of(result: Result) -> BenchmarkSet | None:
    if result.kind == "zero_shot":
        return find_set(result.settings.get("annotations"), result.settings.get("data"))
    return find_set(result.kind, None)


def _variant(result: Result) -> str:
    """What may differ between two results on one set."""
    return str(result.settings.get("text_kind" if result.kind == "zero_shot" else "protocol") or "")


def _row(table: PublishedTable, name: str, found: dict[BenchmarkSet, Result]) -> Row:
    cells = tuple(_column_cell(column, found) for column in table.columns)
    mean = mean_cell(cells) if all(cells) else None
    note = ", ".join(sorted({_variant(result) for result in found.values()} - {""}))
    return Row(name, note, cells, mean)


def _column_cell(column: Column, found: dict[BenchmarkSet, Result]) -> Cell | None:
    cells = [_cell(one, found[one]) for one in column.sets if one in found]
    return mean_cell(cells) if len(cells) == len(column.sets) else None


def _cell(one: BenchmarkSet, result: Result) -> Cell:
    values = result.values
    if result.kind == "zero_shot":
        low, high = values["intervals"].get("top1") or (None, None)
        cell = Cell(values["top1"], low, high)
        classes = values["num_classes"]
    else:
        cell = Cell(values["value"], std=values["std"] if len(values["runs"]) > 1 else None)
        classes = len(values["tasks"]) if result.kind == "newt" and "tasks" in values else None
    odd = _differences(one, values["num_images"], classes)
    return replace(cell, odd=f"{result.set_name}: {odd}" if odd else "")


def _differences(one: BenchmarkSet, images: int, classes: int | None) -> str:
    """As in "40 of 1,000 pictures", where a set is not the published one; else nothing."""
    told = []
    if one.images and abs(images - one.images) > CLOSE * one.images:
        told.append(f"{images:,} pictures, not {one.images:,}")
    if one.classes and classes is not None and classes != one.classes:
        told.append(f"{classes:,} classes, not {one.classes:,}")
    return " and ".join(told)


def mean_cell(cells: Sequence[Cell]) -> Cell:
    """The plain mean of figures of different sets.

    Their errors are independent, so half-widths of intervals and deviations add up in squares.
    """
    if len(cells) == 1:
        return cells[0]
    count = len(cells)
    value = sum(cell.value for cell in cells) / count

    def spread(widths: list[float | None]) -> float | None:
        return None if None in widths else math.hypot(*widths) / count

    below = spread([None if c.low is None else c.value - c.low for c in cells])
    above = spread([None if c.high is None else c.high - c.value for c in cells])
    return Cell(
        value,
        None if below is None else value - below,
        None if above is None else value + above,
        spread([c.std for c in cells]),
        "; ".join(c.odd for c in cells if c.odd),
    )


def remarks(rows: Sequence[Row]) -> list[str]:
    """What marked cells of these rows differ in, each once."""
    return list(dict.fromkeys(c.odd for row in rows for c in row.cells if c and c.odd))


def few_shot_rows(results: Sequence[Result]) -> list[Result]:
    """Results of few-shot that could ask anything, by model, set and number of examples."""
    asked = [r for r in results if r.kind.startswith("few_shot") and r.values["top1"] is not None]
    return sorted(asked, key=lambda r: (r.subject, r.set_name, r.values["k"]))


def left_out(result: Result) -> dict:
    """What an evaluation could not use: pictures off the list, unreadable ones with reasons."""
    values = result.values
    return {
        "excluded": values.get("num_excluded") or 0,
        "bad": values.get("bad") or [],
        "num_bad": values.get("num_bad") or values.get("num_missing") or 0,
        "too_few": values.get("left_out") or [],
    }


def provenance(results: Sequence[Result]) -> list[dict]:
    """One row a file of results: which model, which settings, which version of this package."""
    return [
        {
            "file": "/".join(result.path.parts[-3:]),
            "model": result.values.get("model") or result.values.get("features") or "–",
            "step": result.step,
            "settings": _settings_text(result.settings),
            "version": result.values.get("version") or "–",
        }
        for result in results
    ]


def _settings_text(settings: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items() if value not in (None, ""))
