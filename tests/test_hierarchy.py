"""Mistakes and consistency in the tree, against loops over images and ranks."""

import numpy as np
import pytest

from bioclip2_jax.measures import hierarchy
from bioclip2_jax.measures.accuracy import lineage_groups
from bioclip2_jax.measures.scores import number, unit
from bioclip2_jax.measures.tree import top_down
from bioclip2_jax.text.taxonomy import RANKS, Taxon


def tree(rng) -> list[Taxon]:
    """24 species; at every rank a random parent of a few."""
    taxa = []
    for place in range(24):
        sizes = zip(RANKS, (12, 8, 6, 4, 3, 2, 1), strict=True)
        names = [f"{rank[0]}{place // size}" for rank, size in sizes]
        taxa.append(Taxon(*names))
    return [taxa[i] for i in rng.permutation(24)]


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(0)
    taxa = tree(rng)
    groups = lineage_groups(taxa)
    labels = rng.integers(24, size=200)
    predictions = np.where(rng.random(200) < 0.6, labels, rng.integers(24, size=200))
    prompted = {}
    for rank in RANKS[:-1]:
        near = groups[rank][np.where(rng.random(200) < 0.9, predictions, labels)]
        wild = rng.integers(groups[rank].max() + 1, size=200)
        prompted[rank] = np.where(rng.random(200) < 0.9, near, wild)
    return taxa, groups, labels, predictions, prompted


def test_heights_are_the_ranks_to_climb(answers):
    taxa, groups, labels, predictions, _ = answers
    heights = []
    for label, answer in zip(labels, predictions, strict=True):
        height = 0
        while height < 7 and taxa[label].ranks[: 7 - height] != taxa[answer].ranks[: 7 - height]:
            height += 1
        heights.append(height)
    found = hierarchy.mistakes(groups, labels, predictions)
    assert found.mean_height == pytest.approx(np.mean(heights))
    assert found.mistake_height == pytest.approx(np.mean([h for h in heights if h]))
    assert found.heights == [heights.count(h) for h in range(8)]
    per_class = [np.mean(np.asarray(heights)[labels == label]) for label in np.unique(labels)]
    assert found.macro_mean_height == pytest.approx(np.mean(per_class))


def test_answers_rank_by_rank_are_compared_as_lineages(answers):
    taxa, groups, labels, predictions, prompted = answers
    lineages = {rank: number([taxon.lineage(rank) for taxon in taxa])[0] for rank in RANKS}
    agree = {rank: [] for rank in RANKS[:-1]}
    right = {rank: [] for rank in RANKS}
    consistent = []
    for image in range(200):
        given = [lineages[rank][prompted[rank][image]] for rank in RANKS[:-1]]
        given.append(taxa[predictions[image]].ranks)
        for rank, lineage in zip(RANKS[:-1], given, strict=False):
            agree[rank].append(given[-1][: len(lineage)] == lineage)
        consistent.append(all(b[: len(a)] == a for a, b in zip(given, given[1:], strict=False)))
        truth = taxa[labels[image]].ranks
        so_far = True
        for rank, lineage in zip(RANKS, given, strict=True):
            so_far = so_far and truth[: len(lineage)] == lineage
            right[rank].append(so_far)
    found = hierarchy.consistency(groups, labels, predictions, prompted)
    assert found.agreement == pytest.approx({r: np.mean(v) for r, v in agree.items()})
    assert found.consistent == pytest.approx(np.mean(consistent))
    assert found.top_down == pytest.approx({r: np.mean(v) for r, v in right.items()})
    assert found.full_path == found.top_down["species"] < found.consistent < 1
    full = np.asarray(right["species"])
    per_class = [full[labels == label].mean() for label in np.unique(labels)]
    assert found.macro_full_path == pytest.approx(np.mean(per_class))


def test_ranks_that_are_not_known_are_not_judged():
    """Class 1 has no name at the middle rank, where its lineage is one of its own."""
    groups = {"kingdom": np.array([0, 0, 1]), "order": np.array([0, 1, 2]), "species": np.arange(3)}
    known = {rank: np.ones(3, bool) for rank in groups} | {"order": np.array([True, False, True])}
    labels, predictions = np.array([1, 1, 0, 2]), np.array([1, 0, 1, 2])
    prompted = {"kingdom": np.array([0, 0, 0, 1]), "order": np.array([0, 2, 0, 2])}
    found = hierarchy.consistency(groups, labels, predictions, prompted, known)
    assert found.agreement == {"kingdom": 1.0, "order": 0.5}  # of the second and last pictures
    assert found.consistent == 0.75 and found.full_path == 0.5
    assert found.top_down == {"kingdom": 1.0, "order": 1.0, "species": 0.5}
    # The second shares the kingdom of two known ranks, the third that of three.
    nlca = hierarchy.mistakes(groups, labels, predictions, known).nlca
    assert nlca == pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4)


def test_top_down_answers_are_those_of_a_walk_and_form_a_lineage():
    rng = np.random.default_rng(3)
    taxa = tree(rng)
    taxa[3] = Taxon(*taxa[3].ranks[:3], "", *taxa[3].ranks[4:])
    taxa[20] = taxa[5]  # two classes of one species, of which the first is named where both suit
    groups = lineage_groups(taxa)
    lineages = {rank: number([taxon.lineage(rank) for taxon in taxa])[0] for rank in RANKS}
    named = {rank: np.array([bool(x[-1]) for x in lineages[rank]]) for rank in RANKS}
    draw = lambda n: unit(rng.normal(size=(n, 8)).astype(np.float32))  # noqa: E731
    images, classes = draw(60), draw(24)
    classes[20] = classes[5]
    prompted = {rank: draw(len(lineages[rank])) for rank in RANKS[:-1]}
    found = top_down(images, classes, 9.0, groups, prompted, named)
    for row, image in enumerate(images):
        weights = np.exp(9.0 * (classes @ image).astype(float))
        members, path = list(range(24)), []
        for rank in RANKS[:-1]:
            children = sorted({groups[rank][c] for c in members})
            sums = {g: sum(weights[c] for c in members if groups[rank][c] == g) for g in children}
            asked = {g: np.exp(9.0 * float(prompted[rank][g] @ image)) for g in children}
            total, scores = sum(sums.values()), {}
            known = [g for g in children if named[rank][g]]
            for g in children:
                share = own = sums[g] / total
                if named[rank][g]:
                    own = sum(sums[k] for k in known) / total
                    own *= asked[g] / sum(asked[k] for k in known)
                scores[g] = share * own
            path.append(max(children, key=lambda g: scores[g]))
            members = [c for c in members if groups[rank][c] == path[-1]]
        assert [found.answers[rank][row] for rank in RANKS[:-1]] == path
        assert found.classes[row] == max(members, key=lambda c: weights[c])
    for rank, of in groups.items():
        np.testing.assert_array_equal(found.answers[rank], of[found.classes])
    assert 5 in found.classes and 20 not in found.classes


def test_without_a_tree_the_best_class_is_the_answer_and_equal_ones_are_answered_in_order():
    rng = np.random.default_rng(4)
    images, classes = (unit(rng.normal(size=(n, 8)).astype(np.float32)) for n in (9, 5))
    found = top_down(images, classes, 9.0, {"species": np.arange(5)}, {}, {})
    np.testing.assert_array_equal(found.classes, (images @ classes.T).argmax(axis=1))
    # Two genera, of which the second has a name, with the same species in both.
    groups = {"genus": np.array([0, 1, 0, 1]), "species": np.arange(4)}
    prompted, named = {"genus": classes[:2]}, {"genus": np.array([False, True])}
    both = np.repeat(classes[:2], 2, axis=0)
    assert not top_down(images, both, 9.0, groups, prompted, named).answers["genus"].any()
