"""Herbarium 19: finding classes nobody named (generalised category discovery, Vaze et al. 2022).

Four fifths of the pictures of the old classes are labelled, the other pictures, of old and of new
classes, are not. Protocol of BioCLIP 2: semi-supervised k-means with as many clusters as there are
classes, over features of length 1, in the code's first release over features as the model gives
them; labelled pictures stay with their class. Clusters are matched with classes by the Hungarian
method, in both releases apart for the unlabelled pictures of the old and of the new classes, so
that two classes may claim one cluster.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from bioclip2_jax.errors import UserError
from bioclip2_jax.measures.accuracy import class_average
from bioclip2_jax.measures.scores import unit

LABELLED = 0.8  # of the pictures of the old classes
ITERATIONS = 10
TOLERANCE = 1e-4
CHUNK = 4096  # pictures compared with all centres at a time


@dataclass(frozen=True, kw_only=True)
class HerbariumScores:
    """Result of `herbarium19`; accuracies are over unlabelled pictures.

    Attributes:
      accuracy: over all of them.
      macro: averaged over their classes.
      old, new: over those of the old and of the new classes; None where there are none.
      clusters: [n] int, the cluster of every picture.
      inertia: sum of squared distances to the centres.
    """

    accuracy: float
    macro: float | None
    old: float | None
    new: float | None
    clusters: np.ndarray
    inertia: float


def split_labelled(labels: np.ndarray, is_old_class: np.ndarray) -> np.ndarray:
    """Which pictures are labelled: a random share of those of the old classes, [n] bool."""
    old = np.flatnonzero(is_old_class[labels])
    count = int(LABELLED * len(old))
    chosen = np.random.RandomState(0).choice(len(old), replace=False, size=count)
    labelled = np.zeros(len(labels), bool)
    labelled[old[chosen]] = True
    return labelled


def herbarium19(
    features: np.ndarray,
    labels: np.ndarray,
    is_labelled: np.ndarray,
    is_old_class: np.ndarray,
    protocol: str = "v2",
    seed: int = 0,
) -> HerbariumScores:
    """Clusters the pictures and counts how many unlabelled ones fell in with their class.

    Args:
      features: [n, dim] float32, for "v1" as the model gives them.
      labels: [n] int.
      is_labelled: [n] bool, pictures whose label the clustering may see.
      is_old_class: [classes] bool; as many clusters are made as there are classes.
      protocol: "v1" takes features as they are, others bring them to length 1; "corrected" matches
        old and new classes all at once, others apart.
      seed: of the first centres.

    Raises:
      UserError: no picture is labelled, or none is not.
    """
    if not is_labelled.any() or is_labelled.all():
        raise UserError("Herbarium 19: needs labelled and unlabelled pictures")
    points = np.asarray(features, np.float32)
    clusters, inertia = semi_supervised_kmeans(
        points if protocol == "v1" else unit(points),
        np.where(is_labelled, labels, -1),
        len(is_old_class),
        seed,
    )
    own, truth = clusters[~is_labelled], labels[~is_labelled]
    old = is_old_class[truth]
    right = np.zeros(len(truth), bool)
    for part in (slice(None),) if protocol == "corrected" else (old, ~old):
        right[part] = _matched(own[part], truth[part])

    def share(part: np.ndarray) -> float | None:
        return float(right[part].mean()) if part.any() else None

    return HerbariumScores(
        accuracy=float(right.mean()),
        macro=class_average(right, truth),
        old=share(old),
        new=share(~old),
        clusters=clusters,
        inertia=inertia,
    )


def semi_supervised_kmeans(
    points: np.ndarray, classes: np.ndarray, num_clusters: int, seed: int
) -> tuple[np.ndarray, float]:
    """K-means in which labelled points keep their class.

    The first centres are the means of the labelled classes, by ascending class, then unlabelled
    points drawn with the probability of their squared distance to the nearest centre (k-means++).
    The iterate with the least inertia is kept.

    Args:
      points: [n, dim] float32.
      classes: [n] int, of a labelled point, else -1.
      num_clusters: at least the number of labelled classes.
      seed: of the drawing.

    Returns:
      The cluster of every point [n] int, and the inertia.
    """
    is_labelled = classes >= 0
    free = np.flatnonzero(~is_labelled)
    present, numbers = np.unique(classes[is_labelled], return_inverse=True)
    labels = np.full(len(points), -1)
    labels[is_labelled] = numbers
    every = jnp.asarray(points)
    padded = jnp.asarray(np.pad(points[free], ((0, -len(free) % CHUNK), (0, 0))))
    means = np.stack([points[labels == number].mean(axis=0) for number in range(len(present))])
    centres = jnp.asarray(_first_centres(points[free], padded, means, num_clusters, seed))

    best_labels, least = labels, np.inf
    for _ in range(ITERATIONS):
        nearest, distances = _nearest(padded, centres)
        labels = labels.copy()
        own = _own_distances(every[is_labelled], centres[labels[is_labelled]])
        labels[free] = np.asarray(nearest)[: len(free)]
        inertia = float(np.asarray(distances, np.float64)[: len(free)].sum() + own)
        if inertia < least:
            best_labels, least = labels, inertia
        moved = _means(every, jnp.asarray(labels), centres)
        shift = float(jnp.sum(jnp.linalg.norm(moved - centres, axis=1)))
        centres = moved
        if shift**2 < TOLERANCE:
            break
    return best_labels, least


def _first_centres(
    free: np.ndarray, padded: jax.Array, means: np.ndarray, num_clusters: int, seed: int
) -> np.ndarray:
    """The means, and points drawn from `free`; `padded` is the same with zeros behind it."""
    rng = np.random.RandomState(seed)
    centres = list(means)
    squares = np.einsum("nd,nd->n", free, free)
    nearest = np.full(len(free), np.inf)
    for start in range(0, len(means), 256):
        part = means[start : start + 256]
        distances = squares[:, None] - 2 * free @ part.T + (part**2).sum(axis=1)
        nearest = np.minimum(nearest, distances.min(axis=1))
    while len(centres) < num_clusters:
        chances = np.cumsum(np.maximum(nearest, 0), dtype=np.float64)
        drawn = rng.rand() * chances[-1]
        chosen = free[min(int(np.searchsorted(chances, drawn)), len(free) - 1)]
        centres.append(chosen)
        products = np.asarray(_products(padded, chosen))[: len(free)]
        distances = squares - 2 * products + chosen @ chosen
        nearest = np.minimum(nearest, distances)
    return np.stack(centres)


@jax.jit
def _products(points: jax.Array, point: jax.Array) -> jax.Array:
    return jnp.matmul(points, point, precision="highest")


@jax.jit
def _nearest(points: jax.Array, centres: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The nearest centre of [n, dim] points, n a multiple of `CHUNK`, and the squared distance."""
    lengths = jnp.sum(centres**2, axis=1)

    def chunk(part: jax.Array) -> tuple[jax.Array, jax.Array]:
        products = jnp.matmul(part, centres.T, precision="highest")  # accelerators round more
        distances = jnp.sum(part**2, axis=1)[:, None] - 2 * products + lengths
        return jnp.argmin(distances, axis=1), jnp.min(distances, axis=1)

    parts = points.reshape(-1, CHUNK, points.shape[1])
    return jax.tree.map(jnp.ravel, jax.lax.map(chunk, parts))


@jax.jit
def _own_distances(points: jax.Array, centres: jax.Array) -> jax.Array:
    return jnp.sum((points - centres) ** 2)


@jax.jit
def _means(points: jax.Array, labels: jax.Array, centres: jax.Array) -> jax.Array:
    """New centres; one without points stays where it is."""
    sums = jax.ops.segment_sum(points, labels, len(centres))
    counts = jax.ops.segment_sum(jnp.ones(len(points)), labels, len(centres))[:, None]
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), centres)


def _matched(clusters: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which points lie in the cluster that the best one-to-one matching gives to their class."""
    size = int(max(clusters.max(initial=0), truth.max(initial=0))) + 1
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (clusters, truth), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    class_of = np.empty(size, np.int64)
    class_of[rows] = columns
    return class_of[clusters] == truth
