"""Result files of the evaluator: `WORKDIR/eval/<step>/`, written whole or not at all."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.features.encode import SplitFeatures
from bioclip2_jax.measures import metrics
from bioclip2_jax.measures.scores import ZeroShot
from bioclip2_jax.text.taxonomy import RANKS, TaxonEntry

FOLDER = "eval"  # of a training run


def write_classes(
    path: Path,
    classes: Sequence[TaxonEntry],
    labels: np.ndarray,
    outcomes: metrics.Outcomes,
    predictions: np.ndarray | None = None,
) -> None:
    """One row a class that has images, in the order of the class list."""
    columns = [*RANKS, "scientificName", "vernacularName", "train_images", "num_images"]
    columns += ["top1", "top3", "top5"]
    columns += ["confused_with", "confused_images"] if predictions is not None else []
    rows = []
    for label, members in zip(*metrics.rows_by_class(labels), strict=True):
        entry = classes[label]
        row = dict(zip(RANKS, entry.taxon.ranks, strict=True))
        row |= {"scientificName": entry.scientific_name, "vernacularName": entry.vernacular_name}
        row |= {
            "train_images": entry.counts.get("train"),
            "num_images": len(members),
        }
        row |= metrics.rates(outcomes.select(members))
        if predictions is not None:
            own = labels[members], predictions[members], label
            other, count = metrics.most_confused(*own)
            row["confused_with"] = classes[other].scientific_name if count else ""
            row["confused_images"] = count
        rows.append(row)
    files.write_csv(path, rows, columns)


def write_datasets(
    path: Path,
    datasets: list[str],
    labels: np.ndarray,
    outcomes: metrics.Outcomes,
    closed: Callable[[np.ndarray], float] | None = None,
) -> None:
    """One row a source dataset; `closed_top1` chooses among that dataset's own taxa alone."""
    columns = ["datasetName", "num_images", "num_classes", "top1", "top3", "top5", "macro_top1"]
    columns += ["top1_low", "top1_high"] + (["closed_top1"] if closed else [])
    rows = []
    for name in sorted(set(datasets)):
        part = np.flatnonzero(np.asarray(datasets) == name)
        summary = metrics.summarize(outcomes.select(part), labels[part])
        low, high = summary["intervals"]["top1"] or (None, None)
        row = {key: summary[key] for key in ("top1", "top3", "top5", "macro_top1")}
        row |= {"datasetName": name, "top1_low": low, "top1_high": high}
        row |= {"num_images": len(part), "num_classes": len(np.unique(labels[part]))}
        rows.append(row | ({"closed_top1": closed(part)} if closed else {}))
    files.write_csv(path, rows, columns)


def write_images(
    path: Path,
    found: SplitFeatures,
    rows: np.ndarray,
    classes: Sequence[TaxonEntry],
    labels: np.ndarray,
    result: ZeroShot,
) -> None:
    """The first five answers for every image.

    `index` is its position in the split; `correct` is 1 if the first answer is right.
    """
    kept = result.predictions.shape[1]
    columns = ["index", "key", "datasetName", "scientificName", "correct"]
    columns += [f"{name}_{i + 1}" for i in range(kept) for name in ("answer", "score")]
    table = []
    for number, row in enumerate(rows.tolist()):
        line = {"index": int(found.indices[row]), "key": found.keys[row]}
        line |= {"datasetName": found.datasets[row]}
        line["scientificName"] = classes[labels[number]].scientific_name
        line["correct"] = int(result.predictions[number, 0] == labels[number])
        for place in range(kept):
            answer = classes[result.predictions[number, place]]
            line[f"answer_{place + 1}"] = answer.scientific_name
            line[f"score_{place + 1}"] = float(result.scores[number, place])
        table.append(line)
    files.write_csv(path, table, columns)


def write_trials(
    path: Path,
    found: SplitFeatures,
    rows: np.ndarray,
    classes: Sequence[TaxonEntry],
    labels: np.ndarray,
    outcomes: metrics.Outcomes,
) -> None:
    """How often every image was a query of few-shot, `trials`, and was named rightly, `correct`."""
    table = [
        {
            "index": int(found.indices[row]),
            "key": found.keys[row],
            "datasetName": found.datasets[row],
            "scientificName": classes[label].scientific_name,
            "trials": trials,
            "correct": correct,
        }
        for row, label, trials, correct in zip(
            rows, labels, outcomes.trials.tolist(), outcomes.top[1].tolist(), strict=True
        )
    ]
    columns = ["index", "key", "datasetName", "scientificName", "trials", "correct"]
    files.write_csv(path, table, columns)
