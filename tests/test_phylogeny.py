"""Traits that follow the tree and know nothing of the features: no longer found."""

import numpy as np
import pytest

from bioclip2_jax.analysis import between
from bioclip2_jax.analysis.phylogeny import Tree, deal_labels, evolve_values
from bioclip2_jax.measures.scores import unit

# Four orders of unequal size, three families in each but the last, two genera a family.
SIZES = (24, 12, 8, 4)
ORDER = np.repeat(np.arange(4), SIZES)
FAMILY = np.concatenate([np.arange(n) * 3 // n + 3 * i for i, n in enumerate(SIZES)])
GENUS = np.concatenate([np.arange(n) * 6 // n + 6 * i for i, n in enumerate(SIZES)])
LINEAGES = {"class": np.zeros(48, int), "order": ORDER, "family": FAMILY, "genus": GENUS}


def evolved(rng, columns, steps=(1, 1, 1, 1)):
    """[48, columns] Brownian traits; what each rank adds has this variance."""
    traits = np.zeros((48, columns))
    for own, step in zip((ORDER, FAMILY, GENUS, np.arange(48)), steps, strict=True):
        traits += step**0.5 * rng.normal(size=(own.max() + 1, columns))[own]
    return traits


def test_traits_evolve_so_that_ranks_differ_as_in_the_trait_itself():
    rng = np.random.default_rng(0)
    tree = Tree.of(LINEAGES, np.arange(48))
    assert [len(np.unique(level)) for level in tree.levels] == [4, 12, 22, 48]
    values = 5 + evolved(rng, 1, (4, 1, 0.2, 0.1))[:, 0]
    found = evolve_values(tree, evolved(rng, 12), values, 99, rng)
    own = tree.parts(values[:, None])
    assert own.sum(axis=0)[:, 0] == pytest.approx(values - values.mean())
    # Parts of two ranks are orthogonal, so that their squares add up.
    assert (own**2).sum() == pytest.approx(((values - values.mean()) ** 2).sum())
    for traits in (found, found[:, ::-1]):
        np.testing.assert_allclose(
            (tree.parts(traits) ** 2).sum(axis=1)[:, 0], (own**2).sum((1, 2))
        )
    assert found.mean(axis=0) == pytest.approx(values.mean())
    apart = np.corrcoef(found.T)[np.triu_indices(99, 1)]
    assert np.abs(apart).max() < 0.99 and abs(apart.mean()) < 0.1


def test_branches_are_as_long_as_the_features_moved_along_them():
    rng = np.random.default_rng(3)
    tree = Tree.of(LINEAGES, np.arange(48))
    lengths = [rng.exponential(size=level.max() + 1) for level in tree.levels]
    features = tree.evolve(np.ones((4, 500)), rng, lengths)
    moved = (features[:, None] - features[None]).var(axis=2)
    true = sum(
        np.where(own[:, None] == own, 0, length[own][:, None] + length[own])
        for own, length in zip(tree.levels, lengths, strict=True)
    )
    assert np.corrcoef(moved.ravel(), np.ravel(true))[0, 1] > 0.95
    # Of siblings of equal size no more than a mean is told; orders and genera are many.
    for own, found in zip(lengths[1:], tree.lengths(features)[1:], strict=True):
        assert found.mean() == pytest.approx(1)
        assert np.corrcoef(own, found)[0, 1] > 0.4
    values = features[:, 0]
    traits = evolve_values(tree, features, values, 500, rng)
    plain = evolve_values(tree, evolved(rng, 500), values, 500, rng)
    nearer = [
        np.corrcoef(moved.ravel(), ((t[:, :, None] - t[:, None]) ** 2).mean(0).ravel())[0, 1]
        for t in (traits.T, plain.T)
    ]
    assert nearer[0] > nearer[1] + 0.1


def test_labels_keep_their_numbers_and_gather_in_clades_as_the_true_ones():
    rng = np.random.default_rng(1)
    tree = Tree.of(LINEAGES, np.arange(48))
    labels = FAMILY % 3  # one a family, all in every order but the last
    labels[:4] = 2
    dealt = deal_labels(tree, labels, 50, rng)
    counts = np.stack([np.bincount(one, minlength=3) for one in dealt])
    assert (counts == np.bincount(labels)).all()
    alike = [[(one[FAMILY == f] == one[FAMILY == f][0]).mean() for f in range(12)] for one in dealt]
    dealt_at_random = rng.permuted(np.tile(labels, (50, 1)), axis=1)
    less = [
        [(o[FAMILY == f] == o[FAMILY == f][0]).mean() for f in range(12)] for o in dealt_at_random
    ]
    assert np.mean(alike) > 0.75 > 0.65 > np.mean(less)
    never = deal_labels(tree, labels, 5, rng, lambda drawn: np.zeros(len(drawn), bool))
    assert never.shape == (0, 48)


@pytest.mark.parametrize("steps", [(1, 1, 1, 1), (4, 1, 0.5, 0.5)])
def test_traits_that_only_share_their_ancestry_with_the_features_are_not_found(steps):
    rng = np.random.default_rng(4)
    free, tree = [], []
    for number in range(40):
        features, trait = unit(evolved(rng, 12, steps)), evolved(rng, 1, steps)[:, 0]
        options = {"lineages": LINEAGES, "permutations": 39, "seed": number}
        one = between.continuous_trait(features, trait, FAMILY, **options)
        two = between.discrete_trait(features, trait > np.median(trait), FAMILY, **options)
        free.append((one.mantel_p, two.separation_p))
        tree.append(
            (one.mantel_tree_p, one.ridge_tree_p, two.separation_tree_p, two.accuracy_tree_p)
        )
    assert (np.mean(np.asarray(free) <= 0.05, axis=0) > 0.3).all()
    # Two of 40 expected; seven or more once in 300.
    assert (np.sum(np.asarray(tree) <= 0.05, axis=0) <= 6).all()


def test_a_trait_that_the_features_show_is_found_beyond_its_ancestry():
    rng = np.random.default_rng(3)
    found = []
    for number in range(5):
        raw = evolved(rng, 12)
        trait = raw[:, 0] + 0.3 * rng.normal(size=48)
        one = between.continuous_trait(
            unit(raw), trait, FAMILY, lineages=LINEAGES, permutations=39, seed=number
        )
        found.append(one.ridge_tree_p)
    assert np.sum(np.asarray(found) <= 0.05) >= 4


def test_without_lineages_there_is_no_such_p():
    rng = np.random.default_rng(4)
    features = unit(rng.normal(size=(12, 4)))
    one = between.continuous_trait(features, np.arange(12.0), np.arange(12) // 3, permutations=9)
    two = between.discrete_trait(features, np.arange(12) % 2, np.arange(12) // 3, permutations=9)
    assert one.mantel_tree_p is one.ridge_tree_p is None
    assert two.separation_tree_p is two.accuracy_tree_p is None
