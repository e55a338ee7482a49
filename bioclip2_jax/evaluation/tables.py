"""Result files of the evaluator: `WORKDIR/eval/<step>/`, written whole or not at all."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.evaluation.protocols.zero_shot import ZeroShot
from bioclip2_jax.features.encode import SplitFeatures
from bioclip2_jax.measures import accuracy
from bioclip2_jax.text.taxonomy import RANKS, TaxonEntry

FOLDER = "eval"  # of a training run
_PICTURE = ("index", "key", "datasetName", "scientificName")


def write_classes(
    path: Path,
    classes: Sequence[TaxonEntry],
    labels: np.ndarray,
    outcomes: accuracy.Outcomes,
    predictions: np.ndarray | None = None,
) -> None:
    """One row a class that has images, in the order of the class list."""
    columns = [*RANKS, "scientificName", "vernacularName", "train_images", "num_images"]
    columns += ["top1", "top3", "top5"]
    columns += ["confused_with", "confused_images"] if predictions is not None else []
    rows = []
    for label, members in zip(*accuracy.rows_by_class(labels), strict=True):
        entry = classes[label]
        row = dict(zip(RANKS, entry.taxon.ranks, strict=True))
        row |= {"scientificName": entry.scientific_name, "vernacularName": entry.vernacular_name}
        row |= {"train_images": entry.counts.get("train"), "num_images": len(members)}
        own = outcomes.select(members)
        if own.trials.any():
            row |= {f"top{k}": accuracy.share(own, k) for k in accuracy.TOP}
        if predictions is not None:
            other, count = accuracy.most_confused(labels[members], predictions[members], label)
            row["confused_with"] = classes[other].scientific_name if count else ""
            row["confused_images"] = count
        rows.append(row)
    files.write_csv(path, rows, columns)


def write_datasets(
    path: Path,
    datasets: list[str],
    labels: np.ndarray,
    outcomes: accuracy.Outcomes,
    closed: Callable[[np.ndarray], float] | None = None,
) -> None:
    """One row a source dataset; `closed_top1` chooses among that dataset's own taxa alone."""
    columns = ["datasetName", "num_images", "num_classes", "top1", "top3", "top5", "macro_top1"]
    columns += ["top1_low", "top1_high"] + (["closed_top1"] if closed else [])
    rows = []
    for name in sorted(set(datasets)):
        part = np.flatnonzero(np.asarray(datasets) == name)
        summary = accuracy.summarize(outcomes.select(part), labels[part])
        low, high = summary.intervals["top1"] or (None, None)
        row = {key: getattr(summary, key) for key in accuracy.NAMES}
        row |= {"datasetName": name, "top1_low": low, "top1_high": high}
        row |= {"num_images": len(part), "num_classes": len(np.unique(labels[part]))}
        rows.append(row | ({"closed_top1": closed(part)} if closed else {}))
    files.write_csv(path, rows, columns)


def write_images(
    path: Path,
    pictures: SplitFeatures,
    rows: np.ndarray,
    classes: Sequence[TaxonEntry],
    labels: np.ndarray,
    result: ZeroShot,
) -> None:
    """The first five answers for every image.

    `index` is its position in the split; `correct` is 1 if the first answer is right.
    """
    answers = range(result.predictions.shape[1])
    columns = [*_PICTURE, "correct"]
    columns += [f"{name}_{place + 1}" for place in answers for name in ("answer", "score")]
    table = []
    for number, line in enumerate(_pictures(pictures, rows, classes, labels)):
        line["correct"] = int(result.predictions[number, 0] == labels[number])
        for place in answers:
            answer = classes[result.predictions[number, place]]
            line[f"answer_{place + 1}"] = answer.scientific_name
            line[f"score_{place + 1}"] = float(result.scores[number, place])
        table.append(line)
    files.write_csv(path, table, columns)


def write_trials(
    path: Path,
    pictures: SplitFeatures,
    rows: np.ndarray,
    classes: Sequence[TaxonEntry],
    labels: np.ndarray,
    outcomes: accuracy.Outcomes,
) -> None:
    """How often every image was a query of few-shot, `trials`, and was named rightly, `correct`."""
    lines = _pictures(pictures, rows, classes, labels)
    asked = zip(lines, outcomes.trials.tolist(), outcomes.top[1].tolist(), strict=True)
    table = [line | {"trials": trials, "correct": correct} for line, trials, correct in asked]
    files.write_csv(path, table, [*_PICTURE, "trials", "correct"])


def _pictures(
    pictures: SplitFeatures, rows: np.ndarray, classes: Sequence[TaxonEntry], labels: np.ndarray
) -> Iterator[dict[str, Any]]:
    """What a table says of each of the rows, and of its class."""
    for row, label in zip(rows.tolist(), labels, strict=True):
        values = (int(pictures.indices[row]), pictures.keys[row], pictures.datasets[row])
        yield dict(zip(_PICTURE, (*values, classes[label].scientific_name), strict=True))
