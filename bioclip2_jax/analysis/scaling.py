"""What is measured of every model of the scaling study, against a world whose truth is known.

Corrected figures alone: rho and Fisher's ratio less the noise of their means, or beside the same
of random divisions; traits predicted for families that were not looked at; species that were never
trained on beside those that were.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from bioclip2_jax.analysis import between
from bioclip2_jax.analysis.ridge import assign_folds, nested_ridge
from bioclip2_jax.analysis.within import within
from bioclip2_jax.evaluation.experiments import Alignment, Measures, Variation
from bioclip2_jax.measures.simple_shot import few_shot

SHOTS = 5
DIVISIONS = 5  # at random, of the pictures of each species
TRIPLES = 100  # of species, whose planes random divisions are looked at in
MIN_FAMILIES = 3


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is true of n pictures of s species.

    Attributes:
      of_picture: [n] int, the species of every picture, each with several.
      inherited, convergent: [s, traits] float; classes are indicators.
      families: [s] int.
      variants: name → [n] int, 0 or 1.
    """

    of_picture: np.ndarray
    inherited: np.ndarray
    convergent: np.ndarray
    families: np.ndarray
    variants: dict[str, np.ndarray]


class Exam(NamedTuple):
    """Features [n, d] float, L2-normalised, and the truth of their pictures."""

    features: np.ndarray
    truth: Truth


def measure(
    seen: Exam, unseen: Exam, names: np.ndarray | None, logit_scale: float | None = None
) -> Measures:
    """All quantities of one model.

    Args:
      seen: of the species that every model is trained on.
      unseen: of species that no model is trained on.
      names: [s, d] float, L2-normalised, text features of those that are seen; None: unknown.
      logit_scale: for the record.
    """
    features, truth = seen
    zero_shot = None
    if names is not None:
        zero_shot = float(((features @ names.T).argmax(axis=1) == truth.of_picture).mean())
    spread = np.linalg.eigvalsh(np.cov(np.asarray(features, np.float64).T))
    aligned = alignment(seen, unseen)
    held_out = {
        f"{kind}_held_out_{who}": _held_out(exam, kind)
        for who, exam in (("seen", seen), ("unseen", unseen))
        for kind in ("inherited", "convergent")
    }
    return Measures(
        zero_shot=zero_shot,
        zero_shot_chance=1 / len(truth.families),
        effective_rank=float(spread.sum() ** 2 / (spread**2).sum()),
        logit_scale=logit_scale,
        **vars(replace(aligned, **held_out)),
        **vars(variation(seen)),
    )


def alignment(seen: Exam, unseen: Exam) -> Alignment:
    """How distances between species agree; without predictions, which take longer."""
    return Alignment(
        inherited_seen=_agreement(seen, seen.truth.inherited),
        inherited_unseen=_agreement(unseen, unseen.truth.inherited),
        convergent_seen=_agreement(seen, seen.truth.convergent),
        convergent_unseen=_agreement(unseen, unseen.truth.convergent),
    )


def variation(seen: Exam) -> Variation:
    """Of all variants within the species."""
    features, truth = np.asarray(seen.features, np.float64), seen.truth
    count, dim = len(truth.families), features.shape[1]
    figures = {}
    for name, variants in truth.variants.items():
        found = within(
            features,
            truth.of_picture,
            variants,
            dimensions=min(count - 1, dim // 2),
            permutations=DIVISIONS,
        )
        each = [
            few_shot(seen.features[rows], variants[rows], SHOTS, {}).fold_top1.mean()
            for rows in (np.flatnonzero(truth.of_picture == s) for s in range(count))
        ]
        figures |= {
            f"plane_{name}": found.plane.rho if found.plane else None,
            f"plane_null_{name}": _plane_null(features, truth.of_picture, variants),
            f"rho_{name}": found.rho,
            f"halves_{name}": found.halves,
            f"null_{name}": found.null_mean,
            f"fisher_{name}": found.fisher,
            f"fisher_removed_{name}": found.fisher_removed,
            f"few_shot_{name}": float(np.mean(each)),
        }
    return Variation(**figures)


def traits_permuted(truth: Truth, rng: np.random.Generator) -> Truth:
    """The traits of other species; sexes, families and all else stay."""
    order = rng.permutation(len(truth.families))
    return replace(truth, inherited=truth.inherited[order], convergent=truth.convergent[order])


def variants_permuted(truth: Truth, rng: np.random.Generator) -> Truth:
    """The variants of other pictures of the same species."""
    shuffled = {}
    for name, variants in truth.variants.items():
        shuffled[name] = variants.copy()
        for species in range(len(truth.families)):
            rows = np.flatnonzero(truth.of_picture == species)
            shuffled[name][rows] = rng.permutation(variants[rows])
    return replace(truth, variants=shuffled)


def _agreement(exam: Exam, traits: np.ndarray) -> float | None:
    """None where all species have the same traits."""
    apart = pdist(traits)
    prototypes = between.prototypes(exam.features, exam.truth.of_picture)
    if np.ptp(apart) == 0:
        return None
    return float(np.asarray(spearmanr(apart, pdist(prototypes, "cosine")))[0])


def _held_out(exam: Exam, kind: str) -> float | None:
    """Mean over traits of the correlation with predictions from other families.

    Departures from what a fold is predicted without features, see `between.continuous_trait`.
    """
    truth, traits = exam.truth, getattr(exam.truth, kind)
    if len(np.unique(truth.families)) < MIN_FAMILIES:
        return None
    prototypes = between.prototypes(exam.features, truth.of_picture)
    targets = (traits - traits.mean(axis=0)) / np.maximum(traits.std(axis=0), 1e-12)
    folds = assign_folds(truth.families)
    found = nested_ridge(prototypes, folds, targets[:, None])
    base = found.baselines[:, 0]
    predicted, true = found.predictions[:, 0] - base, targets - base
    predicted, true = predicted - predicted.mean(axis=0), true - true.mean(axis=0)
    sizes = np.linalg.norm(predicted, axis=0) * np.linalg.norm(true, axis=0)
    return float(((predicted * true).sum(axis=0) / np.maximum(sizes, 1e-12)).mean())


def _plane_null(features: np.ndarray, species: np.ndarray, variants: np.ndarray) -> float:
    """Mean share, in the plane of three species, of differences that are made at random."""
    rng = np.random.default_rng(0)
    count = int(species.max()) + 1
    middles, differences = [], []
    for number in range(count):
        rows = np.flatnonzero(species == number)
        middles.append(
            np.mean([features[rows[variants[rows] == v]].mean(axis=0) for v in (0, 1)], 0)
        )
        dealt = rng.permuted(np.tile(variants[rows], (DIVISIONS, 1)), axis=1)
        sizes = np.bincount(variants[rows], minlength=2)
        differences.append(np.where(dealt == 1, 1 / sizes[1], -1 / sizes[0]) @ features[rows])
    centres, shares = np.stack(middles), []
    for _ in range(TRIPLES):
        three = rng.choice(count, 3, replace=False)
        places = centres[three] - centres[three].mean(axis=0)
        plane = np.linalg.svd(places, full_matrices=False)[2][:2]
        vectors = np.concatenate([differences[number] for number in three])
        shares.append(((vectors @ plane.T) ** 2).sum(axis=1) / (vectors**2).sum(axis=1))
    return float(np.mean(shares))
