"""Whether zero-shot can tell that a picture shows none of the organisms on the list.

The usual scores of confidence, without any training: the probability of the first answer (Hendrycks
and Gimpel 2017, arXiv 1610.02136), and its cosine, which does not depend on the other names (Ming
et al. 2022, arXiv 2211.13445, discuss both for CLIP).
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from bioclip2_jax.measures.scores import cosine_chunks


@dataclass(frozen=True, kw_only=True)
class OpenSet:
    """Result of `open_set`: how often a known picture scores higher than an unknown one.

    Attributes:
      auroc_probability: area under the ROC curve of the largest probability; chance is 0.5.
      auroc_cosine: of the largest cosine.
      num_known, num_unknown: images.
    """

    auroc_probability: float
    auroc_cosine: float
    num_known: int
    num_unknown: int


def hidden_classes(labels: np.ndarray, seed: int = 0, fraction: float = 0.5) -> np.ndarray:
    """A random share of the classes that have images, at least one: [hidden] int, ascending."""
    present = np.unique(labels)
    count = max(1, int(fraction * len(present)))
    return np.sort(np.random.default_rng(seed).permutation(present)[:count])


def open_set(
    image_features: np.ndarray,
    is_unknown: np.ndarray,
    class_features: np.ndarray,
    logit_scale: float,
) -> OpenSet | None:
    """Scores every image against the list of known classes.

    Args:
      image_features: [n, dim] float32, L2-normalised.
      is_unknown: [n] bool, images whose class is not on the list.
      class_features: [known, dim] float32, L2-normalised.
      logit_scale: the exponential of the learned parameter.

    Returns:
      The result, None where all images are known, or none is.
    """
    if is_unknown.all() or not is_unknown.any():
        return None
    largest, probability = np.zeros(len(image_features)), np.zeros(len(image_features))
    for rows, cosines in cosine_chunks(image_features, class_features):
        largest[rows] = top = cosines.max(axis=1)
        cosines -= top[:, None]
        cosines *= np.float32(logit_scale)
        probability[rows] = 1 / np.exp(cosines, out=cosines).sum(axis=1, dtype=np.float64)
    return OpenSet(
        auroc_probability=float(roc_auc_score(~is_unknown, probability)),
        auroc_cosine=float(roc_auc_score(~is_unknown, largest)),
        num_known=int((~is_unknown).sum()),
        num_unknown=int(is_unknown.sum()),
    )
