"""Variants within species: the planted share of their difference is recovered."""

import numpy as np
import pytest

from bioclip2_jax.analysis.within import check_dimensions, panel, within
from bioclip2_jax.errors import UsageError, UserError


def planted(rho, seed=0, species=30, dim=128, images=(20, 20), noise=0.05, length=0.4, apart=1.0):
    """(features, species, variants); rho of every species' difference lies in the species' span."""
    rng = np.random.default_rng(seed)
    means = apart * rng.normal(size=(species, dim)) / np.sqrt(dim)
    span = np.linalg.svd(means - means.mean(axis=0))[2][: species - 1]
    features, numbers, variants = [], [], []
    for number, mean in enumerate(means):
        inside = rng.normal(size=species - 1) @ span
        outside = rng.normal(size=dim)
        outside -= outside @ span.T @ span
        inside, outside = (v / np.linalg.norm(v) for v in (inside, outside))
        difference = length * (np.sqrt(rho) * inside + np.sqrt(1 - rho) * outside)
        for variant, count in enumerate(images):
            features.append(
                mean + (variant - 0.5) * difference + noise * rng.normal(size=(count, dim))
            )
            numbers += [number] * count
            variants += [variant] * count
    return np.concatenate(features), np.asarray(numbers), np.asarray(variants)


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("images", [(20, 20), (30, 8)])
def test_a_planted_share_is_recovered_within_three_hundredths(rho, images):
    found = within(*planted(rho, images=images), permutations=19)
    assert found.rho == pytest.approx(rho, abs=0.03)
    assert found.dimensions == 29 and found.random_direction == pytest.approx(29 / 128)


def test_an_orthogonal_difference_is_told_from_random_ones():
    found = within(*planted(0.0), permutations=199)
    assert found.p < 0.01 and found.null_mean == pytest.approx(29 / 128, abs=0.03)
    low, high = found.rho_interval
    assert low < found.rho < high and high - low < 0.05
    assert all(one.fisher_p < 0.01 for one in found.species)


def test_random_variants_have_no_difference_and_no_small_share():
    features, species, variants = planted(0.0, species=12, images=(10, 10), length=0)
    found = within(features, species, variants, permutations=99)
    assert found.p > 0.05
    assert np.mean([one.fisher_p <= 0.05 for one in found.species]) <= 0.25


def test_p_of_one_species_is_no_smaller_than_chance():
    """However often its pictures are halved anew, they are no further evidence."""
    found = []
    for seed in range(60):
        features, species, variants = planted(0.0, seed, species=8, dim=16, length=0, noise=0.2)
        variants = np.where(species == 3, variants, -1)
        one = within(features, species, variants, permutations=99, seed=seed)
        found.append(one.species[0].rho_p)
        assert one.p == one.species[0].rho_p
    assert np.mean(np.asarray(found) <= 0.05) <= 0.15  # 3 expected of 60, 9 allowed
    assert np.mean(np.asarray(found) <= 0.5) == pytest.approx(0.5, abs=0.2)


def test_divisions_that_are_the_same_count_as_such():
    """Of 2 + 2 pictures there are six divisions, two of which are the true one."""
    features, species, variants = planted(0.0, species=6, images=(2, 2))
    found = within(features, species, variants, permutations=999)
    assert all(one.fisher_p > 0.28 for one in found.species)
    assert found.cautions[-1] == (
        "6 of 6 species have so few pictures that p of Fisher's ratio cannot fall below 0.05,"
        " however unlike their variants are (at worst 0.33)"
    )


@pytest.mark.parametrize("images", [(4, 4), (5, 4)])
def test_few_pictures_do_not_tilt_the_share(images):
    found = [
        within(*planted(0.5, seed, species=40, images=images, noise=0.05), permutations=1).rho
        for seed in range(6)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


def test_fewer_than_four_pictures_of_a_variant_give_no_share():
    features, species, variants = planted(0.5, species=6, images=(3, 8))
    found = within(features, species, variants, permutations=9)
    assert found.rho is None and found.rho_interval is None
    assert all(one.rho is None and one.inside is None for one in found.species)
    assert all(one.fisher_raw > 0 and one.rho_raw > 0 for one in found.species)


def test_uncorrected_share_and_fisher_ratio_are_those_of_the_formulas():
    features, species, variants = planted(0.3, species=6, dim=20, images=(5, 7), noise=0.2)
    found = within(features, species, variants, dimensions=3, permutations=9)
    means = [
        [features[(species == k) & (variants == v)].mean(axis=0) for v in (0, 1)] for k in range(6)
    ]
    centres = np.asarray(means).mean(axis=1)
    basis = np.linalg.svd(centres - centres.mean(axis=0))[2][:3].T
    for number, one in enumerate(found.species):
        parts = [features[(species == number) & (variants == v)] for v in (0, 1)]
        difference = means[number][1] - means[number][0]
        inside = ((basis.T @ difference) ** 2).sum()
        assert one.rho_raw == pytest.approx(inside / (difference**2).sum())
        traces = sum(np.trace(np.cov(part.T)) for part in parts)
        assert one.fisher_raw == pytest.approx((difference**2).sum() / traces)
        away = np.eye(20) - basis @ basis.T
        removed = sum(np.trace(np.cov((part @ away).T)) for part in parts)
        assert one.fisher_removed_raw == pytest.approx(((away @ difference) ** 2).sum() / removed)
        assert one.counts == (5, 7) and one.species == number


def test_one_species_with_variants_is_measured_in_the_space_of_the_others():
    features, species, variants = planted(0.3, species=20, dim=64, images=(40, 40))
    variants = np.where(species == 7, variants, -1)
    found = within(features, species, variants, permutations=99)
    assert [one.species for one in found.species] == [7] and found.rho_interval is None
    assert found.rho == pytest.approx(0.3, abs=0.1)


def test_an_uneven_sex_ratio_does_not_tilt_the_subspace():
    rng = np.random.default_rng(0)
    sex = np.eye(40)[39]
    features, species, variants = [], [], []
    for number in range(10):
        mean = np.append(rng.normal(size=39), 0)
        for variant, count in enumerate((30, 4) if number % 2 else (4, 30)):
            features.append(mean + (2 * variant - 1) * sex + 0.05 * rng.normal(size=(count, 40)))
            species += [number] * count
            variants += [variant] * count
    found = within(np.concatenate(features), species, np.asarray(variants), permutations=9)
    assert found.rho < 0.01 and found.rho_raw < 0.01


@pytest.mark.parametrize("males", [0.5, 0.3, 0.1])
def test_species_of_unknown_sex_do_not_tilt_the_share(males):
    """Those with a mean along the very difference are left out of the subspace, and named."""
    rng = np.random.default_rng(0)
    dim, known = 64, 12
    means = rng.normal(size=(2 * known, dim)) * 1.5 / np.sqrt(dim)
    span = np.linalg.svd(means - means.mean(axis=0))[2][: 2 * known - 1]
    sex = rng.normal(size=dim)
    sex -= sex @ span.T @ span
    sex /= np.linalg.norm(sex)
    species = np.repeat(np.arange(2 * known), 12)
    male = np.tile([0, 1], len(species) // 2)
    odd = rng.random(len(species)) < np.where(species % 2, males, 1 - males)
    male = np.where(species < known, male, odd)
    features = means[species] + np.outer(male - 0.5, sex)
    features += rng.normal(size=features.shape) * 0.7 / np.sqrt(dim)
    found = within(features, species, np.where(species < known, male, -1), permutations=9)
    assert found.rho == pytest.approx(0, abs=0.03) and found.spanning == known
    assert found.rho_interval[0] < 0 < found.rho_interval[1]
    assert found.rho_all > 0.05 and "in that of all 24" in found.cautions[0]


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_close_species_neither_hide_nor_make_a_share(rho):
    """Their plain span is half noise, which halves alone do not mend."""
    found = [
        within(*planted(rho, seed, species=12, apart=0.3, length=0.5), permutations=0)
        for seed in range(10)
    ]
    assert np.mean([one.rho for one in found]) == pytest.approx(rho, abs=0.03)
    assert abs(np.mean([one.rho_raw for one in found]) - rho) > 0.01
    inside = [low <= rho <= high for low, high in (one.rho_interval for one in found)]
    assert np.mean(inside) >= 0.9


def test_species_that_noise_hides_give_no_interval_and_a_caution():
    features, species, variants = planted(0.3, species=12, dim=64, images=(6, 6), apart=0.1)
    found = within(features, species, variants, permutations=1)
    assert found.resolved < 11 and found.rho_interval is None
    assert f"only {found.resolved} of the 11 dimensions" in found.cautions[0]


@pytest.mark.parametrize("images", [(4, 4), (10, 10), (20, 5)])
def test_variants_that_do_not_differ_have_a_fisher_ratio_of_zero(images):
    found = within(*planted(0.0, species=30, dim=64, images=images, length=0), permutations=1)
    assert found.fisher == pytest.approx(0, abs=0.03)
    assert found.fisher_removed == pytest.approx(0, abs=0.03)
    assert found.fisher_raw == pytest.approx(found.fisher + found.fisher_floor)
    assert found.fisher_floor == pytest.approx(np.mean(1 / np.asarray(images)), rel=0.2)


def test_few_pictures_say_how_small_their_p_can_be():
    found = within(*planted(0.0, species=4, images=(2, 2)), permutations=999)
    assert all(one.fisher_smallest_p == pytest.approx(1 / 3) for one in found.species)
    found = within(*planted(0.0, species=4, images=(2, 3)), permutations=999)
    assert all(one.fisher_smallest_p == pytest.approx(1 / 10) for one in found.species)


def test_the_plane_of_three_species_holds_what_lies_in_it():
    found = within(*planted(0.0, species=6), permutations=1)
    assert found.plane.triples == 20 and found.plane.random_direction == 2 / 128
    assert found.plane.rho == pytest.approx(0, abs=0.03)
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, 32))
    variants, species = np.tile([0, 1], 30), np.repeat(np.arange(3), 20)
    inside = np.outer(variants - 0.5, means[0] - means[1]) * 0.3
    features = means[species] + inside + 0.05 * rng.normal(size=(60, 32))
    found = within(features, species, variants, permutations=1)
    assert found.plane.rho == pytest.approx(1, abs=0.03) and found.plane.triples == 1


def test_three_species_lie_in_their_plane_with_the_variants_across():
    features, species, variants = planted(0.0, species=5, images=(12, 12), noise=0.01)
    found = panel(features, species, variants, [4, 0, 2])
    assert found.points.shape == (72, 3) and found.means.shape == (3, 2, 3)
    centres = found.means.mean(axis=1)
    np.testing.assert_allclose(centres[:, 2], centres[0, 2], atol=1e-9)  # a level plane
    distances = [np.linalg.norm(centres[0] - centres[k]) for k in (1, 2)]
    means = [features[species == k].mean(axis=0) for k in (4, 0, 2)]
    expected = [np.linalg.norm(means[0] - means[k]) for k in (1, 2)]
    np.testing.assert_allclose(distances, expected, rtol=1e-6)
    assert found.rho < 0.02
    rows = (found.species == 1) & (found.variants == 1)
    np.testing.assert_allclose(found.points[rows].mean(axis=0), found.means[1, 1], atol=1e-9)


def test_results_are_a_function_of_the_seed():
    data = planted(0.3, species=8, dim=32, images=(4, 5))
    one, same, other = (within(*data, permutations=29, seed=seed) for seed in (0, 0, 1))
    assert one == same and one.halves != other.halves
    assert (one.rho, one.rho_interval) == (other.rho, other.rho_interval)


def test_what_cannot_be_measured_is_said():
    features, species, variants = planted(0.0, species=4, dim=8, images=(3, 3))
    with pytest.raises(UserError, match="no species has 2 pictures of each variant"):
        within(features, species, np.zeros_like(variants))
    with pytest.raises(UserError, match="only one species"):
        within(features[species == 0], species[species == 0], variants[species == 0])
    with pytest.raises(UsageError, match="4 species span 1 to 3"):
        within(features, species, variants, dimensions=5)
    with pytest.raises(UsageError, match="fills all 8 of the features.*such as 2"):
        check_dimensions(20, 8, None)
    with pytest.raises(UserError, match="species 2 has no picture of variant 1"):
        panel(features, species, np.where(species == 2, 0, variants), [0, 1, 2])
