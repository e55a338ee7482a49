"""The tasks beyond species of BioCLIP 2's second table: from published folders to results.

Protocol "v1" runs them once with seed 0, as the original's first release did, "v2" and "corrected"
three times, with seeds 0, 1 and 2, as the later one; PlantDoc draws five times in all.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.protocols import multi_label
from bioclip2_jax.evaluation.protocols.herbarium19 import herbarium19, split_labelled
from bioclip2_jax.evaluation.protocols.newt import newt
from bioclip2_jax.evaluation.protocols.parts import Parts
from bioclip2_jax.evaluation.protocols.plantdoc import PlantDocScores, loader_order, plantdoc
from bioclip2_jax.evaluation.published import beyond as layouts
from bioclip2_jax.evaluation.subject import Job, Subject, rows_of

SEEDS = (0, 1, 2)
PLANTDOC_DRAWS = 5

Scores = TypeVar("Scores")


def run_newt(job: Job[layouts.BinaryTasks], subject: Subject) -> schema.NewtResult:
    """One support vector machine a task; `newt_images.csv` says which pictures it gets right.

    Raises:
      UserError: no picture has features, or a task too few.
    """
    pictures = job.pictures
    features, present = _features(job, subject, pictures.files)
    labels, tasks, is_train, clusters = (
        array[present]
        for array in (pictures.labels, pictures.tasks, pictures.is_train, pictures.clusters)
    )
    scores = [
        newt(features, labels, tasks, is_train, seed=seed, clusters=clusters)
        for seed in _seeds(job.settings)
    ]
    tested = np.flatnonzero(~is_train)
    rows = [
        {
            "key": pictures.files[present[row]],
            "scientificName": tasks[row],
            "label": labels[row],
            "trials": len(scores),
            "correct": sum(int(each.right[row]) for each in scores),
        }
        for row in tested
    ]
    path = subject.place(job) / "newt_images.csv"
    path.with_name("newt.json").unlink(missing_ok=True)
    files.write_csv(path, rows, list(rows[0]))
    return schema.NewtResult(
        **_common(job, subject, pictures.files, [each.micro for each in scores]),
        metric="accuracy over all test images",
        mean_over_tasks=_mean(each.macro for each in scores),
        tasks=scores[0].tasks,
        clusters=scores[0].clusters,
    )


def run_fishnet(job: Job[layouts.TwoParts], subject: Subject) -> schema.FishNetResult:
    """Nine labels at once.

    Raises:
      UserError: no picture has features.
    """
    scores = _of_parts(multi_label.fishnet, job, subject)
    per_label = np.mean([each.per_label for each in scores], axis=0).tolist()
    return schema.FishNetResult(
        **_common(job, subject, _files(job), [each.accuracy for each in scores]),
        metric="all nine labels right",
        mean_over_labels=_mean(per_label),
        per_label=dict(zip(layouts.FISHNET_LABELS, per_label, strict=True)),
    )


def run_awa2(job: Job[layouts.TwoParts], subject: Subject) -> schema.AwA2Result:
    """Attributes of classes that were not learned from.

    Raises:
      UserError: no picture has features.
    """
    scores = _of_parts(multi_label.awa2, job, subject)
    return schema.AwA2Result(
        **_common(job, subject, _files(job), [each.f1 for each in scores]),
        metric="macro F1",
        micro_f1=_mean(each.micro_f1 for each in scores),
    )


def run_herbarium19(job: Job[layouts.OldAndNew], subject: Subject) -> schema.HerbariumResult:
    """Clusters of which some have a name.

    Raises:
      UserError: no picture has features, or all or none are labelled.
    """
    pictures, protocol = job.pictures, job.settings.protocol
    features, present = _features(job, subject, pictures.files, normalize=protocol != "v1")
    # Who is labelled is drawn before anything is known of unreadable pictures.
    labelled = split_labelled(pictures.labels, pictures.is_old)
    given = features, pictures.labels[present], labelled[present], pictures.is_old
    scores = [herbarium19(*given, protocol, seed) for seed in _seeds(job.settings)]
    return schema.HerbariumResult(
        **_common(job, subject, pictures.files, [each.accuracy for each in scores]),
        metric="clustering accuracy",
        macro=_mean(each.macro for each in scores),
        old=_mean(each.old for each in scores),
        new=_mean(each.new for each in scores),
    )


def run_plantdoc(job: Job[layouts.TwoParts], subject: Subject) -> schema.PlantDocResult:
    """One example a class.

    Raises:
      UserError: no picture has features, or a class none to learn from.
    """
    is_first = job.settings.protocol == "v1"
    parts = _parts(job, subject, normalize=not is_first)

    def draws(parts: Parts) -> list[PlantDocScores]:
        running = np.random.RandomState(0)
        seeds = [running] * PLANTDOC_DRAWS if is_first else range(PLANTDOC_DRAWS)
        return [plantdoc(parts, seed) for seed in seeds]

    scores, loaded = draws(parts), []
    if len(parts.train_labels) == len(job.pictures[0].files):
        order = loader_order(len(parts.train_labels))
        features, labels = parts.train_features[order], parts.train_labels[order]
        loaded = draws(parts._replace(train_features=features, train_labels=labels))
    return schema.PlantDocResult(
        **_common(job, subject, _files(job), [each.accuracy for each in scores]),
        metric="one-shot accuracy",
        loader_runs=[each.accuracy for each in loaded],
        macro=_mean(each.macro for each in scores),
    )


def _features(
    job: Job, subject: Subject, files: Sequence[str], *, normalize: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The features there are of these pictures, and which of `files` they are of."""
    store = subject.store(job.root)
    rows, present, _ = rows_of(store, files, str(job.root))
    return store.features[rows] * (1 if normalize else store.norms[rows, None]), present


def _parts(job: Job[layouts.TwoParts], subject: Subject, *, normalize: bool) -> Parts:
    arrays = []
    for part in job.pictures:
        features, present = _features(job, subject, part.files, normalize=normalize)
        arrays += [features, part.labels[present]]
    return Parts(*arrays)


def _of_parts(
    protocol: Callable[..., Scores], job: Job[layouts.TwoParts], subject: Subject
) -> list[Scores]:
    parts = _parts(job, subject, normalize=False)
    how = job.settings
    return [protocol(parts, protocol=how.protocol, seed=seed) for seed in _seeds(how)]


def _seeds(settings: schema.Settings) -> Sequence[int]:
    return SEEDS[:1] if settings.protocol == "v1" else SEEDS


def _files(job: Job[layouts.TwoParts]) -> list[str]:
    return [file for part in job.pictures for file in part.files]


def _mean(values: Iterable[float | None]) -> float | None:
    """None where a run has none."""
    array = np.asarray(list(values), float)
    return None if np.isnan(array).any() else float(array.mean())


def _common(job: Job, subject: Subject, files: list[str], runs: list[float]) -> dict[str, Any]:
    """The fields of `BeyondResult` that are made alike for all tasks."""
    _, _, without = rows_of(subject.store(job.root), files, str(job.root))
    bad = [schema.BadPicture(*pair) for pair in without]
    return {
        "settings": job.settings,
        "value": float(np.mean(runs)),
        "std": float(np.std(runs)),
        "protocol": job.settings.protocol,
        "runs": runs,
        "num_images": len(files) - len(bad),
        "num_missing": len(bad),
        "bad": bad,
    }
