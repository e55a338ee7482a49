"""Evaluation of checkpoints, in a process of its own: zero-shot and few-shot classification.

Results of a step lie in `WORKDIR/eval/<step>/`: `<task>.json`, `<task>_classes.csv`,
`<task>_datasets.csv`, for zero-shot also `zero_shot_images.csv` (the answers for every image) and
`zero_shot_embeddings.npz` (one vector a class from its pictures and one from its name).
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from bioclip2_jax import captions, checkpoint, results
from bioclip2_jax.data import sources
from bioclip2_jax.embedding import SplitFeatures, embed_classes, embed_split, spread
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluators import metrics
from bioclip2_jax.evaluators.few_shot import few_shot
from bioclip2_jax.evaluators.zero_shot import zero_shot
from bioclip2_jax.loading import Model, load
from bioclip2_jax.taxonomy import RANKS, Taxon, TaxonEntry

TASKS = ("zero_shot", "few_shot_1", "few_shot_5")
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Settings:
    """What is evaluated on.

    Attributes:
      data: dataset folder.
      split: images to name.
      labels: the closed list of names: taxa with images in "train", in the evaluated "split", or
        "all" of the dataset's taxa. Images of other taxa are left out and counted.
      text_kind: form of the names (`captions.class_name`); "asis" is the scientific name as it
        came.
    """

    data: str
    split: str = "val"
    labels: str = "train"
    text_kind: str = "taxon_com"


# ---- Which checkpoints


def run(
    workdir: str | Path,
    settings: Settings,
    *,
    step: str = "latest",
    follow: bool = False,
    timeout: float | None = None,
    batch_size: int = 128,
    say: Callable[[str], None] = print,
) -> None:
    """Evaluates checkpoints of a training run.

    Args:
      workdir: of the training run.
      settings: data and names.
      step: "latest", "all" or a number; unused with `follow`.
      follow: evaluate checkpoints as they appear, each once however often this is restarted,
        until the training has finished.
      timeout: with `follow`, seconds without a new checkpoint after which to stop waiting.
      batch_size: images, and texts, encoded at a time.
      say: receives one line a result.

    Raises:
      UsageError: no such workdir or step.
      UserError: the data or a checkpoint cannot be used.
    """
    classes = candidate_classes(settings)
    if follow:
        for number in new_checkpoints(workdir, timeout, say):
            tasks = [task for task in TASKS if not _is_done(workdir, number, task, settings)]
            try:
                evaluate_step(workdir, number, settings, classes, batch_size, tasks, say)
            except UserError:
                # Training keeps only the newest checkpoints; one may go while it is being read.
                if number in checkpoint.steps(workdir):
                    raise
                say(f"step {number}: the checkpoint was removed before it could be evaluated")
    else:
        for number in chosen_steps(workdir, step):
            evaluate_step(workdir, number, settings, classes, batch_size, TASKS, say)


def chosen_steps(workdir: str | Path, step: str) -> list[int]:
    """The checkpoints that "latest", "all" or a number stands for.

    Raises:
      UsageError: there is no such checkpoint, or none at all.
    """
    found = checkpoint.steps(workdir)
    if not found:
        raise UsageError(
            f"{workdir}: no checkpoint here; give the --workdir of a training run, or --follow to"
            " wait for its first one"
        )
    if step in ("latest", "all"):
        return found[-1:] if step == "latest" else found
    if not step.isdigit() or int(step) not in found:
        shown = ", ".join(map(str, found))
        raise UsageError(f"--step {step}: not one of latest, all, {shown}")
    return [int(step)]


def new_checkpoints(
    workdir: str | Path, timeout: float | None, say: Callable[[str], None] = print
) -> Iterator[int]:
    """Yields every checkpoint once, oldest first, until `WORKDIR/done.json` or the timeout."""
    seen: set[int] = set()
    last_new = time.monotonic()
    while True:
        # In this order: a checkpoint written just before the end is still found.
        finished = (Path(workdir) / "done.json").exists()
        fresh = [step for step in checkpoint.steps(workdir) if step not in seen]
        for step in fresh:
            seen.add(step)
            yield step
            last_new = time.monotonic()
        if finished and not fresh:
            return
        if timeout is not None and time.monotonic() - last_new > timeout:
            say(f"{workdir}: no new checkpoint for {timeout:g} s; stopped waiting")
            return
        if not fresh:
            time.sleep(POLL_SECONDS if timeout is None else min(POLL_SECONDS, timeout / 4))


def _is_done(workdir: str | Path, step: int, task: str, settings: Settings) -> bool:
    try:
        text = (results.folder_of(workdir, step) / f"{task}.json").read_text(encoding="utf-8")
        return json.loads(text)["settings"] == asdict(settings)
    except (OSError, ValueError, KeyError):
        return False


# ---- Names


def candidate_classes(settings: Settings) -> list[TaxonEntry]:
    """The closed list of taxa that images are named from, one entry a lineage.

    Raises:
      UsageError: the dataset has no such split.
      UserError: the list is empty.
    """
    known = sources.splits(settings.data)
    if settings.split not in known:
        raise UsageError(
            f"{settings.data}: no split {settings.split!r}; it has {', '.join(sorted(known))}"
        )
    wanted = {"train": ["train"], "split": [settings.split], "all": list(known)}[settings.labels]
    classes: dict[Taxon, TaxonEntry] = {}
    for entry in sources.read_taxa(settings.data):
        if entry.taxon.deepest_rank and sum(entry.counts.get(name, 0) for name in wanted):
            first = classes.setdefault(entry.taxon, entry)
            if not first.vernacular_name:
                classes[entry.taxon] = replace(first, vernacular_name=entry.vernacular_name)
    if not classes:
        raise UserError(
            f"{settings.data}: no taxon has images in {' or '.join(wanted)}; choose other --labels"
        )
    return list(classes.values())


def class_names(classes: Sequence[TaxonEntry], text_kind: str) -> list[str]:
    """The name of every class as it goes into the templates."""
    return [
        captions.class_name(text_kind, entry.taxon, entry.vernacular_name, entry.scientific_name)
        for entry in classes
    ]


def lineage_names(classes: Sequence[TaxonEntry], rank: str) -> list[str]:
    """The text of every distinct lineage down to `rank`, numbered as by `lineage_groups`."""
    lineages, _ = metrics.number([entry.taxon.lineage(rank) for entry in classes])
    return [" ".join(filter(None, lineage)) or "unknown" for lineage in lineages]


# ---- One checkpoint


def evaluate_step(
    workdir: str | Path,
    step: int,
    settings: Settings,
    classes: list[TaxonEntry],
    batch_size: int,
    tasks: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Runs the tasks on one checkpoint and writes their files; each JSON last, as its seal."""
    if not tasks:
        return
    model = spread(load(checkpoint.step_dir(workdir, step)))
    source = sources.open_split(settings.data, settings.split)
    found = embed_split(model, source, batch_size)
    folder = results.folder_of(workdir, step)
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if task == "zero_shot":
            result = _zero_shot_task(model, found, settings, classes, batch_size, folder)
        else:
            result = _few_shot_task(found, int(task.rpartition("_")[2]), folder, task)
        result |= {
            "num_bad": len(found.bad),
            "bad": [{"key": key, "reason": reason} for key, reason in found.bad],
            "settings": asdict(settings),
        }
        head = {"task": task, "step": step}
        results.write_file(
            folder / f"{task}.json", (json.dumps(head | result, indent=1) + "\n").encode()
        )
        say(_one_line(head | result))


def _zero_shot_task(
    model: Model,
    found: SplitFeatures,
    settings: Settings,
    classes: list[TaxonEntry],
    batch_size: int,
    folder: Path,
) -> dict:
    index_of = {entry.taxon: index for index, entry in enumerate(classes)}
    all_labels = np.asarray([index_of.get(taxon, -1) for taxon in found.taxa])
    rows = np.flatnonzero(all_labels >= 0)
    if not len(rows):
        raise UserError(
            f"{settings.data}: no image of split {settings.split!r} is of a taxon in the list of"
            f" --labels {settings.labels}; choose other --labels"
        )
    labels, features = all_labels[rows], found.features[rows]
    groups = metrics.lineage_groups([entry.taxon for entry in classes])

    texts = {"classes": class_names(classes, settings.text_kind)}
    texts |= {rank: lineage_names(classes, rank) for rank in RANKS[:-1]}
    unique, numbers = metrics.number([text for part in texts.values() for text in part])
    vectors = embed_classes(model, unique, batch_size)[numbers]
    ends = np.cumsum([len(part) for part in texts.values()])[:-1]
    class_features, *lineages = np.split(vectors, ends)
    prompted = dict(zip(RANKS[:-1], lineages, strict=True))

    result = zero_shot(features, labels, class_features, model.logit_scale, groups, prompted)
    summary = metrics.summarize(result.outcomes, labels)
    prompted_top1 = result.prompted | {"species": summary["top1"]}
    for rank, row in summary["ranks"].items():
        count = int(groups[rank].max()) + 1
        row |= {"prompted_top1": prompted_top1[rank], "num_classes": count, "chance": 1 / count}

    results.write_classes(
        folder / "zero_shot_classes.csv", classes, labels, result.outcomes, result.predictions[:, 0]
    )
    datasets = [found.datasets[row] for row in rows]

    def closed(part: np.ndarray) -> float:
        """Accuracy when only the taxa of that part are on the list."""
        present, own = np.unique(labels[part], return_inverse=True)
        scores = features[part] @ class_features[present].T
        return float((scores.argmax(axis=1) == own).mean())

    results.write_datasets(
        folder / "zero_shot_datasets.csv", datasets, labels, result.outcomes, closed
    )
    results.write_images(folder / "zero_shot_images.csv", found, rows, classes, labels, result)
    present = np.unique(labels)
    pictures = np.stack([features[labels == label].mean(axis=0) for label in present])
    buffer = io.BytesIO()
    np.savez(buffer, classes=present, image=pictures, text=class_features[present])
    results.write_file(folder / "zero_shot_embeddings.npz", buffer.getvalue())
    return summary | {
        "chance": 1 / len(classes),
        "num_images": len(rows),
        "num_classes": len(classes),
        "num_excluded": len(all_labels) - len(rows),
    }


def _few_shot_task(found: SplitFeatures, k: int, folder: Path, task: str) -> dict:
    """Support and queries both come from the evaluated split, so every taxon of it takes part."""
    rows = np.asarray([i for i, taxon in enumerate(found.taxa) if taxon.deepest_rank], np.int64)
    taxa, labels = metrics.number([found.taxa[row] for row in rows])
    groups = metrics.lineage_groups(taxa)
    result = few_shot(found.features[rows], labels, k, groups)
    asked = np.isin(labels, result.classes) & (len(result.classes) > 1)
    outcomes, labels = result.outcomes.select(asked), labels[asked]
    summary = metrics.summarize(outcomes, labels)
    for rank, row in summary["ranks"].items():
        count = len(np.unique(groups[rank][result.classes]))
        row |= {"num_classes": count, "chance": 1 / count if count else None}
    entries = [TaxonEntry(taxon, taxon.scientific_name, "", {}) for taxon in taxa]
    results.write_classes(folder / f"{task}_classes.csv", entries, labels, outcomes)
    datasets = [found.datasets[row] for row in rows[asked]]
    results.write_datasets(folder / f"{task}_datasets.csv", datasets, labels, outcomes)
    return summary | {
        "k": k,
        "std": result.std,
        "folds": result.fold_top1.tolist(),
        "chance": 1 / len(result.classes) if result.classes else None,
        "num_images": len(labels),
        "num_classes": len(result.classes),
        "num_excluded": len(found.taxa) - len(labels),
        "left_out": [taxa[label].scientific_name for label in result.left_out],
    }


def _one_line(result: dict) -> str:
    head = f"step {result['step']} {result['task']}"
    if result["top1"] is None:
        return f"{head}: too few images a taxon"
    low, high = result["intervals"]["top1"]
    line = (
        f"{head}: top1 {result['top1']:.3f} [{low:.3f}, {high:.3f}], class average"
        f" {result['macro_top1']:.3f}, chance {result['chance']:.4f};"
        f" {result['num_images']:,} images, {result['num_classes']:,} taxa"
    )
    for name, text in (("num_excluded", "left out"), ("num_bad", "unreadable")):
        line += f", {result[name]:,} {text}" if result[name] else ""
    return line
