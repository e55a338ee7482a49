"""The order in which training meets the records of a dataset: a function of (seed, step) alone.

The order of a corpus is one global shuffle per epoch. Step `s` takes positions
`s * batch ... (s + 1) * batch` of the endless sequence of epochs.
"""

import functools
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
      given: whether captions are the source's own where it has them.
    """

    source: dataset.Source
    seed: int
    batch_size: int
    token_lengths: dict[str, int]
    given: bool = True
    stream: int = 0
    order: Literal[1, 2] = 2


def examples_at(corpus: Corpus, step: int, rows: range) -> list[tuple[int, int]]:
    """(epoch, record index) of some rows of the batch of `step`."""
    from grain.experimental import index_shuffle  # half a second, and workers need no order

    start, size = step * corpus.batch_size, len(corpus.source)
    examples = []
    for row in rows:
        epoch, place = divmod(start + row, size)
        seed = _shuffle_seed(corpus.order, corpus.seed, corpus.stream, epoch)
        examples.append((epoch, index_shuffle(place, max_index=size - 1, seed=seed, rounds=4)))
    return examples


@functools.lru_cache(maxsize=16)
def _shuffle_seed(order: int, seed: int, stream: int, epoch: int) -> int:
    """Of one epoch, 32 bits."""
    if order == 1:
        return (seed + stream + epoch) % 2**32
    return int(np.random.SeedSequence((seed, stream, epoch)).generate_state(1)[0])


def generator(corpus: Corpus, epoch: int, index: int) -> np.random.Generator:
    """Of the random changes of one example."""
    if corpus.order == 1:
        return np.random.default_rng((corpus.seed + corpus.stream, epoch, index))
    return np.random.default_rng((corpus.seed, corpus.stream, epoch, index))
