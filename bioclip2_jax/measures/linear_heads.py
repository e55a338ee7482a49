"""Classifiers on frozen features that a few pictures are enough for; each is linear in the end.

SimpleShot: nearest class mean of centred, normalised features (Wang et al. 2019, arXiv 1911.04623,
CL2N), as `simple_shot` has it. Ridge: least squares on indicators of the classes (Hoerl and Kennard
1970). Logistic: multinomial, with a penalty on the weights.

Features are [n, dim] float32. A sum over rows of squares serves every fold: what a fold is judged
by is taken off the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from bioclip2_jax.measures import minimum

Kind = Literal["simple_shot", "ridge", "logistic"]
RIDGES = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)  # in units of the mean eigenvalue
PENALTIES = (1e-2, 1e-3, 1e-4)  # of features at a mean squared distance of 1 from their mean
LOGISTIC_ROWS = 20_000
ABSENT = -8.0  # below all that SimpleShot gives a class
_STEPS = 60  # of L-BFGS
_CHUNK = 8192
_WIDEST = np.log(1000)  # of temperatures


@dataclass(frozen=True)
class Linear:
    """A fitted classifier.

    Attributes:
      weight: [dim, classes] float32.
      bias: [classes] float32.
      mean: [dim] float32, from which features count before they get length 1; None: as they are.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray | None = None

    def logits(self, features: np.ndarray) -> np.ndarray:
        """[n, dim] float32 → [n, classes] float32; the largest is the answer."""
        if self.mean is None:
            return features @ self.weight + self.bias
        # unit(x - m) @ W without a copy of the features.
        scale = _inverse_distances(features, self.mean)[:, None]
        return (features @ self.weight - self.mean @ self.weight) * scale + self.bias


@dataclass(frozen=True)
class Moments:
    """Sums over rows, of which those of a part can be taken off.

    Attributes:
      gram: [dim, dim] float64, of products of features.
      by_class: [classes, dim] float64, of features.
      counts: [classes] float64.
    """

    gram: np.ndarray
    by_class: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, classes: int) -> "Moments":
        """Of [n, dim] features with [n] labels below `classes`."""
        gram = np.zeros((features.shape[1],) * 2)
        for start in range(0, len(features), _CHUNK):
            part = features[start : start + _CHUNK]
            gram += part.T @ part
        return cls(gram, _sums(features, labels, classes), np.bincount(labels, None, classes) * 1.0)

    def without(self, *others: "Moments") -> "Moments":
        """Less the sums of parts."""
        gram, by_class, counts = self.gram, self.by_class, self.counts
        for other in others:
            gram, by_class = gram - other.gram, by_class - other.by_class
            counts = counts - other.counts
        return Moments(gram, by_class, counts)


def ridge(moments: Moments, strengths: Sequence[float]) -> list[Linear]:
    """Least squares on indicators, with an intercept that is not penalised.

    Args:
      moments: of the training rows.
      strengths: of the penalty, in units of the mean eigenvalue of the centred features.
    """
    n, dim = moments.counts.sum(), len(moments.gram)
    mean = moments.by_class.sum(axis=0) / n
    priors = moments.counts / n
    gram = moments.gram - n * np.outer(mean, mean)
    cross = moments.by_class.T - n * np.outer(mean, priors)  # centred features, centred indicators
    unit = max(np.trace(gram) / dim, 1e-12)

    def linear(weight: np.ndarray) -> Linear:
        bias = priors - mean @ weight
        return Linear(weight.astype(np.float32), bias.astype(np.float32))

    if len(strengths) == 1:
        gram.flat[:: dim + 1] += strengths[0] * unit
        return [linear(scipy.linalg.solve(gram, cross, assume_a="pos"))]
    values, vectors = np.linalg.eigh(gram)
    turned, values = vectors.T @ cross, values.clip(0)
    return [linear(vectors @ (turned / (values + s * unit)[:, None])) for s in strengths]


def simple_shot(features: np.ndarray, labels: np.ndarray, classes: int) -> Linear:
    """Nearest class mean; logits are minus squared distances, but for the query's own length.

    Args:
      features: [n, dim] float32, L2-normalised.
      labels: [n] int.
      classes: how many; one without rows is never the answer.
    """
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = _inverse_distances(features, mean)
    counts = np.bincount(labels, None, classes)
    sums = _sums(features, labels, classes, scale)
    sums -= np.outer(np.bincount(labels, scale, classes), mean)
    centroids = (sums / counts.clip(1)[:, None]).astype(np.float32)
    bias = np.where(counts, -(centroids**2).sum(axis=1), ABSENT).astype(np.float32)
    return Linear(2 * centroids.T, bias, mean)


def logistic(
    features: np.ndarray, labels: np.ndarray, classes: int, strengths: Sequence[float]
) -> list[Linear]:
    """Multinomial logistic regression by L-BFGS, each strength from the solution of the last.

    Args:
      features: [n, dim] float32.
      labels: [n] int.
      classes: how many.
      strengths: half of it times the squared weights is added to the mean cross-entropy, of
        features that are centred and brought to a mean squared length of 1.
    """
    count, dim = features.shape
    mean = features.mean(axis=0)
    centred = features - mean
    scale = np.float32(1 / max(np.sqrt((centred**2).sum() / count), 1e-6))
    centred *= scale
    start = np.zeros((dim + 1) * classes)
    rows, fitted = np.arange(count), []

    def loss(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        weight, bias = flat[classes:].reshape(dim, classes), flat[:classes]
        logits = centred @ weight.astype(np.float32) + bias.astype(np.float32)
        peaks = logits.max(axis=1)
        shares = np.exp(logits - peaks[:, None])
        totals = shares.sum(axis=1)
        losses = np.log(totals) + peaks - logits[rows, labels]
        value = float(losses.mean(dtype=np.float64))
        shares /= totals[:, None]
        shares[rows, labels] -= 1
        shares /= count
        slope = np.concatenate(
            [shares.sum(axis=0), ((centred.T @ shares) + strength * weight).ravel()]
        )
        return value + strength / 2 * float((weight**2).sum()), slope.astype(np.float64)

    for strength in strengths:
        options = {"maxiter": _STEPS, "ftol": 1e-6, "gtol": 1e-4}
        best = minimize(loss, start, (strength,), "L-BFGS-B", jac=True, options=options)
        start = best.x
        weight = start[classes:].reshape(dim, classes) * scale
        bias = start[:classes] - mean @ weight
        fitted.append(Linear(weight.astype(np.float32), bias.astype(np.float32)))
    return fitted


def temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """What logits are divided by for the least mean negative log-likelihood, and that in nats.

    Args:
      logits: [n, classes] float, of pictures that had no part in the fit.
      labels: [n] int.
    """
    logits = logits.astype(np.float64)
    rows = np.arange(len(labels))
    spread = max(float(logits.std()), 1e-6)

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    center = np.log(spread)
    best, least = minimum.between(loss, center - _WIDEST, center + _WIDEST, 0.01)
    return float(np.exp(best)), least


def _inverse_distances(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """[n] float32, one over the distance of each row from the mean; of none, 1."""
    squares = np.einsum("nd,nd->n", features, features) - 2 * (features @ mean) + mean @ mean
    near = squares < 1e-4  # where differences of squares lose their digits
    if near.any():
        squares[near] = ((features[near] - mean) ** 2).sum(axis=1)
    return (1 / np.sqrt(np.where(squares > 0, squares, 1))).astype(np.float32)


def _sums(
    features: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """[classes, dim] float64, sums of the rows of each class."""
    values = np.ones(len(labels), np.float32) if weights is None else weights
    chosen = csr_matrix((values, (labels, np.arange(len(labels)))), (classes, len(labels)))
    return np.asarray(chosen @ features, np.float64)
