"""Small results in the form of `bioclip2 evaluate` and `bioclip2 analyze`, to report on."""

import csv
import io
import json
from pathlib import Path

import numpy as np
from colour_world import square

from bioclip2_jax.files import write_bytes
from bioclip2_jax.report import gather

NAMES = ["Ignis red", "Ignis orange", "Mare blue"]


# What a prior makes of answers half of which are right, by its strength.
PRIOR = [
    {"strength": a, "top1": 0.5 + a / 5, "macro_top1": 0.5 - a * a / 8}
    | {"commonest_top1": a / 2, "ece": 0.12 - a / 20, "nll": 1.5 - a / 4}
    for a in (0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1)
]


def zero_shot(top1: float = 0.5, images: int = 4, classes: int = 3, **settings) -> dict:
    """A result as `bioclip2 evaluate` writes it."""
    interval = [top1 - 0.1, top1 + 0.1]
    return {
        "task": "zero_shot",
        "step": None,
        "model": "models/ours",
        **{"top1": top1, "top3": 0.9, "top5": 1.0, "macro_top1": top1},
        "ranks": {
            "family": {"top1": 0.8, "interval": [0.7, 0.9], "prompted_top1": 0.7, "chance": 0.5},
            "species": {"top1": top1, "interval": interval, "prompted_top1": top1, "chance": 0.3},
        },
        "intervals": {name: interval for name in ("top1", "top3", "top5", "macro_top1")},
        **{"chance": 1 / classes, "num_images": images, "num_classes": classes},
        **{"num_excluded": 2, "num_bad": 1},
        "bad": [{"key": "broken.jpg", "reason": "the file is empty"}],
        "calibration": {
            "ece": 0.12,
            "confidence": 0.6,
            "bins": [
                {"low": 0.4, "high": 0.6, "count": 3, "confidence": 0.5, "accuracy": 1 / 3},
                {"low": 0.8, "high": 1.0, "count": 1, "confidence": 0.9, "accuracy": 1.0},
            ],
        },
        "commonest": {"name": "Mare blue", "num_images": 2, "top1": 0.0},
        "hierarchy": {"mean_height": 0.5, "mistake_height": 1.0, "heights": [2, 2] + [0] * 6},
        "version": "0.1.0",
        "settings": {
            **{"data": None, "split": "val", "labels": "train", "text_kind": "asis"},
            **{"annotations": None, "protocol": "faithful", "support": None},
            **settings,
        },
    }


def beyond(task: str, runs: list[float], images: int, protocol: str = "faithful", **more) -> dict:
    """A result of a task beyond species."""
    head = {"task": task, "step": None, "model": "models/ours", "metric": "accuracy"}
    spread = {"value": float(np.mean(runs)), "std": float(np.std(runs)), "runs": runs}
    settings = {"data": "sets", "protocol": protocol}
    counts = {"num_images": images, "num_missing": 0, "protocol": protocol}
    return head | spread | counts | more | {"settings": settings}


WITHIN = {
    "analysis": "within",
    "model": "models/ours",
    "variants": ["female", "male"],
    "num_species": 2,
    "dimensions": 1,
    "label": "sex",
    "rho": {"mean": 0.21, "interval": [0.1, 0.3], "null_mean": 0.4, "p": 0.002, "raw_mean": 0.3,
            "halves_mean": 0.31, "random_direction": 0.25},
    "fisher": {"mean": 1.5, "interval": [1.0, 2.0]},
    "fisher_removed": {"mean": 1.25, "interval": [0.9, 1.6]},
    "species": [
        {"name": name, "counts": [5, 6], "rho": rho, "rho_raw": rho, "rho_p": 0.01, "fisher": 1.5,
         "fisher_removed": 1.2, "fisher_p": 0.02}
        for name, rho in (("Mare blue", 0.3), ("Ignis red", 0.1))
    ],
    "panels": [],
}  # fmt: skip


def put(path: Path, values: dict) -> Path:
    """Writes a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def put_csv(path: Path, rows: list[dict]) -> None:
    """Writes a table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def put_evaluation(
    folder: Path, pictures: Path | None = None, prior: list[dict] | None = None, **changes
) -> Path:
    """A zero-shot result with its tables; of three pictures, red and orange are taken for blue."""
    annotations = {"annotations": "lists/squares.csv", "data": str(pictures)} if pictures else {}
    put(folder / "zero_shot.json", zero_shot(**annotations | changes) | {"prior": prior})
    common = {"family": "F", "order": "O", "train_images": 9, "top3": 1, "top5": 1}
    put_csv(
        folder / "zero_shot_classes.csv",
        [
            common | {"scientificName": name, "vernacularName": "", "num_images": 1}
            | {"top1": float(i == 2), "confused_with": "Mare blue" if i < 2 else ""}
            for i, name in enumerate(NAMES)
        ],
    )  # fmt: skip
    buffer = io.BytesIO()
    vectors = np.random.default_rng(0).normal(size=(2, len(NAMES), 4)).astype(np.float32)
    np.savez(buffer, classes=np.arange(len(NAMES)), image=vectors[0], text=vectors[1])
    write_bytes(folder / "zero_shot_embeddings.npz", buffer.getvalue())
    put_csv(
        folder / "zero_shot_images.csv",
        [
            {"index": i, "key": f"{name.split()[1]}.png", "datasetName": "squares"}
            | {"scientificName": name, "correct": int(i == 2)}
            | {"answer_1": "Mare blue", "score_1": 0.5 + i / 10}
            for i, name in enumerate(NAMES)
        ],
    )
    return folder


def put_squares(folder: Path) -> Path:
    """The pictures of `put_evaluation`."""
    folder.mkdir()
    for colour in ("red", "orange", "blue"):
        (folder / f"{colour}.png").write_bytes(square(colour))
    return folder


def results_of(folder: Path, values: list[dict]) -> list[gather.ResultFile]:
    """What the report finds of such results below an empty folder."""
    for number, one in enumerate(values):
        put(folder / str(number) / f"{one['task']}.json", one)
    return gather.newest(gather.gather([folder]))
