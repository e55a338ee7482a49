"""AwA2: 85 attributes of animals, learned on some classes and tested on others (Xian et al. 2018).

Protocol of BioCLIP 2: the head of `heads` with a rate of 1e-5 and the macro F1 of its labels. The
original leaves the dropout on while it tests, takes a label where the logit exceeds 0.5, and asks
scikit-learn for the F1 of the labels 0 and 1, which there are the first two attributes alone.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import f1_score

from bioclip2_jax.measures import heads

LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class AwA2:
    """Result of `awa2`.

    Attributes:
      f1: the macro F1 of the protocol, over the first two attributes or over all.
      micro_f1: of all answers to the same attributes taken together.
      per_attribute: [attributes] float, F1 of each.
    """

    f1: float
    micro_f1: float
    per_attribute: np.ndarray


def awa2(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    protocol: str = "faithful",
    seed: int = 0,
) -> AwA2:
    """Trains the head and tests it.

    Args:
      train_features, test_features: [n, dim] float32, not normalised.
      train_labels, test_labels: [n, attributes] 0 and 1.
      protocol: "faithful" as the original, or "corrected": no dropout in the test, a label where
        its probability exceeds one half, and all attributes.
      seed: of the training.
    """
    params = heads.train_head(train_features, train_labels, LEARNING_RATE, seed)
    logits = heads.evaluation_logits(params, test_features, protocol, seed)
    answers = (logits > (0.5 if protocol == "faithful" else 0.0)).astype(int)
    truth = np.asarray(test_labels, int)
    each = f1_score(truth, answers, average=None, zero_division=0)
    columns = np.unique(truth) if protocol == "faithful" else np.arange(len(each))
    micro = f1_score(truth[:, columns], answers[:, columns], average="micro", zero_division=0)
    return AwA2(float(each[columns].mean()), float(micro), each)
