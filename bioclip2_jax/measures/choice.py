"""Which small head suits labelled features, by cross-validation within cross-validation.

Each fold is judged by a head that was chosen (kind, strength, weight of the text, temperature) by
cross-validation among the other folds alone (Stone 1974; Varma and Simon 2006): the figures count
what choosing costs. Heads that leave out two folds serve both ways round, so that f folds take
f (f + 1) / 2 fits of each kind, and sums of squares are made once.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from bioclip2_jax.measures import linear_heads
from bioclip2_jax.measures.accuracy import class_average
from bioclip2_jax.measures.linear_heads import Kind, Linear, Moments

MIXTURE, PRIOR, ZERO_SHOT, CHOSEN = "mixture", "prior", "zero_shot", "chosen"
TEXT_WEIGHTS = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75)
_FEW = 4000  # rows that a temperature is fitted on

Setting = tuple[Kind, float]  # its strength; 0 of SimpleShot, which has none
Logits = dict[Setting, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """A head that can be fitted.

    Attributes:
      kind: of the head.
      strength: of its penalty.
      factor: its logits are multiplied by it, so that their softmax is calibrated.
      text_weight: share of the text's logarithms of probabilities; 0 without.
      text_factor: cosines to the classes' names are multiplied by it and added.
      average: class average that it was chosen for.
      loss: mean negative log-likelihood, which decides between equal ones.
    """

    kind: Kind
    strength: float
    factor: float
    text_weight: float = 0.0
    text_factor: float = 0.0
    average: float = 0.0
    loss: float = 0.0

    @property
    def name(self) -> str:
        """The kind, or that it is a mixture."""
        return MIXTURE if self.text_weight else self.kind

    def log_probabilities(self, logits: np.ndarray, cosines: np.ndarray | None) -> np.ndarray:
        """[n, classes], of the head's logits and the cosines to the classes' names."""
        scores = logits * np.float32(self.factor)
        if self.text_weight:
            assert cosines is not None, "a mixture needs the text"
            scores += cosines * np.float32(self.text_factor)
        return log_softmax(scores, axis=1)


@dataclass(frozen=True)
class Nested:
    """Result of `nested`.

    Attributes:
      recipe: of the final head, chosen among all folds.
      recipes: the best of every kind, by the same folds.
      answers: name (a kind, or `MIXTURE`, `PRIOR`, `ZERO_SHOT`, `CHOSEN`) → [n] int, of pictures
        that neither the fit nor the choice saw.
      confidence: [n] float, the largest probability of those of `CHOSEN`.
      agreement: share of the folds in which the kind of `recipe` was chosen without them.
    """

    recipe: Recipe
    recipes: dict[str, Recipe]
    answers: dict[str, np.ndarray]
    confidence: np.ndarray
    agreement: float


def fit(features: np.ndarray, labels: np.ndarray, classes: int, recipe: Recipe) -> Linear:
    """The head of a recipe on these rows alone, [n, dim] float32 and [n] int."""
    if recipe.kind == "simple_shot":
        return linear_heads.simple_shot(features, labels, classes)
    if recipe.kind == "logistic":
        return linear_heads.logistic(features, labels, classes, [recipe.strength])[0]
    return linear_heads.ridge(Moments.of(features, labels, classes), [recipe.strength])[0]


def best(recipes: Mapping[str, Recipe]) -> Recipe:
    """The one with the highest class average, of equal ones with the least loss."""
    return min(recipes.values(), key=lambda recipe: (-round(recipe.average, 9), recipe.loss))


def nested(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    cosines: np.ndarray | None = None,
    logit_scale: float = 1.0,
) -> Nested:
    """Chooses and judges.

    Args:
      features: [n, dim] float32, L2-normalised.
      labels: [n] int, 0 ... classes - 1, all of which occur.
      folds: [n] int, three or more, from `folds.deal`.
      cosines: [n, classes] float32, to the classes' names; None without a text tower.
      logit_scale: the model's factor on them.
    """
    classes, count = int(labels.max()) + 1, int(folds.max()) + 1
    rows_of = [np.flatnonzero(folds == fold) for fold in range(count)]
    parts = [(features[rows], labels[rows]) for rows in rows_of]
    fitted = dict(_fits(parts, classes))
    answers: dict[str, np.ndarray] = {}
    confidence, agreeing = np.zeros(len(labels)), []

    def keep(name: str, rows: np.ndarray, found: np.ndarray) -> None:
        answers.setdefault(name, np.zeros(len(labels), np.int64))[rows] = found

    held_out: list[Logits] = []
    for fold, rows in enumerate(rows_of):
        others = [other for other in range(count) if other != fold]
        inner = [_logits(fitted[frozenset((fold, i))], parts[i][0]) for i in others]
        order = np.concatenate([rows_of[other] for other in others])
        picks = _pick(_joined(inner), labels[order], _rows(cosines, order), logit_scale)
        outer = _logits(fitted[frozenset((fold,))], parts[fold][0])
        held_out.append(outer)
        chosen = best(picks)
        agreeing.append(chosen.name)
        for name, recipe in picks.items():
            logits = outer[recipe.kind, recipe.strength]
            found = recipe.log_probabilities(logits, _rows(cosines, rows))
            keep(name, rows, found.argmax(axis=1))
            if recipe is chosen:
                keep(CHOSEN, rows, found.argmax(axis=1))
                confidence[rows] = np.exp(found.max(axis=1))
        keep(PRIOR, rows, np.full(len(rows), np.bincount(labels[order]).argmax()))
    if cosines is not None:
        answers[ZERO_SHOT] = cosines.argmax(axis=1)
    order = np.concatenate(rows_of)
    recipes = _pick(_joined(held_out), labels[order], _rows(cosines, order), logit_scale)
    recipe = best(recipes)
    agreement = float(np.mean([name == recipe.name for name in agreeing]))
    return Nested(recipe, recipes, answers, confidence, agreement)


def _fits(
    parts: list[tuple[np.ndarray, np.ndarray]], classes: int
) -> Iterator[tuple[frozenset[int], dict[Setting, Linear]]]:
    """The heads of every setting without each fold, and without each two."""
    moments = [Moments.of(*part, classes) for part in parts]
    whole = moments[0]
    for part in moments[1:]:
        whole = Moments(
            whole.gram + part.gram, whole.by_class + part.by_class, whole.counts + part.counts
        )
    numbers = range(len(parts))
    is_small = sum(len(labels) for _, labels in parts) < linear_heads.LOGISTIC_ROWS
    for out in itertools.chain(
        itertools.combinations(numbers, 1), itertools.combinations(numbers, 2)
    ):
        kept = [parts[number] for number in numbers if number not in out]
        features = np.concatenate([part[0] for part in kept])
        labels = np.concatenate([part[1] for part in kept])
        heads: dict[Setting, Linear] = {}
        heads["simple_shot", 0.0] = linear_heads.simple_shot(features, labels, classes)
        left = whole.without(*(moments[number] for number in out))
        ridges = linear_heads.ridge(left, linear_heads.RIDGES)
        for strength, head in zip(linear_heads.RIDGES, ridges, strict=True):
            heads["ridge", strength] = head
        if is_small:
            strengths = linear_heads.PENALTIES
            fitted = linear_heads.logistic(features, labels, classes, strengths)
            for strength, head in zip(strengths, fitted, strict=True):
                heads["logistic", strength] = head
        yield frozenset(out), heads


def _logits(heads: dict[Setting, Linear], features: np.ndarray) -> Logits:
    return {setting: head.logits(features) for setting, head in heads.items()}


def _joined(parts: list[Logits]) -> Logits:
    return {setting: np.concatenate([part[setting] for part in parts]) for setting in parts[0]}


def _rows(array: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if array is None else array[rows]


def _pick(
    logits: Logits, labels: np.ndarray, cosines: np.ndarray | None, logit_scale: float
) -> dict[str, Recipe]:
    """The best setting of every kind, and the best weight of the text beside the best of these."""
    few = np.linspace(0, len(labels) - 1, min(len(labels), _FEW)).astype(np.int64)
    picks: dict[str, Recipe] = {}

    def consider(recipe: Recipe) -> None:
        rivals = {"": picks.get(recipe.name, recipe), recipe.name: recipe}
        picks[recipe.name] = best(rivals)

    for (kind, strength), found in logits.items():
        heat, loss = linear_heads.temperature(found[few], labels[few])
        average = class_average(found.argmax(axis=1) == labels, labels) or 0.0
        consider(Recipe(kind, strength, 1 / heat, average=average, loss=loss))
    if cosines is None:
        return picks
    base = best(picks)
    head = logits[base.kind, base.strength]
    calm = logit_scale / linear_heads.temperature(cosines[few] * logit_scale, labels[few])[0]
    for weight in TEXT_WEIGHTS:
        own, text = (1 - weight) * base.factor, weight * calm
        mixed = head * np.float32(own) + cosines * np.float32(text)
        heat, loss = linear_heads.temperature(mixed[few], labels[few])
        average = class_average(mixed.argmax(axis=1) == labels, labels) or 0.0
        consider(Recipe(base.kind, base.strength, own / heat, weight, text / heat, average, loss))
    return picks
