"""Recall, AP, nDCG and MRR beside plain loops, scikit-learn and a sum by hand."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from bioclip2_jax.measures import ranking
from bioclip2_jax.measures.ranking import Judged
from bioclip2_jax.measures.scores import unit

RNG = np.random.default_rng(0)


def features(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 8))
    return unit(vectors).astype(np.float32)


def judged(num_queries: int, num_items: int, *, graded: bool = False) -> Judged:
    """Some items judged for each query, a third of them relevant."""
    rows = []
    for query in range(num_queries):
        items = RNG.choice(num_items, size=RNG.integers(20, num_items), replace=False)
        gains = (RNG.random(len(items)) < 1 / 3) * RNG.integers(1, 4 if graded else 2, len(items))
        gains[0] = 1
        rows += [(query, item, gain) for item, gain in zip(items, gains, strict=True)]
    columns = [np.asarray(column) for column in zip(*rows, strict=True)]
    return Judged.of(*columns, num_queries, num_items)


def by_loops(gains: list[float], all_gains: list[float], k: int | None) -> dict[str, float]:
    """Of one ranking, `gains` in its order; `all_gains` of every relevant item, met or not."""
    k = k or len(gains)
    relevant = [gain for gain in all_gains if gain > 0]
    met, precisions, reached = 0, 0.0, 0.0
    for place, gain in enumerate(gains[:k], start=1):
        reached += gain / math.log2(place + 1)
        if gain > 0:
            met += 1
            precisions += met / place
    ideal = sum(
        gain / math.log2(place + 1)
        for place, gain in enumerate(sorted(relevant, reverse=True)[:k], start=1)
    )
    first = next((place for place, gain in enumerate(gains, start=1) if gain > 0), None)
    return {
        "ap": precisions / min(len(relevant), k),
        "ndcg": reached / ideal,
        "mrr": 1 / first if first else 0.0,
        "recall": met / len(relevant),
        "hit": float(met > 0),
    }


def test_a_ranking_counted_by_hand():
    # Of four relevant items three stand at places 1, 3 and 5, and one is not among the first five.
    gains, best, relevant = np.array([[1.0, 0, 1, 0, 1]]), np.array([[1.0, 1, 1, 1, 0]]), [4]
    assert ranking.average_precision(gains, np.array(relevant), 5) == pytest.approx(
        [(1 + 2 / 3 + 3 / 5) / 4]
    )
    ideal = 1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)
    assert ranking.ndcg(gains, best, 5) == pytest.approx([(1 + 1 / 2 + 1 / math.log2(6)) / ideal])
    assert ranking.reciprocal_rank(np.array([[0.0, 0, 2]])) == pytest.approx([1 / 3])
    assert ranking.recall(gains, np.array(relevant), 3) == pytest.approx([2 / 4])
    # More relevant items than places: the best that five places can have counts as all.
    full = np.ones((1, 5))
    assert ranking.average_precision(full, np.array([9]), 5) == pytest.approx([1.0])


@pytest.mark.parametrize("graded", [False, True])
def test_figures_are_those_of_loops_and_of_scikit_learn(graded):
    given = judged(6, 120, graded=graded)
    texts, items, queries = features(6, 1), features(120, 2), np.arange(6)
    scores = texts @ items.T
    own = list(ranking.ranked_among_own(texts, items, given, queries))
    among_own = ranking.among_own(given, queries, own)
    every = ranking.ranked_among_all(texts, items, ranking.DEPTH)
    among_all = ranking.among_all(given, queries, every)
    for query in queries:
        judged_items, gains = given.of_query(query)
        gain_of = dict(zip(judged_items.tolist(), gains.tolist(), strict=True))
        for figures, order, depth in (
            (among_own, sorted(gain_of, key=lambda item: -scores[query, item]), None),
            (among_all, np.argsort(-scores[query])[:50].tolist(), 50),
        ):
            ranked = [gain_of.get(item, 0.0) for item in order]
            at_50 = by_loops(ranked, list(gain_of.values()), 50)
            assert figures["ap_50"][query] == pytest.approx(at_50["ap"])
            assert figures["ndcg_50"][query] == pytest.approx(at_50["ndcg"])
            assert figures["mrr"][query] == pytest.approx(at_50["mrr"])
            for k in (1, 5, 10):
                at_k = by_loops(ranked, list(gain_of.values()), k)
                assert figures[f"recall_{k}"][query] == pytest.approx(at_k["recall"])
                assert figures[f"hit_{k}"][query] == at_k["hit"]
            if depth is None:
                whole = by_loops(ranked, ranked, None)
                assert figures["ndcg"][query] == pytest.approx(whole["ndcg"])
                own_scores = scores[query, judged_items]
                # As INQUIRE-Rerank has it, whose script ranks all judged pictures of a query.
                assert figures["ap"][query] == pytest.approx(
                    average_precision_score(gains > 0, own_scores)
                )
                assert figures["ndcg"][query] == pytest.approx(ndcg_score([gains], [own_scores]))
            else:
                # As INQUIRE-Fullrank has it: those missed get a score below all others.
                lost = max(len(gains[gains > 0]) - sum(gain > 0 for gain in ranked), 0)
                if not graded:
                    truth, said = ranked + [1] * lost, list(range(50, 0, -1)) + [-100] * lost
                    assert figures["ndcg_50"][query] == pytest.approx(
                        ndcg_score([truth], [said], k=50)
                    )
                    met = sum(ranked)
                    precise = average_precision_score(ranked, list(range(50, 0, -1)))
                    assert figures["ap_50"][query] == pytest.approx(
                        precise * met / min(met + lost, 50)
                    )


def test_stretches_and_ties_change_nothing(monkeypatch):
    texts, items = features(5, 3), features(40, 4)
    items[20:] = items[:20]  # every item twice: the first of two goes first
    whole = ranking.ranked_among_all(texts, items, 10)
    monkeypatch.setattr(ranking, "STRETCH", 16)
    monkeypatch.setattr(ranking, "_QUERIES_AT_A_TIME", 2)
    np.testing.assert_array_equal(ranking.ranked_among_all(texts, items, 10), whole)
    assert (whole[:, 1::2] == whole[:, ::2] + 20).all()
    assert ranking.ranked_among_all(texts[:0], items, 10).shape == (0, 10)
    assert ranking.ranked_among_all(texts, items[:3], 10).shape == (5, 3)


def test_chance_is_the_mean_over_every_order():
    gains = [2.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    given = Judged(np.zeros(6, int), np.arange(6), np.asarray(gains), 1, 6)
    expected = ranking.chance(given, np.arange(1), own=True)
    rows = [
        ranking.among_own(given, np.arange(1), [np.asarray(order)])
        for order in itertools.permutations(range(6))
    ]
    assert set(expected) == set(rows[0])
    for name, value in expected.items():
        assert value == pytest.approx(np.mean([row[name] for row in rows])), name
    # Among all items, of which those not judged are not relevant.
    wider = Judged(np.zeros(2, int), np.array([3, 5]), np.array([2.0, 1.0]), 1, 6)
    among_all = ranking.chance(wider, np.arange(1), own=False)
    assert all(among_all[name] == pytest.approx(expected[name]) for name in among_all)


def test_both_directions_are_of_the_same_pairs():
    given = judged(7, 30)
    there_and_back = given.swapped().swapped()
    for name in ("queries", "items", "gains"):
        np.testing.assert_array_equal(getattr(there_and_back, name), getattr(given, name))
    assert given.swapped().relevant.sum() == given.relevant.sum()


def test_means_have_intervals_even_where_all_is_found():
    found, intervals = ranking.means({"hit_1": np.ones(20), "mrr": np.linspace(0, 1, 20)})
    assert found["hit_1"] == 1 and intervals["hit_1"][0] == pytest.approx(0.839, abs=1e-3)
    assert intervals["mrr"][0] < 0.5 < intervals["mrr"][1]
