"""Evaluation, in a process of its own: of a run's checkpoints, of a model, or of kept features.

Every task writes `TASK.json`, and tables beside it: `TASK_classes.csv`, `TASK_datasets.csv`, for
zero-shot also `zero_shot_images.csv` (the answers for every image) and `zero_shot_embeddings.npz`
(one vector a class from its pictures and one from its name), for few-shot `TASK_support.json`.
They lie in `WORKDIR/eval/<step>/` for a training run, else in the folder that is named.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bioclip2_jax
from bioclip2_jax import beyond_tasks, checkpoint, embed, results, species_tasks, store
from bioclip2_jax.data import sources
from bioclip2_jax.embedding import SplitFeatures, embed_split, spread
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.loading import Model, load
from bioclip2_jax.taxonomy import TaxonEntry

SPECIES_TASKS = ("zero_shot", "few_shot_1", "few_shot_5")
TASKS = (*SPECIES_TASKS, *beyond_tasks.TASKS)
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Settings:
    """What is evaluated on.

    Attributes:
      data: dataset folder; with `annotations`, or for the tasks beyond species, a folder of
        pictures in its official layout. None where features are all there is.
      split: images to name.
      labels: the closed list of names: taxa with images in "train", in the evaluated "split", or
        "all" of the dataset's taxa. Images of other taxa are left out and counted.
      text_kind: form of the names (`captions.class_name`); "asis" is the scientific name as it
        came, or the class of an annotation table.
      annotations: a table that says what each picture shows, see `layouts.species`.
      protocol: of the tasks beyond species, "faithful" or "corrected".
      support: a file with the support of few-shot, as `few_shot_K_support.json`.
    """

    data: str | None = None
    split: str = "val"
    labels: str = "train"
    text_kind: str = "taxon_com"
    annotations: str | None = None
    protocol: str = "faithful"
    support: str | None = None


@dataclass(frozen=True)
class Subject:
    """What is measured, and where the results go.

    Attributes:
      model: to encode pictures and names with; None where there are only features.
      features: kept features; None to encode the pictures.
      folder: for the results.
      step: of the checkpoint, None for others.
      name: where the model came from.
    """

    model: Model | None
    features: store.Store | None
    folder: Path
    step: int | None
    name: str


def parse_tasks(text: str) -> tuple[str, ...]:
    """The tasks of a list with commas; "few_shot" is both of its kinds.

    Raises:
      UsageError: one is unknown.
    """
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        names += ["few_shot_1", "few_shot_5"] if name == "few_shot" else [name]
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise UsageError(f"--tasks {unknown[0]}: unknown; there are few_shot, {', '.join(TASKS)}")
    return tuple(dict.fromkeys(names))


# ---- A model, or features


def run_once(
    settings: Settings,
    tasks: Sequence[str],
    out: str | Path,
    *,
    model_path: str | None = None,
    features: str | Path | None = None,
    batch_size: int = 128,
    say: Callable[[str], None] = print,
) -> None:
    """Evaluates a model in any form, or the features that `bioclip2 embed` kept of one.

    Args:
      settings: data and names.
      tasks: of `TASKS`.
      out: folder for the results.
      model_path: any form that `load` reads; needed where there are no features or names are asked.
      features: a feature store.
      batch_size: images, and texts, encoded at a time.
      say: receives one line a result.

    Raises:
      UsageError: something needed is missing from the call.
      UserError: the data, the features or the model cannot be used.
    """
    kept = store.read(features) if features else None
    if not (model_path or kept):
        raise UsageError("nothing to evaluate: give --workdir, --model or --features")
    if "zero_shot" in tasks and not model_path:
        raise UsageError(
            "zero_shot encodes names: give the --model that made the features, or other --tasks"
        )
    needs_model = kept is None or "zero_shot" in tasks
    model = spread(load(model_path)) if model_path and needs_model else None
    if model and kept and embed.checksum(model) != kept.about["model"]["sha256"]:
        raise UsageError(
            f"{features}: made by another model ({kept.about['model']['path']}) than --model"
            f" {model_path}; embed the pictures with that one"
        )
    name = model_path or kept.about["model"]["path"]
    subject = Subject(model, kept, Path(out), None, name)
    evaluate_subject(subject, settings, tasks, batch_size, say)


# ---- Checkpoints of a run


def run(
    workdir: str | Path,
    settings: Settings,
    tasks: Sequence[str] = SPECIES_TASKS,
    *,
    out: str | Path | None = None,
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
      tasks: of `TASKS`.
      out: folder for the results, one below it for each step; None for `WORKDIR/eval`.
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
    if settings.data is None:
        raise UsageError("--workdir needs --data: the pictures to evaluate on")
    if set(tasks) & set(SPECIES_TASKS) and not settings.annotations:
        species_tasks.dataset_classes(settings.data, settings.split, settings.labels)
    home = Path(out) if out else Path(workdir) / results.FOLDER

    def evaluate(number: int, tasks: Sequence[str]) -> None:
        if tasks:
            path = checkpoint.step_dir(workdir, number)
            subject = Subject(spread(load(path)), None, home / str(number), number, str(path))
            evaluate_subject(subject, settings, tasks, batch_size, say)

    if not follow:
        for number in chosen_steps(workdir, step):
            evaluate(number, tasks)
        return
    for number in new_checkpoints(workdir, timeout, say):
        try:
            evaluate(number, [t for t in tasks if not _is_done(home / str(number), t, settings)])
        except UserError:
            # Training keeps only the newest checkpoints; one may go while it is being read.
            if number in checkpoint.steps(workdir):
                raise
            say(f"step {number}: the checkpoint was removed before it could be evaluated")


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


def _is_done(folder: Path, task: str, settings: Settings) -> bool:
    try:
        text = (folder / f"{task}.json").read_text(encoding="utf-8")
        return json.loads(text)["settings"] == asdict(settings)
    except (OSError, ValueError, KeyError):
        return False


# ---- One subject


def evaluate_subject(
    subject: Subject,
    settings: Settings,
    tasks: Sequence[str],
    batch_size: int,
    say: Callable[[str], None],
) -> None:
    """Runs the tasks and writes their files; each JSON last, as its seal.

    Raises:
      UsageError, UserError: see `run_once`.
    """
    found = classes = None
    if set(tasks) & set(SPECIES_TASKS) and not settings.annotations:
        found, classes = _split_and_classes(subject, settings, batch_size)
    subject.folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if task not in SPECIES_TASKS:
            root = _root_of(settings, task)
            kept = _kept_features(subject, root, task, batch_size, say)
            result = beyond_tasks.run(task, root, kept, settings.protocol)
        else:
            if settings.annotations:
                kept = _kept_features(subject, settings.data, "pictures", batch_size, say)
                question = species_tasks.annotated_question(
                    kept, settings.annotations, settings.text_kind
                )
            elif task == "zero_shot":
                question = species_tasks.taxa_question(found, classes, settings.text_kind)
            else:
                question = species_tasks.own_taxa_question(found)
            result = _answer(task, subject, question, settings, batch_size)
        head = {"task": task, "step": subject.step, "model": subject.name}
        head["version"] = bioclip2_jax.__version__
        result = head | result | {"settings": asdict(settings)}
        results.write_file(
            subject.folder / f"{task}.json", (json.dumps(result, indent=1) + "\n").encode()
        )
        say(_one_line(result))


def _split_and_classes(
    subject: Subject, settings: Settings, batch_size: int
) -> tuple[SplitFeatures, list[TaxonEntry]]:
    if subject.features is None:
        if settings.data is None:
            raise UsageError("--model needs --data: the pictures to evaluate on")
        classes = species_tasks.dataset_classes(settings.data, settings.split, settings.labels)
        source = sources.open_split(settings.data, settings.split)
        return embed_split(subject.model, source, batch_size), classes
    found = species_tasks.store_split(subject.features, settings.split, "--features")
    if settings.data:
        classes = species_tasks.dataset_classes(settings.data, settings.split, settings.labels)
    else:
        classes = species_tasks.store_classes(
            subject.features, settings.split, settings.labels, "--features"
        )
    return found, classes


def _kept_features(
    subject: Subject,
    root: str | Path | None,
    name: str,
    batch_size: int,
    say: Callable[[str], None],
) -> store.Store:
    """The features given, or those of all pictures below a folder, kept beside the results."""
    if subject.features is not None:
        return subject.features
    if root is None:
        raise UsageError("--annotations need --data: the folder that its file names count from")
    place = subject.folder / "features" / name
    pictures = embed.open_pictures(root)
    embed.embed(subject.model, subject.name, pictures, place, batch_size=batch_size, say=say)
    return store.read(place)


def _root_of(settings: Settings, task: str) -> Path:
    if settings.data is None:
        raise UsageError(f"--tasks {task} needs --data: the folder of the set as it is published")
    below = Path(settings.data) / task
    return below if below.is_dir() else Path(settings.data)


def _answer(
    task: str,
    subject: Subject,
    question: species_tasks.Question,
    settings: Settings,
    batch_size: int,
) -> dict:
    if task == "zero_shot":
        result = species_tasks.run_zero_shot(subject.model, question, batch_size, subject.folder)
    else:
        support = Path(settings.support) if settings.support else None
        k = int(task.rpartition("_")[2])
        result = species_tasks.run_few_shot(question, k, subject.folder, support)
    bad = [{"key": key, "reason": reason} for key, reason in question.found.bad]
    return result | {"num_bad": len(bad), "bad": bad}


def _one_line(result: dict) -> str:
    step = "" if result["step"] is None else f"step {result['step']} "
    head = f"{step}{result['task']}"
    if result["task"] not in SPECIES_TASKS:
        return f"{head}: {beyond_tasks.one_line(result)}"
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
