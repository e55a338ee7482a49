"""A tree of life as factors: what every species is, and a fixed nonlinear map that shows it.

A picture is a vector of numbers. Behind it are factors: inherited traits, which evolve along the
tree by Brownian motion; convergent ones, such as a diet, that every species has by itself whatever
its relatives do; looks without meaning, in which every species differs from every other; sex and
life stage; and pose. They go through one hidden layer of a random network, so that no factor can
be read off a picture by a projection alone. All of it is a function of the seed.

Sex is a difference of the shared kind: the same factor makes it in all species, a little more in
some, and a part of it lies along the inherited traits, as size does. Life stage is of the own kind:
each species has a direction of its own, half of it in the looks that tell other species apart.
"""

import math
from collections.abc import Sequence

import numpy as np

from bioclip2_jax.analysis.scaling import Truth
from bioclip2_jax.measures.scores import unit

PIXELS = 192  # numbers of a picture
GENERAL_WORDS = 16  # numbers of a caption of the start
# Numbers of factors, in their order.
INHERITED, CONVERGENT, LOOKS, VARIANTS, POSES = 12, 2, 24, 12, 24
# Standard deviations of an inherited trait's change towards orders, families, genera and species.
_STEPS = (0.6, 0.6, 0.5, 0.5)
_LOOK, _POSE, _INDIVIDUAL = 0.5, 0.7, 0.25  # and of looks, poses and what individuals add
_DIFFERENCE = 3.5  # length of the difference between the sexes, and between the stages
_HIDDEN, _NOISE = 384, 0.1  # of the renderer

_ENDS = np.cumsum((INHERITED, CONVERGENT, LOOKS, VARIANTS, POSES))
FACTORS = int(_ENDS[-1])
_LOOK_PART, _VARIANT_PART = slice(_ENDS[1], _ENDS[2]), slice(_ENDS[2], _ENDS[3])
_POSE_PART = slice(_ENDS[3], _ENDS[4])
EXAM_PER_CELL = 10  # pictures of a species, sex and stage to measure with
EXAM_UNSEEN = 12  # pictures of a species that is never trained on


class FactorWorld:
    """A tree, its species and the way to their pictures.

    Attributes:
      ancestry: [s, 4] int, order, family, genus and species, each numbered over the whole tree.
      unseen: [u] int, species that are not to be trained on.
      pool: [s - u] int, the others, in the order in which larger scales take them in.
    """

    def __init__(self, seed: int, branches: Sequence[int], unseen: int, tree: int = 0):
        """Grows it; `branches` are those of orders, families, genera and species.

        Other numbers of `tree` are other species, shown in the same way.
        """
        rng = np.random.default_rng((seed, 20, tree))
        count = math.prod(branches)
        below = [math.prod(branches[level + 1 :]) for level in range(len(branches))]
        self.ancestry = np.stack([np.arange(count) // size for size in below], axis=1)
        changes = [
            step * rng.normal(size=(int(taxa.max()) + 1, INHERITED))[taxa]
            for step, taxa in zip(_STEPS, self.ancestry.T, strict=True)
        ]
        self.inherited = np.sum(changes, axis=0)
        self.convergent = rng.normal(size=(count, CONVERGENT))
        looks = _LOOK * rng.normal(size=(count, LOOKS))
        rest = np.zeros((count, VARIANTS + POSES))
        self._species = np.hstack([self.inherited, self.convergent, looks, rest])

        self._sex = np.zeros((count, FACTORS))
        along = unit(rng.normal(size=INHERITED)) / 2
        self._sex[:, :INHERITED] = along
        self._sex[:, _VARIANT_PART.start] = math.sqrt(1 - 0.25)
        self._sex *= _DIFFERENCE * (1 + 0.2 * rng.normal(size=(count, 1)))
        self._stage = np.zeros((count, FACTORS))
        own = np.hstack([unit(rng.normal(size=(count, n))) for n in (LOOKS, VARIANTS - 1)])
        self._stage[:, _LOOK_PART.start : _VARIANT_PART.start] = own[:, :LOOKS]
        self._stage[:, _VARIANT_PART.start + 1 : _VARIANT_PART.stop] = own[:, LOOKS:]
        self._stage *= _DIFFERENCE / math.sqrt(2)

        order = rng.permutation(count)
        self.unseen, self.pool = np.sort(order[:unseen]), order[unseen:]
        rng = np.random.default_rng((seed, 24))
        spread = 1.6 / math.sqrt(FACTORS), 1.5 / math.sqrt(_HIDDEN)
        self._inwards = spread[0] * rng.normal(size=(FACTORS, _HIDDEN))
        self._outwards = spread[1] * rng.normal(size=(_HIDDEN, PIXELS))
        said = rng.normal(size=(LOOKS + POSES, GENERAL_WORDS))
        self._said = said / math.sqrt(LOOKS + POSES)

    def individuals(
        self, species: np.ndarray, male: np.ndarray, juvenile: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Factors of individuals.

        Args:
          species: [n] int.
          male, juvenile: [n] int, 0 or 1.
          rng: of poses, and of what individuals of one kind differ in.

        Returns:
          [n, FACTORS] float64.
        """
        factors = self._species[species] + (male - 0.5)[:, None] * self._sex[species]
        factors += (juvenile - 0.5)[:, None] * self._stage[species]
        own = _INDIVIDUAL * rng.normal(size=factors.shape)
        own[:, _POSE_PART] *= _POSE / _INDIVIDUAL
        return factors + own

    def render(self, factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The pictures of individuals, [n, PIXELS] float32; `rng` is of the camera's noise."""
        hidden = np.tanh((factors @ self._inwards).astype(np.float32))
        pictures = hidden @ self._outwards.astype(np.float32)
        pictures += _NOISE * rng.standard_normal(pictures.shape, np.float32)
        return pictures

    def describe(self, factors: np.ndarray) -> np.ndarray:
        """What captions of the start say, [n, GENERAL_WORDS] float32.

        They tell of looks and pose alone, never of a trait, a sex or a stage that is asked about.
        """
        kept = np.hstack([factors[:, _LOOK_PART], factors[:, _POSE_PART]])
        return (kept @ self._said).astype(np.float32)

    def draw(
        self, species: np.ndarray, count: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Individuals to train on: each species has one or more.

        Args:
          species: [k] int.
          count: of the individuals, at least k.
          rng: of everything.

        Returns:
          Species [count] int and factors [count, FACTORS].
        """
        more = rng.integers(len(species), size=count - len(species))
        of_picture = species[np.r_[np.arange(len(species)), more]]
        male, juvenile = rng.integers(2, size=(2, count))
        return of_picture, self.individuals(of_picture, male, juvenile, rng)

    def examination(
        self, seen: int, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, Truth], tuple[np.ndarray, Truth]]:
        """Individuals to measure with, and what is true of them.

        Args:
          seen: the first so many species of the pool are those that all models are trained on.
          rng: of the individuals.

        Returns:
          (factors, truth) of species that are seen, as many of each sex and stage, and of those
          that are not.
        """
        kinds = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (EXAM_PER_CELL, 1))
        halves = []
        for species, cells in ((self.pool[:seen], kinds), (self.unseen, kinds[:EXAM_UNSEEN])):
            of_picture = np.repeat(np.arange(len(species)), len(cells))
            male, juvenile = np.tile(cells.T, len(species))
            truth = Truth(
                of_picture=of_picture,
                inherited=self.inherited[species],
                convergent=self.convergent[species],
                families=self.ancestry[species, 1],
                variants={"sex": male, "life_stage": juvenile},
            )
            factors = self.individuals(species[of_picture], male, juvenile, rng)
            halves.append((factors, truth))
        return halves[0], halves[1]
