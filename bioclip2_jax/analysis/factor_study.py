"""All models of one tree of factors: trained, measured, and kept one by one.

Each tree is a world of its own, with its renderer, its start and its pictures. Rows are files that
appear whole; a row that is there is not made again.
"""

import dataclasses
import multiprocessing
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from bioclip2_jax.analysis import factor_encoder, factors
from bioclip2_jax.analysis.factor_encoder import Pairs
from bioclip2_jax.analysis.factors import FactorWorld
from bioclip2_jax.analysis.hypotheses import GROWING
from bioclip2_jax.analysis.scaling import (
    Exam,
    Truth,
    alignment,
    measure,
    traits_permuted,
    variants_permuted,
    variation,
)
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.experiments import (
    FIRST,
    Alignment,
    Arm,
    Claim,
    FactorStudy,
    Measures,
    Row,
    Variation,
)
from bioclip2_jax.measures.scores import unit

GENERAL_IMAGES, GENERAL_STEPS = 20000, 128
RATE = 5e-4

_ALIGNMENTS = {field.name for field in dataclasses.fields(Alignment)}
_VARIATIONS = {field.name for field in dataclasses.fields(Variation)}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The file of a row; `shuffled` has a dictionary of measures for every permutation."""

    row: Row
    shuffled: list[dict[str, float | None]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TreeTask:
    """One tree: its `seed`, and the folder for its rows."""

    study: FactorStudy
    claims: tuple[Claim, ...]
    seed: int
    folder: str


def arms(study: FactorStudy, seed: int) -> list[Arm]:
    """The models of a tree: two that know nothing of it, the factorial, the controls, the theory.

    In the controls captions are hierarchical, without replay: two of the three things stay at the
    scale `alone`, or all grow without a start to go on from, which may have lost what is then
    found. The theory knows neither start nor replay.
    """
    nothing = {"grows": "", "species": 0, "images": 0, "steps": 0, "seed": seed}
    starts = [
        Arm(world="factors", captions=captions, replay=False, **nothing)
        for captions in ("untrained", "general")
    ]
    scales = [
        dict(zip(GROWING, sizes, strict=True))
        for sizes in zip(study.species, study.images, study.steps, strict=True)
    ]
    whole = [
        Arm(world="factors", captions=captions, replay=replay, grows="all", seed=seed, **scale)
        for captions in study.captions
        for replay in (False, True)
        for scale in scales
    ]
    middle = scales[study.alone]
    alone = [
        Arm(
            world="factors",
            captions="hierarchical",
            replay=False,
            grows=grows,
            seed=seed,
            **middle | {grows: scale[grows]},
        )
        for grows in GROWING
        for scale in scales
        if scale is not middle
    ]
    others = [
        Arm(world=world, captions="hierarchical", replay=False, grows="all", seed=seed, **scale)
        for world in ("scratch", "theory")
        for scale in scales
    ]
    return [*starts, *whole, *alone, *others]


def file_of(folder: Path, arm: Arm) -> Path:
    """Where the row of a model is kept."""
    words = (arm.world, arm.captions, "replay" if arm.replay else "", arm.grows)
    numbers = (arm.species, arm.images, arm.steps, arm.seed)
    return folder / f"{'-'.join(word for word in words if word)}-{'-'.join(map(str, numbers))}.json"


# Its matrices are small: threads would wait for each other longer than they work.
@threadpool_limits.wrap(limits=1)
def run_tree(task: TreeTask) -> list[Kept]:
    """The rows of one tree; those that are kept are read."""
    if multiprocessing.parent_process():
        # JAX reads it when it first computes.
        os.environ["NPROC"] = "1"
    folder, tree = Path(task.folder), None
    results = []
    for arm in arms(task.study, task.seed):
        path = file_of(folder, arm)
        if not path.exists():
            tree = tree or _Tree(task.study, task.seed)
            schema.write(path, tree.row(arm, _asked(task.claims, arm)))
        results.append(schema.read(path, Kept))
    return results


def _asked(claims: tuple[Claim, ...], arm: Arm) -> set[str]:
    """Measures of a model that the claims of the first family ask for."""
    return {
        name
        for claim in claims
        if (claim.family, claim.grows, claim.replay) == (FIRST, arm.grows, arm.replay)
        and arm.captions in (claim.captions, claim.against)
        and arm.world == "factors"
        for name in (claim.measure, claim.beside)
    }


class _Tree:
    """A tree and what is made once for all of its models."""

    def __init__(self, study: FactorStudy, seed: int):
        self.study, self.seed = study, seed
        sizes = study.branches, study.unseen
        self.world = FactorWorld(seed, *sizes)
        rng = np.random.default_rng((seed, 26))
        other = FactorWorld(seed, *sizes, tree=1)
        _, shown = other.draw(np.arange(len(other.ancestry)), GENERAL_IMAGES, rng)
        self.general = Pairs(
            pictures=self.world.render(shown, rng), captions=self.world.describe(shown)
        )
        self.exams = self.world.examination(study.species[0], rng)
        self.pictures = [self.world.render(factors, rng) for factors, _ in self.exams]
        taxa = tuple((self.world.ancestry.max(axis=0) + 1).tolist())
        self.untrained = factor_encoder.initial(seed, factors.PIXELS, factors.GENERAL_WORDS, taxa)
        start = factor_encoder.train(
            self.untrained, self.general, "general", GENERAL_STEPS, RATE, seed
        )
        # Both projections go on from the one that there is.
        self.start = start | {"image": start["image"] | {"replay": start["image"]["out"]}}

    def row(self, arm: Arm, asked: set[str]) -> Kept:
        """One model, trained and measured."""
        seen = self.world.pool[: self.study.species[0]]
        names = scale = None
        if arm.world == "theory":
            features, names = self._linear(arm, seen)
            scale = factor_encoder.THEORY_SCALE
        else:
            params = self._trained(arm)
            features = [factor_encoder.embed(params, pictures) for pictures in self.pictures]
            if arm.images:
                names = factor_encoder.name(params, self.world.ancestry[seen], arm.captions)
                scale = float(np.exp(params["log_scale"]))
        truths = [truth for _, truth in self.exams]
        measures = measure(Exam(features[0], truths[0]), Exam(features[1], truths[1]), names, scale)
        shuffled = [
            self._shuffled(features, truths, asked, draw)
            for draw in range(self.study.shuffles if asked else 0)
        ]
        return Kept(row=_row(arm, measures), shuffled=shuffled)

    def _trained(self, arm: Arm) -> factor_encoder.Params:
        if not arm.images:
            return self.untrained if arm.captions == "untrained" else self.start
        species, shown, rng = self._individuals(arm)
        pairs = Pairs(
            pictures=self.world.render(shown, rng),
            captions=self.world.ancestry[species].astype(np.int32),
        )
        return factor_encoder.train(
            self.untrained if arm.world == "scratch" else self.start,
            pairs,
            arm.captions,
            arm.steps,
            RATE,
            self.seed,
            self.general if arm.replay else None,
        )

    def _individuals(self, arm: Arm) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """The same for all models of so many species and pictures."""
        rng = np.random.default_rng((self.seed, 23, arm.species, arm.images))
        species, shown = self.world.draw(self.world.pool[: arm.species], arm.images, rng)
        return species, shown, rng

    def _linear(self, arm: Arm, seen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Features of the exams and of names in the theory's setting."""
        rng = np.random.default_rng((self.seed, 27))
        ancestry = self.world.ancestry
        words = [
            unit(rng.normal(size=(int(taxa.max()) + 1, factor_encoder.DIM)))[taxa]
            for taxa in ancestry.T
        ]
        prototypes = unit(np.sum(words, axis=0)).astype(np.float32)
        species, shown, _ = self._individuals(arm)
        weights = factor_encoder.train_linear(shown, species, prototypes, arm.steps, self.seed)
        return [unit(factors @ weights) for factors, _ in self.exams], prototypes[seen]

    def _shuffled(
        self, features: list[np.ndarray], truths: list[Truth], asked: set[str], draw: int
    ) -> dict[str, float | None]:
        """What is asked of the model, with traits of other species and sexes of other pictures.

        The same permutation at every scale, as the true traits are the same.
        """
        rng = np.random.default_rng((self.seed, 25, draw))
        seen, unseen = (traits_permuted(truth, rng) for truth in truths)
        dealt = variants_permuted(truths[0], rng)
        measures: dict[str, float | None] = {}
        if asked & _ALIGNMENTS:
            measures |= vars(alignment(Exam(features[0], seen), Exam(features[1], unseen)))
        if asked & _VARIATIONS:
            measures |= vars(variation(Exam(features[0], dealt)))
        return {name: measures[name] for name in sorted(asked & measures.keys())}


def _row(arm: Arm, measures: Measures) -> Row:
    return Row(**vars(arm), **vars(measures))
