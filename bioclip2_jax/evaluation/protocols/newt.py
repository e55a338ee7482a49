"""NeWT: natural world tasks, 164 questions with two answers (Van Horn et al. 2021).

Protocol of BioCLIP 2: features of length 1, centred by the mean of the task's training images and
brought to length 1 again; scikit-learn's support vector machine behind a scaler, its settings the
best of 100 random ones in five-fold cross-validation; accuracy over the test images of all tasks.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from bioclip2_jax.errors import UserError
from bioclip2_jax.measures.scores import unit

ITERATIONS = 100


@dataclass(frozen=True, kw_only=True)
class NewtScores:
    """Result of `newt`.

    Attributes:
      micro: accuracy over the test images of all tasks, the paper's figure.
      macro: mean of the accuracies of the tasks, as the authors of NeWT report it.
      tasks: task → its accuracy.
      clusters: group of tasks → mean accuracy of its tasks.
      right: [n] bool, images that were tested and answered rightly.
    """

    micro: float
    macro: float
    tasks: dict[str, float]
    clusters: dict[str, float]
    right: np.ndarray


def newt(
    features: np.ndarray,
    labels: np.ndarray,
    tasks: np.ndarray,
    is_train: np.ndarray,
    seed: int = 0,
    clusters: np.ndarray | None = None,
    iterations: int = ITERATIONS,
    jobs: int = -1,
) -> NewtScores:
    """Trains and tests one machine a task.

    Args:
      features: [n, dim] float32.
      labels: [n] int, 0 or 1.
      tasks: [n] str.
      is_train: [n] bool, the others are tested.
      seed: of the search.
      clusters: [n] str, the group of each image's task.
      iterations: settings tried.
      jobs: processes of the search; the result does not depend on it.

    Raises:
      UserError: a task has fewer than five training images of an answer, or nothing to test.
    """
    normal = unit(features)
    right = np.zeros(len(labels), bool)
    accuracy: dict[str, float] = {}
    groups: dict[str, list[float]] = defaultdict(list)
    for task in dict.fromkeys(tasks.tolist()):
        inside = tasks == task
        train, test = np.flatnonzero(inside & is_train), np.flatnonzero(inside & ~is_train)
        if min((labels[train] == answer).sum() for answer in (0, 1)) < 5 or not len(test):
            raise UserError(
                f"NeWT task {task}: needs test images, and five training images of each answer"
            )
        mean = normal[train].mean(axis=0)
        machine = _search(seed, iterations, jobs)
        with threadpool_limits(1):  # its matrices are small
            machine.fit(unit(normal[train] - mean), labels[train])
            right[test] = machine.predict(unit(normal[test] - mean)) == labels[test]
        accuracy[task] = float(right[test].mean())
        if clusters is not None:
            groups[str(clusters[test[0]])].append(accuracy[task])
    return NewtScores(
        micro=float(right[~is_train].mean()),
        macro=float(np.mean(list(accuracy.values()))),
        tasks=accuracy,
        clusters={name: float(np.mean(values)) for name, values in groups.items()},
        right=right,
    )


def _search(seed: int, iterations: int, jobs: int) -> RandomizedSearchCV:
    space = {
        "svc__C": stats.loguniform(1e-3, 1e1),
        "svc__kernel": ["rbf", "linear", "sigmoid", "poly"],
        "svc__gamma": stats.loguniform(1e-4, 1e-3),
    }
    machine = make_pipeline(StandardScaler(), SVC())
    return RandomizedSearchCV(machine, space, n_iter=iterations, random_state=seed, n_jobs=jobs)
