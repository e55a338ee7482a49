"""The contrastive loss against a plain double loop, and its behaviour at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bioclip2_jax.losses import contrastive_loss, contrastive_loss_and_accuracy
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


def reference(images, texts, scale, weights, ids=None):
    """The definition in float64: the loss, and its slopes by images, texts and scale."""
    images, texts, scale = (np.asarray(x).astype(np.float64) for x in (images, texts, scale))
    weights, ids = np.asarray(weights), np.arange(len(images)) if ids is None else ids
    kept = np.flatnonzero(weights)
    repeats = np.array([(ids[kept] == ids[j]).sum() for j in kept])
    cosines = images[kept] @ texts[kept].T
    exponentials = np.exp(scale * cosines)
    choices = exponentials / repeats
    of_rows, of_columns = choices.sum(axis=1), exponentials.sum(axis=0)
    right = exponentials * (ids[kept][:, None] == ids[kept])  # any image of the text
    own, count = scale * np.diag(cosines), len(kept)
    from_texts = np.log(of_columns) - np.log(right.sum(axis=0))
    loss = (np.log(of_rows) - own + from_texts).sum() / (2 * count)
    slope = choices / of_rows[:, None] - np.eye(count)
    slope += exponentials / of_columns - right / right.sum(axis=0)
    slope /= 2 * count
    by_image, by_text = np.zeros_like(images), np.zeros_like(texts)
    by_image[kept], by_text[kept] = scale * slope @ texts[kept], scale * slope.T @ images[kept]
    return loss, (by_image, by_text, (slope * cosines).sum())


MESHES = [None, (1, 1, 1), (1, 1, 2), (1, 8, 1), (2, 2, 2)]


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    mesh=st.sampled_from(MESHES),
    rows=st.sampled_from([8, 24, 56]),
    tile=st.sampled_from([None, 1, 5, 16, 24, 1000]),
    scale=st.sampled_from([1.0, 14.3, 100.0]),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
    distinct=st.booleans(),
    seed=st.integers(0, 3),
)
@example((2, 2, 2), 56, 5, 14.3, jnp.float32, True, 0)
@example((2, 2, 2), 56, 24, 14.3, jnp.bfloat16, True, 1)
def test_any_mesh_and_tile_give_the_loss_and_gradients_of_its_definition(
    mesh, rows, tile, scale, dtype, distinct, seed
):
    if mesh is not None:
        slices, data, fsdp = mesh
        devices = jax.devices()[: slices * data * fsdp]
        mesh = sharding.make_mesh(data, fsdp, slices, devices)
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.random(rows) > 0.1, jnp.float32).at[0].set(1)
    features = [jnp.asarray(unit_rows(seed + k, rows), dtype) for k in (10, 20)]
    ids = rng.integers(0, 9, rows) if distinct else None

    def ours(images, texts, scale):
        return contrastive_loss(images, texts, scale, weights, text_ids=ids, mesh=mesh, tile=tile)

    given_ = (*features, jnp.float32(scale))
    loss, gradients = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(*given_)
    expected, expected_gradients = reference(*given_, weights, ids)
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


def test_with_text_ids_images_choose_among_texts_and_a_text_is_right_with_any_of_its_images():
    ids = np.array([0, 1, 0, 2, 0, 1])
    images, texts = unit_rows(0, 6), unit_rows(1, 3)
    logits = 5.0 * images @ texts.T
    from_images = jax.nn.logsumexp(logits, axis=1) - logits[np.arange(6), ids]
    own = np.where(ids[:, None] == np.arange(3), logits, -np.inf)
    from_texts = jax.nn.logsumexp(logits, axis=0) - jax.nn.logsumexp(own, axis=0)
    expected = (from_images.mean() + from_texts[ids].mean()) / 2
    found = contrastive_loss(images, texts[ids], jnp.float32(5.0), text_ids=ids)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_text_for_all_pictures_asks_nothing_of_them():
    texts = np.repeat(unit_rows(1, 1), 5, axis=0)
    ids = np.zeros(5, int)

    def ours(images):
        return contrastive_loss(images, texts, jnp.float32(5.0), text_ids=ids)

    loss, gradient = jax.value_and_grad(ours)(unit_rows(0, 5))
    assert abs(loss) < 1e-6 and np.abs(gradient).max() < 1e-6


def test_a_text_whose_pictures_cannot_be_read_is_no_choice():
    ids, weights = np.array([0, 0, 1, 2]), np.array([1, 0, 0, 1], np.float32)
    images, texts = unit_rows(0, 4), unit_rows(1, 3)[ids]
    kept = weights > 0
    expected = contrastive_loss(images[kept], texts[kept], 5.0, text_ids=ids[kept])
    found = contrastive_loss(images, texts, 5.0, weights, text_ids=ids)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
