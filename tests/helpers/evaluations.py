"""Training folders with checkpoints of perfect models, and what evaluating them has written."""

import csv
import json
from pathlib import Path

VAL = {"red": 4, "orange": 3, "blue": 6, "green": 2}  # pictures of the split


def add_checkpoints(folder: Path, *steps: int) -> Path:
    """Empty ones, whose model is whatever `load` is made to give."""
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    return folder


def results_in(folder: Path, task: str) -> dict:
    """The result of one task."""
    return json.loads((folder / f"{task}.json").read_text())


def result(workdir: Path, step: int, task: str = "zero_shot") -> dict:
    """The same, of a checkpoint."""
    return results_in(workdir / "eval" / str(step), task)


def table(workdir: Path, step: int, name: str) -> list[dict]:
    """The rows of a table beside it."""
    with (workdir / "eval" / str(step) / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def quiet(line: str) -> None:
    """Says nothing."""
