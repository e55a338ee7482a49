"""A small image-text model of the world of factors, trained as the large one is.

Images go through a network of one hidden layer. A caption of the tree is the sum of a learned token
for each rank that it names, a general one a few numbers; both go through the same last layer. A
start is trained on general captions alone, the others from there: on lineages (`hierarchical`), on
lineages and, with the weight of the recipe, on lineages down to a rank drawn for the step, where
each distinct text is one choice (`level`, see `losses`), or on species' tokens alone (`flat`). With
replay, pairs of the start are trained on beside them, under a visual projection of their own.

`train_linear` is Theorem 5.1's setting in the same world: factors in place of pictures, a linear
map, captions that stay what they are, a fixed logit scale, plain descent.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bioclip2_jax.analysis.linear_encoder import MOMENTUM, RATE
from bioclip2_jax.losses import contrastive_loss

DIM = 256
HIDDEN, TOKEN, TEXT_HIDDEN = 384, 128, 256
BATCH, REPLAY_BATCH = 128, 32
LEVEL_WEIGHT = 0.5
START_SCALE, MOST_SCALE = 14.0, 100.0
THEORY_SCALE = 30.0
_CHUNK = 16  # steps of one call; so that all lengths of training share one program
_MOMENTS = 0.9, 0.98
_WARMUP = 50  # steps, or a fifth of them

Params = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pictures [n, pixels] float32 and their captions: [n, ranks] int, or [n, words] float32."""

    pictures: np.ndarray
    captions: np.ndarray


def initial(seed: int, pixels: int, words: int, taxa: tuple[int, ...]) -> Params:
    """Random weights of the model; `taxa` says how many there are of each rank."""
    keys = iter(jax.random.split(jax.random.key(seed), 16))

    def matrix(rows: int, columns: int) -> jax.Array:
        return jax.random.normal(next(keys), (rows, columns)) / np.sqrt(rows)

    project = matrix(HIDDEN, DIM)
    return {
        "image": {
            "in": matrix(pixels, HIDDEN),
            "bias": jnp.zeros(HIDDEN),
            "out": project,
            "replay": project,
        },
        "text": {
            "tokens": [jax.random.normal(next(keys), (count, TOKEN)) for count in taxa],
            "in": matrix(TOKEN, TEXT_HIDDEN),
            "general": matrix(words, TEXT_HIDDEN),
            "out": matrix(TEXT_HIDDEN, DIM),
        },
        "log_scale": jnp.float32(np.log(START_SCALE)),
    }


def embed(params: Params, pictures: np.ndarray) -> np.ndarray:
    """[n, DIM] float32, L2-normalised."""
    return np.asarray(_images(params["image"], jnp.asarray(pictures), "out"))


def name(params: Params, ancestry: np.ndarray, captions: str) -> np.ndarray:
    """[n, DIM] float32, L2-normalised, of species by their [n, ranks] int."""
    return np.asarray(_texts(params["text"], jnp.asarray(ancestry), _used(captions, ancestry)))


def train(
    params: Params,
    pairs: Pairs,
    captions: str,
    steps: int,
    rate: float,
    seed: int,
    replay: Pairs | None = None,
) -> Params:
    """Adam, with a warm-up and half a cosine.

    Args:
      params: to start from.
      pairs: to train on, each as often as the others.
      captions: "general", or one of `Arm.captions`.
      steps: of `BATCH` pairs.
      rate: of learning, at its highest.
      seed: of the order, and of the ranks of level captions.
      replay: pairs of the start, `REPLAY_BATCH` a step.
    """
    rng = np.random.default_rng((seed, 21))
    ranks = 1 if captions == "general" else pairs.captions.shape[1]
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = params, zeros, zeros, jnp.zeros((), jnp.int32)
    rows = _order(rng, len(pairs.pictures), BATCH)
    again = _order(rng, len(replay.pictures), REPLAY_BATCH) if replay else None
    for first in range(0, steps, _CHUNK):
        places = np.stack(list(itertools.islice(rows, _CHUNK)))
        batch = {"pictures": pairs.pictures[places], "captions": pairs.captions[places]}
        if replay and again:
            places = np.stack(list(itertools.islice(again, _CHUNK)))
            batch["replay_pictures"] = replay.pictures[places]
            batch["replay_captions"] = replay.captions[places]
        batch["level"] = rng.integers(max(ranks - 1, 1), size=_CHUNK)
        step = first + np.arange(_CHUNK)
        warm = np.minimum(1, (step + 1) / max(1, min(_WARMUP, steps // 5)))
        wave = 0.5 + 0.5 * np.cos(np.pi * np.minimum(step / steps, 1))
        # Those of the last call that are too many change nothing.
        batch["rate"] = (rate * warm * wave * (step < steps)).astype(np.float32)
        state = _chunk(state, batch, captions)
    return state[0]


def train_linear(
    factors: np.ndarray, species: np.ndarray, prototypes: np.ndarray, steps: int, seed: int
) -> np.ndarray:
    """Gradient descent with momentum on the contrastive loss, as `linear_encoder.train` does.

    Args:
      factors: [n, m] float, of individuals.
      species: [n] int, of each.
      prototypes: [s, d] float32, L2-normalised, of all species.
      steps: of `BATCH` individuals.
      seed: of the weights and the order.

    Returns:
      [m, d] float32, from factors to features of any length. At the start each factor is a random
      direction of its own length.
    """
    moments = np.maximum((factors**2).mean(axis=0), 1e-9)
    rates = jnp.asarray((RATE / moments / THEORY_SCALE**2)[:, None], jnp.float32)
    shape = factors.shape[1], prototypes.shape[1]
    weights = jax.random.normal(jax.random.key(seed), shape) / np.sqrt(shape[1])
    rows = _order(np.random.default_rng((seed, 22)), len(factors), BATCH)
    state = weights, jnp.zeros_like(weights)
    for first in range(0, steps, _CHUNK):
        places = np.stack(list(itertools.islice(rows, _CHUNK)))
        used = (first + np.arange(_CHUNK) < steps).astype(np.float32)
        batch = factors[places].astype(np.float32), prototypes[species[places]], used
        state = _linear_chunk(state, batch, rates)
    return np.asarray(state[0])


def _order(rng: np.random.Generator, count: int, size: int) -> Iterator[np.ndarray]:
    """Batches of rows, each row once before any comes again."""
    waiting = np.zeros(0, np.int64)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(count)])
        yield waiting[:size]
        waiting = waiting[size:]


def _used(captions: str, ancestry: np.ndarray | jax.Array) -> tuple[int, ...]:
    """Ranks that captions name."""
    last = ancestry.shape[-1] - 1
    return (last,) if captions == "flat" else tuple(range(last + 1))


def _unit(vectors: jax.Array) -> jax.Array:
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def _images(image: Params, pictures: jax.Array, projection: str) -> jax.Array:
    hidden = jax.nn.gelu(pictures @ image["in"] + image["bias"])
    return _unit(hidden @ image[projection])


def _texts(
    text: Params, ancestry: jax.Array, ranks: tuple[int, ...], down_to: jax.Array | None = None
) -> jax.Array:
    """Of lineages; with `down_to` [] int only of the ranks up to it."""
    total = jnp.zeros(())
    for rank in ranks:
        token = text["tokens"][rank][ancestry[..., rank]]
        total = total + (token if down_to is None else token * (rank <= down_to))
    named = len(ranks) if down_to is None else down_to + 1
    return _unit(jax.nn.gelu(total / jnp.sqrt(named) @ text["in"]) @ text["out"])


def _described(text: Params, words: jax.Array) -> jax.Array:
    return _unit(jax.nn.gelu(words @ text["general"]) @ text["out"])


def _loss(params: Params, batch: dict[str, jax.Array], captions: str) -> jax.Array:
    scale = jnp.exp(jnp.minimum(params["log_scale"], np.log(MOST_SCALE)))
    images = _images(params["image"], batch["pictures"], "out")
    said = batch["captions"]
    if captions == "general":
        return contrastive_loss(images, _described(params["text"], said), scale)
    ranks = _used(captions, said)
    loss = contrastive_loss(images, _texts(params["text"], said, ranks), scale)
    if captions == "level":
        level = batch["level"]
        texts = _texts(params["text"], said, ranks, level)
        ids = jnp.take(said, level, axis=1)
        loss += LEVEL_WEIGHT * contrastive_loss(images, texts, scale, text_ids=ids)
    if "replay_pictures" in batch:
        again = _images(params["image"], batch["replay_pictures"], "replay")
        texts = _described(params["text"], batch["replay_captions"])
        loss += contrastive_loss(again, texts, scale)
    return loss


@functools.partial(jax.jit, static_argnums=2)
def _chunk(state: tuple, batches: dict[str, jax.Array], captions: str) -> tuple:
    """Adam's steps over batches with a leading axis."""

    def step(state: tuple, batch: dict[str, jax.Array]) -> tuple[tuple, None]:
        params, first, second, number = state
        gradient = jax.grad(_loss)(params, batch, captions)
        (decay, slow), number = _MOMENTS, number + 1
        first = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, first, gradient)
        second = jax.tree.map(lambda v, g: slow * v + (1 - slow) * g**2, second, gradient)
        size = batch["rate"] * jnp.sqrt(1 - slow**number) / (1 - decay**number)
        params = jax.tree.map(
            lambda p, m, v: p - size * m / (jnp.sqrt(v) + 1e-8), params, first, second
        )
        return (params, first, second, number), None

    return jax.lax.scan(step, state, batches)[0]


@jax.jit
def _linear_chunk(state: tuple, batches: tuple, rates: jax.Array) -> tuple:
    def step(state: tuple, batch: tuple) -> tuple[tuple, None]:
        (weights, momentum), (factors, texts, used) = state, batch

        def loss(weights: jax.Array) -> jax.Array:
            return contrastive_loss(_unit(factors @ weights), texts, jnp.float32(THEORY_SCALE))

        momentum = MOMENTUM * momentum + jax.grad(loss)(weights)
        return (weights - used * rates * momentum, momentum), None

    return jax.lax.scan(step, state, batches)[0]
