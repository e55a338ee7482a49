"""What one call of the evaluator is to do: every task on every set, checked before any encoding."""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bioclip2_jax.errors import UsageError
from bioclip2_jax.evaluation import beyond
from bioclip2_jax.evaluation import species as species_tasks
from bioclip2_jax.evaluation.published import beyond as layouts
from bioclip2_jax.evaluation.published import species as species_layouts
from bioclip2_jax.features import store

SPECIES_TASKS = ("zero_shot", "few_shot_1", "few_shot_5")
TASKS = (*SPECIES_TASKS, *beyond.TASKS)


@dataclass(frozen=True)
class Settings:
    """What is evaluated on.

    Attributes:
      data: a dataset folder, or the folder of a published set or of several (see
        `species_layouts` and `layouts`). None where features are all there is.
      split: images to name; None for "val" of a dataset and all pictures of other sets.
      labels: the closed list of names: taxa with images in "train", in the evaluated "split", or
        "all" of the dataset's taxa. Images of other taxa are left out and counted. Other sets than
        datasets have all their classes on the list.
      text_kind: form of the names (`captions.class_name`); "asis" is the scientific name as it
        came, or the class of an annotation table. None for the set's own in the paper.
      annotations: a table that says what each picture below `data` shows.
      class_column: column of the table whose cells are the classes.
      where: "COLUMN=VALUE" that rows of the table must have.
      templates: sentences of zero-shot, a key of `TEMPLATES`.
      protocol: of the tasks beyond species, "faithful" or "corrected".
      support: a file with the support of few-shot, as `few_shot_K_support.json`.
    """

    data: str | None = None
    split: str | None = None
    labels: str = "train"
    text_kind: str | None = None
    annotations: str | None = None
    class_column: str | None = None
    where: tuple[str, ...] = ()
    templates: str = "bioclip2"
    protocol: str = "faithful"
    support: str | None = None


@dataclass(frozen=True)
class Job:
    """One task on one set, checked and ready.

    Attributes:
      task: of `TASKS`.
      settings: without what is left to choose.
      name: of the data.
      folder: below that of the results; "" for that itself.
      root: folder whose pictures are embedded; None for a dataset, or where features are given.
      told: the pictures of a species set; None for the others.
    """

    task: str
    settings: Settings
    name: str
    folder: str
    root: Path | None
    told: species_layouts.Species | None

    @property
    def bearing(self) -> dict:
        """The settings that make a difference to the result."""
        names = ["data", "protocol"]
        if self.task in SPECIES_TASKS:
            names = ["data", "split", "text_kind", "annotations", "class_column", "where"]
            names += ["labels", "templates"] if self.task == "zero_shot" else ["support"]
        settings = asdict(self.settings)
        return {name: settings[name] for name in names}


def parse_tasks(text: str) -> tuple[str, ...]:
    """The tasks of a list with commas; "few_shot" is both of its kinds.

    Raises:
      UsageError: one is unknown; names the nearest.
    """
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        names += ["few_shot_1", "few_shot_5"] if name == "few_shot" else [name]
    known = ("few_shot", *TASKS)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"--tasks {name}: unknown; there are {', '.join(known)}{meant}")
    return tuple(dict.fromkeys(names))


def plan(settings: Settings, tasks: Sequence[str], features: store.Store | None) -> list[Job]:
    """Finds the data of every task and reads what is said of them, before anything is encoded.

    Raises:
      UsageError: something needed is missing from the call, or asked for and not there.
      UserError: the data cannot be used.
    """
    if settings.data is None and features is None:
        raise UsageError("--data is missing: the pictures to evaluate on")
    if settings.data is not None and not Path(settings.data).is_dir():
        raise UsageError(f"--data {settings.data}: there is no such folder")
    species = [task for task in tasks if task in SPECIES_TASKS]
    if settings.support:
        species_tasks.read_support(settings.support)
    jobs = _species_jobs(settings, species, features) if species else []
    for task in tasks:
        if task not in SPECIES_TASKS:
            root = _root_of(settings, task)
            getattr(layouts, task)(root)
            jobs.append(Job(task, settings, task, "", root, None))
    return jobs


def _species_jobs(
    settings: Settings, tasks: Sequence[str], features: store.Store | None
) -> list[Job]:
    sets = _species_sets(settings)
    if sets is None:
        if settings.class_column or settings.where:
            raise UsageError(
                "--class-column and --where choose from an annotation table: give --annotations"
            )
        filled = replace(
            settings, split=settings.split or "val", text_kind=settings.text_kind or "taxon_com"
        )
        if settings.data:
            species_tasks.dataset_classes(settings.data, filled.split, settings.labels)
        else:
            species_tasks.store_split(features, filled.split, "--features")
        name = Path(settings.data).absolute().name if settings.data else "features"
        return [Job(task, filled, name, "", None, None) for task in tasks]
    if settings.class_column and settings.text_kind not in (None, "asis"):
        raise UsageError(
            "--class-column gives the names of the classes as they are; leave out --text-kind"
        )
    choice = species_layouts.Choice(settings.split, settings.class_column, settings.where)
    jobs = []
    for one in sets:
        kind = settings.text_kind or ("asis" if settings.class_column else one.text_kind)
        told = species_layouts.read(one, kind, choice)
        folder = one.name if len(sets) > 1 else ""
        # As if each set had been named by itself, which is how its pictures are found again.
        data = settings.data and str(one.root)
        filled = replace(settings, data=data, annotations=str(one.table), text_kind=kind)
        jobs += [Job(task, filled, one.name, folder, one.root, told) for task in tasks]
    return jobs


def _species_sets(settings: Settings) -> list[species_layouts.SpeciesSet] | None:
    """The sets that are asked for; None for a dataset, or for its features."""
    if settings.annotations:
        return [species_layouts.of_table(settings.annotations, settings.data)]
    if settings.data is None or (Path(settings.data) / "features.json").is_file():
        return None
    sets = species_layouts.find(settings.data)
    if sets or next(Path(settings.data).glob("**/features.json"), None):
        return sets or None
    raise UsageError(
        f"--data {settings.data}: neither a dataset made by `bioclip2 prepare` nor a published set;"
        " for any folder of pictures give --annotations, a table with a column of file names"
    )


def _root_of(settings: Settings, task: str) -> Path:
    if settings.data is None:
        raise UsageError(f"--tasks {task} needs --data: the folder of the set as it is published")
    below = Path(settings.data) / task
    return below if below.is_dir() else Path(settings.data)
