"""The contrastive loss against a plain double loop, and its behaviour at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bioclip2_jax.losses import contrastive_loss


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
    loss, _ = contrastive_loss(images, texts, jnp.float32(9.0))
    np.testing.assert_allclose(loss, looped_loss(images, texts, 9.0), rtol=1e-5, atol=1e-6)


def test_accuracy_counts_images_whose_own_caption_scores_highest():
    texts = np.eye(4, dtype=np.float32)
    images = texts[[0, 1, 3, 2]]
    _, accuracy = contrastive_loss(images, texts, jnp.float32(10.0))
    assert accuracy == 0.5


def test_equal_captions_stay_negatives():
    images = unit_rows(0, 2)
    texts = np.repeat(unit_rows(1, 1), 2, axis=0)
    loss, _ = contrastive_loss(images, texts, jnp.float32(1.0))
    assert loss > 0.6  # log 2 from the images' side alone


def test_a_pair_of_weight_zero_changes_neither_loss_nor_gradient_of_the_others():
    images, texts = unit_rows(0, 6), unit_rows(1, 6)
    weights = np.array([1, 1, 0, 1, 1, 1], np.float32)
    kept = weights > 0

    def full(images):
        return contrastive_loss(images, texts, jnp.float32(5.0), weights)[0]

    def short(images):
        return contrastive_loss(images, texts[kept], jnp.float32(5.0))[0]

    loss, gradient = jax.value_and_grad(full)(images)
    expected, expected_gradient = jax.value_and_grad(short)(images[kept])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[kept], expected_gradient, rtol=1e-5, atol=1e-7)
    assert not np.any(gradient[2])


def test_a_batch_without_any_readable_image_gives_zero():
    loss, accuracy = contrastive_loss(
        unit_rows(0, 3), unit_rows(1, 3), jnp.float32(5.0), np.zeros(3, np.float32)
    )
    assert loss == 0 and accuracy == 0
