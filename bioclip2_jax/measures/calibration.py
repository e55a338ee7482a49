"""Whether a score of 0.8 is right in 80 of 100 cases (Guo et al. 2017, arXiv 1706.04599)."""

import numpy as np
from scipy.optimize import minimize_scalar

from bioclip2_jax.measures.scores import cosine_chunks

BINS = 15
FIT_SCORES = 1 << 25  # image x class scores that a temperature is fitted on


def summary(scores: np.ndarray, right: np.ndarray) -> dict:
    """Expected calibration error and the reliability diagram of the first answers.

    Args:
      scores: [n] float, the probability given to the first answer.
      right: [n] bool, whether it was the true one.

    Returns:
      `ece`, the mean over `BINS` bins of equal width of |accuracy - confidence|, weighted by their
      pictures; `confidence`, the mean score; and `bins`, one dict of `low`, `high`, `count`,
      `confidence` and `accuracy` for each bin that is not empty.
    """
    scores, right = np.asarray(scores, float), np.asarray(right, float)
    place = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    bins, error = [], 0.0
    for number in np.unique(place):
        inside = place == number
        confidence, accuracy = scores[inside].mean(), right[inside].mean()
        error += inside.mean() * abs(accuracy - confidence)
        bins.append(
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "count": int(inside.sum()),
                "confidence": float(confidence),
                "accuracy": float(accuracy),
            }
        )
    confidence = float(scores.mean()) if len(scores) else None
    return {"ece": float(error), "confidence": confidence, "bins": bins}


def temperature_scaling(
    image_features: np.ndarray,
    labels: np.ndarray,
    class_features: np.ndarray,
    logit_scale: float,
    seed: int = 0,
) -> dict | None:
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
      `temperature`, `num_fitted`, `num_judged`, and over the judged images `ece_before`,
      `ece_after`, `nll_before`, `nll_after`, in nats; None for fewer than two images.
    """
    if len(labels) < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(labels))
    fitted, judged = np.split(order, [len(order) // 2])
    fitted = fitted[: max(1, FIT_SCORES // len(class_features))]
    gaps = image_features[fitted] @ class_features.T
    own = gaps[np.arange(len(fitted)), labels[fitted]].astype(np.float64)
    largest = gaps.max(axis=1)
    own -= largest
    gaps -= largest[:, None]

    def loss(log_temperature: float) -> float:
        scale = np.float32(logit_scale / np.exp(log_temperature))
        totals = np.exp(scale * gaps).sum(axis=1, dtype=np.float64)
        return float(np.mean(np.log(totals) - scale * own))

    found = minimize_scalar(
        loss, bounds=(-np.log(100), np.log(100)), method="bounded", options={"xatol": 1e-4}
    )
    temperature = float(np.exp(found.x))

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
    result = {"temperature": temperature, "num_fitted": len(fitted), "num_judged": len(judged)}
    for name in scales:
        result[f"ece_{name}"] = summary(scores[name], right)["ece"]
        result[f"nll_{name}"] = float(losses[name].mean())
    return result
