"""A small head on disk: classes of somebody's own, told from features of one model.

`head.safetensors` holds the numbers, `head.json` all else with the former's checksum. It is written
last: a head that was not finished has none, and one that was half replaced is noticed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import safetensors.numpy
from etils import epath
from safetensors import SafetensorError

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.features.parts import Maker
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.identify.predict import Answer
from bioclip2_jax.measures.choice import Recipe
from bioclip2_jax.measures.head_figures import Figure, Point, Unknown
from bioclip2_jax.measures.intervals import Interval
from bioclip2_jax.measures.linear_heads import Linear
from bioclip2_jax.measures.scores import top_k
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.load import Model

ABOUT, TENSORS = "head.json", "head.safetensors"
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a head was chosen and what it is worth.

    Attributes:
      kind: simple_shot, ridge, logistic, or mixture (one of these with the text).
      strength, text_weight: see `choice.Recipe`.
      figures: by name, of pictures that neither the fit nor the choice saw: each kind, the choice
        as a whole (`chosen`), the commonest class (`prior`), names alone (`zero_shot`).
      agreement: share of the outer folds in which the same kind was chosen.
      runner_up: the kind with the next best class average.
      lead: interval of the difference of class averages of the kind and the runner-up.
      folds: how many.
      curve: of the kind by pictures a class.
      unknown: the threshold, and what it does.
    """

    kind: str
    strength: float
    text_weight: float
    figures: dict[str, Figure]
    agreement: float
    runner_up: str
    lead: Interval | None
    folds: int
    curve: list[Point]
    unknown: Unknown


@dataclass(frozen=True, kw_only=True)
class About:
    """`head.json`.

    Attributes:
      classes: in the order of the numbers.
      counts: pictures of each.
      column: of the table, whose cells are the classes.
      table: where it lay.
      group: the column of groups; "" without.
      num_groups: how many.
      model: whose features the head takes.
      preprocess: how pictures go into it.
      dim: numbers of a feature.
      seed: of folds, draws and intervals.
      verdict: the figures.
      cautions: what may make them too good.
      version: of this package.
      recipe: how the numbers were made.
      sha256: of `head.safetensors`.
    """

    classes: list[str]
    counts: list[int]
    column: str
    table: str
    group: str
    num_groups: int
    model: Maker
    preprocess: Preprocess
    dim: int
    seed: int
    verdict: Verdict
    cautions: list[str]
    version: str
    recipe: Recipe
    sha256: str = ""


@dataclass(frozen=True)
class Head:
    """What `Namer` is for names, for a head.

    Attributes:
      about: what `head.json` says.
      linear: the classifier.
      text: [classes, dim] float32, of the classes' names; None but for a mixture.
    """

    about: About
    linear: Linear
    text: np.ndarray | None = None

    @property
    def labels(self) -> LabelSet:
        """The answers, with "unknown" as the last."""
        names = [*self.about.classes, UNKNOWN]
        return LabelSet(
            names=[],
            groups=np.arange(len(names)),
            columns=("classification",),
            rows=[(name,) for name in names],
        )

    def tells(self) -> str:
        """In few letters; two that are alike give the same answers."""
        about = self.about
        text = f"{about.sha256} {about.recipe} {about.verdict.unknown.threshold} {about.classes}"
        return f"checksum {hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def check(self, model: Model, sha256: str, place: str) -> None:
        """Refuses another model.

        Args:
          model: from `load`.
          sha256: its checksum.
          place: of the head, for the message.

        Raises:
          UserError: other parameters, or other preprocessing.
        """
        made = self.about.model
        if sha256 != made.sha256:
            raise UserError(
                f"{place}: a head for another model ({made.path}, checksum {made.sha256[:12]});"
                f" name that one as --model, or fit the head again with this one ({sha256[:12]})"
            )
        if model.preprocess != self.about.preprocess:
            raise UserError(
                f"{place}: made with other preprocessing of pictures ({self.about.preprocess}) than"
                f" this copy of the model has ({model.preprocess}); fit the head again"
            )

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """[n, dim] float32, L2-normalised → [n, classes] float32, rows sum to 1."""
        cosines = None if self.text is None else features @ self.text.T
        return np.exp(self.about.recipe.log_probabilities(self.linear.logits(features), cosines))


@dataclass(frozen=True)
class HeadNamer:
    """`predict.Names` of a head, of the `k` best answers a picture."""

    head: Head
    k: int

    def name(self, features: np.ndarray) -> list[list[Answer]]:
        """The best, "unknown" before all where none reaches the threshold.

        That has the score of the best class, which is too low.
        """
        about = self.head.about
        shares = np.minimum(self.head.probabilities(features), 1)
        answers = []
        for row, best in zip(shares, top_k(shares, self.k), strict=True):
            found: list[Answer] = [((about.classes[c],), float(row[c])) for c in best]
            if row[best[0]] < about.verdict.unknown.threshold:
                found.insert(0, ((UNKNOWN,), float(row[best[0]])))
            answers.append(found[: self.k])
        return answers


def write(folder: epath.PathLike, head: Head) -> None:
    """Writes both files, each whole or not at all.

    Raises:
      OSError: they cannot be written.
    """
    place = files.place(folder)
    tensors = {"weight": head.linear.weight, "bias": head.linear.bias}
    tensors |= {"mean": head.linear.mean} if head.linear.mean is not None else {}
    tensors |= {"text": head.text} if head.text is not None else {}
    data = safetensors.numpy.save({n: np.ascontiguousarray(t) for n, t in tensors.items()})
    files.make_folder(place)
    files.write_bytes(place / TENSORS, data)
    described = msgspec.to_builtins(head.about) | {"sha256": hashlib.sha256(data).hexdigest()}
    files.write_bytes(
        place / ABOUT, msgspec.json.format(msgspec.json.encode(described), indent=1) + b"\n"
    )


def read(folder: epath.PathLike) -> Head:
    """Reads a head.

    Raises:
      UserError: there is none, or it is damaged; names the file.
    """
    place = files.place(folder)
    if not (place / ABOUT).is_file():
        raise UserError(f"{folder}: no head here ({ABOUT} is missing); `bioclip2 fit` makes one")
    try:
        about = msgspec.json.decode(files.read_text(place / ABOUT), type=About)
        data = buckets.read_bytes(place / TENSORS)
        if hashlib.sha256(data).hexdigest() != about.sha256:
            raise ValueError(f"{TENSORS} is not the one that {ABOUT} describes")
        tensors = safetensors.numpy.load(data)
        shape = (about.dim, len(about.classes))
        if tensors["weight"].shape != shape or tensors["bias"].shape != shape[1:]:
            raise ValueError(f"{TENSORS} has other sizes than {ABOUT} says")
        linear = Linear(tensors["weight"], tensors["bias"], tensors.get("mean"))
        return Head(about, linear, tensors.get("text"))
    except (OSError, ValueError, KeyError, msgspec.DecodeError, SafetensorError) as error:
        raise UserError(f"{folder}: a damaged head ({reason(error)}); fit it again") from error


def report(about: About) -> Sequence[str]:
    """Lines for people."""
    verdict = about.verdict
    counts = ", ".join(f"{n} {c:,}" for n, c in zip(about.classes[:8], about.counts, strict=False))
    counts += ", …" * (len(about.classes) > 8)
    lines = [f"{len(about.classes)} classes of {about.column}: {counts}"]
    by = f", {about.num_groups:,} groups of {about.group} kept whole" if about.group else ""
    lines += [f"judged by {verdict.folds} folds{by}; 95 % intervals"]
    lines += [f"  {'':12} {'accuracy':22} class average"]
    order = sorted(verdict.figures, key=lambda name: -verdict.figures[name].average)
    for name in order:
        one = verdict.figures[name]
        cells = (
            _share(one.accuracy, one.accuracy_interval),
            _share(one.average, one.average_interval),
        )
        lines += [f"  {name:12} {cells[0]:22} {cells[1]}"]
    lines += [f"chosen: {verdict.kind}, in {verdict.agreement:.0%} of the folds without the others"]
    if verdict.lead:
        low, high = verdict.lead
        lines += [f"ahead of {verdict.runner_up} by {low:+.3f} to {high:+.3f}"]
    curve = ", ".join(f"{point.k}: {point.average:.3f}" for point in verdict.curve)
    lines += [f"class average by pictures a class: {curve}"]
    if len(verdict.curve) > 1:
        last, end = verdict.curve[-2:]
        each = (end.average - last.average) / (end.k - last.k)
        lines += [f"one more picture a class, at {end.k}: about {each:+.4f}"]
    unknown = verdict.unknown
    wrong, unseen = unknown.share_of_wrong, unknown.unseen
    line = (
        f"unknown below {unknown.threshold:.3f}: {unknown.share:.1%} of pictures of known classes"
    )
    line += f", {wrong:.0%} of wrong answers" if wrong is not None else ""
    line += f", {unseen:.0%} of pictures of a class that was left out" if unseen is not None else ""
    return [*lines, line, *(f"caution: {caution}" for caution in about.cautions)]


def _share(value: float, interval: Interval) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
