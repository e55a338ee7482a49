"""Compares two folders of results picture by picture: is one model better, or was it luck?"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.measures.paired import paired
from bioclip2_jax.measures.scores import number

SUFFIX = "_images.csv"


class Answers(NamedTuple):
    """To one picture: its true name, how often it was asked, and how often rightly answered."""

    name: str
    trials: int
    correct: int


class Held(NamedTuple):
    """What a folder holds of one task: the result, and key → answers."""

    folder: Path
    result: schema.SpeciesResult | schema.NewtResult
    answers: dict[str, Answers]


def compare(first: str | Path, second: str | Path) -> schema.Comparison:
    """The tasks that both folders hold per-image results of.

    Args:
      first, second: folders that `bioclip2 evaluate` wrote, such as `WORKDIR/eval/STEP`.

    Raises:
      UsageError: a folder holds no such results, or they have no task in common.
      UserError: the results are of other pictures, names or supports, or are damaged.
    """
    ours, theirs = _held(files.place(first)), _held(files.place(second))
    common = [task for task in ours if task in theirs]
    if not common:
        raise UsageError(
            f"{first} holds {', '.join(ours)} and {second} {', '.join(theirs)}: no task in common"
        )
    return schema.Comparison(
        first=ours[common[0]].result.model or str(first),
        second=theirs[common[0]].result.model or str(second),
        tasks={task: _compare_task(task, ours[task], theirs[task]) for task in common},
    )


def one_line(task: str, result: schema.TaskComparison) -> str:
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


def _held(folder: Path) -> dict[str, Held]:
    """Every task in which at least one picture was asked for."""
    held = {}
    for path in buckets.named(folder, f"*{SUFFIX}"):
        task, answers = path.name.removesuffix(SUFFIX), _answers(path)
        if answers:
            kind = schema.NewtResult if task == "newt" else schema.SpeciesResult
            result = schema.read(folder / f"{task}.json", kind)
            held[task] = Held(folder, result, answers)
    if not held:
        raise UsageError(
            f"{folder}: no results image by image here (zero_shot{SUFFIX}); give a folder that"
            " `bioclip2 evaluate` wrote, such as WORKDIR/eval/STEP"
        )
    return held


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
    return schema.TaskComparison(**vars(result), num_images=len(keys))


def _classes(result: schema.SpeciesResult | schema.NewtResult) -> tuple[object, int | None]:
    """What tells lists of classes apart, and their length; the classes of NeWT are its tasks."""
    if isinstance(result, schema.NewtResult):
        return sorted(result.tasks or ()), len(result.tasks or ())
    return result.classes_sha256 or result.num_classes, result.num_classes


def _answers(path: Path) -> dict[str, Answers]:
    try:
        return {
            row["key"]: Answers(
                row["scientificName"], int(row.get("trials", 1)), int(row["correct"])
            )
            for row in files.read_csv(path)
        }
    except (UserError, KeyError, ValueError) as error:
        raise UserError(f"{path}: no table of results ({error!r}); evaluate again") from error
