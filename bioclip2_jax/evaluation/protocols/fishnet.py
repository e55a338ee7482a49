"""FishNet: nine functional traits of fish from frozen features (Khan et al. 2023).

Protocol of BioCLIP 2: features as the model gives them, the head of `heads` with a rate of 1e-4; a
picture counts when all nine labels are right. The original leaves the dropout on while it tests
and takes a label where the logit, not the probability, exceeds 0.5.
"""

from dataclasses import dataclass

import numpy as np

from bioclip2_jax.measures import heads

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class FishNet:
    """Result of `fishnet` on n test images.

    Attributes:
      accuracy: share of the images with all labels right.
      per_label: [labels] float, share of the images with that label right.
      right: [n] bool, which images.
    """

    accuracy: float
    per_label: np.ndarray
    right: np.ndarray


def fishnet(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    protocol: str = "faithful",
    seed: int = 0,
) -> FishNet:
    """Trains the head and tests it.

    Args:
      train_features, test_features: [n, dim] float32, not normalised.
      train_labels, test_labels: [n, 9] 0 and 1.
      protocol: "faithful" as the original, or "corrected": no dropout in the test, and a label
        where its probability exceeds one half.
      seed: of the training.
    """
    params = heads.train_head(train_features, train_labels, LEARNING_RATE, seed)
    logits = heads.evaluation_logits(params, test_features, protocol, seed)
    answers = logits > (0.5 if protocol == "faithful" else 0.0)
    same = answers == (np.asarray(test_labels) == 1)
    right = same.all(axis=1)
    return FishNet(float(right.mean()), same.mean(axis=0), right)
