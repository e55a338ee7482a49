"""Mistakes and consistency in the tree, against loops over images and ranks."""

import numpy as np
import pytest

from bioclip2_jax.measures import hierarchy
from bioclip2_jax.measures.accuracy import lineage_groups
from bioclip2_jax.measures.scores import number
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
