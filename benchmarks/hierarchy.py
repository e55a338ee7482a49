"""The loss over level captions beside what it competes with: the tables of docs/hierarchy.md.

    python benchmarks/hierarchy.py --photos ../shared/data --out runs/hierarchy [--json]

trains `configs/quickstart.py` on the simulated tree and `configs/photos.py` (1,200 steps) on
photographs, each as every variant with every seed, evaluates, and prints two tables a set: the mean
over the seeds with the least and the largest, and how far each variant is from the first one with
the same seeds, with 95 % intervals. OUT/SET/prior.svg shows what a prior gives and takes.

A folder of photographs holds one folder a set with a metadata.csv. There a seventh of the species
is kept out of training, as the split "unseen", and the splits "val" and "test" are judged as one,
since most species have few pictures in either. On two cores a run takes five minutes and half an
hour; runs that are finished are not repeated, and one that was killed goes on.

`--only`, `--variants` and `--seeds` choose among them; a variant may be given as
`name=key:value,...`, settings below `config.train`, or with another section's name before a dot,
such as `fp8=model.fp8:mlp`.
"""

import argparse
import csv
import hashlib
import json
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
VARIANTS = {
    "base": {"level_weight": 0.0},
    "level": {},  # the recipes have it on
    "distinct": {"level_weight": 0.0, "distinct_captions": True},
    "both": {"distinct_captions": True},
}
STEPS = {
    "quickstart": {},
    "photos": {"steps": 1200, "warmup_steps": 60, "checkpoint_every": 600},
}
UNSEEN_SHARE = 0.15  # of the species
DIFFERENCES = {  # what is compared: folder, column of its table of pictures
    "species micro": ("figures", "correct"),
    "species macro": ("figures", "correct"),
    **{f"asked {rank}": ("figures", f"{rank}_prompted_top1") for rank in RANKS[:-1]},
    "full path, asked": ("figures", "full_path"),
    **{
        f"unseen: {name} {rank}": ("unseen", f"{rank}_{key}")
        for rank in ("order", "family")
        for name, key in (("asked", "prompted_top1"), ("summed", "top1"))
    },
}


def main() -> None:
    """Makes what is missing, then the tables of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of sets of photographs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=list(STEPS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tables", action="store_true", help="train nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sets = [options.only] if options.only else list(STEPS)
    if "photos" in sets and not (options.photos or options.tables):
        parser.error("--photos says where photographs are; or --only quickstart")

    found: dict[str, dict[str, list[Path]]] = {}
    for name in sets:
        folder, runs = options.out / name, defaultdict(list)
        if not options.tables:
            prepare(name, folder / "data", options.photos)
        for seed in options.seeds:  # all variants of one seed first: something to compare early
            for variant in options.variants:
                label, _, changes = variant.partition("=")
                pairs = re.split(r",(?![^(]*\))", changes)  # not at the commas of a tuple
                settings = dict(pair.split(":") for pair in pairs if pair)
                workdir = folder / f"{label}-{seed}"
                if not options.tables:
                    train_and_evaluate(name, workdir, seed, settings or VARIANTS[label])
                if (workdir / "figures" / "zero_shot.json").exists():
                    runs[label].append(workdir)
        found[name] = runs
    results = {
        name: {label: [figures(run) for run in of] for label, of in runs.items()}
        for name, runs in found.items()
    }
    if options.json:
        print(json.dumps(results))
        return
    for name, runs in found.items():
        if not runs:
            print(f"\n{name}: no run is finished")
            continue
        print(f"\n{name}\n{table(results[name])}\n\n{differences(runs)}")
        draw_prior(runs, options.out / name / "prior.svg")


def prepare(name: str, out: Path, photos: Path) -> None:
    """The dataset of a set, once."""
    if (out / "features.json").exists():
        return
    if name == "quickstart":
        bioclip2("prepare", "simulate", "--out", out)
        return
    tables = {path: rows_of(path) for path in sorted(photos.glob("*/metadata.csv"))}
    unseen = left_out([row for rows in tables.values() for row in rows])
    arguments: list[Any] = []
    for path, rows in tables.items():
        copy = out.parent / "tables" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            for row in rows:
                split = "val" if row["split"] == "test" else row["split"]
                split = "unseen" if species_of(row) in unseen else split
                writer.writerow(row | {"split": split})
        arguments += ["--metadata", copy, "--images", path.parent]
    bioclip2("prepare", "folder", *arguments, "--out", out)


def rows_of(path: Path) -> list[dict]:
    """Of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def species_of(row: dict) -> tuple[str, ...]:
    """The lineage of a row down to species; () where that is not known."""
    return tuple(row[rank] for rank in RANKS) if row["species"] else ()


def left_out(rows: list[dict]) -> set[tuple[str, ...]]:
    """Species to keep out of training: any, but of each family one or more stay."""
    species = {species_of(row) for row in rows} - {()}
    families = defaultdict(int)
    for lineage in species:
        families[lineage[:5]] += 1
    chosen: set[tuple[str, ...]] = set()
    for lineage in sorted(species, key=lambda x: hashlib.sha256("|".join(x).encode()).digest()):
        if len(chosen) < UNSEEN_SHARE * len(species) and families[lineage[:5]] > 1:
            chosen.add(lineage)
            families[lineage[:5]] -= 1
    return chosen


def train_and_evaluate(name: str, workdir: Path, seed: int, settings: dict) -> None:
    """One run to its end and its figures; nothing where these are there."""
    data = workdir.parent / "data"
    changes = STEPS[name] | settings
    named = {key if "." in key else f"train.{key}": value for key, value in changes.items()}
    keys = [f"--config.{key}={value}" for key, value in named.items()]
    keys += [f"--config.seed={seed}", f"--config.data.dir={data}", f"--workdir={workdir}"]
    cache = workdir.parent / "compile_cache"  # variants differ, seeds do not
    if not (workdir / "done.json").exists():
        config = f"--config=configs/{name}.py"
        bioclip2("train", config, *keys, f"--config.compile_cache={cache.absolute()}")
        if not (workdir / "done.json").exists():
            sys.exit(f"{workdir}: stopped before its end; the same command goes on")
    asked = {"figures": ("val", "train", "zero_shot,few_shot")}
    if name == "photos":
        asked["unseen"] = ("unseen", "all", "zero_shot")
    for folder, (split, labels, tasks) in asked.items():
        if not (workdir / folder / "zero_shot.json").exists():
            # A prior of strength 0 changes nothing, and shows what others would.
            prior = ["--prior", data, "--prior-strength", "0"]
            bioclip2(
                *("evaluate", "--model", workdir, "--data", data, "--split", split),
                *("--labels", labels, "--tasks", tasks, *prior, "--out", workdir / folder),
            )


def bioclip2(*arguments: Any) -> None:
    """A command of ours, in a process of its own."""
    command = [sys.executable, "-c", "from bioclip2_jax.cli import main; main()"]
    command += map(str, arguments)
    print(*command, flush=True, file=sys.stderr)
    subprocess.run(command, check=True, stdout=sys.stderr)


def figures(workdir: Path) -> dict[str, float]:
    """Of one run."""
    result = json.loads((workdir / "figures" / "zero_shot.json").read_text())
    hierarchy, ranks = result["hierarchy"], result["ranks"]
    row = {"species micro": result["top1"], "species macro": result["macro_top1"]}
    for rank in RANKS[:-1]:
        row[f"asked {rank}"] = ranks[rank]["prompted_top1"]
        row[f"summed {rank}"] = ranks[rank]["known_top1"]
        row[f"top down {rank}"] = ranks[rank]["top_down_top1"]
    row["full path, asked"] = hierarchy["consistency"]["full_path"]
    row["full path, top down"] = ranks["species"]["top_down_top1"]
    row |= {"nLCA": hierarchy["nlca"], "mean height": hierarchy["mean_height"]}
    for k in 1, 5:
        path = workdir / "figures" / f"few_shot_{k}.json"
        if path.exists():
            row[f"few-shot {k}"] = json.loads(path.read_text())["top1"]
    row["ECE"] = result["calibration"]["ece"]
    for kind in "probability", "cosine":
        row[f"open set, {kind}"] = result["open_set"]["hidden"][f"auroc_{kind}"]
    for point in result["prior"]:
        row[f"prior {point['strength']:g} micro"] = point["top1"]
        row[f"prior {point['strength']:g} macro"] = point["macro_top1"]
    if (workdir / "unseen" / "zero_shot.json").exists():
        unseen = json.loads((workdir / "unseen" / "zero_shot.json").read_text())
        for rank in "order", "family", "genus":
            row[f"unseen: asked {rank}"] = unseen["ranks"][rank]["prompted_top1"]
            row[f"unseen: summed {rank}"] = unseen["ranks"][rank]["known_top1"]
            row[f"unseen: top down {rank}"] = unseen["ranks"][rank]["top_down_top1"]
        row["unseen: species"] = unseen["top1"]
    return row


def table(results: dict[str, list[dict]]) -> str:
    """Markdown: the mean over the seeds, and the lowest and highest."""
    labels = list(results)
    lines = [f"| | {' | '.join(f'{label} ({len(results[label])})' for label in labels)} |"]
    lines.append("|---" * (len(labels) + 1) + "|")
    for key in dict.fromkeys(key for rows in results.values() for row in rows for key in row):
        cells = []
        for label in labels:
            values = [row[key] for row in results[label] if row.get(key) is not None]
            cell = "" if not values else f"{statistics.mean(values):.3f}"
            if len(values) > 1:
                cell += f" ({min(values):.3f}, {max(values):.3f})"
            cells.append(cell)
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(runs: dict[str, list[Path]]) -> str:
    """Markdown: points of per cent that each variant has more than the first, of common seeds.

    Intervals are over pictures (over species where these were kept out of training) and seeds.
    """
    first, *others = runs
    lines = [f"| | {' | '.join(f'{label} less {first}' for label in others)} |"]
    lines.append("|---" * (len(others) + 1) + "|")
    before = {run.name.rpartition("-")[2]: run for run in runs[first]}
    for name, (folder, column) in DIFFERENCES.items():
        cells = []
        for label in others:
            seeds = {run.name.rpartition("-")[2]: run for run in runs[label]}
            pairs = [(before[s] / folder, seeds[s] / folder) for s in seeds if s in before]
            is_there = pairs and pairs[0][0].exists()
            cells.append(difference(pairs, column, name == "species macro") if is_there else "")
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(pairs: list[tuple[Path, Path]], column: str, is_macro: bool) -> str:
    """Of the second results of each pair less the first, with its interval."""
    from bioclip2_jax.measures.intervals import bootstrap, over_draws

    tables = [[rows_of(one / "zero_shot_images.csv") for one in pair] for pair in pairs]
    known = [row for row in tables[0][0] if row[column]]
    species = np.unique([row["scientificName"] for row in known], return_inverse=True)[1]
    cases = species if pairs[0][0].name == "unseen" else np.arange(len(known))
    right = [[{row["key"]: row[column] for row in of} for of in pair] for pair in tables]
    gains = np.array(
        [[int(now[r["key"]]) - int(was[r["key"]]) for r in known] for was, now in right]
    )

    def estimate(weights: np.ndarray, gain: np.ndarray) -> float:
        own = weights[cases].astype(float)
        if is_macro:
            drawn = np.bincount(species, own)
            return float(
                np.mean((np.bincount(species, own * gain) / np.maximum(drawn, 1))[drawn > 0])
            )
        return float(own @ gain / own.sum())

    ones = np.ones(cases.max() + 1)
    mean, each = estimate(ones, gains.mean(axis=0)), [estimate(ones, gain) for gain in gains]
    (interval,) = bootstrap(lambda w: np.array([estimate(w, gains.mean(axis=0))]), len(ones), 0)
    low, high = over_draws(mean, interval, each) or interval
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def draw_prior(runs: dict[str, list[Path]], path: Path) -> None:
    """Micro against macro while a prior grows, of all variants."""
    from bioclip2_jax.evaluation import schema
    from bioclip2_jax.report.figures.species import prior_trade

    curves = {
        label: [
            schema.read(run / "figures" / "zero_shot.json", schema.ZeroShotResult).prior or []
            for run in of
        ]
        for label, of in runs.items()
    }
    path.write_text(prior_trade(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
