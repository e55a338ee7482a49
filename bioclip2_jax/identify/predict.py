"""Names for new pictures, chosen from a list of taxa or of free labels.

The score of a name is its share in softmax(exp(logit_scale) · cosine) over the list, each name in
the 80 sentences that pybioclip takes (the evaluation has one more, the original's). Above species
it is the sum over the taxa of a lineage, which names higher ranks better than asking for them.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from PIL import Image

from bioclip2_jax.data import images
from bioclip2_jax.data.exif import Capture
from bioclip2_jax.errors import UsageError
from bioclip2_jax.features.embed import checksum
from bioclip2_jax.features.encode import embed_images
from bioclip2_jax.features.store import Store
from bioclip2_jax.identify.boxes import Box, Boxes, NotNamed
from bioclip2_jax.identify.captured import Captured
from bioclip2_jax.identify.inputs import Inputs
from bioclip2_jax.identify.label_features import features_of
from bioclip2_jax.identify.local import Answer, AtPlace, Found, Local, Prior
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.measures import streamed
from bioclip2_jax.measures.accuracy import lineage_groups
from bioclip2_jax.measures.scores import (
    lineage_counts,
    log_counts,
    number,
    probabilities,
    sum_groups,
    top_k,
    with_prior,
)
from bioclip2_jax.measures.tree import top_down
from bioclip2_jax.weights.load import Model


@dataclass(frozen=True)
class Prediction:
    """The first answers for one picture; `error` instead if it could not be read.

    Attributes:
      file_name: what the picture is called.
      answers: the best first.
      note: what was unusual about reading it.
      error: why there are no answers.
      box: the part of the picture that is meant.
      capture: when and where it was taken, if that is asked.
      unweighted: of names that are weighted by place, what the score of each answer is without it.
      plain: the first answers without the place.
      is_placed: whether it is known.
    """

    file_name: str
    answers: list[Answer]
    note: str = ""
    error: str = ""
    box: Box | None = None
    capture: Capture | None = None
    unweighted: tuple[float, ...] = ()
    plain: list[Answer] = field(default_factory=list)
    is_placed: bool = False

    def without_place(self) -> "Prediction":
        """As if nothing were known of it."""
        own = tuple(score for _, score in self.plain)
        return replace(self, answers=self.plain, unweighted=own, is_placed=False)


class Names(Protocol):
    """What chooses answers by features: a list of names, or a head of `fit`."""

    def name(self, features: np.ndarray) -> list[list[Answer]]:
        """The best answers for pictures of [n, dim] float32 features, L2-normalised."""
        ...


class Namer:
    """A list of names, encoded once, from which features of pictures choose."""

    def __init__(
        self,
        model: Model,
        labels: LabelSet,
        *,
        k: int = 5,
        batch_size: int = 32,
        decode: str = "flat",
        counts: np.ndarray | None = None,
        strength: float = 0.25,
        local: Local | None = None,
    ):
        """Encodes the names.

        Args:
          model: from `load`.
          labels: the closed list; `k` is clipped to its length.
          k: answers a picture.
          batch_size: texts encoded at a time, 128 at least.
          decode: "flat", or "top_down": the best name is the one that the tree leads to, see
            `measures.tree`, so that answers at several ranks are of one lineage; the others are
            those that share its lineage above.
          counts: [names], how often each is met, a prior of that `strength`
            (`scores.with_prior`).
          local: another one of each place, for `name_at`; the two multiply.
        """
        self._labels, self._k, self._scale = labels, k, model.logit_scale
        self._counts, self._strength, self._local = counts, strength, local
        self._groups = lineage_groups(labels.taxa) if decode == "top_down" else {}
        lineages = {}
        for rank in list(self._groups)[:-1]:
            lineages[rank] = number([taxon.lineage(rank) for taxon in labels.taxa])[0]
        self._named = {r: np.array([bool(line[-1]) for line in of]) for r, of in lineages.items()}
        if labels.is_long and decode == "top_down":
            raise UsageError(
                f"--decode top_down: {len(labels.groups):,} names are too many,"
                f" {streamed.LONG:,} at most; take a part of them by --within"
            )
        self._list = _long_list(model, labels, counts, strength) if labels.is_long else None
        if self._list:
            return
        texts = [labels.names]
        texts += [[" ".join(filter(None, x)) or "unknown" for x in of] for of in lineages.values()]
        flat = [text for part in texts for text in part]
        vectors = features_of(model, flat, max(batch_size, 128))
        ends = np.cumsum([len(part) for part in texts])[:-1]
        self._features, *prompted = np.split(vectors, ends)
        if labels.vectors:
            labels.vectors.check_model(checksum(model), model.config.embed_dim)
            self._features = labels.vectors.read(0, len(labels.groups))
        self._of_lineages = dict(zip(lineages, prompted, strict=True))

    def name(self, features: np.ndarray) -> list[list[Answer]]:
        """The k best names of pictures.

        Args:
          features: [n, dim] float32, L2-normalised.
        """
        return [self._answers(best) for best in self._best(features)]

    def name_at(self, features: np.ndarray, places: Sequence[Hashable | None]) -> list[AtPlace]:
        """The same with regard to where they were taken; None of a place leaves all as it is.

        Args:
          features: [n, dim] float32, L2-normalised.
          places: [n] as `Local` says.
        """
        plain = self._best(features)
        weighed = [*plain]
        rows = [row for row, place in enumerate(places) if place is not None]
        if rows and self._local and self._local.strength:
            found = self._best(features[rows], [places[row] for row in rows])
            for row, best in zip(rows, found, strict=True):
                weighed[row] = best
        return [
            AtPlace(self._answers(one), tuple(own for _, _, own in one), self._answers(other))
            for one, other in zip(weighed, plain, strict=True)
        ]

    def _answers(self, best: list[Found]) -> list[Answer]:
        return [(self._labels.rows[group], score) for group, score, _ in best]

    def _best(
        self, features: np.ndarray, places: Sequence[Hashable] | None = None
    ) -> list[list[Found]]:
        """The k best of each picture, with regard to their places if these are given."""
        if self._list:
            return self._best_of_long(features, places)
        scores, order = self._scores(features, places)
        plain = self._scores(features)[0] if places else scores
        found = []
        for row, own, above, best in zip(scores, plain, order, top_k(order, self._k), strict=True):
            listed = best[above[best] >= 0].tolist()
            found.append([(group, float(row[group]), float(own[group])) for group in listed])
        return found

    def _best_of_long(
        self, features: np.ndarray, places: Sequence[Hashable] | None
    ) -> list[list[Found]]:
        assert self._list
        if places is None:
            parts = self._list.best(features, self._scale, self._k)
            columns = zip(*(part.tolist() for part in parts), strict=True)
            return [list(zip(*picture, strict=True)) for picture in columns]
        found: list[list[Found]] = [[] for _ in places]
        assert self._local
        for place in dict.fromkeys(places):
            rows = [row for row, own in enumerate(places) if own == place]
            extra = self._local.strength * log_counts(self._local.weights(place))
            parts = self._list.best(features[rows], self._scale, self._k, extra=extra)
            for row, *picture in zip(rows, *(part.tolist() for part in parts), strict=True):
                found[row] = list(zip(*picture, strict=True))
        return found

    def _scores(
        self, features: np.ndarray, places: Sequence[Hashable] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """[n, groups] scores; and the same to put in order, -1 for what is no answer."""
        priors = [] if self._counts is None else [Prior(self._counts, self._strength)]
        if places:
            assert self._local
            distinct, which = number(places)
            weights = np.stack([self._local.weights(place) for place in distinct])
            priors.append(Prior(weights, self._local.strength, which))
        weighed, names = self._weighed(features, self._features, priors)
        scores = sum_groups(probabilities(weighed, names, self._scale), self._labels.groups)
        scores = np.minimum(scores, 1)  # sums of shares may miss it by a last digit
        order = scores
        if self._groups:
            groups = self._groups
            of_lineages = {
                rank: self._weighed(features, own, priors, groups[rank])[1]
                for rank, own in self._of_lineages.items()
            }
            down = top_down(weighed, names, self._scale, groups, of_lineages, self._named)
            order = _beside(scores, down.answers, groups, self._labels.rank)
        return scores, order

    def _weighed(
        self,
        features: np.ndarray,
        names: np.ndarray,
        priors: Sequence[Prior],
        own: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features of pictures and names with the priors; `own`: lineage of each label."""
        for prior in priors:
            sums = np.atleast_2d(prior.counts)
            if own is not None:
                sums = np.stack([lineage_counts(row, own) for row in sums])
            factor = prior.strength / self._scale
            features, names = with_prior(features, names, sums, factor, prior.which)
        return features, names


def _long_list(
    model: Model, labels: LabelSet, counts: np.ndarray | None, strength: float
) -> streamed.LongList:
    """A list of which not all scores can be held."""
    vectors, count = labels.vectors, len(labels.groups)
    if vectors:
        vectors.check_model(checksum(model), model.config.embed_dim)
        read = vectors.read
    else:
        own = features_of(model, labels.names, 256)

        def read(first: int, stop: int) -> np.ndarray:
            return own[first:stop]

    bonus = None if counts is None else strength * log_counts(counts)
    return streamed.LongList(
        read,
        count,
        bonus=bonus,
        groups=None if len(labels.rows) == count else labels.groups,
    )


def predict(
    model: Model,
    pictures: Inputs | Boxes | Captured,
    namer: Names,
    batch_size: int = 32,
    *,
    start: int = 0,
    use_truncated: bool = False,
    local: Local | None = None,
) -> Iterator[list[Prediction]]:
    """The names of every picture, batch by batch. Batches are cut by position alone.

    Args:
      model: from `load`.
      pictures: from `inputs.opened`, or the boxes in them; also with their times.
      namer: of the same model.
      batch_size: pictures encoded at a time.
      start: where an earlier call ended with a batch.
      use_truncated: see `images.read`.
      local: where pictures were taken, if the namer is to regard it.
    """
    notes: dict[int, str] = {}
    passed: set[int] = set()

    def look(index: int) -> Image.Image:
        if start + index >= pictures.count:
            raise images.BadImage("no picture, but a place in the last batch")
        try:
            seen = pictures.look(start + index, use_truncated=use_truncated)
        except NotNamed:
            passed.add(index)
            raise
        if seen.notes:
            notes[index] = "; ".join(seen.notes)
        return seen.image

    # A last batch has the size of the others, whatever is left, so that its features are the same.
    left = pictures.count - start
    count = max(left, min(batch_size, pictures.count)) if left else 0
    for batch in embed_images(model, count, look, batch_size):
        errors = dict(batch.bad)
        found = {
            index: Prediction(
                file_name=pictures.name(start + index),
                answers=[],
                note=notes.pop(index, ""),
                error="" if index in passed else errors.get(index, ""),
                box=pictures.box(start + index),
                capture=pictures.capture(start + index),
            )
            for index in sorted([*batch.indices, *errors])
            if index < left
        }
        if batch.indices:
            named = [found[index] for index in batch.indices]
            answered = _answered(namer, batch.features, named, local)
            found |= dict(zip(batch.indices, answered, strict=True))
        yield [*found.values()]


def predict_kept(
    kept: Store,
    namer: Names,
    batch_size: int = 32,
    *,
    start: int = 0,
    local: Local | None = None,
) -> Iterator[list[Prediction]]:
    """The same of kept features; behind them the pictures that could not be read when it was made.

    Args:
      kept: of the namer's model.
      namer: the names.
      batch_size: features at a time.
      start: where an earlier call ended with a batch.
      local: as of `predict`.
    """
    count = len(kept.keys)
    for first in range(start, count, batch_size):
        rows = slice(first, min(first + batch_size, count))
        named = [Prediction(file_name=key, answers=[]) for key in kept.keys[rows]]
        yield _answered(namer, kept.features[rows], named, local)
    bad = kept.about.bad[max(0, start - count) :]
    if bad:
        yield [Prediction(file_name=key, answers=[], error=reason) for key, reason in bad]


def _answered(
    namer: Names, features: np.ndarray, pictures: Sequence[Prediction], local: Local | None
) -> list[Prediction]:
    """Pictures with their answers, by their features: [pictures, dim]."""
    if not local:
        named = namer.name(features)
        return [replace(one, answers=best) for one, best in zip(pictures, named, strict=True)]
    assert isinstance(namer, Namer), "a head knows no places"
    places = [local.place_of(one.file_name, one.capture) for one in pictures]
    at = namer.name_at(features, places)
    return [
        replace(one, answers=best, unweighted=own, plain=plain, is_placed=place is not None)
        for one, place, (best, own, plain) in zip(pictures, places, at, strict=True)
    ]


def _beside(
    scores: np.ndarray, down: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray], rank: str
) -> np.ndarray:
    """[n, names] to put in order: the answers down the tree first, -1 for what is not beside them.

    Args:
      scores: [n, names] at `rank`.
      down: rank → [n] int, the answers.
      groups: rank → [classes] int, see `accuracy.lineage_groups`.
      rank: that is answered at.
    """
    order = scores.copy()
    place = list(groups).index(rank)
    if place:
        above = list(groups)[place - 1]
        parents = np.zeros(scores.shape[1], np.int64)
        parents[groups[rank]] = groups[above]
        order[parents[None, :] != down[above][:, None]] = -1
    np.put_along_axis(order, down[rank][:, None], 2, axis=1)
    return order
