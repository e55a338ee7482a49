"""The smallest model in which variants within species can meet the contrastive loss.

A picture is a vector of factors: what its species looks like, half the difference between two
variants (such as sexes) with a sign, and noise. The encoder is one linear map of these factors,
scaled to length 1; captions are fixed vectors. Each step sees new individuals, one a species and
variant, as a run over pictures that do not repeat. What real encoders add, nonlinearity, pixels
and a text tower that learns, is left out on purpose.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bioclip2_jax.losses import contrastive_loss

RATE = 0.3
MOMENTUM = 0.9
INDIVIDUALS = 16  # of each species and variant, to measure


class World(NamedTuple):
    """What pictures show and captions say; leading axes are independent worlds.

    Attributes:
      species: [..., K, m] float32, factors of the mean of each species.
      differences: [..., K, m] float32, second variant minus first.
      noise: [..., m] float32, standard deviation of each factor between individuals.
      prototypes: [..., K, d] float32, L2-normalised captions.
    """

    species: jax.Array
    differences: jax.Array
    noise: jax.Array
    prototypes: jax.Array


def loss_of(embeddings: jax.Array, prototypes: jax.Array, scale: jax.Array) -> jax.Array:
    """The training loss of a batch that holds every species twice, once a variant.

    Args:
      embeddings: [2, K, d] float32, of any length: first variants, then second ones.
      prototypes: [K, d] float32, L2-normalised.
      scale: [] float32, the inverse temperature.
    """
    images = embeddings.reshape(-1, embeddings.shape[-1])
    images = images / jnp.linalg.norm(images, axis=-1, keepdims=True)
    return contrastive_loss(images, jnp.concatenate([prototypes, prototypes]), scale)


def difference_gradient(embeddings: jax.Array, prototypes: jax.Array, scale: float) -> jax.Array:
    """Gradient [K, d] of the loss in the differences of the variants, their means held fixed."""
    first, second = jax.grad(loss_of)(embeddings, prototypes, jnp.float32(scale))
    return (second - first) / 2


def initial_weights(key: jax.Array, worlds: World) -> jax.Array:
    """[worlds, m, d] float32: every factor starts as a random direction of about its own size."""
    replicates, _, factors = worlds.species.shape
    dim = worlds.prototypes.shape[-1]
    return jax.random.normal(key, (replicates, factors, dim)) / np.sqrt(dim)


@functools.partial(jax.jit, static_argnames="marks")
def train(
    worlds: World,
    weights: jax.Array,
    scale: float,
    key: jax.Array,
    marks: tuple[int, ...],
    rate: float = RATE,
) -> jax.Array:
    """Gradient descent with momentum on the contrastive loss.

    A factor's row steps in inverse proportion to its second moment: its unit of measurement does
    not matter then, and every update still lies where the gradients do. (Adam scales coordinates
    of the embedding one by one and would leave their span.)

    Args:
      worlds: with one leading axis of replicates.
      weights: [replicates, m, d] float32 at the start.
      scale: the inverse temperature, fixed.
      key: of the individuals.
      marks: steps to report, ascending, from 0.
      rate: of learning.

    Returns:
      [replicates, len(marks), m, d] float32.
    """
    spans = jnp.asarray([marks[:-1], marks[1:]]).T
    keys = jax.random.split(key, len(weights))
    beta = jnp.float32(scale)

    def train_one(world: World, weights: jax.Array, key: jax.Array) -> jax.Array:
        means = _variant_means(world)
        moments = jnp.mean(means**2, axis=(0, 1)) + world.noise**2
        # Unused factors have no moment and no gradient.
        rates = (rate / jnp.maximum(moments, 1e-9) / beta**2)[:, None]

        def step(number, state):
            weights, momentum = state
            noise = jax.random.normal(jax.random.fold_in(key, number), means.shape)
            factors = means + world.noise * noise
            gradient = jax.grad(lambda w: loss_of(factors @ w, world.prototypes, beta))(weights)
            momentum = MOMENTUM * momentum + gradient
            return weights - rates * momentum, momentum

        def segment(state, span):
            state = jax.lax.fori_loop(span[0], span[1], step, state)
            return state, state[0]

        _, later = jax.lax.scan(segment, (weights, jnp.zeros_like(weights)), spans)
        return jnp.concatenate([weights[None], later])

    return jax.vmap(train_one)(worlds, weights, keys)


def measure(world: World, weights: np.ndarray, scale: float, seed: int) -> dict[str, float]:
    """Draws new individuals of one world and measures their images.

    Args:
      world: without leading axes.
      weights: [m, d] float.
      scale: the inverse temperature.
      seed: of the individuals.

    Returns:
      rho: share of the squared difference inside the span of the centred prototypes.
      rho_images: the same for the span of the species' mean images, as `within` measures it.
      difference: length of the difference of the variants' mean images.
      outside: length of its part outside the span of the prototypes.
      fisher: squared difference over the variants' summed variances.
      accuracy: share of individuals nearest to their own caption.
      loss: contrastive loss in nats, less the log 2 that the twin in the batch always costs.
    """
    means = np.asarray(_variant_means(world), np.float64)
    prototypes = np.asarray(world.prototypes, np.float64)
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(INDIVIDUALS, *means.shape)) * np.asarray(world.noise)
    images = _unit((means + noise) @ np.asarray(weights, np.float64))  # [n, 2, K, d]
    centres = images.mean(axis=0)
    differences = centres[1] - centres[0]
    squares = (differences**2).sum(axis=1)
    inside = project(differences, span_of(prototypes))
    inside_images = project(differences, span_of(centres.mean(axis=0)))
    answers = (images @ prototypes.T).argmax(axis=-1)
    beta = jnp.float32(scale)
    losses = [loss_of(jnp.asarray(x, jnp.float32), world.prototypes, beta) for x in images[:4]]
    return {
        "rho": float(((inside**2).sum(axis=1) / squares).mean()),
        "rho_images": float(((inside_images**2).sum(axis=1) / squares).mean()),
        "difference": float(np.sqrt(squares).mean()),
        "outside": float(np.linalg.norm(differences - inside, axis=1).mean()),
        "fisher": float((squares / images.var(axis=0).sum(axis=(0, 2))).mean()),
        "accuracy": float((answers == np.arange(len(prototypes))).mean()),
        "loss": float(np.mean(losses) - np.log(2)),
    }


def pulls(world: World, weights: np.ndarray, scale: float) -> dict[str, float]:
    """How fast descent would shrink the differences inside and outside the prototypes' span.

    The differences are free here, not tied to factors, and no noise is added.

    Returns:
      pull_inside, pull_outside: the relative rates -d log(length)/dt of the parts, in the unit of
        the loss's gradient for embeddings of length 1; negative where the part grows.
    """
    embeddings = _unit(_variant_means(world) @ weights)
    gradient = np.asarray(difference_gradient(embeddings, world.prototypes, scale), np.float64)
    differences = np.asarray(embeddings[1] - embeddings[0], np.float64)
    basis = span_of(np.asarray(world.prototypes, np.float64))
    inside = project(differences, basis)
    rates = {}
    for name, part in (("pull_inside", inside), ("pull_outside", differences - inside)):
        size = (part**2).sum()
        # Embeddings weigh one in 2 K in the loss; where nothing is outside, nothing can shrink.
        rate = float((part * gradient).sum() / size) if size > 1e-9 else 0.0
        rates[name] = 2 * len(part) * rate
    return rates


def span_of(points: np.ndarray) -> np.ndarray:
    """Orthonormal rows [r, d] that span the differences between points [n, d]."""
    _, sizes, rows = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    return rows[sizes > 1e-5 * sizes[0]]


def project(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The part of each row that lies in the span of the basis' orthonormal rows."""
    return vectors @ basis.T @ basis


def _variant_means(world: World) -> jax.Array:
    half = world.differences / 2
    return jnp.stack([world.species - half, world.species + half])


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
