"""Compares a model's scores with pictures whose names are known: `calibration.json`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

import bioclip2_jax
from bioclip2_jax import files
from bioclip2_jax.data import dataset
from bioclip2_jax.data.counts import counts_of
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features import parts
from bioclip2_jax.features.embed import checksum
from bioclip2_jax.features.encode import embed_split
from bioclip2_jax.features.parts import Maker
from bioclip2_jax.identify import kept, labelled, name_lists, sure
from bioclip2_jax.identify.ladder import NONE, RIGHT, UNSURE, Ladder
from bioclip2_jax.identify.request import PRIOR_STRENGTH
from bioclip2_jax.identify.sure import Calibration, Figure, Outside, Scores
from bioclip2_jax.measures import calibration as temperatures
from bioclip2_jax.measures import intervals, outside
from bioclip2_jax.measures import sure as measure
from bioclip2_jax.measures.scores import CHUNK_ELEMENTS
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.weights import load as loading
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.load import Model

FALSE_NONE = 0.05
TOLD = (0.8, 0.9, 0.95)  # precisions
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks for; see the options of `bioclip2 calibrate`."""

    source: str
    features: str | None
    images: str | None
    split: str | None
    model: str
    taxa: str | None
    names: str | None
    within: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    rank: str | None = None
    prior: str | None = None
    prior_strength: float | None = None
    false_none: float = FALSE_NONE
    seed: int = 0
    batch_size: int = 32
    out: str
    overwrite: bool = False


@dataclass(frozen=True)
class Known:
    """Pictures whose names are known: features [n, dim] float32 of so many taxa, and their model.

    The model is loaded: the names are yet to be encoded.
    """

    features: np.ndarray
    taxa: list[Taxon]
    made: Maker
    preprocess: Preprocess
    model: Model


def run(request: Request, say: Callable[[str], None] = lambda note: None) -> Calibration:
    """Calibrates a model on a list of names and writes the file.

    Args:
      request: by the options.
      say: receives what should be known of pictures and names.

    Raises:
      UsageError: options that do not fit, or an `out` that is taken.
      UserError: pictures, names or the model cannot be used, or there are too few pictures.
    """
    if files.place(request.out).exists() and not request.overwrite:
        raise UsageError(f"--out {request.out} is there; give --overwrite, or another name")
    if not (request.taxa or request.names):
        raise UsageError("give --taxa CSV or --names DIR, as `predict` will have them")
    if request.prior_strength is not None and not request.prior:
        raise UsageError("--prior-strength goes with --prior")
    labels = name_lists.choose(
        taxa=request.taxa,
        names=request.names,
        rank=request.rank or "species",
        within=request.within,
        without=request.without,
    )
    for note in labels.notes:
        say(note)
    strength = PRIOR_STRENGTH if request.prior_strength is None else request.prior_strength
    counts = counts_of(request.prior, labels.taxa) if request.prior else None
    ladder = Ladder(labels)
    known = _known(request, say)
    scores = Scores(known.model, labels, request.batch_size, counts, strength)
    pictures = Pictures.of(known.features, known.taxa, ladder, scores)
    if (few := int((pictures.own >= 0).sum())) < outside.FEWEST:
        raise UserError(
            f"{request.source}: {few} of {len(known.taxa):,} pictures are of names on the list;"
            f" {outside.FEWEST} are the least, and a few hundred are better"
        )
    made = Calibration(
        **pictures.calibrated(request.false_none, request.seed),
        model=known.made,
        preprocess=known.preprocess,
        names=labels.tells(),
        rank=labels.rank,
        prior=name_lists.tells_prior(counts, strength),
        source=str(files.absolute(request.source)),
        version=bioclip2_jax.__version__,
    )
    sure.write(request.out, made)
    return made


def _known(request: Request, say: Callable[[str], None]) -> Known:
    """The pictures: of a table, a dataset, or a feature store that knows their names."""
    place = files.place(request.source)
    if not place.exists():
        raise UsageError(f"{request.source}: no such table, dataset or feature store")
    if not place.is_dir():
        if request.split:
            raise UsageError("--split is for datasets and feature stores; a table has all its rows")
        return _of_table(request, say)
    if request.features or request.images:
        raise UsageError(
            "--features and --images go with a table; a dataset or feature store is enough"
        )
    if parts.about_path(place).exists():
        store, model = kept.opened(request.source, request.model)
        has = set(store.texts["split"].tolist()) - {""}
        split = request.split or ("val" if "val" in has else "")
        rows = store.select(store.texts["split"] == split) if split else store
        if not rows.keys:
            raise UsageError(
                f"{request.source}: no features of split {split!r}; it has {', '.join(sorted(has))}"
            )
        if not any(taxon.deepest_rank for taxon in rows.taxa):
            raise UsageError(
                f"{request.source}: these features know no names; give the table that does, and"
                " them as --features"
            )
        assert model
        return Known(rows.features, rows.taxa, store.about.model, store.about.preprocess, model)
    model = loading.load(request.model)
    split = embed_split(
        model, dataset.open_split(place, request.split or "val"), request.batch_size
    )
    return Known(split.features, split.taxa, _maker(request, model), model.preprocess, model)


def _of_table(request: Request, say: Callable[[str], None]) -> Known:
    if bool(request.features) == bool(request.images):
        raise UsageError("give either --features STORE or --images DIR, of the table's pictures")
    names, taxa = labelled.read_taxa(request.source, say)
    if request.features:
        found = kept.of_store(request.features, request.model, names, say)
    else:
        assert request.images
        found = kept.of_images(request.images, request.model, names, request.batch_size, say)
    assert found.model
    rows = [taxa[row] for row in found.rows]
    return Known(found.features, rows, found.made, found.preprocess, found.model)


def _maker(request: Request, model: Model) -> Maker:
    return Maker(path=request.model, step=model.step, sha256=checksum(model))


@dataclass(frozen=True)
class Pictures:
    """What the list says of known pictures, before and after a temperature.

    Attributes:
      ranks: of the list.
      own: [n] int, the number of the name in the list, -1 if it is not there.
      seen: [n, 6] evidence of the list as it is.
      hidden: [n, 6] of the list without the own name.
      temperature: that fits best.
      caution: about it.
      scores: [n, ranks] float64, of the best lineages.
      right: [n, ranks] int, see `Ladder.right`.
    """

    ranks: tuple[str, ...]
    own: np.ndarray
    seen: np.ndarray
    hidden: np.ndarray
    temperature: float
    caution: str
    scores: np.ndarray
    right: np.ndarray

    @classmethod
    def of(
        cls,
        features: np.ndarray,
        truths: Sequence[Taxon],
        ladder: Ladder,
        scores: Scores,
        temperature: float | None = None,
    ) -> "Pictures":
        """Of features [n, dim] float32, whose taxa are n.

        Without a `temperature`, it is fitted to those on the list.

        Raises:
          UserError: the list is too short.
        """
        count = len(ladder.labels.taxa)
        if count < 3:
            raise UserError(f"a list of {count} names; three are the least")
        numbers = {truth: ladder.own(truth) for truth in set(truths)}
        own = np.array([numbers[truth] for truth in truths], np.int64)
        rows = np.flatnonzero(own >= 0)[: max(1, temperatures.FIT_SCORES // count)]
        caution = ""
        if temperature is None and len(rows):
            logits = scores.logits(scores.cosines(features[rows])).astype(np.float32)
            temperature = temperatures.best_temperature(logits, own[rows])
            caution = temperatures.caution(float(np.log(temperature)), len(rows))
        temperature = temperature or 1.0
        parts_of: list[tuple[np.ndarray, ...]] = []
        step = max(1, CHUNK_ELEMENTS // count // 4)
        for first in range(0, len(own), step):
            part = slice(first, first + step)
            cosines = scores.cosines(features[part])
            shares = softmax(scores.logits(cosines) / temperature, axis=1)
            places, best = ladder.best(shares)
            parts_of.append(
                (
                    outside.evidence(cosines, scores.logit_scale),
                    outside.evidence(cosines, scores.logit_scale, np.maximum(own[part], 0)),
                    best,
                    ladder.right(places, truths[part]),
                )
            )
        seen, hidden, best, right = map(np.concatenate, zip(*parts_of, strict=True))
        return cls(ladder.ranks, own, seen, hidden, temperature, caution, best, right)

    def select(self, rows: np.ndarray) -> "Pictures":
        """Some of them."""
        return replace(
            self,
            own=self.own[rows],
            seen=self.seen[rows],
            hidden=self.hidden[rows],
            scores=self.scores[rows],
            right=self.right[rows],
        )

    def detector(self) -> outside.Detector:
        """Learned from all of them."""
        listed = self.own >= 0
        others = np.concatenate([self.hidden[listed], self.seen[~listed]])
        return outside.learn(self.seen[listed], others)

    def least(self, detector: outside.Detector, false_none: float) -> float:
        """The threshold that so large a share of pictures of listed names does not reach."""
        listed = detector.listed(self.seen[self.own >= 0])
        return float(np.quantile(listed, false_none, method="lower"))

    def answers(self, other: "Pictures", precisions: Sequence[float], false_none: float) -> list:
        """The ranks, as numbers, at which others are answered by what these teach.

        Returns:
          For each precision [n] int: -1 for `UNSURE`, -2 for `NONE`.
        """
        detector = self.detector()
        least = self.least(detector, false_none)
        inside = detector.listed(self.seen) >= least
        thresholds = measure.ladder(self.scores[inside], self.right[inside], precisions)
        is_none = detector.listed(other.seen) < least
        found = (measure.deepest(other.scores, row) for row in thresholds)
        return [np.where(is_none, -2, depths) for depths in found]

    def calibrated(self, false_none: float, seed: int = 0) -> dict:
        """What these pictures teach, and what that is worth; of `Calibration`, by its names."""
        detector = self.detector()
        least = self.least(detector, false_none)
        inside = detector.listed(self.seen) >= least
        thresholds = measure.ladder(self.scores[inside], self.right[inside])
        columns = dict(zip(self.ranks, thresholds.T.tolist(), strict=True))
        listed, hidden, depths = self._judged(false_none, seed)
        known = self.own >= 0
        outcome = Outside(
            detector=detector,
            threshold=least,
            asked=false_none,
            share=float((listed[0] < listed[1])[known].mean()),
            hidden=float((hidden < listed[1])[known].mean()),
            auroc=outside.auroc(listed[0][known], hidden[known]),
            unlisted=None if known.all() else float((listed[0] < listed[1])[~known].mean()),
        )
        figures = [self.figure(wanted, each) for wanted, each in zip(TOLD, depths, strict=True)]
        return {
            "temperature": self.temperature,
            "precisions": list(measure.PRECISIONS),
            "thresholds": {
                rank: [None if value == measure.NEVER else value for value in column]
                for rank, column in columns.items()
            },
            "outside": outcome,
            "num_pictures": len(self.own),
            "num_listed": int(known.sum()),
            "figures": figures,
            "cautions": self._cautions(columns),
        }

    def _judged(
        self, false_none: float, seed: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, list[np.ndarray]]:
        """Each fifth by the others: (how listed they look, the threshold), hidden, depths."""
        folds = np.random.default_rng(seed).permutation(np.arange(len(self.own)) % _FOLDS)
        listed, least, hidden = (np.zeros(len(self.own)) for _ in range(3))
        depths = [np.zeros(len(self.own), np.int64) for _ in TOLD]
        for fold in range(_FOLDS):
            test = folds == fold
            train, judged = self.select(~test), self.select(test)
            detector = train.detector()
            listed[test], hidden[test] = map(detector.listed, (judged.seen, judged.hidden))
            least[test] = train.least(detector, false_none)
            for whole, part in zip(depths, train.answers(judged, TOLD, false_none), strict=True):
                whole[test] = part
        return (listed, least), hidden, depths

    def figure(self, wanted: float, depths: np.ndarray) -> Figure:
        """Of answers at these ranks, see `answers`."""
        answers, right, judged = {}, {}, 0
        for number, rank in reversed([*enumerate(self.ranks)]):
            rows = depths == number
            known = self.right[rows, number]
            answers[rank], right[rank] = int(rows.sum()), int((known == RIGHT).sum())
            judged += int((known != measure.UNKNOWN).sum())
        answers |= {UNSURE: int((depths == -1).sum()), NONE: int((depths == -2).sum())}
        hits = sum(right.values())
        return Figure(
            wanted=wanted,
            precision=hits / judged if judged else None,
            interval=intervals.wilson(hits, judged) if judged else None,
            answers=answers,
            right=right,
        )

    def _cautions(self, thresholds: dict[str, list[float]]) -> list[str]:
        said = [f"temperature: {self.caution}"] if self.caution else []
        place = measure.PRECISIONS.index(0.9)
        never = [rank for rank, of in thresholds.items() if of[place] == measure.NEVER]
        if never:
            said.append(
                f"at 0.9 nothing is ever sure of its {', '.join(never)}: too few pictures that no"
                " rank below answers, or too many wrong"
            )
        if (self.own >= 0).all():
            said.append(
                "all pictures are of names on the list: how often pictures of others are answered"
                " is not known; add some"
            )
        return said
