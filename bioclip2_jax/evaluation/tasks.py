"""THE table of tasks, and what one call of the evaluator is to do, checked before any encoding."""

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

from bioclip2_jax.errors import UsageError
from bioclip2_jax.evaluation import beyond, questions, schema, search, species
from bioclip2_jax.evaluation.published import beyond as layouts
from bioclip2_jax.evaluation.published import species as sets
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.evaluation.search_schema import RetrievalResult
from bioclip2_jax.evaluation.subject import Job, Pictures, Subject, store_split
from bioclip2_jax.features.store import Store
from bioclip2_jax.files import absolute, below, place

_PATHS = ("data", "annotations", "support", "prior", "queries")


@dataclass(frozen=True)
class Task(Generic[Pictures]):
    """Something that can be measured.

    Attributes:
      name: in `--tasks`, and of its file of results.
      title: on the page of the report.
      read: which pictures the folder of the published set holds and what is true of them; None for
        tasks that take any species set, and for search, which has a plan of its own.
      run: from pictures to the result; the tables beside it are written there.
      result: what the file holds.
    """

    name: str
    title: str
    read: Callable[[Path], Pictures] | None
    run: Callable[[Job[Pictures], Subject], schema.Result]
    result: type[schema.Result]


_one, _five = (functools.partial(species.run_few_shot, k=k) for k in (1, 5))
_TASKS: tuple[Task[Any], ...] = (
    Task("zero_shot", "Names", None, species.run_zero_shot, schema.ZeroShotResult),
    Task("few_shot_1", "One example", None, _one, schema.FewShotResult),
    Task("few_shot_5", "Five examples", None, _five, schema.FewShotResult),
    Task("newt", "NeWT", layouts.newt, beyond.run_newt, schema.NewtResult),
    Task("fishnet", "FishNet", layouts.fishnet, beyond.run_fishnet, schema.FishNetResult),
    Task("awa2", "AwA2", layouts.awa2, beyond.run_awa2, schema.AwA2Result),
    Task(
        *("herbarium19", "Herbarium 19", layouts.herbarium19),
        *(beyond.run_herbarium19, schema.HerbariumResult),
    ),
    Task("plantdoc", "PlantDoc", layouts.plantdoc, beyond.run_plantdoc, schema.PlantDocResult),
    Task(search.TASK, "Search", None, search.run_retrieval, RetrievalResult),
)
TASKS = {task.name: task for task in _TASKS}
SPECIES_TASKS = tuple(
    name for name, task in TASKS.items() if issubclass(task.result, schema.SpeciesResult)
)


def bearing(task: str, settings: Settings) -> dict[str, Any]:
    """The settings that make a difference to a result, paths in one spelling."""
    names = ["data", "protocol"]
    if task == search.TASK:
        names = ["data", "split", "text_kind", "queries", "candidates"]
    elif task in SPECIES_TASKS:
        names = ["data", "split", "text_kind", "annotations", "class_column", "where"]
        of_names = ["labels", "templates", "decode", "prior", "prior_strength"]
        names += of_names if task == "zero_shot" else ["support"]
    values = {name: getattr(settings, name) for name in names}
    if task.startswith("few_shot"):
        values["run_on"] = settings.protocol == "v1"
    given = {name: value for name, value in values.items() if name in _PATHS and value}
    return values | {name: str(absolute(path)) for name, path in given.items()}


def parse_tasks(text: str) -> tuple[str, ...]:
    """The tasks of a list with commas; "few_shot" is both of its kinds.

    Raises:
      UsageError: one is unknown; names the nearest.
    """
    choices = {"few_shot": ("few_shot_1", "few_shot_5")} | {name: (name,) for name in TASKS}
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in choices:
            near = difflib.get_close_matches(name, choices, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"--tasks {name}: unknown; there are {', '.join(choices)}{meant}")
    return tuple(dict.fromkeys(task for name in names for task in choices[name]))


def plan(settings: Settings, tasks: Sequence[str], features: Store | None) -> list[Job]:
    """Finds the data of every task and reads what is said of them, before anything is encoded.

    Raises:
      UsageError: something needed is missing from the call, or asked for and not there.
      UserError: the data cannot be used.
    """
    if settings.data is None and features is None:
        raise UsageError("--data is missing: the pictures to evaluate on")
    if settings.data is not None and not place(settings.data).is_dir():
        raise UsageError(f"--data {settings.data}: there is no such folder")
    if settings.support:
        questions.read_support(settings.support)
    searched, settings = settings, replace(settings, queries=None, candidates=None)
    on_species = [name for name in tasks if name in SPECIES_TASKS]
    jobs = _species_jobs(settings, on_species, features) if on_species else []
    for name in tasks:
        if name == search.TASK:
            jobs.append(search.plan_search(searched, features))
        read = TASKS[name].read
        if read is None:
            continue
        if settings.data is None:
            raise UsageError(
                f"--tasks {name} needs --data: the folder of the set as it is published"
            )
        inner = place(settings.data) / name
        root = inner if inner.is_dir() else place(settings.data)
        jobs.append(Job(task=name, settings=settings, name=name, root=root, pictures=read(root)))
    return jobs


def _species_jobs(settings: Settings, tasks: Sequence[str], features: Store | None) -> list[Job]:
    species_sets = _species_sets(settings)
    if species_sets is None:
        return _dataset_jobs(settings, tasks, features)
    if settings.class_column and settings.text_kind not in (None, "asis"):
        raise UsageError(
            "--class-column gives the names of the classes as they are; leave out --text-kind"
        )
    jobs = []
    for each in species_sets:
        kind = settings.text_kind or ("asis" if settings.class_column else each.text_kind)
        pictures = sets.read(each, kind, settings)
        if settings.decode != "flat" and not any(c.taxon.deepest_rank for c in pictures.classes):
            raise UsageError(
                f"--decode {settings.decode} needs lineages, and the classes of {each.table} have"
                " none: leave it out"
            )
        # As if each set had been named by itself, which is how its pictures are found again.
        data = settings.data and str(each.root)
        filled = replace(settings, data=data, annotations=str(each.table), text_kind=kind)
        jobs += [
            Job(
                task=task,
                settings=filled,
                name=each.name,
                folder=each.name if len(species_sets) > 1 else "",
                root=each.root,
                pictures=pictures,
            )
            for task in tasks
        ]
    return jobs


def _dataset_jobs(settings: Settings, tasks: Sequence[str], features: Store | None) -> list[Job]:
    """Of a dataset, or of its features."""
    if settings.class_column or settings.where:
        raise UsageError(
            "--class-column and --where choose from an annotation table: give --annotations"
        )
    split, kind = settings.split or "val", settings.text_kind or "taxon_com"
    if settings.data:
        questions.dataset_classes(settings.data, split, settings.labels)
    elif features is not None:
        store_split(features, split, "--features")
    name = absolute(settings.data).name if settings.data else "features"
    filled = replace(settings, split=split, text_kind=kind)
    return [Job(task=task, settings=filled, name=name, pictures=None) for task in tasks]


def _species_sets(settings: Settings) -> list[sets.SpeciesSet] | None:
    """The sets that are asked for; None for a dataset, or for its features."""
    if settings.annotations:
        return [sets.of_table(settings.annotations, settings.data)]
    if settings.data is None or (place(settings.data) / "features.json").is_file():
        return None
    found = sets.find(settings.data)
    names = below(place(settings.data)) if not found else ()
    if found or any(name.endswith("/features.json") for name in names):
        return found or None
    raise UsageError(
        f"--data {settings.data}: neither a dataset made by `bioclip2 prepare` nor a published set;"
        " for any folder of pictures give --annotations, a table with a column of file names"
    )
