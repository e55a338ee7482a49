"""The loss over level captions beside what it competes with: the tables of docs/hierarchy.md.

    python benchmarks/hierarchy.py --photos ../shared/data --out runs/hierarchy [--json]

trains `configs/quickstart.py` on the simulated tree and `configs/photos.py` (1,200 steps) on
photographs, each as every variant with every seed, evaluates, and prints a table a set with the
mean over the seeds. A folder of photographs holds one folder a set with a metadata.csv. There a
seventh of the species is kept out of training, as the split "unseen", and the splits "val" and
"test" are judged as one, since most species have few pictures in either. On two cores a run takes
five minutes and half an hour; runs that are finished are not repeated, and one that was killed goes
on.
`--only`, `--variants` and `--seeds` choose among them; a variant may be given as
`name=key:value,...`, settings below `config.train`, or with another section's name before a dot,
such as `fp8=model.fp8:mlp`.
"""

import argparse
import csv
import hashlib
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
VARIANTS = {
    "base": {"level_weight": 0.0},
    "level": {"level_weight": 0.5},
    "distinct": {"level_weight": 0.0, "distinct_captions": True},
    "both": {"level_weight": 0.5, "distinct_captions": True},
}
STEPS = {
    "quickstart": {},
    "photos": {"steps": 1200, "warmup_steps": 60, "checkpoint_every": 600},
}
UNSEEN_SHARE = 0.15  # of the species


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

    found: dict[str, dict[str, list[dict]]] = {}
    for name in sets:
        folder, results = options.out / name, defaultdict(list)
        if not options.tables:
            prepare(name, folder / "data", options.photos)
        for seed in options.seeds:  # all variants of one seed first: something to compare early
            for variant in options.variants:
                label, _, changes = variant.partition("=")
                settings = dict(pair.split(":") for pair in changes.split(",") if pair)
                workdir = folder / f"{label}-{seed}"
                if not options.tables:
                    train_and_evaluate(name, workdir, seed, settings or VARIANTS[label])
                if (workdir / "figures" / "zero_shot.json").exists():
                    results[label].append(figures(workdir))
        found[name] = results
    if options.json:
        print(json.dumps(found))
        return
    for name, results in found.items():
        print(f"\n{name}\n{table(results)}")


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


if __name__ == "__main__":
    main()
