"""Whether a score of 0.8 is right in 80 of 100 cases (Guo et al. 2017, arXiv 1706.04599)."""

from dataclasses import dataclass, field

import numpy as np

from bioclip2_jax.measures import minimum
from bioclip2_jax.measures.scores import cosine_chunks

BINS = 15
HANDFUL = 50  # images, on fewer of which a temperature is no more than a guess
WIDEST = np.log(100)  # of the temperatures that are looked at
FIT_SCORES = 1 << 25  # image x class scores that a temperature is fitted on


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The answers with a probability from `low` to `high`: how many, their mean, how many right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Result of `summary`.

    Attributes:
      ece: the mean over `BINS` bins of equal width of |accuracy - confidence|, weighted by their
        pictures.
      confidence: the mean score, None without answers.
      bins: those that are not empty.
      scaled: what a temperature makes of it, where that was asked for as well.
    """

    ece: float
    confidence: float | None
    bins: list[Bin] = field(default_factory=list)
    scaled: "Scaling | None" = None


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Result of `temperature_scaling`.

    Attributes:
      temperature: the best one.
      num_fitted, num_judged: images it was found on, and those it was judged on.
      ece_before, ece_after: of the latter.
      nll_before, nll_after: their mean negative log-likelihood, in nats.
      caution: why the temperature is not to be relied on; "" where nothing speaks against it.
    """

    temperature: float
    num_fitted: int
    num_judged: int
    ece_before: float
    nll_before: float
    ece_after: float
    nll_after: float
    caution: str = ""


def summary(scores: np.ndarray, right: np.ndarray) -> Calibration:
    """Expected calibration error and the reliability diagram of the first answers.

    Args:
      scores: [n] float, the probability given to the first answer.
      right: [n] bool, whether it was the true one.
    """
    scores, right = np.asarray(scores, float), np.asarray(right, float)
    place = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    bins, error = [], 0.0
    for number in np.unique(place):
        inside = place == number
        confidence, accuracy = scores[inside].mean(), right[inside].mean()
        error += inside.mean() * abs(accuracy - confidence)
        bins.append(
            Bin(
                low=float(number / BINS),
                high=float((number + 1) / BINS),
                count=int(inside.sum()),
                confidence=float(confidence),
                accuracy=float(accuracy),
            )
        )
    confidence = float(scores.mean()) if len(scores) else None
    return Calibration(ece=float(error), confidence=confidence, bins=bins)


def temperature_scaling(
    image_features: np.ndarray,
    labels: np.ndarray,
    class_features: np.ndarray,
    logit_scale: float,
    seed: int = 0,
) -> Scaling | None:
    """The temperature that calibrates zero-shot, and what it is worth (Guo et al. 2017).

    Logits are divided by the temperature that gives one random half of the images the least mean
    negative log-likelihood; both are then judged on the other half. One number needs few images:
    of a long list of classes no more are used for the fit than `FIT_SCORES` scores.

    Args:
      image_features: [n, dim] float32, L2-normalised.
      labels: [n] int, true class.
      class_features: [c, dim] float32, L2-normalised.
      logit_scale: the exponential of the learned parameter.
      seed: of the halves.

    Returns:
      None for fewer than two images.
    """
    if len(labels) < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(labels))
    fitted, judged = np.split(order, [len(order) // 2])
    fitted = fitted[: max(1, FIT_SCORES // len(class_features))]
    gaps = image_features[fitted] @ class_features.T
    log_temperature = _best_log_temperature(gaps, labels[fitted], logit_scale)
    temperature = float(np.exp(log_temperature))

    scales = {"before": logit_scale, "after": logit_scale / temperature}
    scores = {name: np.zeros(len(judged)) for name in scales}
    losses = {name: np.zeros(len(judged)) for name in scales}
    right = np.zeros(len(judged), bool)
    for rows, cosines in cosine_chunks(image_features[judged], class_features):
        truth, every = labels[judged[rows]], np.arange(len(cosines))
        answers = cosines.argmax(axis=1)
        right[rows] = answers == truth
        own = cosines[every, truth] - cosines[every, answers]
        cosines -= cosines[every, answers][:, None]
        for name, scale in scales.items():
            totals = np.exp(np.float32(scale) * cosines).sum(axis=1, dtype=np.float64)
            scores[name][rows] = 1 / totals
            losses[name][rows] = np.log(totals) - scale * own.astype(np.float64)
    return Scaling(
        temperature=temperature,
        num_fitted=len(fitted),
        num_judged=len(judged),
        ece_before=summary(scores["before"], right).ece,
        nll_before=float(losses["before"].mean()),
        ece_after=summary(scores["after"], right).ece,
        nll_after=float(losses["after"].mean()),
        caution=caution(log_temperature, len(fitted)),
    )


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature by which logits have the least mean negative log-likelihood.

    Args:
      logits: [n, c] float32 of one picture or more, which are changed.
      labels: [n] int, true class.
    """
    return float(np.exp(_best_log_temperature(logits, labels, 1.0)))


def _best_log_temperature(gaps: np.ndarray, labels: np.ndarray, scale: float) -> float:
    own = gaps[np.arange(len(gaps)), labels].astype(np.float64)
    largest = gaps.max(axis=1)
    own -= largest
    gaps -= largest[:, None]

    def loss(log_temperature: float) -> float:
        factor = np.float32(scale / np.exp(log_temperature))
        totals = np.exp(factor * gaps).sum(axis=1, dtype=np.float64)
        return float(np.mean(np.log(totals) - factor * own))

    return minimum.between(loss, -WIDEST, WIDEST, 1e-4)[0]


def caution(log_temperature: float, num_fitted: int) -> str:
    """Why a temperature is not to be relied on; "" where nothing speaks against it."""
    said = []
    if abs(log_temperature) > WIDEST - 0.01:
        said.append("the best temperature lies at the bound of those that were looked at")
    if num_fitted < HANDFUL:
        said.append(f"it was fitted on {num_fitted} pictures")
    return ", and ".join(said)
