"""Whether a score of 0.8 is right in 80 of 100 cases (Guo et al. 2017, arXiv 1706.04599)."""

import numpy as np

BINS = 15


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
