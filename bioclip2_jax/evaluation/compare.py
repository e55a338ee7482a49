"""Compares two folders of results picture by picture: is one model better, or was it luck?

Searches are compared query by query, see `compare_search`.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.compare_search import (
    HeldSearch,
    compare_search,
    held_search,
    search_lines,
)
from bioclip2_jax.evaluation.search import TASK as SEARCH
from bioclip2_jax.evaluation.tables import AT_RANKS, FOLDER, FULL_PATH
from bioclip2_jax.measures.paired import paired
from bioclip2_jax.measures.scores import number
from bioclip2_jax.text.taxonomy import RANKS

SUFFIX = "_images.csv"
_AT_RANKS = [f"{rank}_{key}" for rank in RANKS[:-1] for key in AT_RANKS]


class Answers(NamedTuple):
    """To one picture: its true name, how often it was asked, and how often rightly answered.

    `more` has the columns about ranks that are not empty, 1 for a right answer.
    """

    name: str
    trials: int
    correct: int
    more: Mapping[str, int]


class Held(NamedTuple):
    """What a folder holds of one task.

    Attributes:
      folder: of the results.
      result: in `TASK.json`.
      answers: by the keys of the pictures.
      lineages: name of a class → its ranks; empty where no answers are about ranks.
    """

    folder: Path
    result: schema.SpeciesResult | schema.NewtResult
    answers: dict[str, Answers]
    lineages: dict[str, tuple[str, ...]]


AnyHeld = Held | HeldSearch


def compare(first: str | Path, second: str | Path) -> schema.Comparison:
    """The tasks that both folders hold per-image results of.

    Args:
      first, second: folders that `bioclip2 evaluate` wrote, such as `WORKDIR/eval/STEP`.

    Raises:
      UsageError: a folder holds no such results, or they have no task in common.
      UserError: the results are of other pictures, names or supports, or are damaged.
    """
    ours, theirs = (held(files.place(folder)) for folder in (first, second))
    for folder, results in ((first, ours), (second, theirs)):
        if not results:
            raise nothing_held(folder)
    if not ours.keys() & theirs.keys():
        raise UsageError(
            f"{first} holds {', '.join(ours)} and {second} {', '.join(theirs)}: no task in common"
        )
    return compare_held(ours, theirs)


def compare_held(first: Mapping[str, AnyHeld], second: Mapping[str, AnyHeld]) -> schema.Comparison:
    """The same of results that were read, with a task in common.

    Raises:
      UserError: they are of other pictures, names or supports.
    """
    common = [task for task in first if task in second]
    ours, theirs = first[common[0]], second[common[0]]
    tasks, retrieval = {}, {}
    for task in common:
        match first[task], second[task]:
            case Held() as before, Held() as now:
                tasks[task] = _compare_task(task, before, now)
            case HeldSearch() as before, HeldSearch() as now:
                retrieval = compare_search(before, now)
    return schema.Comparison(
        first=ours.result.model or str(ours.folder),
        second=theirs.result.model or str(theirs.folder),
        tasks=tasks,
        retrieval=retrieval,
    )


def held(folder: Path, tasks: Collection[str] = ()) -> dict[str, AnyHeld]:
    """What a folder holds of every task in which at least one picture was asked for, and of search.

    Args:
      folder: of results.
      tasks: to read; () for all.

    Raises:
      UserError: a file is damaged.
    """
    results: dict[str, AnyHeld] = {}
    if (not tasks or SEARCH in tasks) and (search := held_search(folder)):
        results[SEARCH] = search
    for path in buckets.named(folder, f"*{SUFFIX}"):
        task = path.name.removesuffix(SUFFIX)
        wanted = task != SEARCH and (not tasks or task in tasks)
        answers = _answers(path) if wanted else {}
        if answers:
            kind = schema.NewtResult if task == "newt" else schema.SpeciesResult
            result = schema.read(folder / f"{task}.json", kind)
            names = {row.name for row in answers.values() if row.more}
            lineages = _lineages(folder / f"{task}_classes.csv", names) if names else {}
            results[task] = Held(folder, result, answers, lineages)
    return results


def nothing_held(folder: str | Path) -> UsageError:
    """The error about a folder without results, or about a model in the place of its results."""
    inside = buckets.named(files.place(folder) / FOLDER, "*")
    steps = [path for path in inside if path.name.isdigit()]
    newest = max(steps, key=lambda path: int(path.name)) if steps else "WORKDIR/eval/STEP"
    return UsageError(
        f"{folder}: no results image by image here (zero_shot{SUFFIX}); give a folder that"
        f" `bioclip2 evaluate` wrote, such as {newest}"
    )


# ---- In words


def lines(comparison: schema.Comparison) -> list[str]:
    """A line a task, and below that of zero-shot a table of the ranks; of a search several."""
    return [
        line
        for task, result in comparison.tasks.items()
        for line in (_one_line(task, result), *_asked_line(result), *_rank_lines(result))
    ] + search_lines(comparison)


def _one_line(task: str, result: schema.Compared) -> str:
    """The difference, how sure it is, and where it comes from."""
    low, high = (100 * x for x in result.interval)
    macro_low, macro_high = (100 * x for x in result.macro_interval)
    return (
        f"{task}: {100 * result.first:.1f} and {100 * result.second:.1f} %, difference"
        f" {100 * result.difference:+.1f} [{low:+.1f}, {high:+.1f}], class average"
        f" {100 * result.macro_difference:+.1f} [{macro_low:+.1f}, {macro_high:+.1f}];"
        f" better on {result.first_only:,} and {result.second_only:,} of"
        f" {result.num_images:,} images, p = {result.p:.2g}"
    )


def _asked_line(result: schema.TaskComparison) -> list[str]:
    """That a difference may be one of the questions, not of the models."""
    changes = [f"{name} {a}, then {b}" for name, (a, b) in result.asked_otherwise.items()]
    return [f"  asked otherwise: {'; '.join(changes)}"] if changes else []


def _rank_lines(result: schema.TaskComparison) -> list[str]:
    """Accuracies of both, the difference and its interval, of each rank and of the full path."""
    head = "full path"
    rows = [(" " * len(head), *AT_RANKS.values())] if result.ranks else []
    for rank, figures in result.ranks.items():
        rows.append((rank, *(_cell(figures[key]) if key in figures else "" for key in AT_RANKS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    table += [f"{head}  {_cell(result.full_path)}"] if result.full_path else []
    return [f"  {row}".rstrip() for row in table]


def _cell(result: schema.Compared) -> str:
    low, high = (100 * x for x in result.interval)
    return (
        f"{100 * result.first:.1f} → {100 * result.second:.1f}"
        f" {100 * result.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    )


# ---- One task


def _compare_task(task: str, first: Held, second: Held) -> schema.TaskComparison:
    ours, theirs = first.answers, second.answers
    keys = [key for key in ours if key in theirs]
    if not keys:
        raise UserError(
            f"{task}: {first.folder} and {second.folder} have no picture in common; evaluate both"
            " on the same --data and --split"
        )
    (list_, count), (other_list, other_count) = map(_classes, (first.result, second.result))
    if list_ != other_list or any(ours[key].name != theirs[key].name for key in keys):
        raise UserError(
            f"{task}: {first.folder} and {second.folder} name the pictures from different lists of"
            f" classes ({count} and {other_count}); evaluate both with the same --labels or"
            " --annotations"
        )
    if any(ours[key].trials != theirs[key].trials for key in keys):
        if task == "newt":
            raise UserError(
                f"{task}: {first.folder} and {second.folder} ran it a different number of times;"
                " evaluate both with the same --protocol"
            )
        raise UserError(
            f"{task}: {first.folder} and {second.folder} drew other examples to learn from; give"
            f" --support {first.folder / task}_support.json to the second"
        )
    result = paired(
        np.asarray([ours[key].correct for key in keys]),
        np.asarray([theirs[key].correct for key in keys]),
        number([ours[key].name for key in keys])[1],
        np.asarray([ours[key].trials for key in keys]),
    )
    ranks: dict[str, dict[str, schema.Compared]] = {}
    for depth, rank in enumerate(RANKS[:-1], 1):
        figures = {key: _compare_column(first, second, f"{rank}_{key}", depth) for key in AT_RANKS}
        there = {key: figure for key, figure in figures.items() if figure}
        ranks |= {rank: there} if there else {}
    return schema.TaskComparison(
        **vars(result),
        num_images=len(keys),
        asked_otherwise=_asked_otherwise(first.result.settings, second.result.settings)
        if task == "zero_shot"
        else {},
        ranks=ranks,
        full_path=_compare_column(first, second, FULL_PATH, len(RANKS)),
    )


def _asked_otherwise(first: schema.Settings, second: schema.Settings) -> dict[str, tuple[str, str]]:
    """See `schema.TaskComparison`."""
    names = ["text_kind", "templates", "decode"]
    if first.prior_strength or second.prior_strength:  # one of strength 0 changes no answer
        names += ["prior", "prior_strength"]

    def told(settings: schema.Settings) -> dict[str, str]:
        values = {name: getattr(settings, name) for name in names}
        if values.get("prior"):
            values["prior"] = files.absolute(values["prior"])
        return {name: "none" if value is None else str(value) for name, value in values.items()}

    ours, theirs = told(first), told(second)
    return {name: (ours[name], theirs[name]) for name in names if ours[name] != theirs[name]}


def _compare_column(first: Held, second: Held, column: str, depth: int) -> schema.Compared | None:
    """Of the pictures that both have a value of; None without any.

    Args:
      first, second: results of the same pictures and classes.
      column: of their tables of pictures.
      depth: ranks from kingdom down that tell apart the lineages to average over.
    """
    ours, theirs = (
        {key: row.more[column] for key, row in each.answers.items() if column in row.more}
        for each in (first, second)
    )
    keys = [key for key in ours if key in theirs]
    if not keys:
        return None
    lineages = [first.lineages[first.answers[key].name][:depth] for key in keys]
    result = paired(
        np.asarray([ours[key] for key in keys]),
        np.asarray([theirs[key] for key in keys]),
        number(lineages)[1],
    )
    return schema.Compared(**vars(result), num_images=len(keys))


def _classes(result: schema.SpeciesResult | schema.NewtResult) -> tuple[object, int | None]:
    """What tells lists of classes apart, and their length; the classes of NeWT are its tasks."""
    if isinstance(result, schema.NewtResult):
        return sorted(result.tasks or ()), len(result.tasks or ())
    return result.classes_sha256 or result.num_classes, result.num_classes


def _answers(path: Path) -> dict[str, Answers]:
    try:
        return {
            row["key"]: Answers(
                row["scientificName"],
                int(row.get("trials", 1)),
                int(row["correct"]),
                {name: int(row[name]) for name in (*_AT_RANKS, FULL_PATH) if row.get(name)},
            )
            for row in files.read_csv(path)
        }
    except (UserError, KeyError, ValueError) as error:
        raise UserError(f"{path}: no table of results ({error!r}); evaluate again") from error


def _lineages(path: Path, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    try:
        rows = {row["scientificName"]: row for row in files.read_csv(path)}
        return {name: tuple(rows[name][rank] for rank in RANKS) for name in names}
    except (UserError, KeyError) as error:
        raise UserError(f"{path}: no table of classes ({error!r}); evaluate again") from error
