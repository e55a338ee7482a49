"""Traits that are inherited and no more: a null for whatever follows the tree of life.

Species are no independent cases: relatives are alike in their traits and in their looks, and a
trait dealt to them at random is a null that hardly any real trait would keep to. Here a trait
evolves by Brownian motion along the lineages (Felsenstein 1985): every clade of every rank adds a
normal deviation of its own. How long the branches are, a taxonomy does not say. It need not: where
clades have equally many members, the sums of squares between the clades of one rank inside those
of the rank above, a number a rank, hold all that the trait tells of the branches, and given these
its law is the same for any. So a simulated trait is taken apart by rank and each part is brought
to the sum of squares that it has in the trait itself. Where clades are of unequal size this holds
nearly; `benchmarks/estimators.py` says how nearly.

The branches to the clades of one rank may differ in length, and a trait that moved far along the
same few as the features did agrees with them for that alone. The features have many dimensions, so
they tell how long each branch is beside the others of its rank, and traits evolve along such.

Labels have no parts to scale. Classes are cut from traits whose branches are drawn at random, and
those are kept whose sums of squares are nearest to the labels' own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 20  # labellings drawn for each that is kept
_BLOCK = 4_000_000  # numbers held at a time


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The lineages of s species.

    Attributes:
      levels: [s] int each, the clade of every species, coarse ranks first; the last rank has each
        species by itself. Ranks that divide no further than the one before are left out.
    """

    levels: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, groups: Mapping[str, np.ndarray], rows: np.ndarray) -> "Tree":
        """Of some of the species: rank → [species] int, as `accuracy.lineage_groups` gives them."""
        levels, count = [], 1
        for numbers in (*(of[rows] for of in groups.values()), np.arange(len(rows))):
            names, level = np.unique(numbers, return_inverse=True)
            if len(names) > count:
                levels.append(level)
                count = len(names)
        return cls(levels=tuple(levels))

    def select(self, rows: np.ndarray) -> "Tree":
        """The same for some of the species."""
        return Tree.of(dict(enumerate(self.levels)), rows)  # pyright: ignore[reportArgumentType]

    def evolve(
        self,
        weights: np.ndarray,
        rng: np.random.Generator,
        lengths: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """[s, p] traits; weights [levels, p], the variance that every rank adds.

        It is as large again as each of `lengths`, [clades] of every level; None: 1 everywhere.
        """
        traits = np.zeros((len(self.levels[-1]), weights.shape[1]))
        for number, (level, weight) in enumerate(zip(self.levels, weights, strict=True)):
            steps = rng.standard_normal((level.max() + 1, len(weight))) * weight**0.5
            traits += (steps if lengths is None else steps * lengths[number][:, None] ** 0.5)[level]
        return traits

    def lengths(self, features: np.ndarray) -> list[np.ndarray]:
        """[clades] of every level: how far features [s, d] moved along the branch to each clade.

        Squared, and 1 on average over a level.
        """
        found = []
        for level, part in zip(self.levels, self.parts(features), strict=True):
            squares = (part[np.unique(level, return_index=True)[1]] ** 2).sum(axis=1)
            found.append(squares / max(squares.mean(), 1e-300))
        return found

    def parts(self, traits: np.ndarray) -> np.ndarray:
        """[levels, s, p]: means of the clades less those of the rank above; they add up to [s, p].

        The traits count from their own means.
        """
        above, parts = traits.mean(axis=0), []
        for level in self.levels:
            order = np.argsort(level, kind="stable")
            starts = np.searchsorted(level[order], np.arange(level.max() + 1))
            sizes = np.diff(np.append(starts, len(level)))[:, None]
            means = (np.add.reduceat(traits[order], starts, axis=0) / sizes)[level]
            parts.append(means - above)
            above = means
        return np.stack(parts)

    def shares(self, traits: np.ndarray) -> np.ndarray:
        """[p, levels]: the share of every rank in the variance of the traits [s, p]."""
        squares = (self.parts(traits) ** 2).sum(axis=1)
        return (squares / np.maximum(squares.sum(axis=0), 1e-300)).T


def evolve_values(
    tree: Tree, features: np.ndarray, values: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Traits of s species that evolved as a given one may have, which differ by chance alone.

    Args:
      tree: of the species.
      features: [s, d] float, which tell the branches of a rank apart by length.
      values: [s] float, finite: the given one.
      count: of traits.
      rng: source of all draws.

    Returns:
      [s, count] float64, of the mean of the given one.
    """
    wanted = (tree.parts(values[:, None]) ** 2).sum(axis=1)  # [levels, 1]
    block, traits = _block(tree), [np.zeros((len(values), 0))]
    lengths = tree.lengths(features)
    for start in range(0, count, block):
        size = min(block, count - start)
        parts = tree.parts(tree.evolve(np.ones((len(tree.levels), size)), rng, lengths))
        found = np.maximum((parts**2).sum(axis=1), 1e-300)
        traits.append((parts * np.sqrt(wanted / found)[:, None]).sum(axis=0))
    return np.concatenate(traits, axis=1) + values.mean()


def deal_labels(
    tree: Tree,
    labels: np.ndarray,
    count: int,
    rng: np.random.Generator,
    allowed: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Labels with as many species a class, and as much alike among relatives, as the true ones.

    Args:
      tree: of s species.
      labels: [s] int, classes 0 ... c-1.
      count: of labellings.
      rng: source of all draws.
      allowed: [p, s] labellings → [p] bool, those that may be taken; None: all.

    Returns:
      [at most count, s] int; fewer where hardly any is allowed.
    """
    sizes = np.bincount(labels)

    block = min(200, _block(tree))

    def shares(labellings: np.ndarray) -> np.ndarray:
        """[p, levels], of the indicators of a class, the mean over the classes."""
        classes = range(1 if len(sizes) == 2 else len(sizes))  # those of two are alike
        each = [tree.shares((labellings.T == n).astype(np.float64)) for n in classes]
        return np.mean(each, axis=0)

    wanted, spread = shares(labels[None]), None
    kept, far = np.zeros((0, len(labels)), np.int64), np.zeros(0)
    for start in range(0, _DRAWS * count, block):
        drawn = _cut(tree, sizes, min(block, _DRAWS * count - start), rng)
        drawn = drawn if allowed is None else drawn[allowed(drawn)]
        if not len(drawn):
            continue
        gaps = shares(drawn) - wanted
        spread = np.maximum(gaps.std(axis=0), 1e-9) if spread is None else spread
        kept = np.concatenate([kept, drawn])
        far = np.append(far, ((gaps / spread) ** 2).sum(axis=1))
        best = np.argsort(far, kind="stable")[:count]
        kept, far = kept[best], far[best]
    return kept


def _block(tree: Tree) -> int:
    return max(1, _BLOCK // (len(tree.levels[-1]) * len(tree.levels)))


def _cut(tree: Tree, sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, s] classes of these sizes, each the species highest in a trait of its own.

    One class after another takes of the species that are left; which is first, chance decides.
    """
    weights = rng.dirichlet(np.ones(len(tree.levels)), count).T
    labels = np.full((len(tree.levels[-1]), count), -1)
    *classes, last = rng.permutation(len(sizes)).tolist()
    for number in classes:
        heights = np.where(labels < 0, tree.evolve(weights, rng), -np.inf)
        top = np.argsort(-heights, axis=0)[: sizes[number]]
        np.put_along_axis(labels, top, number, axis=0)
    return np.where(labels < 0, last, labels).T
