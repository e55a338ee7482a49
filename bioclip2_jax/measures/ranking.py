"""Rankings and what they are worth: recall, average precision, nDCG and reciprocal rank.

The definitions are those of INQUIRE (Vendrow et al. 2024, arXiv 2411.02537; src/metrics.py of
github.com/inquire-benchmark/INQUIRE), written anew. Of n items R are relevant to a query, r of them
stand among the first k of its ranking:

- AP@k: precision at every relevant item among the first k, summed, over min(R, k), not over r, so
  that what was missed counts.
- nDCG@k: gains (the relevances as they are) over log2(rank + 1), summed over the first k, over the
  same sum of the best ranking there could be of all R, seen or not.
- MRR: one over the rank of the first relevant item, 0 if none is in the ranking.
- recall@k: r / R. hit@k: whether r > 0, which papers on CLIP call recall@k.

INQUIRE's own code shares ties of equal scores in AP and nDCG (scikit-learn); here every ranking is
an order, ties by lower index, and whoever calls sees to it that the order knows nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bioclip2_jax.measures.intervals import Interval, bootstrap, widened
from bioclip2_jax.measures.streamed import STRETCH, LongList

RECALLS = (1, 5, 10, 50)
HITS = (1, 5, 10)
DEPTH = 50  # of AP and nDCG, and of the ranking among all items
_QUERIES_AT_A_TIME = 256

Figures = dict[str, np.ndarray]  # name → [queries] float


@dataclass(frozen=True)
class Judged:
    """Which items were judged for which queries; every query and pair once, sorted by query.

    Attributes:
      queries, items: [pairs] int.
      gains: [pairs] float, how relevant; 0 for not.
      num_queries, num_items: that the numbers count.
    """

    queries: np.ndarray
    items: np.ndarray
    gains: np.ndarray
    num_queries: int
    num_items: int

    @classmethod
    def of(
        cls,
        queries: np.ndarray,
        items: np.ndarray,
        gains: np.ndarray,
        num_queries: int,
        num_items: int,
    ) -> "Judged":
        """The same pairs in order."""
        order = np.lexsort([items, queries])
        return cls(queries[order], items[order], gains[order], num_queries, num_items)

    @property
    def relevant(self) -> np.ndarray:
        """[queries] int, relevant items of each."""
        return np.bincount(self.queries[self.gains > 0], minlength=self.num_queries)

    def swapped(self) -> "Judged":
        """What was asked for is what is asked with."""
        swapped = (self.items, self.queries, self.gains, self.num_items, self.num_queries)
        return Judged.of(*swapped)

    def of_query(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """[judged] int, the items judged for it, ascending, and their gains."""
        first, stop = np.searchsorted(self.queries, [query, query + 1])
        return self.items[first:stop], self.gains[first:stop]

    def gains_of(self, queries: np.ndarray, ranked: np.ndarray) -> np.ndarray:
        """The gains of [queries, k] items for [queries]: [queries, k]; 0 for pairs not judged."""
        pairs = self.queries * self.num_items + self.items
        wanted = queries[:, None] * self.num_items + ranked
        places = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        return np.where(pairs[places] == wanted, self.gains[places], 0.0)

    def best_gains(self, queries: np.ndarray, depth: int) -> np.ndarray:
        """The largest gains that each of [queries] could meet: [queries, depth], then zeros."""
        best = np.zeros((len(queries), depth))
        for row, query in enumerate(queries):
            gains = np.sort(self.of_query(query)[1])[::-1][:depth]
            best[row, : len(gains)] = gains
        return best


# ---- Rankings


def ranked_among_all(
    query_features: np.ndarray, item_features: np.ndarray, depth: int
) -> np.ndarray:
    """The items nearest to each query, exactly, ties by lower index: [queries, depth] int.

    A stretch of items by some queries at a time, and the best of them are found on the device.

    Args:
      query_features: [queries, dim] float32, L2-normalised.
      item_features: [items, dim] float32, L2-normalised.
      depth: of the ranking, at most as many as there are items.
    """
    count = len(item_features)
    items = LongList(
        lambda first, stop: item_features[first:stop], count, stretch=min(STRETCH, count)
    )
    chunks = [
        items.best(query_features[start : start + _QUERIES_AT_A_TIME], 1.0, depth)[0]
        for start in range(0, len(query_features), _QUERIES_AT_A_TIME)
    ]
    return np.concatenate([np.zeros((0, min(depth, count)), np.int64), *chunks])


def ranked_among_own(
    query_features: np.ndarray, item_features: np.ndarray, judged: Judged, queries: np.ndarray
) -> Iterator[np.ndarray]:
    """The items judged for each of `queries`, nearest first, ties by lower index: [judged] int.

    Args:
      query_features: [all queries, dim] float32, L2-normalised.
      item_features: [items, dim] float32, L2-normalised.
      judged: the pairs.
      queries: numbers of those to rank for.
    """
    for query in queries:
        items, _ = judged.of_query(query)
        scores = item_features[items] @ query_features[query]
        yield items[np.argsort(-scores, kind="stable")]


# ---- Figures


def among_all(judged: Judged, queries: np.ndarray, ranked: np.ndarray) -> Figures:
    """Figures of rankings among all items, as deep as they are.

    Args:
      judged: the pairs; items that were not judged for a query are not relevant to it.
      queries: [asked] int, each with a relevant item.
      ranked: [asked, depth] int, from `ranked_among_all`.
    """
    gains = judged.gains_of(queries, ranked)
    relevant = judged.relevant[queries]
    best = judged.best_gains(queries, gains.shape[1])
    return _figures(gains, best, relevant)


def among_own(judged: Judged, queries: np.ndarray, rankings: Iterable[np.ndarray]) -> Figures:
    """Figures of rankings of the judged items alone; also `ap` and `ndcg` of the whole ranking.

    Args:
      judged: the pairs.
      queries: [asked] int, each with a relevant item.
      rankings: of each, from `ranked_among_own`.
    """
    rows = []
    for query, ranked in zip(queries, rankings, strict=True):
        items, given = judged.of_query(query)
        gains = given[np.searchsorted(items, ranked)][None]
        best, relevant = np.sort(gains, axis=1)[:, ::-1], (gains > 0).sum(axis=1)
        row = {"ap": average_precision(gains, relevant), "ndcg": ndcg(gains, best)}
        rows.append(row | _figures(gains, best, relevant))
    return {name: np.concatenate([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def _figures(gains: np.ndarray, best: np.ndarray, relevant: np.ndarray) -> Figures:
    return (
        {
            f"ap_{DEPTH}": average_precision(gains, relevant, DEPTH),
            f"ndcg_{DEPTH}": ndcg(gains, best, DEPTH),
            "mrr": reciprocal_rank(gains),
        }
        | {f"recall_{k}": recall(gains, relevant, k) for k in RECALLS}
        | {f"hit_{k}": (gains[:, :k] > 0).any(axis=1).astype(float) for k in HITS}
    )


def recall(gains: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """[queries] share of the relevant items that stand among the first k.

    Args:
      gains: [queries, depth] float, of the ranking.
      relevant: [queries] int, how many relevant items there are.
      k: places that count.
    """
    return (gains[:, :k] > 0).sum(axis=1) / relevant


def average_precision(gains: np.ndarray, relevant: np.ndarray, k: int | None = None) -> np.ndarray:
    """[queries] average precision of the first k, normalised by min(relevant, k).

    Args:
      gains: [queries, depth] float, of the ranking.
      relevant: [queries] int, how many relevant items there are.
      k: places that count; None for all.
    """
    hits = gains[:, :k] > 0
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(axis=1) / (relevant if k is None else np.minimum(relevant, k))


def ndcg(gains: np.ndarray, best: np.ndarray, k: int | None = None) -> np.ndarray:
    """[queries] discounted gains of the first k over those of the best ranking.

    Args:
      gains: [queries, depth] float, of the ranking.
      best: [queries, depth] float, the largest there are, descending.
      k: places that count; None for all.
    """
    return _discounted(gains[:, :k]) / _discounted(best[:, :k])


def reciprocal_rank(gains: np.ndarray) -> np.ndarray:
    """[queries] one over the rank of the first relevant item; 0 where there is none."""
    hits = gains > 0
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


def _discounted(gains: np.ndarray) -> np.ndarray:
    return gains @ (1 / np.log2(np.arange(gains.shape[1]) + 2))


# ---- Chance


def chance(judged: Judged, queries: np.ndarray, *, own: bool) -> dict[str, float]:
    """What rankings by lot have of each figure, in the mean over the queries, exactly.

    Args:
      judged: the pairs.
      queries: [asked] int, each with a relevant item.
      own: whether only the judged items are ranked, else all.
    """
    rows: list[dict[str, float]] = []
    known: dict[tuple, dict[str, float]] = {}
    for query in queries:
        items, gains = judged.of_query(query)
        count = len(items) if own else judged.num_items
        best = tuple(np.sort(gains[gains > 0])[::-1].tolist())
        if (count, best) not in known:
            known[count, best] = _chance(count, np.asarray(best), own=own)
        rows.append(known[count, best])
    return {name: float(np.mean([row[name] for row in rows])) for name in (rows[0] if rows else ())}


def _chance(count: int, best: np.ndarray, *, own: bool) -> dict[str, float]:
    """Of one query with these gains, all others of `count` items without any."""
    relevant, depth = len(best), count if own else min(DEPTH, count)
    places = np.arange(depth)
    # That none of the relevant items stands before a place, and that the first stands there.
    missed = np.maximum(count - relevant - places, 0) / (count - places)
    none = np.cumprod(np.append(1.0, missed))
    first = none[:-1] - none[1:]
    others = (relevant - 1) / max(count - 1, 1)
    precise = relevant / count * (1 + places * others) / (places + 1)
    discounts = 1 / np.log2(places + 2)

    def ap(k: int) -> float:
        return float(precise[:k].sum() / min(relevant, k))

    def gain(k: int) -> float:
        top = best[:k]
        return float(best.sum() / count * discounts[:k].sum() / (top @ discounts[: len(top)]))

    whole = {"ap": ap(count), "ndcg": gain(count)} if own else {}
    return (
        whole
        | {f"ap_{DEPTH}": ap(DEPTH), f"ndcg_{DEPTH}": gain(DEPTH)}
        | {"mrr": float((first / (places + 1)).sum())}
        | {f"recall_{k}": min(k, depth) / count for k in RECALLS}
        | {f"hit_{k}": float(1 - none[min(k, depth)]) for k in HITS}
    )


# ---- Means


def means(
    figures: Mapping[str, np.ndarray], seed: int = 0
) -> tuple[dict[str, float], dict[str, Interval]]:
    """The mean of every figure over the queries, and its 95 % bootstrap interval over them.

    Args:
      figures: name → [queries] float between 0 and 1, of one query or more.
      seed: of the resampling.
    """
    values = np.stack(list(figures.values()), axis=1)
    bounds = bootstrap(lambda weights: weights @ values / len(values), len(values), seed)
    intervals = [widened(each, len(values)) for each in bounds]
    mean = values.mean(axis=0).tolist()
    return dict(zip(figures, mean, strict=True)), dict(zip(figures, intervals, strict=True))
