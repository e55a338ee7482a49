"""Tables beside a result of species: `WORKDIR/eval/<step>/`, written whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.evaluation.questions import Question
from bioclip2_jax.measures import accuracy
from bioclip2_jax.text.taxonomy import RANKS

FOLDER = "eval"  # of a training run


def write(
    folder: Path,
    task: str,
    question: Question,
    rows: np.ndarray,
    outcomes: accuracy.Outcomes,
    answers: dict[str, list],
    *,
    predictions: np.ndarray | None = None,
    closed: Callable[[np.ndarray], float] | None = None,
) -> None:
    """Takes the result away, which is no seal of the tables to come, and writes them.

    Args:
      folder, task: of the result.
      question: what was asked.
      rows: [n] int, the pictures that were asked for.
      outcomes: of these.
      answers: column → its value for each of them.
      predictions: [n] int, first answers; None to name no class that others were taken for.
      closed: rows of `rows` → accuracy when only their own classes are on the list; or None.
    """
    (folder / f"{task}.json").unlink(missing_ok=True)
    _write_classes(folder / f"{task}_classes.csv", question, rows, outcomes, predictions)
    _write_datasets(folder / f"{task}_datasets.csv", question, rows, outcomes, closed)
    pictures = question.pictures
    columns = {
        "index": pictures.indices[rows].tolist(),
        "key": [pictures.keys[row] for row in rows],
        "datasetName": [pictures.datasets[row] for row in rows],
        "scientificName": [question.classes[i].scientific_name for i in question.labels[rows]],
        **answers,
    }
    lines = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    files.write_csv(folder / f"{task}_images.csv", lines, list(columns))


def _write_classes(
    path: Path,
    question: Question,
    rows: np.ndarray,
    outcomes: accuracy.Outcomes,
    predictions: np.ndarray | None,
) -> None:
    """One row a class that has images, in the order of the class list."""
    columns = [*RANKS, "scientificName", "vernacularName", "train_images", "num_images"]
    columns += ["top1", "top3", "top5"]
    columns += ["confused_with", "confused_images"] if predictions is not None else []
    table, labels = [], question.labels[rows]
    for label, members in zip(*accuracy.rows_by_class(labels), strict=True):
        entry = question.classes[label]
        row: dict[str, Any] = dict(zip(RANKS, entry.taxon.ranks, strict=True))
        row |= {"scientificName": entry.scientific_name, "vernacularName": entry.vernacular_name}
        row |= {"train_images": entry.counts.get("train"), "num_images": len(members)}
        own = outcomes.select(members)
        if own.trials.any():
            row |= {f"top{k}": accuracy.share(own, k) for k in accuracy.TOP}
        if predictions is not None:
            other, count = accuracy.most_confused(labels[members], predictions[members], label)
            row["confused_with"] = question.classes[other].scientific_name if count else ""
            row["confused_images"] = count
        table.append(row)
    files.write_csv(path, table, columns)


def _write_datasets(
    path: Path,
    question: Question,
    rows: np.ndarray,
    outcomes: accuracy.Outcomes,
    closed: Callable[[np.ndarray], float] | None,
) -> None:
    """One row a source dataset; `closed_top1` chooses among that dataset's own taxa alone."""
    columns = ["datasetName", "num_images", "num_classes", "top1", "top3", "top5", "macro_top1"]
    columns += ["top1_low", "top1_high"] + (["closed_top1"] if closed else [])
    datasets, labels = np.asarray(question.pictures.datasets)[rows], question.labels[rows]
    table = []
    for name in np.unique(datasets):
        part = np.flatnonzero(datasets == name)
        summary = accuracy.summarize(outcomes.select(part), labels[part])
        low, high = summary.intervals["top1"] or (None, None)
        row = {key: getattr(summary, key) for key in accuracy.NAMES}
        row |= {"datasetName": name, "top1_low": low, "top1_high": high}
        row |= {"num_images": len(part), "num_classes": len(np.unique(labels[part]))}
        table.append(row | ({"closed_top1": closed(part)} if closed else {}))
    files.write_csv(path, table, columns)
