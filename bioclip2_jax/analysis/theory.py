"""Theorem 5.1 of arXiv 2505.23883 as numerical experiments, and one for the role of hierarchy.

The theorem says, as far as we know its text: where the captions' prototypes of the species are
nearly orthogonal, the contrastive loss favours differences between variants of a species that are
orthogonal to the differences between species, and need not shrink them. Its exact statement and
constants were not available; what follows is derived here.

Let t_1 ... t_K be unit prototypes, fixed, z = e / |e| an image embedding of species s, and beta the
inverse temperature. The gradient of the loss in z is beta times a combination of the t_k, for both
directions of the softmax. So the gradient in the difference delta of two variants' embeddings lies
in the span of the prototypes, except for the normalisation, which takes from each embedding a
multiple of itself. Near the best embedding of orthonormal prototypes, with small delta:

  inside the span    the curvature is  beta^2 p + beta (K - 1) p m
  outside            the curvature is             beta (K - 1) p m

with p the probability of each wrong species, 1 / (K - 1 + exp(beta m)), and m = sqrt(K / (K - 1))
the margin. Their ratio, `stiffness_ratio`, is 1 + beta / sqrt(K (K - 1)). Three things follow:

  1. The part inside is always pushed out faster; how much faster depends on beta / K alone.
  2. The part outside is pushed, too, as it takes length from the useful part. Both forces carry p:
     they fade together as species are told apart, and a high beta leaves the difference in place.
     With a low one it vanishes altogether.
  3. With K > d the span is the whole space: nothing is outside and rho is 1 whatever is learned.

`orthogonality` looks at how far descent gets under a linear encoder of factors; `hierarchy`
compares captions that spell out a lineage with captions that share nothing.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bioclip2_jax.analysis import linear_encoder
from bioclip2_jax.analysis.linear_encoder import World
from bioclip2_jax.evaluation import experiments
from bioclip2_jax.evaluation.experiments import Setting
from bioclip2_jax.measures.scores import unit

STEPS = 1024
REPLICATES = 8
POSES = 16  # factors of noise that have nothing to do with species
POSE_NOISE = 0.5  # length of that noise; a species' own factor has length 1
BRANCHES = (2, 2, 2, 8)  # of the tree: 8 genera of 8 species
TREE_DIM = 128
TREE_RATE = 1.0  # slower learning leaves the images where the factors put them
MORPHOLOGY = 8  # factors that evolve along the tree
LOOKS = 48  # factors in which every species differs from every other


SWEEPS = {
    "species": (4, 16, 32, 48, 96),
    "scale": (3.0, 10.0, 30.0, 100.0),
    "cosine": (0.0, 0.5, 0.9, 0.99),
    "strength": (0.25, 0.5, 1.0, 2.0, 4.0),
    "overlap": (0.0, 0.25, 0.5, 0.75, 1.0),
}


def run(
    seed: int = 0,
    *,
    steps: int = STEPS,
    replicates: int = REPLICATES,
    say: Callable[[str], None] = lambda line: None,
) -> experiments.Theory:
    """Both experiments; about a minute on two cores.

    Args:
      seed: of everything that is drawn.
      steps: of training.
      replicates: worlds whose mean is reported; the standard error goes to `..._se`.
      say: told what was measured, line by line.
    """
    marks = _marks(steps)
    rows = []
    for shared in (True, False):
        rows += orthogonality(Setting(shared=shared), seed, marks=marks, replicates=replicates)
    for name, values in SWEEPS.items():
        for value in values:
            setting = dataclasses.replace(Setting(), **{name: value})
            rows += orthogonality(setting, seed, marks=marks, replicates=replicates, sweep=name)[
                -1:
            ]
            say(
                f"{name} {value:g}: rho {rows[-1].rho:.3f} (chance {rows[-1].chance:.3f}),"
                f" difference {rows[-1].difference:.2f}"
            )
    return experiments.Theory(
        settings=experiments.TheorySettings(
            seed=seed, steps=steps, replicates=replicates, base=Setting(), branches=BRANCHES
        ),
        orthogonality=rows,
        hierarchy=hierarchy(seed, marks=marks, replicates=replicates),
    )


def stiffness_ratio(species: int, scale: float, cosine: float = 0.0) -> float:
    """Curvature of the loss inside the prototypes' span over that outside, at its optimum.

    For prototypes with one cosine between all; there scale shrinks by the root of 1 - cosine. The
    images of a species are at their best place, and wrong species are equally probable.
    """
    return 1 + scale * math.sqrt(1 - cosine) / math.sqrt(species * (species - 1))


def chance(species: int, dim: int) -> float:
    """Expected rho of a random direction: the dimensions that differences of species fill."""
    return min(species - 1, dim) / dim


def even_prototypes(rng: np.random.Generator, species: int, dim: int, cosine: float) -> np.ndarray:
    """[K, d] float64 unit vectors in random orientation with one cosine between all.

    Where they do not fit the dimension they are drawn at random, and the cosines are so on average.
    """
    directions = rng.normal(size=(species + 1, dim))
    if species < dim:
        directions = np.linalg.qr(directions.T)[0].T
    directions = unit(directions)
    return unit(math.sqrt(1 - cosine) * directions[1:] + math.sqrt(cosine) * directions[0])


def orthogonality(
    setting: Setting,
    seed: int,
    *,
    marks: tuple[int, ...],
    replicates: int = REPLICATES,
    sweep: str = "course",
) -> list[experiments.Orthogonality]:
    """Trains a linear encoder in one setting and measures the variants at the marks.

    Factors: one a species, one or K for the variants, `POSES` of noise. All start as random
    directions, so that rho starts at chance.
    """
    worlds = [_world(setting, np.random.default_rng([seed, 1, i])) for i in range(replicates)]
    stacked = _stack(worlds)
    weights = linear_encoder.initial_weights(jax.random.key(seed), stacked)
    weights = linear_encoder.train(stacked, weights, setting.scale, jax.random.key(seed + 1), marks)
    rows = []
    for place, step in enumerate(marks):
        measures = [
            linear_encoder.measure(world, encoder, setting.scale, seed)
            | linear_encoder.pulls(world, encoder, setting.scale)
            for world, encoder in zip(worlds, np.asarray(weights)[:, place], strict=True)
        ]
        rows.append(
            experiments.Orthogonality(
                **vars(setting),
                sweep=sweep,
                chance=chance(setting.species, setting.dim),
                stiffness_ratio=stiffness_ratio(setting.species, setting.scale, setting.cosine),
                step=step,
                **_mean(measures),
            )
        )
    return rows


def _world(setting: Setting, rng: np.random.Generator) -> World:
    count = setting.species
    own = np.eye(count)
    another = (np.roll(own, 1, axis=1) - own) / math.sqrt(2)
    variants = np.ones((count, 1)) if setting.shared else own
    share = math.sqrt(1 - setting.overlap**2)
    return _with_poses(
        species=np.hstack([own, np.zeros_like(variants)]),
        differences=setting.strength * np.hstack([setting.overlap * another, share * variants]),
        prototypes=even_prototypes(rng, count, setting.dim, setting.cosine),
    )


def hierarchy(
    seed: int, *, marks: tuple[int, ...], replicates: int = REPLICATES
) -> list[experiments.Hierarchy]:
    """Captions that spell out the lineage against captions that share nothing.

    Assumptions: captions are fixed. A hierarchical one is the sum of a vector a rank, all
    orthogonal and of equal weight, as a lineage's shared beginning would have it; a flat one has
    the vector of its species alone. Images show `MORPHOLOGY` factors that evolve along the tree by
    Brownian motion, one ecological factor drawn for every species alone (convergent, across
    clades), `LOOKS` factors of no meaning, and a variant factor that all species share. Half of the
    species of each genus are never trained on.

    Correlations are over pairs of species, between their distance in a space and: `tree`, ranks
    apart; `phylogenetic`, the difference in one morphological factor; `ecological`, in the
    ecological one; `ecological_in_genus`, the same over pairs of a genus.
    """
    ancestry = np.stack(
        [np.arange(math.prod(BRANCHES)) // math.prod(BRANCHES[i + 1 :]) for i in range(4)], axis=1
    )
    seen = np.arange(len(ancestry)) % BRANCHES[-1] < BRANCHES[-1] // 2
    drawn = [_Tree(ancestry, np.random.default_rng([seed, 2, i])) for i in range(replicates)]
    scale = Setting().scale
    rows = []
    for captions in ("hierarchical", "flat"):
        worlds = [tree.world(tree.captions[captions]) for tree in drawn]
        trained = _stack([_part(world, seen) for world in worlds])
        # The same start for both kinds of captions.
        weights = linear_encoder.initial_weights(jax.random.key(seed + 2), trained)
        key = jax.random.key(seed + 3)
        weights = np.asarray(
            linear_encoder.train(trained, weights, scale, key, marks, rate=TREE_RATE)
        )
        texts = [tree.order(tree.captions[captions][seen], seen) for tree in drawn]
        row = partial(experiments.Hierarchy, captions=captions)
        rows.append(row(space="captions", step=marks[-1], **_mean(texts)))
        for place, step in enumerate(marks):
            encoders = list(zip(drawn, worlds, weights[:, place], strict=True))
            for space, part in (("seen", seen), ("unseen", ~seen)):
                images = [
                    tree.order(np.asarray(world.species)[part] @ encoder, part)
                    for tree, world, encoder in encoders
                ]
                of_images = row(space=space, step=step, **_mean(images))
                if space == "seen":
                    measures = [
                        linear_encoder.measure(_part(world, seen), encoder, scale, seed)
                        for _, world, encoder in encoders
                    ]
                    random_rho = chance(int(seen.sum()), TREE_DIM)
                    of_images = experiments.SeenHierarchy(
                        **vars(of_images), chance=random_rho, **_mean(measures)
                    )
                rows.append(of_images)
    return rows


class _Tree:
    """A drawn tree of life: traits, looks and both kinds of captions."""

    def __init__(self, ancestry: np.ndarray, rng: np.random.Generator):
        self.ancestry = ancestry
        ranks = ancestry.shape[1]
        steps = [rng.normal(size=(taxa.max() + 1, MORPHOLOGY))[taxa] for taxa in ancestry.T]
        self.morphology = np.sum(steps, axis=0) / math.sqrt(ranks)
        self.ecology = rng.normal(size=len(ancestry))
        self.looks = rng.normal(size=(len(ancestry), LOOKS)) / math.sqrt(LOOKS)
        counts = ancestry.max(axis=0) + 1
        words = np.linalg.qr(rng.normal(size=(TREE_DIM, counts.sum())))[0].T
        starts = np.cumsum(counts) - counts
        by_rank = [words[starts[i] + ancestry[:, i]] for i in range(ranks)]
        self.captions = {
            "hierarchical": np.sum(by_rank, axis=0) / math.sqrt(ranks),
            "flat": by_rank[-1],
        }

    def world(self, prototypes: np.ndarray) -> World:
        shown = np.hstack([self.morphology, self.ecology[:, None]]) / math.sqrt(MORPHOLOGY)
        shown = np.hstack([shown, self.looks])
        variant = np.ones((len(shown), 1))
        return _with_poses(
            species=np.hstack([shown, 0 * variant]),
            differences=np.hstack([np.zeros_like(shown), variant]),
            prototypes=prototypes,
        )

    def order(self, vectors: np.ndarray, part: np.ndarray) -> dict[str, float]:
        """Spearman correlations of distances between the species of a part with their traits."""
        from scipy.stats import spearmanr

        vectors = unit(vectors)
        first, second = np.triu_indices(len(vectors), 1)
        # Cosines of flat captions are all 0, up to rounding.
        far = np.round(1 - (vectors @ vectors.T)[first, second], 6)
        ancestry = self.ancestry[part]
        apart = (ancestry[first] != ancestry[second]).sum(axis=1)
        trait = np.abs(self.morphology[part, 0][first] - self.morphology[part, 0][second])
        niche = np.abs(self.ecology[part][first] - self.ecology[part][second])
        genus = apart == 1
        pairs = {"tree": (far, apart), "phylogenetic": (far, trait), "ecological": (far, niche)}
        pairs["ecological_in_genus"] = (far[genus], niche[genus])
        # Distances that are all the same order nothing.
        return {
            name: float(np.asarray(spearmanr(x, y))[0]) if np.ptp(x) > 0 else 0.0
            for name, (x, y) in pairs.items()
        }


def _marks(steps: int) -> tuple[int, ...]:
    """0, then steps four times as far apart, up to the last one."""
    return (0, *sorted({steps // 4**i for i in range(5)} - {0}))


def _with_poses(species: np.ndarray, differences: np.ndarray, prototypes: np.ndarray) -> World:
    """Adds the factors that are noise alone."""
    poses = np.zeros((len(species), POSES))
    noise = np.zeros(species.shape[1] + POSES)
    noise[-POSES:] = POSE_NOISE / math.sqrt(POSES)
    arrays = np.hstack([species, poses]), np.hstack([differences, poses]), noise, prototypes
    return World(*(jnp.asarray(array, jnp.float32) for array in arrays))


def _stack(worlds: list[World]) -> World:
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *worlds)


def _part(world: World, part: np.ndarray) -> World:
    species, differences = world.species[part], world.differences[part]
    prototypes = world.prototypes[part]
    return world._replace(species=species, differences=differences, prototypes=prototypes)


def _mean(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over the replicates, and their standard errors as `..._se`."""
    means = {}
    for name in rows[0]:
        values = np.asarray([row[name] for row in rows])
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        means |= {name: float(values.mean()), f"{name}_se": float(spread / math.sqrt(len(values)))}
    return means
