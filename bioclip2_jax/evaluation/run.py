"""Evaluation, in a process of its own: of a run's checkpoints, of a model, or of kept features.

Every task writes `TASK.json`, and tables beside it: `TASK_classes.csv`, `TASK_datasets.csv`, for
zero-shot also `zero_shot_images.csv` (the answers for every image) and `zero_shot_embeddings.npz`
(one vector a class from its pictures and one from its name), for few-shot `TASK_support.json`; of
a search `retrieval_texts.csv` and `retrieval_images.csv`.
They lie in `WORKDIR/eval/<step>/` for a training run, else in the folder that is named; where the
data are several species sets, or the result of another set lies there, in a folder of the set's
name. A comparison with earlier results is `comparison.json` there.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import bioclip2_jax
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import schema, search, tables
from bioclip2_jax.evaluation.earlier import compare_with, read_earlier
from bioclip2_jax.evaluation.follow import (
    apart,
    chosen_steps,
    curves,
    is_done,
    is_going,
    new_checkpoints,
)
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.evaluation.search_schema import RetrievalResult
from bioclip2_jax.evaluation.subject import Job, Subject
from bioclip2_jax.evaluation.tasks import SPECIES_TASKS, TASKS, plan
from bioclip2_jax.features import embed, store
from bioclip2_jax.features.encode import spread
from bioclip2_jax.files import place
from bioclip2_jax.weights import checkpoint
from bioclip2_jax.weights.load import load

# ---- A model, or features


def run_once(
    settings: Settings,
    tasks: Sequence[str],
    out: str | Path,
    *,
    model_path: str | None = None,
    features: str | Path | None = None,
    compare_to: str | Path | None = None,
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
      compare_to: a folder of earlier results of the same data, see `earlier.read_earlier`.
      batch_size: images, and texts, encoded at a time.
      say: receives one line a result.

    Raises:
      UsageError: something needed is missing from the call.
      UserError: the data, the features or the model cannot be used.
    """
    kept = store.read(features) if features else None
    made_by = kept.about.model if kept else None
    name = model_path or (made_by and made_by.path)
    if name is None:
        raise UsageError("nothing to evaluate: give --workdir, --model or --features")
    texts = {"zero_shot": "names", search.TASK: "texts"}
    if not model_path and (first := next((task for task in tasks if task in texts), None)):
        raise UsageError(
            f"{first} encodes {texts[first]}: give the --model that made the features, or other"
            " --tasks"
        )
    jobs = plan(settings, tasks, kept)
    earlier = read_earlier(compare_to, jobs) if compare_to else {}
    model = spread(load(model_path)) if model_path else None
    if model and made_by and embed.checksum(model) != made_by.sha256:
        raise UsageError(
            f"{features}: made by another model ({made_by.path}) than --model {model_path};"
            " embed the pictures with that one"
        )
    subject = Subject(
        model=model, features=kept, folder=place(out), name=name, batch_size=batch_size, say=say
    )
    jobs = [apart(subject.folder, job) for job in jobs]
    evaluate_subject(subject, jobs)
    compare_with(earlier, subject, jobs)


# ---- Checkpoints of a run


def run(
    workdir: str | Path,
    settings: Settings,
    tasks: Sequence[str] = SPECIES_TASKS,
    *,
    out: str | Path | None = None,
    compare_to: str | Path | None = None,
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
      compare_to: a folder of earlier results of the same data, see `earlier.read_earlier`.
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
    earlier = read_earlier(compare_to, jobs) if compare_to else {}
    home = place(out) if out else place(workdir) / tables.FOLDER
    steps = new_checkpoints(workdir, timeout, say) if follow else chosen_steps(workdir, step)
    board = (home if out else place(workdir)) / "tensorboard" / "eval"
    with curves(home, board) as draw:
        for number in steps:
            folder = home / str(number)
            here = [apart(folder, job) for job in jobs]
            todo = [job for job in here if not (follow and is_done(folder, job))]
            if not todo:
                continue
            path = checkpoint.step_dir(workdir, number)
            try:
                model = spread(load(path))
            except UserError:
                # Training keeps only the newest checkpoints; one may go while it is being read.
                if not follow or not is_going(workdir, number):
                    raise
                say(f"step {number}: the checkpoint was removed before it could be evaluated")
                continue
            subject = Subject(
                model=model,
                folder=folder,
                step=number,
                name=str(path),
                batch_size=batch_size,
                say=say,
            )
            evaluate_subject(subject, todo, draw)
            compare_with(earlier, subject, todo)


# ---- One subject


def evaluate_subject(
    subject: Subject, jobs: Sequence[Job], written: Callable[[Path], None] | None = None
) -> None:
    """Runs the jobs and writes their files; each JSON last, as its seal.

    Args:
      subject: what is measured.
      jobs: from `plan`.
      written: receives the path of every JSON.

    Raises:
      UserError: the pictures or the model cannot be used.
    """
    for job in jobs:
        result = replace(
            TASKS[job.task].run(job, subject),
            task=job.task,
            step=subject.step,
            model=subject.name,
            dataset=job.name,
            version=bioclip2_jax.__version__,
        )
        path = subject.place(job) / f"{job.task}.json"
        schema.write(path, result)
        if written:
            written(path)
        subject.say(_one_line(result, job.folder))
        if isinstance(result, schema.ZeroShotResult) and result.same_text:
            subject.say(_same_text(result.same_text))


def _same_text(shared: Sequence[schema.SameText]) -> str:
    first = shared[0]
    more = f", and {len(shared) - 1:,} more such texts" if len(shared) > 1 else ""
    return (
        f"caution: {', '.join(first.classes)} are all asked for as {first.text!r}{more}: no picture"
        " can tell such classes apart, and the first of them always wins; choose another"
        " --text-kind, or mend the names"
    )


def _one_line(result: schema.Result, folder: str) -> str:
    step = "" if result.step is None else f"step {result.step} "
    head = f"{step}{folder + ' ' if folder else ''}{result.task}"
    if isinstance(result, schema.BeyondResult):
        line = (
            f"{head}: {result.metric} {100 * result.value:.1f} ± {100 * result.std:.1f} over"
            f" {len(result.runs)} runs ({result.protocol}); {result.num_images:,} images"
        )
        return line + _bad(result.num_missing, "left out", result.bad)
    if isinstance(result, RetrievalResult):
        return f"{head}: {_search_line(result)}" + _bad(result.num_bad, "not read", result.bad)
    assert isinstance(result, schema.SpeciesResult)
    if result.top1 is None:
        return f"{head}: too few images a taxon"
    low, high = result.intervals["top1"] or (0, 1)
    line = (
        f"{head}: top1 {result.top1:.3f} [{low:.3f}, {high:.3f}], class average"
        f" {result.macro_top1:.3f}, chance {result.chance:.4f};"
        f" {result.num_images:,} images, {result.num_classes:,} taxa"
    )
    line += f", {result.num_excluded:,} left out" if result.num_excluded else ""
    if isinstance(result, schema.ZeroShotResult) and (fit := result.prior_fit):
        line += (
            f"; with a prior of {fit.strength:.2f}, fitted on {fit.num_fitted:,} of them, top1"
            f" {fit.before.top1:.3f} -> {fit.after.top1:.3f} and class average"
            f" {fit.before.macro_top1:.3f} -> {fit.after.macro_top1:.3f} on the other"
            f" {fit.num_judged:,}"
        )
    return line + _bad(result.num_bad, "not read", result.bad)


def _search_line(result: RetrievalResult) -> str:
    texts, images = result.text_to_image, result.image_to_text
    own = result.settings.candidates == "own"
    low, high = texts.intervals["ndcg_50"]
    figures = f"nDCG@50 {texts.figures['ndcg_50']:.3f} [{low:.3f}, {high:.3f}]"
    figures += f" (chance {texts.chance['ndcg_50']:.3f}), AP@50 {texts.figures['ap_50']:.3f}"
    figures += f", MRR {texts.figures['mrr']:.3f}, recall@10 {texts.figures['recall_10']:.3f}"
    back = ", ".join(f"hit@{k} {images.figures[f'hit_{k}']:.3f}" for k in (1, 10))
    line = (
        f"text to image {figures}; image to text {back};"
        f" {texts.num_queries:,} texts,"
        f" {'each of its own' if own else 'all among'} {result.mean_candidates:,.0f} images"
    )
    if result.num_without:
        line += f", {result.num_without:,} texts without a relevant image left out"
    if result.num_doubled:
        line += f", {result.num_doubled:,} doubled rows counted once"
    return line


def _bad(count: int, what: str, pictures: Sequence[schema.BadPicture]) -> str:
    if not count:
        return ""
    return f", {count:,} {what} ({pictures[0].key}: {pictures[0].reason})"
