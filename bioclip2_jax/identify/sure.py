"""`calibration.json`, and the answers that it makes sure of.

It says when scores of one model and one list of names are to be believed: made by `calibrate` from
pictures whose names are known, read by `predict --sure`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from scipy.special import softmax

from bioclip2_jax import files
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.features.embed import checksum
from bioclip2_jax.features.parts import Maker
from bioclip2_jax.identify.label_features import features_of
from bioclip2_jax.identify.ladder import NONE, UNSURE, Ladder
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.identify.name_lists import checksum as sum_of
from bioclip2_jax.identify.predict import Answer
from bioclip2_jax.measures import outside, sure
from bioclip2_jax.measures.intervals import Interval
from bioclip2_jax.measures.outside import Detector
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.load import Model


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What `--sure` of some precision gives on pictures that it was not made on.

    Attributes:
      wanted: the precision.
      precision, interval: of the answers that can be judged, with Wilson's interval; None without.
      answers: rank, or `NONE` or `UNSURE` → pictures answered so.
      right: rank → of them, those that are right.
    """

    wanted: float
    precision: float | None
    interval: Interval | None
    answers: dict[str, int]
    right: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Outside:
    """When an answer is `NONE`.

    Attributes:
      detector: how much a picture looks like one of the list.
      threshold: below which it is none of these.
      asked: share of pictures of listed names that may be.
      share: that are, each fifth of them by the others.
      hidden: of them, with their own name taken off the list; likewise.
      auroc: how often a picture looks more like the list with its name than another without.
      unlisted: of pictures of other names; None where there are none.
    """

    detector: Detector
    threshold: float
    asked: float
    share: float
    hidden: float
    auroc: float
    unlisted: float | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`calibration.json`.

    Attributes:
      model: whose scores it is about.
      preprocess: how pictures go into it.
      names: the list in few letters, see `LabelSet.tells`.
      rank: that is answered at, at the deepest.
      prior: in few letters, see `tells_prior`.
      temperature: of the scores.
      precisions: that there are thresholds for, ascending.
      thresholds: rank → of its summed score, for each precision; None where it is never sure.
      outside: when nothing on the list is meant.
      num_pictures: it was made from.
      num_listed: of them, whose name is on the list.
      figures: what it is worth.
      source: where these pictures lay.
      cautions: why it may deceive.
      version: of this package.
    """

    model: Maker
    preprocess: Preprocess
    names: str
    rank: str
    prior: str
    temperature: float
    precisions: list[float]
    thresholds: dict[str, list[float | None]]
    outside: Outside
    num_pictures: int
    num_listed: int
    figures: list[Figure]
    source: str
    cautions: list[str]
    version: str

    def at(self, precision: float) -> np.ndarray:
        """[ranks] thresholds of the lowest precision that is not below the wanted one."""
        place = int(np.searchsorted(np.asarray(self.precisions) + 1e-9, precision))
        rows = (of[place] for of in self.thresholds.values())
        return np.array([sure.NEVER if value is None else value for value in rows])

    def tells(self) -> str:
        """In few letters; two that are alike give the same answers."""
        numbers = (self.temperature, self.thresholds, self.precisions, self.outside.threshold)
        return f"checksum {sum_of(repr((numbers, self.outside.detector)))}"

    def check(self, labels: LabelSet, prior: str, place: str) -> None:
        """Refuses another list of names.

        Args:
          labels: the list, as it was read.
          prior: in few letters.
          place: of the calibration, for the message.

        Raises:
          UserError: says what is another.
        """
        own = {"names": labels.tells(), "rank": labels.rank, "prior": prior}
        for what, asked in own.items():
            made = getattr(self, what)
            if made != asked:
                shown = {"names": "list of names", "rank": "rank", "prior": "prior"}[what]
                raise UserError(
                    f"{place}: made for another {shown} ({made}) than is asked for here ({asked});"
                    " call `bioclip2 calibrate` with the options of this call"
                )

    def check_model(self, model: Model, sha256: str, place: str) -> None:
        """Refuses another model.

        Args:
          model: from `load`.
          sha256: its checksum.
          place: of the calibration, for the message.

        Raises:
          UserError: other parameters, or other preprocessing.
        """
        if sha256 != self.model.sha256:
            raise UserError(
                f"{place}: made for another model ({self.model.path}, checksum"
                f" {self.model.sha256[:12]}); name that one as --model, or calibrate this one"
                f" ({sha256[:12]})"
            )
        if model.preprocess != self.preprocess:
            raise UserError(
                f"{place}: made with other preprocessing of pictures ({self.preprocess}) than this"
                f" copy of the model has ({model.preprocess}); calibrate it again"
            )


class SureNamer:
    """`predict.Names` with one answer a picture, at the deepest rank that is sure."""

    def __init__(
        self,
        model: Model,
        ladder: Ladder,
        calibration: Calibration,
        precision: float,
        *,
        batch_size: int = 32,
        counts: np.ndarray | None = None,
        strength: float = 0.25,
    ):
        """Encodes the names; `counts` and `strength` as of `Namer`, `calibration` is checked."""
        self._ladder, self._made = ladder, calibration
        self._thresholds = calibration.at(precision)
        self._scores = Scores(model, ladder.labels, batch_size, counts, strength)

    def name(self, features: np.ndarray) -> list[list[Answer]]:
        """The answer.

        Its score is the sum over its species, after the temperature; of `NONE` how little it looks
        like one of the list, of `UNSURE` that of the best kingdom.
        """
        cosines = self._scores.cosines(features)
        listed = self._made.outside.detector.listed(
            outside.evidence(cosines, self._scores.logit_scale)
        )
        shares = softmax(self._scores.logits(cosines) / self._made.temperature, axis=1)
        places, scores = self._ladder.best(shares)
        depths = sure.deepest(scores, self._thresholds)
        answers: list[list[Answer]] = []
        for row, depth in enumerate(depths.tolist()):
            if listed[row] < self._made.outside.threshold:
                answers.append([(self._ladder.empty(NONE), float(1 - listed[row]))])
            elif depth < 0:
                answers.append([(self._ladder.empty(UNSURE), float(scores[row].max()))])
            else:
                cells = self._ladder.cells(depth, int(places[row, depth]))
                answers.append([(cells, float(scores[row, depth]))])
        return answers


class Scores:
    """A list of names, encoded once.

    Attributes:
      logit_scale: of the model.
    """

    def __init__(
        self,
        model: Model,
        labels: LabelSet,
        batch_size: int,
        counts: np.ndarray | None,
        strength: float,
    ):
        """Encodes the names, unless their features are made already; arguments as of `Namer`."""
        self.logit_scale = model.logit_scale
        if labels.vectors:
            labels.vectors.check_model(checksum(model), model.config.embed_dim)
            self._names = labels.vectors.read(0, len(labels.groups))
        else:
            self._names = features_of(model, labels.names, max(batch_size, 128))
        self._bonus = None
        if counts is not None:
            self._bonus = strength * np.log(np.maximum(counts, 1))

    def cosines(self, features: np.ndarray) -> np.ndarray:
        """[n, dim] float32 → [n, names] float32."""
        return features @ self._names.T

    def logits(self, cosines: np.ndarray) -> np.ndarray:
        """[n, names] cosines → [n, names] float64, with the prior."""
        logits = self.logit_scale * cosines.astype(np.float64)
        return logits if self._bonus is None else logits + self._bonus


def write(path: str, calibration: Calibration) -> None:
    """Writes the file whole or not at all."""
    files.write_bytes(path, msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n")


def read(path: str) -> Calibration:
    """Reads it.

    Raises:
      UserError: it is not there, or no calibration.
    """
    text = files.read_text(path)
    try:
        made = msgspec.json.decode(text, type=Calibration)
        lengths = {len(of) for of in made.thresholds.values()}
        if lengths != {len(made.precisions)} or not made.temperature > 0:
            raise ValueError("its parts do not fit together")
        return made
    except (ValueError, msgspec.DecodeError) as error:
        raise UserError(
            f"{path}: no calibration that can be read ({reason(error)}); `bioclip2 calibrate`"
            " makes one"
        ) from error


def report(made: Calibration) -> Sequence[str]:
    """Lines for people."""
    out = made.outside
    lines = [
        f"{made.num_pictures:,} pictures, {made.num_listed:,} of them of names on the list of"
        f" {made.names}",
        f"temperature {made.temperature:.3f}",
        f"none of these below {out.threshold:.3f}: {out.share:.1%} of pictures of listed names,"
        f" {out.hidden:.0%} of them with their own name taken off the list (AUROC {out.auroc:.3f})"
        + ("" if out.unlisted is None else f", {out.unlisted:.0%} of pictures of other names"),
        "on pictures that the thresholds were not made on:",
    ]
    for figure in made.figures:
        total = max(1, sum(figure.answers.values()))
        shares = ", ".join(f"{what} {n / total:.0%}" for what, n in figure.answers.items() if n)
        right = "no answer can be judged"
        if figure.precision is not None and figure.interval:
            low, high = figure.interval
            right = f"{figure.precision:.1%} right ({low:.1%} to {high:.1%})"
        lines.append(f"  --sure {figure.wanted:g}: {right}; {shares}")
    return [*lines, *(f"caution: {caution}" for caution in made.cautions)]
