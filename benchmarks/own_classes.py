"""`bioclip2 fit` with five pictures a class, beside the names of the classes alone, on photographs.

    python benchmarks/own_classes.py --model runs/photos --photos ../shared/data --out runs/own

Sex, disease and cultivar, of pictures from the whole sets; and species, of pictures that the model
was not trained on. Draws `--draws` times `--shots` pictures a class, chooses and fits on these
alone, and answers for all others. Prints the mean class average over the draws and how far it lies
above zero-shot, with the 2.5 and 97.5 % points of the draws; and how far what `fit` told lies above
what was found.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np

from bioclip2_jax.features import store
from bioclip2_jax.identify import fit
from bioclip2_jax.identify.label_features import features_of
from bioclip2_jax.measures.accuracy import class_average
from bioclip2_jax.measures.choice import CHOSEN
from bioclip2_jax.measures.folds import draw
from bioclip2_jax.weights.load import load

COLUMNS = {
    "sex": ["spider_sex"],
    "disease": ["plantvillage_disease"],
    "cultivar": ["grocery_plants"],
    "scientific_name": ["cub20", "monkeys10", "fish4k", "medleaf5"],
}
TAUGHT = ("scientific_name",)  # the model has seen the training split with these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="features are kept here")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    model = load(args.model)
    for column, sets in COLUMNS.items():
        features, names = pictures(args, column, sets)
        counts = {name: names.count(name) for name in names}
        classes = sorted(name for name, count in counts.items() if count >= args.shots + 3)
        kept = [row for row, name in enumerate(names) if name in classes]
        features = features[kept]
        labels = np.array([classes.index(names[row]) for row in kept])
        text = features_of(model, classes, 128)
        found, gains, told = [], [], []
        for number in range(args.draws):
            train = draw(labels, args.shots, np.random.default_rng(number))
            test = np.setdiff1d(np.arange(len(labels)), train)
            (linear, recipe), verdict = fit.fitted(
                features[train],
                labels[train],
                text=text,
                logit_scale=model.logit_scale,
                seed=number,
            )
            cosines = features[test] @ text.T
            answers = recipe.log_probabilities(linear.logits(features[test]), cosines).argmax(1)
            average = class_average(answers == labels[test], labels[test])
            found.append(average)
            gains.append(average - class_average(cosines.argmax(1) == labels[test], labels[test]))
            told.append(verdict.figures[CHOSEN].average - average)
        low, high = np.quantile(gains, (0.025, 0.975))
        print(
            f"{column}: {len(classes)} classes, {len(labels)} pictures: {np.mean(found):.3f},"
            f" {np.mean(gains):+.3f} ({low:+.3f} to {high:+.3f}) on zero-shot;"
            f" told {np.mean(told):+.3f} of what was found",
            flush=True,
        )


def pictures(
    args: argparse.Namespace, column: str, sets: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Features [n, dim] and classes of the pictures of some sets that have one."""
    features, names = [], []
    for name in sets:
        folder, out = args.photos / name, args.out / name
        if not out.exists():
            command = "from bioclip2_jax.cli import main; main()"
            asked = ["embed", folder, "--model", args.model, "--out", out]
            subprocess.run([sys.executable, "-c", command, *map(str, asked)], check=True)
        kept = store.read(str(out))
        with (folder / "metadata.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row[column]]
        if column in TAUGHT:
            rows = [row for row in rows if row["split"] != "train"]
        place_of = {key: place for place, key in enumerate(kept.keys)}
        keys = store.align([row["filename"] for row in rows], kept.keys)
        for row, key in zip(rows, keys, strict=True):
            if key in place_of:
                features.append(kept.features[place_of[key]])
                names.append(row[column])
    return np.stack(features), names


if __name__ == "__main__":
    main()
