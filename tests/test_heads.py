"""The mathematics of small heads: folds, fits, choice and figures."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from bioclip2_jax.errors import UserError
from bioclip2_jax.measures import choice, confounds, folds, head_figures, linear_heads
from bioclip2_jax.measures.linear_heads import Moments
from bioclip2_jax.measures.scores import unit
from bioclip2_jax.measures.simple_shot import few_shot


def blobs(n: int = 90, dim: int = 12, classes: int = 3, noise: float = 1.5):
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.arange(n) % classes)
    centres = rng.normal(size=(classes, dim))
    features = unit(1 + centres[labels] + noise * rng.normal(size=(n, dim)))
    return features.astype(np.float32), labels, unit(1 + centres).astype(np.float32)


def test_folds_are_stratified_and_divide_no_group():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [50, 25, 10])
    dealt = folds.deal(labels, 5, seed=3)
    table = np.array([np.bincount(dealt[labels == c], minlength=5) for c in range(3)])
    assert (np.ptp(table, axis=1) <= 1).all()
    assert np.array_equal(dealt, folds.deal(labels, 5, seed=3))
    assert not np.array_equal(dealt, folds.deal(labels, 5, seed=4))
    groups = rng.integers(0, 20, len(labels))
    dealt = folds.deal(labels, 5, groups)
    assert all(len(np.unique(dealt[groups == g])) == 1 for g in np.unique(groups))
    assert len(np.unique(dealt)) == 5
    lonely = folds.deal(np.array([0] * 50 + [1, 1]), 3, np.array([0] * 50 + [1, 2]))
    assert len(np.unique(lonely)) == 3  # one huge group leaves no fold empty


def test_too_few_groups_or_pictures_are_refused():
    with pytest.raises(UserError, match="2 groups"):
        folds.count_folds(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert folds.count_folds(np.array([0] * 9 + [1] * 3)) == 3


def test_simple_shot_is_that_of_few_shot():
    features, labels, _ = blobs()
    shot = few_shot(features, labels, 5, {})
    rows = np.asarray(shot.support[0])
    head = linear_heads.simple_shot(features[rows], labels[rows], 3)
    others = np.setdiff1d(np.arange(len(labels)), rows)
    right = head.logits(features[others]).argmax(axis=1) == labels[others]
    assert right.mean() == pytest.approx(shot.folds["top1"][0])
    absent = linear_heads.simple_shot(features, labels, 4).logits(features)
    assert (absent.argmax(axis=1) < 3).all()


def test_ridge_is_that_of_scikit_learn_and_parts_can_be_taken_off():
    features, labels, _ = blobs()
    whole = Moments.of(features, labels, 3)
    left = whole.without(Moments.of(features[:30], labels[:30], 3))
    kept, targets = features[30:].astype(float), np.eye(3)[labels[30:]]
    mean_eigenvalue = (kept - kept.mean(axis=0)).var(axis=0).mean() * len(kept)
    heads = linear_heads.ridge(left, [0.1, 10.0])
    for head, strength in zip(heads, (0.1, 10.0), strict=True):
        theirs = Ridge(alpha=strength * mean_eigenvalue).fit(kept, targets)
        np.testing.assert_allclose(head.logits(features), theirs.predict(features), atol=1e-4)
        alone = linear_heads.ridge(left, [strength])[0]
        np.testing.assert_allclose(alone.logits(features), head.logits(features), atol=1e-5)


def test_logistic_is_that_of_scikit_learn():
    features, labels, _ = blobs()
    centred = features - features.mean(axis=0)
    scale = 1 / np.sqrt((centred**2).sum(axis=1).mean())
    head = linear_heads.logistic(features, labels, 3, [1e-2])[0]
    theirs = LogisticRegression(C=1 / (1e-2 * len(labels)), tol=1e-8).fit(centred * scale, labels)
    shares = np.exp(head.logits(features))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, theirs.predict_proba(centred * scale), atol=0.02)


def test_figures_of_a_choice_are_of_pictures_that_it_did_not_see():
    rng = np.random.default_rng(0)
    features = unit(rng.normal(size=(120, 30))).astype(np.float32)
    labels = np.arange(120) % 2  # nothing to be learnt
    dealt = folds.deal(labels, 5)
    found = choice.nested(features, labels, dealt)
    figures, _ = head_figures.figures(found.answers, labels, None, 0)
    assert abs(figures["chosen"].accuracy - 0.5) < 0.13
    assert figures["chosen"].accuracy_interval[0] < 0.5
    assert "zero_shot" not in figures and figures["prior"].accuracy == pytest.approx(0.5, abs=0.05)


def test_text_is_mixed_in_where_it_helps():
    features, labels, names = blobs(n=30, dim=64, noise=3.0)
    cosines = features @ names.T
    found = choice.nested(features, labels, folds.deal(labels, 5), cosines, 100.0)
    assert found.recipe.name == "mixture" and found.recipe.text_weight > 0
    hits = {name: np.mean(answers == labels) for name, answers in found.answers.items()}
    assert hits["mixture"] > max(hits["simple_shot"], hits["ridge"], hits["logistic"])


def test_more_pictures_make_a_better_head_and_the_threshold_keeps_its_share():
    features, labels, _ = blobs(n=300, noise=2.0)
    dealt = folds.deal(labels, 5)
    found = choice.nested(features, labels, dealt)
    curve = head_figures.learning_curve(features, labels, dealt, found.recipe, None, 0)
    assert [point.k for point in curve] == [1, 2, 4, 8, 16, 32, 64]
    assert curve[-1].average > curve[0].average + 0.1
    unseen = head_figures.unseen_confidence(features, labels, dealt, found.recipe, None, 0)
    right = found.answers["chosen"] == labels
    unknown = head_figures.unknown(found.confidence, right, dealt, 0.1, unseen)
    assert unknown.share == pytest.approx(0.1, abs=0.04)
    assert unknown.share_of_wrong > unknown.share


def test_sources_tell_classes_by_their_other_pictures():
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert confounds.told_by(np.array(list("aaabbb")), labels).accuracy == 1
    assert confounds.told_by(np.array(list("aaabbb")), labels).tells
    alone = confounds.told_by(np.arange(6), labels)  # a picture says nothing of itself
    assert alone.accuracy == 0.5 and not alone.tells
    assert confounds.in_one_group(labels, np.array([0, 0, 0, 1, 1, 2])) == [0]


def test_intervals_are_over_groups_where_there_are_some():
    labels = np.arange(100) % 2
    groups = np.repeat(np.arange(10), 10)
    answers = {"a": np.where(groups < 5, labels, 1 - labels)}
    wide = head_figures.figures(answers, labels, groups, 0)[0]["a"].accuracy_interval
    narrow = head_figures.figures(answers, labels, None, 0)[0]["a"].accuracy_interval
    assert np.ptp(wide) > 2 * np.ptp(narrow)
