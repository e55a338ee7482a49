"""The order in which training meets the records of a dataset: a function of (seed, step) alone.

A corpus is one lane, or several that its shards are dealt to in turn: of `K` lanes, lane `k` holds
shards `k`, `k + K`, `k + 2K`, … Each is shuffled whole, once an epoch, and its epochs follow one
another without end; shards are samples of the whole, since pictures are stored in the order of
their hashes. Step `s` takes positions `s * n ... (s + 1) * n` of every lane, `n = batch / K`; rows
`k * n ... (k + 1) * n` of the batch are of lane `k`. So whoever makes some rows of all batches
opens the shards of some lanes only.

Where `K` does not divide the batch, the greatest number that divides both takes its place.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bioclip2_jax.data import dataset


@dataclass(frozen=True)
class Corpus:
    """One stream of pairs: where records come from and how many a step takes.

    Attributes:
      source: random access to records.
      seed: of the run; the shuffle and the crops follow from it, the stream and the epoch.
      stream: number of the stream in its run.
      order: 2, or 1 for runs begun when these three were added up, so that an epoch of one seed was
        the epoch before of the next, and replay went the way of the next seed.
      batch_size: pairs a step, over all hosts.
      token_lengths: text kind → tokens kept; longer than any caption of that kind.
      lanes: of the dataset, see above.
      given: whether captions are the source's own where it has them.
      level_draw: of the ranks of level captions, see `captions.levels_at`; None: there are none.
    """

    source: dataset.Source
    seed: int
    batch_size: int
    token_lengths: dict[str, int]
    given: bool = True
    stream: int = 0
    order: Literal[1, 2] = 2
    lanes: int = 1
    level_draw: tuple[float, ...] | None = None


def examples_at(corpus: Corpus, step: int, rows: range) -> list[tuple[int, int]]:
    """(epoch, record index) of some neighbouring rows of the batch of `step`."""
    lanes = math.gcd(corpus.lanes, corpus.batch_size)
    share = corpus.batch_size // lanes
    examples = []
    for lane in range(rows.start // share, -(-rows.stop // share)):
        first = lane * share
        own = range(max(rows.start - first, 0), min(rows.stop - first, share))
        places = range(step * share + own.start, step * share + own.stop)
        if lanes == 1:
            examples += _walk(corpus, len(corpus.source), places)
            continue
        shards = corpus.source.shards
        lengths, starts = shards.lengths[lane::lanes], shards.starts[lane::lanes]
        ends = np.cumsum(lengths)
        walked = np.array(_walk(corpus, int(ends[-1]), places, lane), np.int64).reshape(-1, 2)
        which = np.searchsorted(ends, walked[:, 1], side="right")
        walked[:, 1] += (starts - ends + lengths)[which]
        examples += map(tuple, walked.tolist())
    return examples


def _walk(corpus: Corpus, size: int, places: range, *lane: int) -> list[tuple[int, int]]:
    """(epoch, which of the `size` records) at places of the endless sequence of a lane."""
    from grain.experimental import index_shuffle  # half a second, and workers need no order

    walked = []
    for place in places:
        epoch, place = divmod(place, size)
        seed = _shuffle_seed(corpus.order, corpus.seed, corpus.stream, epoch, *lane)
        walked.append((epoch, index_shuffle(place, max_index=size - 1, seed=seed, rounds=4)))
    return walked


@functools.lru_cache(maxsize=2048)  # two epochs of all lanes
def _shuffle_seed(order: int, seed: int, stream: int, epoch: int, *lane: int) -> int:
    """Of one epoch, 32 bits."""
    if order == 1:
        return (seed + stream + epoch) % 2**32
    return int(np.random.SeedSequence((seed, stream, epoch, *lane)).generate_state(1)[0])


def generator(corpus: Corpus, epoch: int, index: int) -> np.random.Generator:
    """Of the random changes of one example."""
    if corpus.order == 1:
        return np.random.default_rng((corpus.seed + corpus.stream, epoch, index))
    return np.random.default_rng((corpus.seed, corpus.stream, epoch, index))
