"""The experiments on theorem 5.1: the argument by gradients, and what training makes of it."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from bioclip2_jax.analysis import linear_encoder, theory
from bioclip2_jax.analysis.linear_encoder import project, span_of

SPECIES, DIM, SCALE = 8, 24, 3.0  # at higher scales the forces vanish in float32


def embeddings(difference, prototypes):
    """[2, K, d]: images at their prototypes, the variants half a difference to either side."""
    return jnp.asarray(np.stack([prototypes - difference / 2, prototypes + difference / 2]))


def by_hand(images, prototypes, scale):
    """Symmetric cross-entropy of two batches that hold every species once a variant."""
    flat = images.reshape(-1, DIM) / np.linalg.norm(images.reshape(-1, DIM), axis=1)[:, None]
    logits = scale * flat @ np.concatenate([prototypes, prototypes]).T
    rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    return (rows.mean() + columns.mean()) / 2


@pytest.fixture(scope="module")
def prototypes():
    found = theory.even_prototypes(np.random.default_rng(0), SPECIES, DIM, 0.0)
    np.testing.assert_allclose(found @ found.T, np.eye(SPECIES), atol=1e-9)
    return found


def test_the_gradient_in_the_difference_is_that_of_finite_differences(prototypes):
    rng = np.random.default_rng(1)
    difference = 0.3 * rng.normal(size=(SPECIES, DIM)) / math.sqrt(DIM)
    gradient = np.asarray(
        linear_encoder.difference_gradient(
            embeddings(difference, prototypes), jnp.asarray(prototypes), SCALE
        )
    )
    step = 1e-5
    for place in ((0, 0), (3, 7), (7, 20)):
        moved = np.zeros_like(difference)
        moved[place] = step
        high, low = (
            by_hand(
                np.stack([prototypes - d / 2, prototypes + d / 2]).astype(np.float64),
                prototypes,
                SCALE,
            )
            for d in (difference + moved, difference - moved)
        )
        assert gradient[place] == pytest.approx((high - low) / (2 * step), rel=2e-2, abs=2e-6)


def test_outside_the_span_only_the_normalisation_pulls(prototypes):
    """There the gradient is a multiple of the embedding itself, inside it is far larger."""
    rng = np.random.default_rng(2)
    difference = 0.1 * rng.normal(size=(SPECIES, DIM)) / math.sqrt(DIM)
    images = embeddings(difference, prototypes)
    gradient = np.asarray(
        linear_encoder.difference_gradient(images, jnp.asarray(prototypes), SCALE), np.float64
    )
    basis = np.linalg.qr(prototypes.T)[0].T  # of the prototypes, centred or not
    outside = gradient - project(gradient, basis)
    away = difference - project(difference, basis)
    cosines = (outside * away).sum(axis=1) / (
        np.linalg.norm(outside, axis=1) * np.linalg.norm(away, axis=1)
    )
    np.testing.assert_allclose(cosines, 1, atol=1e-3)


def test_curvatures_inside_and_outside_have_the_stated_ratio(prototypes):
    centre = prototypes.mean(axis=0)
    best = (prototypes - centre) / np.linalg.norm(prototypes - centre, axis=1, keepdims=True)
    rng = np.random.default_rng(3)
    tiny = 3e-2 * rng.normal(size=(SPECIES, DIM)) / math.sqrt(DIM)
    tiny -= (tiny * best).sum(axis=1, keepdims=True) * best
    inside = project(tiny, span_of(prototypes))
    rates = []
    for part in (inside, tiny - project(tiny, np.linalg.qr(prototypes.T)[0].T)):
        images = jnp.asarray(np.stack([best - part / 2, best + part / 2]))
        gradient = linear_encoder.difference_gradient(images, jnp.asarray(prototypes), SCALE)
        rates.append(float((np.asarray(gradient) * part).sum() / (part**2).sum()))
    assert rates[0] / rates[1] == pytest.approx(theory.stiffness_ratio(SPECIES, SCALE), rel=0.1)


@pytest.fixture(scope="module")
def trained():
    """The last row of a short training in each setting, by name."""
    settings = {
        "orthogonal": theory.Setting(),
        "crowded": theory.Setting(species=96),
        "alike": theory.Setting(overlap=1.0),
    }
    return {
        name: theory.orthogonality(setting, 0, marks=(0, 128), replicates=2)
        for name, setting in settings.items()
    }


def test_near_orthogonal_prototypes_turn_the_difference_out_and_leave_its_length(trained):
    start, end = trained["orthogonal"]
    assert start.rho == pytest.approx(start.chance, abs=0.15)
    assert end.rho < 0.3 * end.chance and end.accuracy > 0.99
    assert end.difference > 0.6 * start.difference


def test_where_species_fill_the_space_nothing_is_outside(trained):
    assert trained["crowded"][-1].rho == pytest.approx(1, abs=1e-3)


def test_a_difference_that_looks_like_another_species_stays_inside(trained):
    assert trained["alike"][-1].rho_images > 0.8


def test_captions_with_lineages_order_the_images_by_the_tree():
    rows = theory.hierarchy(0, marks=(0, 64), replicates=2)
    found = {(r.captions, r.step): r.tree for r in rows if r.space == "seen"}
    assert found["hierarchical", 0] == found["flat", 0]  # the same start
    assert found["hierarchical", 64] > found["hierarchical", 0] > found["flat", 64]
    captions = {r.captions: r.tree for r in rows if r.space == "captions"}
    assert captions["hierarchical"] == pytest.approx(1) and captions["flat"] == 0


def test_the_seed_decides(trained):
    again = theory.orthogonality(theory.Setting(), 0, marks=(0, 128), replicates=2)
    other = theory.orthogonality(theory.Setting(), 1, marks=(0, 128), replicates=2)
    assert again == trained["orthogonal"] and other != again
