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
# Of a rank: column of `zero_shot_images.csv` behind its name → how the rank was answered.
AT_RANKS = {"top1": "summed", "prompted_top1": "asked", "top_down_top1": "down the tree"}
FULL_PATH = "full_path"


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
    pictures, labels = question.pictures, question.labels[rows]
    names = [entry.scientific_name for entry in question.classes]

    # Classes that have pictures, in the order of the class list.
    columns = [*RANKS, "scientificName", "vernacularName", "train_images", "num_images"]
    columns += ["top1", "top3", "top5"]
    columns += ["confused_with", "confused_images"] if predictions is not None else []
    table = []
    for label, members in zip(*accuracy.rows_by_class(labels), strict=True):
        entry, own = question.classes[label], outcomes.select(members)
        row: dict[str, Any] = dict(zip(RANKS, entry.taxon.ranks, strict=True))
        row |= {"scientificName": entry.scientific_name, "vernacularName": entry.vernacular_name}
        row |= {"train_images": entry.counts.get("train"), "num_images": len(members)}
        if own.trials.any():
            row |= {f"top{k}": accuracy.share(own, k) for k in accuracy.TOP}
        if predictions is not None:
            other, count = accuracy.most_confused(labels[members], predictions[members], label)
            row |= {"confused_with": names[other] if count else "", "confused_images": count}
        table.append(row)
    files.write_csv(folder / f"{task}_classes.csv", table, columns)

    # Source datasets; `closed_top1` chooses among a dataset's own taxa alone.
    columns = ["datasetName", "num_images", "num_classes", "top1", "top3", "top5", "macro_top1"]
    columns += ["top1_low", "top1_high"] + (["closed_top1"] if closed else [])
    datasets, table = np.asarray(pictures.datasets)[rows], []
    for name in np.unique(datasets):
        part = np.flatnonzero(datasets == name)
        summary = accuracy.summarize(outcomes.select(part), labels[part])
        low, high = summary.intervals["top1"] or (None, None)
        row = {key: getattr(summary, key) for key in accuracy.NAMES}
        row |= {"datasetName": name, "top1_low": low, "top1_high": high}
        row |= {"num_images": len(part), "num_classes": len(np.unique(labels[part]))}
        table.append(row | ({"closed_top1": closed(part)} if closed else {}))
    files.write_csv(folder / f"{task}_datasets.csv", table, columns)

    # Pictures.
    answers = {
        "index": pictures.indices[rows].tolist(),
        "key": [pictures.keys[row] for row in rows],
        "datasetName": datasets.tolist(),
        "scientificName": [names[label] for label in labels],
        **answers,
    }
    table = [dict(zip(answers, row, strict=True)) for row in zip(*answers.values(), strict=True)]
    files.write_csv(folder / f"{task}_images.csv", table, list(answers))
