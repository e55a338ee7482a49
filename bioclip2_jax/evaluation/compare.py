"""Compares two folders of results picture by picture: is one model better, or was it luck?"""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.measures import metrics
from bioclip2_jax.measures.paired import paired

SUFFIX = "_images.csv"


def compare(first: str | Path, second: str | Path) -> dict:
    """The tasks that both folders hold per-image results of.

    Args:
      first, second: folders that `bioclip2 evaluate` wrote, such as `WORKDIR/eval/STEP`.

    Returns:
      `first` and `second`, the models, and `tasks`: task → the fields of `Paired` and
      `num_images`, the pictures that both were asked for.

    Raises:
      UsageError: a folder holds no such results, or they have no task in common.
      UserError: the results are of other pictures, names or supports, or are damaged.
    """
    folders = Path(first), Path(second)
    held = [_tables(folder) for folder in folders]
    common = [task for task in held[0] if task in held[1]]
    if not common:
        raise UsageError(
            f"{first} holds {', '.join(held[0])} and {second} {', '.join(held[1])}: no task in"
            " common"
        )
    heads = [[_head(folder, task) for folder in folders] for task in common]
    models = [head.get("model") or str(f) for head, f in zip(heads[0], folders, strict=True)]
    tasks = {
        task: _compare_task(task, folders, pair, [tables[task] for tables in held])
        for task, pair in zip(common, heads, strict=True)
    }
    return {"first": models[0], "second": models[1], "tasks": tasks}


def one_line(task: str, result: dict) -> str:
    """The difference, how sure it is, and where it comes from."""
    low, high = (100 * x for x in result["interval"])
    macro_low, macro_high = (100 * x for x in result["macro_interval"])
    return (
        f"{task}: {100 * result['first']:.1f} and {100 * result['second']:.1f} %, difference"
        f" {100 * result['difference']:+.1f} [{low:+.1f}, {high:+.1f}], class average"
        f" {100 * result['macro_difference']:+.1f} [{macro_low:+.1f}, {macro_high:+.1f}];"
        f" better on {result['first_only']:,} and {result['second_only']:,} of"
        f" {result['num_images']:,} images, p = {result['p']:.2g}"
    )


def _tables(folder: Path) -> dict[str, dict]:
    """Task → `_rows`, for every task in which at least one picture was asked for."""
    found = {
        path.name.removesuffix(SUFFIX): _rows(path) for path in sorted(folder.glob(f"*{SUFFIX}"))
    }
    found = {task: rows for task, rows in found.items() if rows}
    if not found:
        raise UsageError(
            f"{folder}: no results image by image here (zero_shot{SUFFIX}); give a folder that"
            " `bioclip2 evaluate` wrote, such as WORKDIR/eval/STEP"
        )
    return found


def _head(folder: Path, task: str) -> dict:
    try:
        return json.loads((folder / f"{task}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / task}.json: cannot be read ({error})") from error


def _compare_task(
    task: str, folders: tuple[Path, Path], heads: list[dict], tables: list[dict]
) -> dict:
    one, other = tables
    keys = [key for key in one if key in other]
    if not keys:
        raise UserError(
            f"{task}: {folders[0]} and {folders[1]} have no picture in common; evaluate both on"
            " the same --data and --split"
        )
    names = [head.get("classes_sha256") or head.get("num_classes") for head in heads]
    if names[0] != names[1] or any(one[key][0] != other[key][0] for key in keys):
        raise UserError(
            f"{task}: {folders[0]} and {folders[1]} name the pictures from different lists of"
            f" classes ({heads[0].get('num_classes')} and {heads[1].get('num_classes')}); evaluate"
            " both with the same --labels or --annotations"
        )
    if any(one[key][1] != other[key][1] for key in keys):
        raise UserError(
            f"{task}: {folders[0]} and {folders[1]} drew other examples to learn from; give"
            f" --support {folders[0] / task}_support.json to the second"
        )
    trials = np.asarray([one[key][1] for key in keys])
    right = [np.asarray([rows[key][2] for key in keys]) for rows in tables]
    labels = metrics.number([one[key][0] for key in keys])[1]
    return {"num_images": len(keys)} | asdict(paired(*right, labels, trials))


def _rows(path: Path) -> dict[str, tuple[str, int, int]]:
    """Key → its true name, how often it was asked, how often that was answered rightly."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                row["key"]: (row["scientificName"], int(row.get("trials", 1)), int(row["correct"]))
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no table of results ({error!r}); evaluate again") from error
