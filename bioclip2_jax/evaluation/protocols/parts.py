"""What a protocol that learns from one part of a set and is tested on another is given."""

from typing import NamedTuple

import numpy as np


class Parts(NamedTuple):
    """Features [n, dim] float32, and labels [n] int or [n, labels] 0 and 1, of both parts."""

    train_features: np.ndarray
    train_labels: np.ndarray
    test_features: np.ndarray
    test_labels: np.ndarray
