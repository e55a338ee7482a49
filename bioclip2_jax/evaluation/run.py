"""Evaluation, in a process of its own: of a run's checkpoints, of a model, or of kept features.

Every task writes `TASK.json`, and tables beside it: `TASK_classes.csv`, `TASK_datasets.csv`, for
zero-shot also `zero_shot_images.csv` (the answers for every image) and `zero_shot_embeddings.npz`
(one vector a class from its pictures and one from its name), for few-shot `TASK_support.json`.
They lie in `WORKDIR/eval/<step>/` for a training run, else in the folder that is named; where the
data are several species sets, in a folder of its own for each of them.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bioclip2_jax
from bioclip2_jax import files
from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import beyond
from bioclip2_jax.evaluation import follow as following
from bioclip2_jax.evaluation import species as species_tasks
from bioclip2_jax.evaluation import tables as results
from bioclip2_jax.evaluation.tasks import SPECIES_TASKS, Job, Settings, plan
from bioclip2_jax.features import embed, store
from bioclip2_jax.features.encode import SplitFeatures, embed_split, spread
from bioclip2_jax.features.pictures import open_pictures, pictures_below
from bioclip2_jax.text.taxonomy import TaxonEntry
from bioclip2_jax.weights import checkpoint
from bioclip2_jax.weights.load import Model, load


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
    jobs = plan(settings, tasks, kept)
    model = spread(load(model_path)) if model_path else None
    if model and kept and embed.checksum(model) != kept.about.model.sha256:
        raise UsageError(
            f"{features}: made by another model ({kept.about.model.path}) than --model"
            f" {model_path}; embed the pictures with that one"
        )
    name = model_path or kept.about.model.path
    evaluate_subject(Subject(model, kept, Path(out), None, name), jobs, batch_size, say)


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
    """Evaluates checkpoints of a training run; the figures appear in its TensorBoard as well.

    Args:
      workdir: of the training run.
      settings: data and names.
      tasks: of `TASKS`.
      out: folder for the results, one below it for each step; None for `WORKDIR/eval`.
      step: "latest", "all" or a number; unused with `follow`.
      follow: evaluate checkpoints as they appear, each once however often this is
        restarted, until the training has finished.
      timeout: with `follow`, seconds without a new checkpoint after which to stop waiting.
      batch_size: images, and texts, encoded at a time.
      say: receives one line a result.

    Raises:
      UsageError: no such workdir or step.
      UserError: the data or a checkpoint cannot be used.
    """
    jobs = plan(settings, tasks, None)
    home = Path(out) if out else Path(workdir) / results.FOLDER
    steps = (
        following.new_checkpoints(workdir, timeout, say)
        if follow
        else following.chosen_steps(workdir, step)
    )
    board = (home if out else Path(workdir)) / "tensorboard" / "eval"
    with contextlib.closing(following.Curves(home, board)) as curves:
        for number in steps:
            todo = [
                job
                for job in jobs
                if not follow
                or not following.is_done(
                    home / str(number) / job.folder / f"{job.task}.json", job.bearing
                )
            ]
            if not todo:
                continue
            path = checkpoint.step_dir(workdir, number)
            try:
                model = spread(load(path))
            except UserError:
                # Training keeps only the newest checkpoints; one may go while it is being read.
                if not follow or not following.is_going(workdir, number):
                    raise
                say(f"step {number}: the checkpoint was removed before it could be evaluated")
                continue
            subject = Subject(model, None, home / str(number), number, str(path))
            evaluate_subject(subject, todo, batch_size, say, curves.add)


# ---- One subject


def evaluate_subject(
    subject: Subject,
    jobs: Sequence[Job],
    batch_size: int,
    say: Callable[[str], None],
    written: Callable[[Path], None] = lambda path: None,
) -> None:
    """Runs the jobs and writes their files; each JSON last, as its seal.

    Args:
      subject: what is measured.
      jobs: from `plan`.
      batch_size: images, and texts, encoded at a time.
      say: receives one line a result.
      written: receives the path of every JSON.

    Raises:
      UserError: the pictures or the model cannot be used.
    """

    @functools.cache
    def kept(root: Path | None) -> store.Store:
        return _kept_features(subject, root, batch_size, say)

    @functools.cache
    def split(settings: Settings) -> tuple[SplitFeatures, list[TaxonEntry]]:
        return _split_and_classes(subject, settings, batch_size)

    for job in jobs:
        folder = subject.folder / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        if job.task not in SPECIES_TASKS:
            result = beyond.run(job.task, job.root, kept(job.root), job.settings.protocol)
        else:
            if job.told:
                place = job.settings.annotations or job.settings.data
                question = species_tasks.set_question(kept(job.root), job.told, job.name, place)
            elif job.task == "zero_shot":
                kind = job.settings.text_kind
                question = species_tasks.taxa_question(*split(job.settings), kind)
            else:
                question = species_tasks.own_taxa_question(split(job.settings)[0])
            result = _answer(job, subject, question, folder, batch_size)
        head = {"task": job.task, "step": subject.step, "model": subject.name, "dataset": job.name}
        head["version"] = bioclip2_jax.__version__
        result = head | result | {"settings": asdict(job.settings)}
        path = folder / f"{job.task}.json"
        files.write_json(path, result)
        written(path)
        say(_one_line(result, job.folder))


def _split_and_classes(
    subject: Subject, settings: Settings, batch_size: int
) -> tuple[SplitFeatures, list[TaxonEntry]]:
    if subject.features is None:
        classes = species_tasks.dataset_classes(settings.data, settings.split, settings.labels)
        source = dataset.open_split(settings.data, settings.split)
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
    subject: Subject, root: Path | None, batch_size: int, say: Callable[[str], None]
) -> store.Store:
    """The features given, or those of all pictures of a folder, kept beside the results."""
    if subject.features is not None:
        return subject.features
    root = root.absolute()
    place = f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"
    place = subject.folder / "features" / place
    is_dataset = (root / "features.json").is_file()
    pictures = open_pictures(root) if is_dataset else pictures_below(root)
    embed.embed(subject.model, subject.name, pictures, place, batch_size=batch_size, say=say)
    return store.read(place)


def _answer(
    job: Job, subject: Subject, question: species_tasks.Question, folder: Path, batch_size: int
) -> dict:
    settings = job.settings
    if job.task == "zero_shot":
        result = species_tasks.run_zero_shot(
            subject.model, question, batch_size, folder, settings.templates
        )
    else:
        support = Path(settings.support) if settings.support else None
        k = int(job.task.rpartition("_")[2])
        result = species_tasks.run_few_shot(question, k, folder, support)
    bad = [{"key": key, "reason": reason} for key, reason in question.found.bad]
    return result | {"num_bad": len(bad), "bad": bad}


def _one_line(result: dict, folder: str) -> str:
    step = "" if result["step"] is None else f"step {result['step']} "
    head = f"{step}{folder + ' ' if folder else ''}{result['task']}"
    if result["task"] not in SPECIES_TASKS:
        return f"{head}: {beyond.one_line(result)}"
    if result["top1"] is None:
        return f"{head}: too few images a taxon"
    low, high = result["intervals"]["top1"]
    line = (
        f"{head}: top1 {result['top1']:.3f} [{low:.3f}, {high:.3f}], class average"
        f" {result['macro_top1']:.3f}, chance {result['chance']:.4f};"
        f" {result['num_images']:,} images, {result['num_classes']:,} taxa"
    )
    line += f", {result['num_excluded']:,} left out" if result["num_excluded"] else ""
    if result["num_bad"]:
        first = result["bad"][0]
        line += f", {result['num_bad']:,} not read ({first['key']}: {first['reason']})"
    return line
