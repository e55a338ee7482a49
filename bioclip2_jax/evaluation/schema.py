"""Every result file of the evaluator as a dataclass: what is written is read, drawn and compared.

Fields with a default came after the first version, or say nothing where they are empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np
from etils import epath

from bioclip2_jax import files
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.measures.accuracy import Accuracy, RankAccuracy, Stratum
from bioclip2_jax.measures.calibration import Calibration
from bioclip2_jax.measures.hierarchy import Mistakes
from bioclip2_jax.measures.intervals import Interval
from bioclip2_jax.measures.open_set import OpenSet
from bioclip2_jax.measures.paired import Paired
from bioclip2_jax.measures.prior import PriorFit, PriorPoint

T = TypeVar("T")


# ---- What every result says


@dataclass(frozen=True)
class Settings:
    """What is evaluated on.

    Attributes:
      data: a dataset folder, or the folder of a published set or of several (see
        `published.species` and `published.beyond`). None where features are all there is.
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
      protocol: the original's code that few-shot and the tasks beyond species follow: "v1", the
        release that came with the paper, "v2", that of 2026, or "corrected", the latter without its
        slips. "faithful", an older name of "v2", is taken for it.
      support: a file with the support of few-shot, as `few_shot_K_support.json`.
      decode: "flat", or "top_down": first answers of zero-shot follow the tree (`measures.tree`).
      prior: a table of counts (`data.counts`); names of zero-shot that were met more often gain.
      prior_strength: the factor on the logarithm of a count. None without a prior, and for one that
        is fitted on half of the pictures and judged on the others beside the answers, which are
        then without it.
      queries: a table of what is searched for and which pictures show it (`published.queries`).
      candidates: of a search, "own": the pictures that were judged for the query, or "all".
    """

    data: str | None = None
    split: str | None = None
    labels: str = "train"
    text_kind: str | None = None
    annotations: str | None = None
    class_column: str | None = None
    where: tuple[str, ...] = ()
    templates: str = "bioclip2"
    protocol: str = "v2"
    support: str | None = None
    decode: str = "flat"
    prior: str | None = None
    prior_strength: float | None = None
    queries: str | None = None
    candidates: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", _release(self.protocol))
        if not self.prior:
            object.__setattr__(self, "prior_strength", None)


def _release(protocol: str) -> str:
    """The name of a protocol today."""
    return "v2" if protocol == "faithful" else protocol


@dataclass(frozen=True)
class BadPicture:
    """A picture that could not be used, and why."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """`TASK.json`.

    Attributes:
      task: of `tasks.TASKS`.
      step: of the checkpoint, None for other models.
      model: where it came from.
      dataset: name of the data.
      version: of this package.
      settings: with nothing left to choose.
    """

    task: str = ""
    step: int | None = None
    model: str | None = None
    dataset: str = ""
    version: str = ""
    settings: Settings


# ---- Species


@dataclass(frozen=True, kw_only=True)
class NamedRank(RankAccuracy):
    """First answers of zero-shot at one rank, and where its own names are asked for.

    Attributes:
      prompted_top1, prompted_macro_top1: of the names of that rank, over the pictures whose rank is
        known; None where no name is.
      known_top1: `top1` over these pictures.
      top_down_top1: of answers down the tree, over these pictures.
    """

    prompted_top1: float | None
    prompted_macro_top1: float | None = None
    known_top1: float | None = None
    top_down_top1: float | None = None


@dataclass(frozen=True, kw_only=True)
class SpeciesResult(Accuracy, Result):
    """Of zero-shot and few-shot; accuracies are None where nothing could be asked.

    Attributes:
      chance: accuracy of guessing.
      num_images: asked for.
      num_classes: on the list of names, or with examples.
      num_excluded: pictures of other classes.
      classes_sha256: tells lists of classes apart.
      num_bad, bad: pictures that could not be read.
    """

    chance: float | None
    num_images: int
    num_classes: int | None
    num_excluded: int = 0
    classes_sha256: str | None = None
    num_bad: int = 0
    bad: list[BadPicture] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class HiddenSet(OpenSet):
    """Known against unknown pictures where so many classes are struck off the list."""

    num_hidden_classes: int


@dataclass(frozen=True, kw_only=True)
class OpenSets:
    """Two kinds of unknown pictures; None for one without any.

    Attributes:
      hidden: half of the classes with pictures are struck off the list.
      excluded: pictures of species that never were on it.
    """

    hidden: HiddenSet | None = None
    excluded: OpenSet | None = None


@dataclass(frozen=True, kw_only=True)
class SameText:
    """Classes that are asked for by one and the same text, of which the first always wins."""

    text: str
    classes: list[str]


@dataclass(frozen=True, kw_only=True)
class Commonest:
    """The class with pictures that was met most often.

    Attributes:
      name: scientific.
      num_images: of it that were asked for.
      top1: of them.
    """

    name: str
    num_images: int
    top1: float


@dataclass(frozen=True, kw_only=True)
class ZeroShotResult(SpeciesResult):
    """`zero_shot.json`.

    Attributes:
      same_text: classes that no picture can tell apart, as they are asked for alike.
      prior: the figures with priors of several strengths, over all pictures.
      prior_fit: the strength that fits one half best, judged on the other; None where it is given.
      commonest: by the counts of the prior, else in training, else among the pictures.
    """

    top1: float
    macro_top1: float
    ranks: Mapping[str, NamedRank]
    chance: float
    num_classes: int
    calibration: Calibration | None = None
    hierarchy: Mistakes | None = None
    strata: dict[str, Stratum] | None = None
    open_set: OpenSets | None = None
    same_text: list[SameText] = field(default_factory=list)
    prior: list[PriorPoint] | None = None
    prior_fit: PriorFit | None = None
    commonest: Commonest | None = None


@dataclass(frozen=True, kw_only=True)
class FewShotResult(SpeciesResult):
    """`few_shot_K.json`.

    Attributes:
      k: examples a class.
      std: population standard deviation over the folds.
      folds: accuracy of each.
      draw_intervals: as `intervals`, but for other draws of the examples as well as other images;
        None of fewer than three folds, or where nothing was asked.
      left_out: names of the classes with fewer than k pictures.
    """

    num_classes: int | None = None
    k: int
    std: float | None
    folds: list[float]
    draw_intervals: Mapping[str, Interval | None] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


# ---- Beyond species


@dataclass(frozen=True, kw_only=True)
class BeyondResult(Result):
    """Of a task of BioCLIP 2's second table.

    Attributes:
      value, std: mean and standard deviation of the runs.
      protocol: as of `Settings`.
      metric: what the figure is.
      runs: the figure of each.
      num_images: that were used.
      num_missing, bad: that could not be.
    """

    value: float
    std: float
    protocol: str
    metric: str
    runs: list[float]
    num_images: int
    num_missing: int = 0
    bad: list[BadPicture] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", _release(self.protocol))


@dataclass(frozen=True, kw_only=True)
class NewtResult(BeyondResult):
    """`newt.json`: also the mean over the tasks, and accuracies by task and by group of tasks."""

    mean_over_tasks: float | None = None
    tasks: dict[str, float] | None = None
    clusters: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FishNetResult(BeyondResult):
    """`fishnet.json`: also the accuracy of each label, and their mean."""

    mean_over_labels: float | None = None
    per_label: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AwA2Result(BeyondResult):
    """`awa2.json`."""

    micro_f1: float | None = None


@dataclass(frozen=True, kw_only=True)
class HerbariumResult(BeyondResult):
    """`herbarium19.json`: also the average over the classes, and of old and of new ones."""

    macro: float | None = None
    old: float | None = None
    new: float | None = None


@dataclass(frozen=True, kw_only=True)
class PlantDocResult(BeyondResult):
    """`plantdoc.json`: also the average over the classes.

    `loader_runs` are the draws from the pictures in the order of the original's loader, where none
    is missing; `runs` are those from the order of the folder.
    """

    macro: float | None = None
    loader_runs: list[float] = field(default_factory=list)


# ---- Comparisons


@dataclass(frozen=True, kw_only=True)
class Compared(Paired):
    """Two models on the pictures that both were asked for."""

    num_images: int


@dataclass(frozen=True, kw_only=True)
class TaskComparison(Compared):
    """Also the ranks above species, of zero-shot results that tell them picture by picture.

    Attributes:
      ranks: rank → key of `tables.AT_RANKS` → on the pictures whose rank is known; its class
        averages are over the lineages of that rank.
      full_path: every known rank, asked for by its own names, and the species.
      asked_otherwise: setting of zero-shot → what it was for the first and for the second, where
        that makes a difference to the answers of one model.
    """

    asked_otherwise: dict[str, tuple[str, str]] = field(default_factory=dict)
    ranks: dict[str, dict[str, Compared]] = field(default_factory=dict)
    full_path: Compared | None = None


@dataclass(frozen=True, kw_only=True)
class ComparedQueries(Paired):
    """Two models on the same queries; class averages are over the first column of groups."""

    num_queries: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`comparison.json`: the two models, and task → how they compare.

    `retrieval` has direction → figure → how they compare, query by query.
    """

    first: str
    second: str
    tasks: dict[str, TaskComparison]
    retrieval: dict[str, dict[str, ComparedQueries]] = field(default_factory=dict)


# ---- Files


def write(path: epath.PathLike, result: Any) -> None:
    """Writes a dataclass as JSON, whole or not at all; what is not a number becomes null."""
    text = msgspec.json.encode(result, enc_hook=_plain)
    files.write_bytes(path, msgspec.json.format(text, indent=1) + b"\n")


def _plain(value: Any) -> Any:
    """NumPy's numbers and texts as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def read(path: epath.PathLike, kind: type[T]) -> T:
    """Reads such a file; keys that `kind` does not know are passed over.

    Raises:
      UserError: missing, not JSON, or another kind of result; names the file and the key.
    """
    try:
        return msgspec.json.decode(files.read_text(path), type=kind)
    except msgspec.DecodeError as error:
        raise not_a_result(path, reason(error)) from error


def not_a_result(path: epath.PathLike, why: str) -> UserError:
    """The error about a file that is damaged, or of another kind."""
    return UserError(
        f"{path}: not a result of this version of bioclip2 ({why}); make it again, or take it out"
        " of the folder"
    )
