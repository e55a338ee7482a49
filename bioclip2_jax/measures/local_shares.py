"""How likely each name of a list is at a place, by what was recorded there and around it.

A smoothed share, so that what nobody has recorded is damped and never struck out. It is smoothed
twice. Over the tree: the share of a name is the product of shares down its lineage, each of a child
among the children of one parent, so that a genus that was recorded lifts its species that were not.
Over places: each of these shares is, in a window, the posterior mean of a Dirichlet prior around
that of a wider window, and of the widest around one name like another,

    (n + a · wider) / (N + a),

with n records of the child and N of all children of its parent (MacKay & Peto 1995, A
hierarchical Dirichlet language model, Natural Language Engineering 1(3)); and, since those who
record do not look for everything alike, a tenth of the wider share is kept whatever the number of
records (interpolation after Jelinek & Mercer 1980),

    w · local + (1 - w) · wider.

Those who watch birds do not record beetles: this is done for each share down to the class, so that
a million birds tell nothing of which beetle is there; below, where records of one species do tell
that others were not seen, for the whole share of a name within its class. `w` is `LOCAL`, `a` is
`RECORDS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOCAL = 0.9  # the most that a window's own records count for, however many they are
RECORDS = 1.0  # records that the wider share counts for


@dataclass(frozen=True, eq=False)
class Tree:
    """The nodes of all levels, numbered through from coarse to fine.

    Attributes:
      starts: [levels + 1] int, the first node of each level, and how many there are.
      parents: for each level [its nodes] int, the node above in that level's own numbers; of the
        first level 0.
      groups: [names] int, the node of each name in the last level.
      apart: how many levels are of groups that are recorded apart from each other, at least 1.
    """

    starts: np.ndarray
    parents: tuple[np.ndarray, ...]
    groups: np.ndarray
    apart: int

    @classmethod
    def of(cls, levels: Sequence[np.ndarray], *, apart: int) -> "Tree":
        """Of node numbers for each name, [names] int a level, each finer than the one before."""
        sizes = [int(level.max()) + 1 for level in levels]
        parents = []
        for above, level, size in zip([levels[0] * 0, *levels], levels, sizes, strict=False):
            parent = np.zeros(size, np.int64)
            parent[level] = above
            parents.append(parent)
        return cls(np.cumsum([0, *sizes]), tuple(parents), levels[-1], apart)

    def level(self, values: np.ndarray, number: int) -> np.ndarray:
        """What [nodes] values say of one level."""
        return values[self.starts[number] : self.starts[number + 1]]


def shares(tree: Tree, windows: Sequence[np.ndarray]) -> np.ndarray:
    """The share of each name; see this module.

    Args:
      tree: of the names.
      windows: [nodes] numbers each, not negative, the narrowest window first: records of a node
        itself, without those of nodes below it.

    Returns:
      [names] float64, above 0, sums to 1. More records of a name never lower its share.
    """
    names = np.bincount(tree.groups).astype(np.float64)
    share = names / names.sum()
    for window in reversed(windows):
        share = _narrowed(tree, share, window)
    return (share / names)[tree.groups]


def _narrowed(tree: Tree, wider: np.ndarray, window: np.ndarray) -> np.ndarray:
    """[nodes of the last level] shares in a window, by those in a wider one."""
    masses = _sums(tree, [np.zeros(len(parent)) for parent in tree.parents[:-1]] + [wider])
    counts = _sums(tree, [tree.level(window, place) for place in range(len(tree.parents))])
    group, within = np.ones(1), np.ones(1)  # share of the group, and in it, on the way down
    kept = np.ones(1)  # the wider share of the group
    for place, (mass, own, parent) in enumerate(zip(masses, counts, tree.parents, strict=True)):
        usual = mass / np.bincount(parent, mass)[parent]
        local = (own + RECORDS * usual) / (np.bincount(parent, own)[parent] + RECORDS)
        if place < tree.apart:
            group = group[parent] * (LOCAL * local + (1 - LOCAL) * usual)
            within, kept = np.ones(len(mass)), mass
        else:
            group, within, kept = group[parent], within[parent] * local, kept[parent]
    is_below = tree.apart < len(tree.parents)
    return group * (LOCAL * within + (1 - LOCAL) * wider / kept) if is_below else group


def _sums(tree: Tree, own: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What each node and all below it come to, by level."""
    sums = [np.asarray(level, np.float64) for level in own]
    for place in range(len(sums) - 1, 0, -1):
        below = np.bincount(tree.parents[place], sums[place], len(sums[place - 1]))
        sums[place - 1] = sums[place - 1] + below
    return sums
