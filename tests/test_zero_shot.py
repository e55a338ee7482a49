import numpy as np
import pytest

from bioclip2_jax.evaluation.protocols.zero_shot import zero_shot
from bioclip2_jax.measures import scores as module
from bioclip2_jax.measures.scores import probabilities


def unit(rows: list[list[float]]) -> np.ndarray:
    array = np.asarray(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


CLASSES = unit([[1, 0, 0], [0, 1, 0], [0, 0.9, 0.4]])
# Two genera: class 0 alone, classes 1 and 2 together.
GROUPS = {"genus": np.array([0, 1, 1]), "species": np.array([0, 1, 2])}


def test_every_image_gets_the_class_of_the_nearest_text():
    result = zero_shot(CLASSES, np.array([0, 1, 2]), CLASSES, 100.0, GROUPS)
    assert result.predictions[:, 0].tolist() == [0, 1, 2]
    assert result.outcomes.top[1].tolist() == [1, 1, 1]


def test_a_species_mistake_within_the_genus_is_right_at_genus():
    result = zero_shot(CLASSES[1:2], np.array([2]), CLASSES, 100.0, GROUPS)
    assert result.outcomes.top[1].tolist() == [0]
    assert result.outcomes.top[3].tolist() == [1]
    assert result.outcomes.ranks["species"].tolist() == [0]
    assert result.outcomes.ranks["genus"].tolist() == [1]


def test_a_genus_wins_by_the_sum_of_its_species():
    # Species 0 is the best single answer, but species 1 and 2 together weigh more.
    image = unit([[1.0, 0.97, 0.1]])
    scores = probabilities(image, CLASSES, 10.0)
    assert scores.argmax() == 0 and scores[0, 1:].sum() > scores[0, 0]
    result = zero_shot(image, np.array([0]), CLASSES, 10.0, GROUPS)
    assert result.outcomes.ranks["species"].tolist() == [1]
    assert result.outcomes.ranks["genus"].tolist() == [0]


def test_scores_are_softmax_probabilities_of_the_scaled_cosine():
    image = unit([[1, 2, 3]])
    logits = 7.0 * (image @ CLASSES.T)[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    result = zero_shot(image, np.array([0]), CLASSES, 7.0, GROUPS)
    order = result.predictions[0]
    assert result.scores[0] == pytest.approx(expected[order], rel=1e-5)
    assert result.scores[0].sum() == pytest.approx(1)


def test_prompted_ranks_are_scored_by_their_own_texts():
    swapped = unit([[0, 1, 0.2], [1, 0, 0]])  # the two genus names mixed up
    result = zero_shot(
        CLASSES, np.array([0, 1, 2]), CLASSES, 50.0, GROUPS, prompted_features={"genus": swapped}
    )
    assert result.prompted["genus"].tolist() == [1, 0, 0]


def test_everything_equals_the_protocol_written_out():
    rng = np.random.default_rng(5)
    # 60 classes in a random tree: a child's number never has two parents.
    parents = {"genus": rng.integers(25, size=60)}
    parents["family"] = rng.integers(9, size=25)[parents["genus"]]
    parents["kingdom"] = rng.integers(2, size=9)[parents["family"]]
    coarse_first = ("kingdom", "family", "genus")
    groups = {r: np.unique(parents[r], return_inverse=True)[1] for r in coarse_first}
    groups["species"] = np.arange(60)
    classes = unit(rng.normal(size=(60, 12)))
    labels = rng.integers(60, size=400)
    images = unit(classes[labels] + 0.35 * rng.normal(size=(400, 12)))
    prompted = {r: unit(rng.normal(size=(groups[r].max() + 1, 12))) for r in coarse_first}
    found = zero_shot(images, labels, classes, 15.0, groups, prompted)

    right = {k: [] for k in (1, 3, 5)}
    for row, (image, label) in enumerate(zip(images.astype(float), labels, strict=True)):
        logits = [15.0 * float(image @ c) for c in classes]
        order = sorted(range(60), key=lambda c, logits=logits: -logits[c])
        total = sum(np.exp(x) for x in logits)
        assert found.predictions[row].tolist() == order[:5]
        expected = [np.exp(logits[c]) / total for c in order[:5]]
        assert found.scores[row] == pytest.approx(expected, rel=1e-5)
        for k, hits in right.items():
            hits.append(label in order[:k])
        for rank, of in groups.items():
            weights = np.zeros(of.max() + 1)
            for c in range(60):
                weights[of[c]] += np.exp(logits[c])
            assert found.outcomes.ranks[rank][row] == (weights.argmax() == of[label])
        for rank, features in prompted.items():
            assert found.prompted[rank][row] == (features.astype(float) @ image).argmax()
    for k, hits in right.items():
        assert found.outcomes.top[k].tolist() == hits
        assert 0.3 < np.mean(hits) < 1


def test_groups_that_are_no_tree_are_refused():
    groups = {"family": np.array([0, 1, 0]), "genus": np.array([0, 0, 1])}
    with pytest.raises(ValueError, match="rank genus do not refine"):
        zero_shot(CLASSES, np.arange(3), CLASSES, 1.0, groups)
    groups = {"family": np.array([0, 1, 1]), "genus": np.array([0, 0, 1])}
    with pytest.raises(ValueError, match="rank genus do not refine those of family"):
        zero_shot(CLASSES, np.arange(3), CLASSES, 1.0, groups)


def test_working_in_chunks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = unit(rng.normal(size=(17, 3))), rng.integers(3, size=17)
    whole = zero_shot(images, labels, CLASSES, 20.0, GROUPS, {"genus": CLASSES[:2]})
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 12)
    parts = zero_shot(images, labels, CLASSES, 20.0, GROUPS, {"genus": CLASSES[:2]})
    assert (whole.predictions == parts.predictions).all()
    assert whole.scores == pytest.approx(parts.scores)
    assert (whole.prompted["genus"] == parts.prompted["genus"]).all()
    assert whole.top_down and parts.top_down
    assert (whole.top_down.classes == parts.top_down.classes).all()
    assert (whole.top_down.answers["genus"] == parts.top_down.answers["genus"]).all()
    assert len(set(whole.top_down.classes.tolist())) > 1


def test_random_features_score_near_chance():
    rng = np.random.default_rng(0)
    images, classes = unit(rng.normal(size=(4000, 8))), unit(rng.normal(size=(10, 8)))
    groups = {"species": np.arange(10)}
    result = zero_shot(images, rng.integers(10, size=4000), classes, 10.0, groups)
    assert result.outcomes.top[1].mean() == pytest.approx(0.1, abs=0.02)
    assert result.outcomes.top[5].mean() == pytest.approx(0.5, abs=0.03)
