"""Several labels a picture: FishNet (Khan et al. 2023) and AwA2 (Xian et al. 2018).

Protocol of BioCLIP 2: features as the model gives them, and the head of `heads`. The original
leaves the dropout on while it tests and takes a label where the logit, not the probability, exceeds
0.5; "corrected" does neither.
"""

from dataclasses import dataclass

import numpy as np

from bioclip2_jax.evaluation.protocols.parts import Parts
from bioclip2_jax.measures import heads


@dataclass(frozen=True, kw_only=True)
class FishNetScores:
    """Result of `fishnet`, nine functional traits of fish, on n test images.

    Attributes:
      accuracy: share of the images with all labels right.
      per_label: [labels] float, share of the images with that label right.
      right: [n] bool, which images.
    """

    accuracy: float
    per_label: np.ndarray
    right: np.ndarray


@dataclass(frozen=True, kw_only=True)
class AwA2Scores:
    """Result of `awa2`, 85 attributes of animals of other classes than the head has seen.

    Attributes:
      f1: the macro F1 of the protocol, over the first two attributes or over all.
      micro_f1: of all answers to the same attributes taken together.
      per_attribute: [attributes] float, F1 of each.
    """

    f1: float
    micro_f1: float
    per_attribute: np.ndarray


def answers(parts: Parts, learning_rate: float, protocol: str, seed: int) -> np.ndarray:
    """Trains the head and asks it: [n, labels] bool, what it says of the test images.

    Args:
      parts: features that are not normalised, and labels 0 and 1.
      learning_rate: of the first epochs.
      protocol: "v1" or "v2", which are alike here, or "corrected".
      seed: of the training.
    """
    params = heads.train_head(parts.train_features, parts.train_labels, learning_rate, seed)
    logits = heads.evaluation_logits(params, parts.test_features, protocol, seed)
    return logits > (0.0 if protocol == "corrected" else 0.5)


def fishnet(parts: Parts, protocol: str = "v2", seed: int = 0) -> FishNetScores:
    """A picture counts when all its labels are right; arguments as of `answers`."""
    same = answers(parts, 1e-4, protocol, seed) == (parts.test_labels == 1)
    right = same.all(axis=1)
    return FishNetScores(accuracy=float(right.mean()), per_label=same.mean(axis=0), right=right)


def awa2(parts: Parts, protocol: str = "v2", seed: int = 0) -> AwA2Scores:
    """The F1 of the labels; arguments as of `answers`.

    The original asks scikit-learn for the F1 of the labels 0 and 1, which there are the first two
    attributes alone; "corrected" takes all.
    """
    predicted, truth = answers(parts, 1e-5, protocol, seed), parts.test_labels == 1
    columns = slice(None) if protocol == "corrected" else np.unique(truth.astype(int))
    both = (predicted & truth).sum(axis=0)
    named = predicted.sum(axis=0) + truth.sum(axis=0)
    each = 2 * both / np.maximum(named, 1)  # 0 for a label that nothing has
    micro = 2 * both[columns].sum() / max(named[columns].sum(), 1)
    return AwA2Scores(f1=float(each[columns].mean()), micro_f1=float(micro), per_attribute=each)
