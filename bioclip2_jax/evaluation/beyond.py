"""The tasks beyond species of BioCLIP 2's second table: from published folders to results.

The released code ran them once with seed 0 in its first version and three times, with seeds 0, 1
and 2, in its second; PlantDoc draws five times in both. `runs` holds all, the first one first.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bioclip2_jax.evaluation.protocols.awa2 import awa2
from bioclip2_jax.evaluation.protocols.fishnet import fishnet
from bioclip2_jax.evaluation.protocols.herbarium19 import herbarium19, split_labelled
from bioclip2_jax.evaluation.protocols.newt import newt
from bioclip2_jax.evaluation.protocols.plantdoc import plantdoc
from bioclip2_jax.evaluation.published import beyond as layouts
from bioclip2_jax.evaluation.species import missing, rows_of
from bioclip2_jax.features.store import Store

SEEDS = (0, 1, 2)


def run(task: str, root: Path, kept: Store, protocol: str) -> dict:
    """Runs one task.

    Args:
      task: of `TASKS`.
      root: the folder of the set as it is published.
      kept: features of its pictures, keys relative to `root`.
      protocol: "faithful" or "corrected".

    Returns:
      `value`, the figure of the paper's table as the mean of `runs`, with `metric` (its name),
      `std` over the runs, `protocol`, `num_images`, `num_missing`, `bad` (key and reason of
      each missing picture) and what else the task knows.

    Raises:
      UserError: the folder is not laid out as published, or pictures have no features.
    """
    details = TASKS[task](root, kept, protocol)
    runs = details["runs"]
    head = {"value": float(np.mean(runs)), "std": float(np.std(runs)), "protocol": protocol}
    return head | details


def one_line(result: dict) -> str:
    """The figure and its spread."""
    left_out = ""
    if result["num_missing"]:
        first = result["bad"][0]
        left_out = f", {result['num_missing']:,} left out ({first['key']}: {first['reason']})"
    return (
        f"{result['metric']} {100 * result['value']:.1f} ± {100 * result['std']:.1f} over"
        f" {len(result['runs'])} runs ({result['protocol']}); {result['num_images']:,}"
        f" images{left_out}"
    )


def _newt(root: Path, kept: Store, protocol: str) -> dict:
    told = layouts.newt(root)
    rows, present = rows_of(kept, told.files, root)
    found = [
        newt(
            kept.features[rows],
            told.labels[present],
            told.tasks[present],
            told.is_train[present],
            seed=seed,
            clusters=told.clusters[present],
        )
        for seed in SEEDS
    ]
    return {
        "metric": "accuracy over all test images",
        "runs": [one.micro for one in found],
        "mean_over_tasks": float(np.mean([one.macro for one in found])),
        "tasks": found[0].tasks,
        "clusters": found[0].clusters,
        **_counts(told.files, kept),
    }


def _two_parts(told: layouts.Split, kept: Store, root: Path, normalize: bool) -> tuple:
    """Features and labels of the training part and of the test part, and the counts."""
    parts: list[np.ndarray] = []
    for files, labels in (
        (told.train_files, told.train_labels),
        (told.test_files, told.test_labels),
    ):
        rows, present = rows_of(kept, files, root)
        scale = 1 if normalize else kept.norms[rows, None]
        parts += [kept.features[rows] * scale, labels[present]]
    return *parts, _counts([*told.train_files, *told.test_files], kept)


def _fishnet(root: Path, kept: Store, protocol: str) -> dict:
    told = layouts.fishnet(root)
    *parts, counts = _two_parts(told, kept, root, normalize=False)
    found = [fishnet(*parts, protocol=protocol, seed=seed) for seed in SEEDS]
    per_label = np.mean([one.per_label for one in found], axis=0).tolist()
    return {
        "metric": "all nine labels right",
        "runs": [one.accuracy for one in found],
        "mean_over_labels": float(np.mean(per_label)),
        "per_label": dict(zip(told.names, per_label, strict=True)),
        **counts,
    }


def _awa2(root: Path, kept: Store, protocol: str) -> dict:
    told = layouts.awa2(root)
    *parts, counts = _two_parts(told, kept, root, normalize=False)
    found = [awa2(*parts, protocol=protocol, seed=seed) for seed in SEEDS]
    return {
        "metric": "macro F1",
        "runs": [one.f1 for one in found],
        "micro_f1": float(np.mean([one.micro_f1 for one in found])),
        **counts,
    }


def _herbarium19(root: Path, kept: Store, protocol: str) -> dict:
    told = layouts.herbarium19(root)
    rows, present = rows_of(kept, told.files, root)
    # Who is labelled is drawn before anything is known of unreadable pictures.
    labelled = split_labelled(told.labels, told.is_old, seed=0)
    found = [
        herbarium19(
            kept.features[rows],
            told.labels[present],
            labelled[present],
            told.is_old,
            protocol=protocol,
            seed=seed,
        )
        for seed in SEEDS
    ]
    return {
        "metric": "clustering accuracy",
        "runs": [one.accuracy for one in found],
        "macro": float(np.mean([one.macro for one in found])),
        "old": _mean([one.old for one in found]),
        "new": _mean([one.new for one in found]),
        **_counts(told.files, kept),
    }


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def _plantdoc(root: Path, kept: Store, protocol: str) -> dict:
    told = layouts.plantdoc(root)
    *parts, counts = _two_parts(told, kept, root, normalize=True)
    found = plantdoc(*parts)
    return {
        "metric": "one-shot accuracy",
        "runs": found.folds.tolist(),
        "macro": found.macro,
        **counts,
    }


def _counts(files: list[str], kept: Store) -> dict:
    bad = [{"key": key, "reason": reason} for key, reason in missing(kept, files)]
    return {"num_images": len(files) - len(bad), "num_missing": len(bad), "bad": bad}


TASKS: dict[str, Callable[[Path, Store, str], dict]] = {
    "newt": _newt,
    "fishnet": _fishnet,
    "awa2": _awa2,
    "herbarium19": _herbarium19,
    "plantdoc": _plantdoc,
}
