"""What image features and text features say of each other."""

import numpy as np

from bioclip2_jax.measures.scores import (
    lineage_counts,
    number,
    probabilities,
    sum_groups,
    top_k,
    unit,
)


def test_vectors_get_length_one_and_nothing_stays_nothing():
    vectors = np.array([[3, 4], [0, 0], [0, -2]], np.float32)
    assert unit(vectors).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0], [0, -1]]
    assert unit(vectors).dtype == np.float32


def test_items_are_numbered_as_they_first_appear():
    items, numbers = number(["b", "a", "b", "c"])
    assert items == ["b", "a", "c"] and numbers.tolist() == [0, 1, 0, 2]


def test_top_k_is_best_first_and_breaks_ties_by_index():
    scores = np.array([[0.1, 0.5, 0.5, 0.9], [0.3, 0.3, 0.3, 0.3]])
    assert top_k(scores, 3).tolist() == [[3, 1, 2], [0, 1, 2]]


def test_top_k_is_clipped_to_the_number_of_classes():
    assert top_k(np.array([[0.2, 0.8]]), 5).tolist() == [[1, 0]]


def test_top_k_agrees_with_a_full_sort():
    scores = np.random.default_rng(0).normal(size=(20, 50))
    assert (top_k(scores, 5) == np.argsort(-scores, axis=1)[:, :5]).all()


def test_large_logit_scales_do_not_overflow():
    scores = probabilities(np.eye(3), np.eye(3), 1e6)
    assert np.isfinite(scores).all()


def test_sum_groups_adds_columns_of_the_same_number():
    scores = np.array([[1.0, 2.0, 4.0, 8.0]])
    assert sum_groups(scores, np.array([1, 0, 1, 2])).tolist() == [[2.0, 5.0, 8.0]]


def test_a_lineage_was_met_as_often_as_its_names_and_each_of_those_once_at_least():
    counts = np.array([0, 7, 0, 0, 0.5])
    assert lineage_counts(counts, np.array([1, 0, 1, 1, 2])).tolist() == [7, 3, 1]
