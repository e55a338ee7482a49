"""A prior over names: what common ones gain and rare ones lose, and which strength fits best.

Contrastive training scores p(name | picture) / p(name), so that being common earns a name nothing.
A prior gives it back: to each logit it adds strength · log count (`scores.with_prior`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bioclip2_jax.measures import minimum
from bioclip2_jax.measures.accuracy import class_average
from bioclip2_jax.measures.calibration import FIT_SCORES, HANDFUL, summary
from bioclip2_jax.measures.scores import cosine_chunks

STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0)  # of the whole trade-off
STRONGEST = 2.0  # of the strengths that are fitted


@dataclass(frozen=True, kw_only=True)
class PriorPoint:
    """First answers with a prior of some strength; None where an older version did not measure it.

    Attributes:
      strength: 0 is without a prior.
      top1, macro_top1: over images, and averaged over classes.
      commonest_top1: of the commonest class; None too where it has no picture.
      ece: expected calibration error, see `calibration.summary`.
      nll: mean negative log-likelihood of the true class, in nats.
    """

    strength: float
    top1: float
    macro_top1: float | None
    commonest_top1: float | None = None
    ece: float | None = None
    nll: float | None = None


@dataclass(frozen=True, kw_only=True)
class PriorFit:
    """Result of `fit`.

    Attributes:
      strength: the best one.
      num_fitted, num_judged: images it was found on, and those it was judged on.
      before, after: of the latter, without a prior and with that one.
      caution: why the strength is not to be relied on; "" where nothing speaks against it.
    """

    strength: float
    num_fitted: int
    num_judged: int
    before: PriorPoint
    after: PriorPoint
    caution: str = ""


def points(
    image_features: np.ndarray,
    labels: np.ndarray,
    class_features: np.ndarray,
    logit_scale: float,
    counts: np.ndarray,
    *,
    commonest: int,
    strengths: Iterable[float] = STRENGTHS,
) -> list[PriorPoint]:
    """What a prior of each strength makes of the first answers, by ascending strength.

    Args:
      image_features: [n, dim] float32, L2-normalised.
      labels: [n] int, true class.
      class_features: [c, dim] float32, L2-normalised.
      logit_scale: the exponential of the learned parameter.
      counts: [c] numbers, not negative; one never counted is taken for one counted once.
      commonest: the class whose accuracy is told apart.
      strengths: to try.
    """
    log_counts = np.log(np.maximum(counts, 1))
    strengths = sorted(set(strengths))
    answers = np.zeros((len(strengths), len(labels)), np.int64)
    scores, losses = np.zeros(answers.shape), np.zeros(answers.shape)
    for rows, cosines in cosine_chunks(image_features, class_features):
        every, truth = np.arange(len(cosines)), labels[rows]
        for place, strength in enumerate(strengths):
            weighed = cosines + (strength / logit_scale * log_counts).astype(cosines.dtype)
            first = answers[place, rows] = weighed.argmax(axis=1)
            weighed -= weighed[every, first][:, None]
            own = logit_scale * weighed[every, truth].astype(np.float64)
            weighed *= np.float32(logit_scale)
            totals = np.exp(weighed, out=weighed).sum(axis=1, dtype=np.float64)
            scores[place, rows], losses[place, rows] = 1 / totals, np.log(totals) - own
    right, of_commonest = answers == labels, labels == commonest
    return [
        PriorPoint(
            strength=strength,
            top1=float(hits.mean()),
            macro_top1=class_average(hits, labels),
            commonest_top1=float(hits[of_commonest].mean()) if of_commonest.any() else None,
            ece=summary(sure, hits).ece,
            nll=float(loss.mean()),
        )
        for strength, hits, sure, loss in zip(strengths, right, scores, losses, strict=True)
    ]


def halves(keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two halves of the pictures, the same whatever the order of their keys."""
    order = np.argsort([hashlib.sha256(f"prior {key}".encode()).hexdigest() for key in keys])
    return order[: len(order) // 2], order[len(order) // 2 :]


def fit(
    image_features: np.ndarray,
    labels: np.ndarray,
    class_features: np.ndarray,
    logit_scale: float,
    counts: np.ndarray,
    *,
    commonest: int,
    keys: Sequence[str],
) -> PriorFit | None:
    """The strength that gives one half of the pictures the least loss, judged on the other half.

    The loss, the mean negative log-likelihood of the true class, is convex in the strength, so
    there is one best, looked for from 0 to `STRONGEST`. One number needs few pictures: of a long
    list of classes no more are used for the fit than `calibration.FIT_SCORES` scores.

    Args:
      image_features, labels, class_features, logit_scale, counts, commonest: as of `points`.
      keys: [n], of the pictures, by which they are divided.

    Returns:
      None for fewer than two images.
    """
    if len(labels) < 2:
        return None
    fitted, judged = halves(keys)
    fitted = fitted[: max(1, FIT_SCORES // len(class_features))]
    log_counts = np.log(np.maximum(counts, 1)).astype(np.float32)
    log_counts -= log_counts.max()
    logits = np.float32(logit_scale) * (image_features[fitted] @ class_features.T)
    logits -= logits.max(axis=1, keepdims=True)
    own, own_count = logits[np.arange(len(fitted)), labels[fitted]], log_counts[labels[fitted]]

    def loss(strength: float) -> float:
        # No exponent is above 0, and that of a row's largest logit far above the least number.
        weights = np.exp(logits + np.float32(strength) * log_counts)
        totals = np.log(weights.sum(axis=1, dtype=np.float64))
        return float(np.mean(totals - own - strength * own_count))

    found = minimum.between(loss, 0, STRONGEST, 1e-4)[0]
    strength = min((0.0, found, STRONGEST), key=loss)  # the search never tries its bounds
    before, *after = points(
        *(image_features[judged], labels[judged], class_features, logit_scale, counts),
        commonest=commonest,
        strengths=(0.0, strength),
    )
    return PriorFit(
        strength=strength,
        num_fitted=len(fitted),
        num_judged=len(judged),
        before=before,
        after=after[0] if after else before,
        caution=_caution(strength, len(fitted)),
    )


def _caution(strength: float, num_fitted: int) -> str:
    said = []
    if strength == 0:
        said.append("no strength is better than none")
    elif strength > STRONGEST - 0.01:
        said.append("the best strength lies at the bound of those that were looked at")
    if num_fitted < HANDFUL:
        said.append(f"it was fitted on {num_fitted} pictures")
    return ", and ".join(said)
