"""Whether a picture shows anything on a list of names, learned from pictures that do.

Each labelled picture is looked at twice: by the list as it is, and by the list without its own
name, as if it showed something else. What differs between the two is learned by logistic regression
on six figures of its scores, so that no picture of anything else is needed; those that there are
join the second kind. Leaving a class out to learn what is out of the distribution: Vyas et al.
2018, arXiv 1809.03576. The best probability alone (Hendrycks and Gimpel 2017, arXiv 1610.02136)
and the best cosine alone (Ming et al. 2022, arXiv 2211.13445) are two of the six.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import entr, expit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

FIGURES = ("best", "share", "lead", "mean", "spread", "entropy")
FEWEST = 10  # pictures that anything is learned from


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A logistic regression on `evidence`.

    Attributes:
      means, scales: [6] of the figures, which are brought to mean 0 and standard deviation 1.
      weights: [6].
      bias: of it.
    """

    means: list[float]
    scales: list[float]
    weights: list[float]
    bias: float

    def listed(self, figures: np.ndarray) -> np.ndarray:
        """[n, 6] evidence → [n] from 0 to 1, how much a picture looks like one of the list."""
        standard = (figures - np.asarray(self.means)) / np.asarray(self.scales)
        return expit(standard @ np.asarray(self.weights) + self.bias)


def evidence(
    cosines: np.ndarray, logit_scale: float, hidden: np.ndarray | None = None
) -> np.ndarray:
    """Six figures of a picture's scores, see `FIGURES`.

    The best logit, the logarithm of its share in the softmax, its lead over the second, mean and
    standard deviation of all, and the entropy of the shares.

    Args:
      cosines: [n, names] float, of three names or more.
      logit_scale: the exponential of the learned parameter.
      hidden: [n] int, a name that is taken off the list for each picture.

    Returns:
      [n, 6] float64.
    """
    logits = logit_scale * cosines.astype(np.float64)
    count = logits.shape[1]
    total, squares = logits.sum(axis=1), np.square(logits).sum(axis=1)
    if hidden is not None:
        every = np.arange(len(logits))
        own = logits[every, hidden]
        total, squares, count = total - own, squares - np.square(own), count - 1
        logits[every, hidden] = -np.inf
    second, best = np.partition(logits, -2, axis=1)[:, -2:].T
    shares = np.exp(logits - best[:, None])
    sums = shares.sum(axis=1)
    shares /= sums[:, None]
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return np.stack(
        [best, -np.log(sums), best - second, mean, spread, entr(shares).sum(axis=1)], axis=1
    )


def learn(listed: np.ndarray, others: np.ndarray) -> Detector:
    """Fits the regression; both kinds weigh the same.

    Args:
      listed: [n, 6] evidence of pictures whose name is on the list.
      others: [m, 6] of pictures whose name is not, or was taken off.
    """
    rows = np.concatenate([listed, others])
    means, scales = rows.mean(axis=0), rows.std(axis=0)
    scales = np.where(scales > 1e-9, scales, 1.0)
    is_listed = np.arange(len(rows)) < len(listed)
    fitted = LogisticRegression(class_weight="balanced", max_iter=1000)
    fitted.fit((rows - means) / scales, is_listed)
    return Detector(
        means=means.tolist(),
        scales=scales.tolist(),
        weights=fitted.coef_[0].tolist(),
        bias=float(np.ravel(fitted.intercept_)[0]),
    )


def auroc(listed: np.ndarray, others: np.ndarray) -> float:
    """How often one of the first scores is higher than one of the second; chance is 0.5."""
    ranks = rankdata(np.concatenate([listed, others]))[: len(listed)]
    least = len(listed) * (len(listed) + 1) / 2
    return float((ranks.sum() - least) / (len(listed) * len(others)))
