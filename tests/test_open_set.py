import numpy as np
import pytest

from bioclip2_jax.measures.open_set import hidden_classes, open_set


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain_auroc(known, unknown):
    pairs = [(a > b) + (a == b) / 2 for a in known for b in unknown]
    return np.mean(pairs)


def test_scores_tell_known_from_unknown_as_often_as_counted_by_hand():
    rng = np.random.default_rng(0)
    classes = unit(rng.normal(size=(12, 6)))
    labels = rng.integers(12, size=150)
    images = unit(classes[labels] + 0.4 * rng.normal(size=(150, 6)))
    hidden = hidden_classes(labels, seed=1)
    assert len(hidden) == 6 and set(hidden) < set(labels.tolist())
    listed = np.delete(classes, hidden, axis=0)
    unknown = np.isin(labels, hidden)
    found = open_set(images, unknown, listed, 20.0)
    cosines = images.astype(float) @ listed.T
    exponentials = np.exp(20.0 * cosines)
    chances = (exponentials / exponentials.sum(axis=1, keepdims=True)).max(axis=1)
    largest = cosines.max(axis=1)
    assert found.auroc_probability == pytest.approx(
        plain_auroc(chances[~unknown], chances[unknown])
    )
    assert found.auroc_cosine == pytest.approx(plain_auroc(largest[~unknown], largest[unknown]))
    assert found.auroc_cosine > 0.7
    assert (found.num_known, found.num_unknown) == ((~unknown).sum(), unknown.sum())


def test_pictures_of_nothing_known_and_of_nothing_unknown_give_no_number():
    classes = np.eye(3, dtype=np.float32)
    for unknown in (np.ones(3, bool), np.zeros(3, bool)):
        assert open_set(classes, unknown, classes, 1.0) is None


def test_which_classes_are_hidden_depends_on_the_seed_alone():
    labels = np.arange(40) % 20
    assert (hidden_classes(labels, 0) == hidden_classes(labels[::-1], 0)).all()
    assert (hidden_classes(labels, 0) != hidden_classes(labels, 1)).any()
    assert len(hidden_classes(np.asarray([4, 4, 4]))) == 1
