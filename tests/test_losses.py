"""The contrastive loss against a plain double loop, and its behaviour at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip2_jax.losses import contrastive_loss, contrastive_loss_and_accuracy, taxon_targets
from bioclip2_jax.training import sharding


def unit_rows(seed: int, rows: int, dim: int = 16) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def looped_loss(images: np.ndarray, texts: np.ndarray, scale: float) -> float:
    total = 0.0
    for i in range(len(images)):
        row = [scale * float(images[i] @ t) for t in texts]
        column = [scale * float(image @ texts[i]) for image in images]
        total += np.log(np.sum(np.exp(row))) - row[i]
        total += np.log(np.sum(np.exp(column))) - column[i]
    return total / (2 * len(images))


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_equals_a_plain_double_loop(rows):
    images, texts = unit_rows(0, rows), unit_rows(1, rows)
    loss = contrastive_loss(images, texts, jnp.float32(9.0))
    np.testing.assert_allclose(loss, looped_loss(images, texts, 9.0), rtol=1e-5, atol=1e-6)


def test_accuracy_counts_images_whose_own_caption_scores_highest():
    texts = np.eye(4, dtype=np.float32)
    images = texts[[0, 1, 3, 2]]
    _, accuracy = contrastive_loss_and_accuracy(images, texts, jnp.float32(10.0))
    assert accuracy == 0.5


def test_equal_captions_stay_negatives():
    images = unit_rows(0, 2)
    texts = np.repeat(unit_rows(1, 1), 2, axis=0)
    loss = contrastive_loss(images, texts, jnp.float32(1.0))
    assert loss > 0.6  # log 2 from the images' side alone


def test_a_pair_of_weight_zero_changes_neither_loss_nor_gradient_of_the_others():
    images, texts = unit_rows(0, 6), unit_rows(1, 6)
    weights = np.array([1, 1, 0, 1, 1, 1], np.float32)
    kept = weights > 0

    def full(images):
        return contrastive_loss(images, texts, jnp.float32(5.0), weights)

    def short(images):
        return contrastive_loss(images, texts[kept], jnp.float32(5.0))

    loss, gradient = jax.value_and_grad(full)(images)
    expected, expected_gradient = jax.value_and_grad(short)(images[kept])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[kept], expected_gradient, rtol=1e-5, atol=1e-7)
    assert not np.any(gradient[2])


def test_features_of_a_pair_of_weight_zero_may_be_no_numbers():
    images, texts = unit_rows(0, 4), unit_rows(1, 4)
    weights = np.array([1, 0, 1, 1], np.float32)

    def ours(images, texts, scale):
        return contrastive_loss(images, texts, scale, weights)

    expected = jax.value_and_grad(ours, (0, 1, 2))(images, texts, jnp.float32(5.0))
    images[1], texts[1] = np.nan, np.inf
    found = jax.value_and_grad(ours, (0, 1, 2))(images, texts, jnp.float32(5.0))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_caption_of_the_same_words_is_no_better_than_ones_own():
    texts = np.repeat(unit_rows(1, 1), 2, axis=0)
    assert contrastive_loss_and_accuracy(unit_rows(0, 2), texts, jnp.float32(1.0))[1] == 1


def test_a_batch_without_any_readable_image_gives_zero():
    loss, accuracy = contrastive_loss_and_accuracy(
        unit_rows(0, 3), unit_rows(1, 3), jnp.float32(5.0), np.zeros(3, np.float32)
    )
    assert loss == 0 and accuracy == 0


def dense_loss(images, texts, scale, weights, targets=None):
    """The definition, in one place and with JAX's own gradients."""
    logits = scale * jnp.matmul(images, texts.T, preferred_element_type=jnp.float32)
    absent = weights == 0
    logits = jnp.where(absent[:, None] | absent[None, :], -1e9, logits)
    by_row = by_column = jnp.eye(len(weights))
    if targets is not None:
        same = (targets.ids[:, None] == targets.ids[None]) & (targets.ids[:, None] >= 0)
        by_row = (same * targets.shares[:, None]).sum(-1)
        by_column = (same * targets.shares[None]).sum(-1)
    from_images = jax.nn.logsumexp(logits, axis=1) - (by_row * logits).sum(axis=1)
    from_texts = jax.nn.logsumexp(logits, axis=0) - (by_column * logits).sum(axis=0)
    return (weights * (from_images + from_texts)).sum() / (2 * weights.sum())


MESHES = [None, (1, 1, 1), (1, 1, 2), (1, 8, 1), (2, 2, 2)]


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    mesh=st.sampled_from(MESHES),
    rows=st.sampled_from([8, 24, 56]),
    tile=st.sampled_from([None, 1, 5, 16, 24, 1000]),
    scale=st.sampled_from([1.0, 14.3, 100.0]),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
    relatives=st.booleans(),
    seed=st.integers(0, 3),
)
def test_any_mesh_and_tile_give_the_dense_loss_and_gradients(
    mesh, rows, tile, scale, dtype, relatives, seed
):
    if mesh is not None:
        slices, data, fsdp = mesh
        devices = jax.devices()[: slices * data * fsdp]
        mesh = sharding.make_mesh(data, fsdp, slices, devices)
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.random(rows) > 0.1, jnp.float32).at[0].set(1)
    features = [jnp.asarray(unit_rows(seed + k, rows), dtype) for k in (10, 20)]
    targets = among_present = None
    if relatives:
        ids = rng.integers(-1, 4, (rows, 3))
        ids[:, -1] = rng.integers(0, 9, rows)
        targets = taxon_targets(jnp.asarray(ids), (0.1, 0.2, 0.7))
        ids[weights == 0] = -1
        among_present = taxon_targets(jnp.asarray(ids), (0.1, 0.2, 0.7))

    def ours(images, texts, scale):
        return contrastive_loss(images, texts, scale, weights, targets, mesh=mesh, tile=tile)

    given_ = (*features, jnp.float32(scale))
    loss, gradients = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(*given_)
    wide = [x.astype(jnp.float32) for x in given_]
    expected, expected_gradients = jax.value_and_grad(dense_loss, (0, 1, 2))(
        *wide, weights, among_present
    )
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    tolerance = 3e-6 if dtype == jnp.float32 else 2e-2
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        largest = max(np.abs(wanted).max(), 0.01)  # the scale's is a sum that cancels
        np.testing.assert_allclose(
            found.astype(jnp.float32), wanted, rtol=0, atol=tolerance * largest
        )
    assert [g.dtype for g in gradients] == [dtype, dtype, jnp.float32]


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    mesh = sharding.make_mesh(-1, 1)
    with pytest.raises(ValueError, match="batch of 12 pairs"):
        contrastive_loss(unit_rows(0, 12), unit_rows(1, 12), 1.0, mesh=mesh)


def test_targets_of_a_pair_sum_to_one_and_unknown_ranks_leave_theirs_to_the_others():
    ids = jnp.asarray([[5, 1], [5, 2], [-1, 2], [5, 1]])
    targets = taxon_targets(ids, (0.25, 0.75))
    same = (ids[:, None] == ids[None]) & (ids[:, None] >= 0)
    by_row = (same * targets.shares[:, None]).sum(-1)
    np.testing.assert_allclose(by_row.sum(axis=1), 1, rtol=1e-6)
    third, half = 0.25 / 3, 0.75 / 2
    np.testing.assert_allclose(by_row[0], [third + half, third, 0, third + half], rtol=1e-6)
    np.testing.assert_allclose(by_row[2], [0, 0.5, 0.5, 0], rtol=1e-6)


def test_same_taxon_targets_make_captions_of_relatives_positives():
    texts = unit_rows(0, 2)
    images = texts[::-1]
    diagonal = contrastive_loss(images, texts, 1.0)
    same = taxon_targets(jnp.asarray([[7], [7]]), (1.0,))
    assert contrastive_loss(images, texts, 1.0, targets=same) < diagonal
    distinct = taxon_targets(jnp.asarray([[7], [8]]), (1.0,))
    np.testing.assert_allclose(contrastive_loss(images, texts, 1.0, targets=distinct), diagonal)
