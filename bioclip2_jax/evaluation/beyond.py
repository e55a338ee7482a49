"""The tasks beyond species of BioCLIP 2's second table: from published folders to results.

The released code ran them once with seed 0 in its first version and three times, with seeds 0, 1
and 2, in its second; PlantDoc draws five times in both. `runs` holds all, the first one first.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.protocols import multi_label
from bioclip2_jax.evaluation.protocols.herbarium19 import herbarium19, split_labelled
from bioclip2_jax.evaluation.protocols.newt import newt
from bioclip2_jax.evaluation.protocols.parts import Parts
from bioclip2_jax.evaluation.protocols.plantdoc import plantdoc
from bioclip2_jax.evaluation.published.beyond import BinaryTasks, OldAndNew, TwoParts
from bioclip2_jax.evaluation.published.folders import Labelled
from bioclip2_jax.evaluation.subject import Job, Subject, missing, rows_of
from bioclip2_jax.features.store import Store

SEEDS = (0, 1, 2)

Scores = TypeVar("Scores")


def run_newt(job: Job[BinaryTasks], subject: Subject) -> schema.NewtResult:
    """One support vector machine a task.

    Raises:
      UserError: no picture has features, or a task too few.
    """
    pictures, store = job.pictures, subject.store(job.root)
    rows, present = rows_of(store, pictures.files, str(job.root))
    scores = [
        newt(
            store.features[rows],
            pictures.labels[present],
            pictures.tasks[present],
            pictures.is_train[present],
            seed=seed,
            clusters=pictures.clusters[present],
        )
        for seed in SEEDS
    ]
    return schema.NewtResult(
        **_common(job, store, pictures.files, [each.micro for each in scores]),
        metric="accuracy over all test images",
        mean_over_tasks=float(np.mean([each.macro for each in scores])),
        tasks=scores[0].tasks,
        clusters=scores[0].clusters,
    )


def run_fishnet(job: Job[TwoParts], subject: Subject) -> schema.FishNetResult:
    """Nine labels at once.

    Raises:
      UserError: no picture has features.
    """
    parts, store = _two_parts(job, subject, normalize=False)
    scores = _over_seeds(multi_label.fishnet, job, parts)
    per_label = np.mean([each.per_label for each in scores], axis=0).tolist()
    return schema.FishNetResult(
        **_common(job, store, _files(job), [each.accuracy for each in scores]),
        metric="all nine labels right",
        mean_over_labels=float(np.mean(per_label)),
        per_label=dict(zip(job.pictures.names, per_label, strict=True)),
    )


def run_awa2(job: Job[TwoParts], subject: Subject) -> schema.AwA2Result:
    """Attributes of classes that were not learned from.

    Raises:
      UserError: no picture has features.
    """
    parts, store = _two_parts(job, subject, normalize=False)
    scores = _over_seeds(multi_label.awa2, job, parts)
    return schema.AwA2Result(
        **_common(job, store, _files(job), [each.f1 for each in scores]),
        metric="macro F1",
        micro_f1=float(np.mean([each.micro_f1 for each in scores])),
    )


def run_herbarium19(job: Job[OldAndNew], subject: Subject) -> schema.HerbariumResult:
    """Clusters of which some have a name.

    Raises:
      UserError: no picture has features, or all or none are labelled.
    """
    pictures, store = job.pictures, subject.store(job.root)
    rows, present = rows_of(store, pictures.files, str(job.root))
    # Who is labelled is drawn before anything is known of unreadable pictures.
    labelled = split_labelled(pictures.labels, pictures.is_old, seed=0)
    scores = [
        herbarium19(
            store.features[rows],
            pictures.labels[present],
            labelled[present],
            pictures.is_old,
            protocol=job.settings.protocol,
            seed=seed,
        )
        for seed in SEEDS
    ]
    return schema.HerbariumResult(
        **_common(job, store, pictures.files, [each.accuracy for each in scores]),
        metric="clustering accuracy",
        macro=_mean(each.macro for each in scores),
        old=_mean(each.old for each in scores),
        new=_mean(each.new for each in scores),
    )


def run_plantdoc(job: Job[TwoParts], subject: Subject) -> schema.PlantDocResult:
    """One example a class.

    Raises:
      UserError: no picture has features, or a class none to learn from.
    """
    parts, store = _two_parts(job, subject, normalize=True)
    scores = plantdoc(parts)
    return schema.PlantDocResult(
        **_common(job, store, _files(job), scores.folds.tolist()),
        metric="one-shot accuracy",
        macro=scores.macro,
    )


def _over_seeds(protocol: Callable[..., Scores], job: Job, parts: Parts) -> list[Scores]:
    return [protocol(parts, protocol=job.settings.protocol, seed=seed) for seed in SEEDS]


def _two_parts(job: Job[TwoParts], subject: Subject, normalize: bool) -> tuple[Parts, Store]:
    pictures, store = job.pictures, subject.store(job.root)

    def part(labelled: Labelled) -> tuple[np.ndarray, np.ndarray]:
        rows, present = rows_of(store, labelled.files, str(job.root))
        scale = 1 if normalize else store.norms[rows, None]
        return store.features[rows] * scale, labelled.labels[present]

    return Parts(*part(pictures.train), *part(pictures.test)), store


def _files(job: Job[TwoParts]) -> list[str]:
    return [*job.pictures.train.files, *job.pictures.test.files]


def _mean(values: Iterable[float | None]) -> float | None:
    """None where a run has none."""
    array = np.asarray(list(values), float)
    return None if np.isnan(array).any() else float(array.mean())


def _common(job: Job, store: Store, files: list[str], runs: list[float]) -> dict[str, Any]:
    """The fields of `BeyondResult` that are made alike for all tasks."""
    bad = [schema.BadPicture(*pair) for pair in missing(store, files)]
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
