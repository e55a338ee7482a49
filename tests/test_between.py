"""Traits between species: planted ones are found, shuffled ones are not."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, silhouette_score

from bioclip2_jax.analysis import between, ridge
from bioclip2_jax.errors import UserError
from bioclip2_jax.prepare.simulated.tree import TRAITS, grow_tree


def normal(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def planted(seed=0, species=60, dim=24, clades=12, strength=0.5):
    """(prototypes, trait, clades, axis): a trait along one axis in noise."""
    rng = np.random.default_rng(seed)
    values, axis = rng.normal(size=species), rng.normal(size=dim)
    axis /= np.linalg.norm(axis)
    features = 0.3 * rng.normal(size=(species, dim)) + strength * values[:, None] * axis
    return normal(features), values, rng.integers(clades, size=species), axis


@pytest.fixture(scope="module")
def tree():
    """(traits [s, t], families [s], habitats) of a simulated tree."""
    species = grow_tree(5, 60)
    lineages = [s.taxon.lineage("family") for s in species]
    families = np.unique(["|".join(lineage) for lineage in lineages], return_inverse=True)[1]
    return np.asarray([s.traits for s in species]), families, [s.habitat for s in species]


def tree_features(traits, columns, seed=0, dim=24):
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return normal(
        0.3 * rng.normal(size=(len(traits), dim)) + traits[:, columns] @ axes[: len(columns)]
    )


def test_prototypes_are_normalised_means_of_the_pictures():
    rng = np.random.default_rng(0)
    features, species = normal(rng.normal(size=(20, 5))), np.arange(20) % 3
    found = between.prototypes(features, species)
    expected = normal(np.stack([features[species == k].mean(axis=0) for k in range(3)]))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_planted_gradient_is_found_and_so_is_its_axis():
    features, values, clades, axis = planted()
    found = between.continuous_trait(features, values, clades, permutations=199)
    assert found.ridge_p < 0.01 and found.mantel_p < 0.01 and found.within_clade_p < 0.01
    assert found.ridge_r > 0.7 and found.ridge_r2 > 0.5
    assert found.axis @ axis > 0.8 and np.linalg.norm(found.axis) == pytest.approx(1)
    assert np.corrcoef(found.projections, values)[0, 1] > 0.8


def test_a_shuffled_gradient_is_not_found():
    features, values, clades, _ = planted(1, species=40, dim=12, clades=6)
    rng = np.random.default_rng(0)
    found = [
        between.continuous_trait(features, rng.permutation(values), clades, permutations=99, seed=n)
        for n in range(100)
    ]
    for name in ("ridge_p", "mantel_p", "within_clade_p"):
        assert sum(getattr(one, name) > 0.05 for one in found) >= 93, name


def test_traits_of_a_simulated_tree_are_found_for_unseen_families(tree):
    traits, families, _ = tree
    columns = [TRAITS.index("hue"), TRAITS.index("head")]
    features = tree_features(traits, columns)
    for column in columns:
        found = between.continuous_trait(features, traits[:, column], families, permutations=199)
        assert found.ridge_p < 0.01 and found.mantel_p < 0.01, TRAITS[column]
        assert found.ridge_r > 0.6


def test_shuffled_traits_of_a_simulated_tree_are_not_found(tree):
    traits, families, _ = tree
    features = tree_features(traits, [0, 5])
    # Of exact p-values, 5 of 100 fall to 0.05 by chance, and 8 or more do for one seed in eight.
    rng = np.random.default_rng(2)
    hits = 0
    for number in range(100):
        values = rng.permutation(traits[:, 5])
        found = between.continuous_trait(features, values, families, permutations=49, seed=number)
        hits += found.ridge_p <= 0.05
    assert hits <= 7


def test_inside_clades_ancestry_alone_is_not_found():
    """A trait and a feature that both follow the family, and nothing else, agree by descent."""
    rng = np.random.default_rng(3)
    free = within = 0
    for number in range(30):
        clades = np.arange(48) // 8
        shared = rng.normal(size=(6, 1))  # one deep accident in both
        features = normal(np.hstack([shared[clades], 0.5 * rng.normal(size=(48, 7))]))
        values = (shared[clades] + 0.3 * rng.normal(size=(48, 1)))[:, 0]
        found = between.continuous_trait(features, values, clades, permutations=49, seed=number)
        free += found.mantel_p <= 0.05
        within += found.within_clade_p <= 0.05
    assert free > 25 and within <= 5


def test_a_clade_of_one_species_is_no_obstacle():
    features, values, _, _ = planted(4, species=18)
    clades = np.repeat([0, 1, 2], [12, 5, 1])
    found = between.continuous_trait(features, values, clades, permutations=9)
    assert np.isfinite(found.predictions).all()
    found = between.discrete_trait(features, values > 0, clades, permutations=9)
    assert 0 <= found.accuracy <= 1


def test_groups_do_not_leak():
    """Features and traits of chance, but alike in a group: nothing is to be learned inside it.

    Held out, chance is below zero, as what was learned from opposes what was left out.
    """
    rng = np.random.default_rng(0)
    groups, clades = np.arange(60) // 20, np.arange(60) // 5
    found = []
    for _ in range(40):
        features = rng.normal(size=(3, 12))[groups] + 0.3 * rng.normal(size=(12, 12))[clades]
        features = normal(features + 0.1 * rng.normal(size=(60, 12)))
        values = rng.normal(size=3)[groups] + 0.5 * rng.normal(size=12)[clades]
        options = {"groups": groups, "permutations": 0}
        one = between.continuous_trait(features, values, clades, **options)
        labels = rng.integers(2, size=12)[clades]
        two = between.discrete_trait(features, labels, clades, **options)
        found.append((one.ridge_r, two.accuracy - two.chance))
    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / 40**0.5
    assert (means < 2 * errors).all() and (means > -0.35).all(), (means, errors)
    # Without groups, those of the test and of the training are told apart.
    leaks = between.continuous_trait(features, values, clades, permutations=0)
    assert leaks.ridge_r > 0.3


def test_differences_inside_groups_are_found():
    features, values, clades, _ = planted(2, species=60, clades=12, strength=0.8)
    groups = np.random.default_rng(0).integers(3, size=60)
    shifted = values + 5 * groups
    found = between.continuous_trait(features, shifted, clades, groups=groups, permutations=0)
    assert found.ridge_r > 0.7


def test_labels_that_chance_cannot_spread_are_refused():
    rng = np.random.default_rng(0)
    clades = np.r_[np.zeros(182, int), np.arange(1, 10).repeat(2)]
    labels = np.zeros(200, int)
    for number in range(1, 9):
        labels[[180 + 2 * number, 183 + 2 * number]] = number  # two clades for each
    with pytest.raises(UserError, match="so rare that chance hardly ever"):
        between.discrete_trait(rng.normal(size=(200, 8)), labels, clades, permutations=49)


def test_a_labelling_with_one_class_has_no_separation():
    labels = np.asarray([[0, 0], [0, 0], [0, 1], [0, 1]])
    found = between.silhouettes(np.eye(4) + 0.1, labels, 2)
    assert found[0] == 0 and np.isfinite(found).all()


def test_held_out_predictions_are_those_of_ridge_regression_with_nested_folds():
    features, values, clades, _ = planted(2, species=30, dim=8, clades=5)
    found = between.continuous_trait(features, values, clades, permutations=9)
    predictions, baseline = np.zeros(30), np.zeros(30)
    folds = ridge.assign_folds(clades)
    for fold in set(folds):
        test, rest = folds == fold, folds != fold
        errors = []
        for strength in ridge.STRENGTHS:
            error = 0
            for inner in set(folds[rest]):
                train, held = rest & (folds != inner), folds == inner
                error += (
                    (_ridge(features, values, train, held, strength) - values[held]) ** 2
                ).sum()
            errors.append(error)
        strength = ridge.STRENGTHS[int(np.argmin(errors))]
        predictions[test] = _ridge(features, values, rest, test, strength)
        baseline[test] = values[rest].mean()
    np.testing.assert_allclose(found.predictions, predictions, atol=1e-8)
    r = np.corrcoef(predictions - baseline, values - baseline)[0, 1]
    r2 = 1 - ((predictions - values) ** 2).sum() / ((baseline - values) ** 2).sum()
    assert (found.ridge_r, found.ridge_r2) == (pytest.approx(r), pytest.approx(r2))
    first, second = np.triu_indices(30, 1)
    far = 1 - (features @ features.T)[first, second]
    expected = spearmanr(far, np.abs(values[first] - values[second])).statistic
    assert found.spearman == pytest.approx(expected)


def _ridge(features, values, train, test, strength):
    eigenvalues = np.linalg.svd(features[train] - features[train].mean(axis=0))[1] ** 2
    model = Ridge(alpha=strength * eigenvalues.mean()).fit(features[train], values[train])
    return model.predict(features[test])


def test_a_clade_is_never_divided_between_folds():
    clades = np.random.default_rng(0).integers(40, size=200)
    folds = ridge.assign_folds(clades)
    assert set(folds) == set(range(ridge.FOLDS))
    assert all(len(set(folds[clades == clade])) == 1 for clade in set(clades))
    assert np.bincount(folds).max() - np.bincount(folds).min() <= np.bincount(clades).max()


def test_planted_classes_are_separated_and_named_though_one_is_rare():
    rng = np.random.default_rng(0)
    labels = np.repeat(["forest", "reef", "desert"], [36, 16, 8])
    centres = {name: rng.normal(size=16) for name in sorted(set(labels))}
    features = normal(np.stack([centres[x] for x in labels]) + 0.7 * rng.normal(size=(60, 16)))
    clades = rng.integers(9, size=60)
    found = between.discrete_trait(features, labels, clades, permutations=199)
    assert found.separation_p < 0.01 and found.accuracy_p < 0.01
    assert found.accuracy > 0.8 and found.chance == pytest.approx(1 / 3)
    expected = silhouette_score(features, labels, metric="cosine")
    assert found.separation == pytest.approx(expected)


def test_the_probe_is_ridge_regression_with_the_nearest_mean_score():
    rng = np.random.default_rng(4)
    features, labels = normal(rng.normal(size=(40, 6))), rng.integers(3, size=40)
    features += 0.4 * np.eye(6)[labels]
    clades = rng.integers(5, size=40)
    found = between.discrete_trait(features, labels, clades, permutations=5)
    folds, answers, hot = ridge.assign_folds(clades), np.zeros(40, int), np.eye(3)[labels]
    for fold in set(folds):
        test, rest = folds == fold, folds != fold
        best = None
        for strength in ridge.STRENGTHS:
            scores = np.zeros((40, 3))
            for inner in set(folds[rest]):
                train, held = rest & (folds != inner), folds == inner
                scores[held] = _ridge(features, hot, train, held, strength)
            error = ((scores - hot)[rest] ** 2).sum()
            if best is None or error < best[0]:
                means = [scores[rest & (labels == k)].mean(axis=0) for k in range(3)]
                best = (error, strength, np.stack(means))
        scores = _ridge(features, hot, rest, test, best[1])
        answers[test] = ((scores[:, None] - best[2]) ** 2).sum(axis=2).argmin(axis=1)
    assert found.accuracy == pytest.approx(balanced_accuracy_score(labels, answers))


def test_shuffled_classes_are_not_found(tree):
    traits, families, habitats = tree
    features = tree_features(traits, [0, 5])
    rng = np.random.default_rng(2)
    found = [
        between.discrete_trait(features, rng.permutation(habitats), families, permutations=29)
        for _ in range(20)
    ]
    for name in ("separation_p", "accuracy_p"):
        assert sum(getattr(one, name) <= 0.05 for one in found) <= 4, name


def test_results_are_a_function_of_the_seed():
    features, values, clades, _ = planted(strength=0.1)
    one, same, other = (
        between.continuous_trait(features, values, clades, permutations=49, seed=seed)
        for seed in (0, 0, 1)
    )
    assert (one.ridge_p, one.mantel_p) == (same.ridge_p, same.mantel_p)
    assert one.ridge_r == other.ridge_r and one.ridge_p != other.ridge_p


def test_what_cannot_be_measured_is_said():
    features, values, clades, _ = planted(species=12)
    with pytest.raises(UserError, match="at least three are needed"):
        between.continuous_trait(features, values, clades % 2)
    with pytest.raises(UserError, match="5 species are too few"):
        between.discrete_trait(features[:5], [0, 1, 0, 1, 0], np.arange(5))
    with pytest.raises(UserError, match="same value, 2,"):
        between.continuous_trait(features, np.full(12, 2.0), clades)
    with pytest.raises(UserError, match="fewer than two labels occur in several clades"):
        between.discrete_trait(features, np.arange(12) // 3, np.arange(12) // 3)
    with pytest.raises(UserError, match="same label, reef"):
        between.discrete_trait(features, ["reef"] * 12, clades)
