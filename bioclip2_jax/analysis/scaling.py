"""What is measured of every model of the scaling study, against a tree whose truth is known."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from bioclip2_jax.analysis import between
from bioclip2_jax.analysis.within import SpeciesWithin, within
from bioclip2_jax.evaluation.experiments import Measures
from bioclip2_jax.measures.scores import number
from bioclip2_jax.measures.simple_shot import few_shot
from bioclip2_jax.prepare.simulated.tree import TRAITS, Species

GROUP_SPECIES = 6  # a body plan with fewer is too small for a space between its species


@dataclass(frozen=True)
class Truth:
    """What is true of n pictures of s species.

    Attributes:
      species: [s], the tips of the tree.
      of_picture: [n] int, the species of every picture.
      male, juvenile: [n] int, 0 or 1.
    """

    species: list[Species]
    of_picture: np.ndarray
    male: np.ndarray
    juvenile: np.ndarray


def measure(features: np.ndarray, truth: Truth, names: np.ndarray) -> Measures:
    """All quantities of one model.

    Traits are compared among species of one body plan, since a long beak and a long fin have
    nothing in common but the number. Correlations of distances and rho are means over body plans
    weighted by their species; predictions for other families are one fit to all body plans with
    several families, each counted from its own mean over the species that are learned from. There
    chance is somewhat below zero, as what is learned from opposes what is left out.

    Args:
      features: [n, dim] float32, L2-normalised.
      truth: of the n pictures.
      names: [s, dim] float32, L2-normalised, text features of the species.
    """
    labels = truth.of_picture
    right = (features @ names.T).argmax(axis=1) == labels
    prototypes = between.prototypes(features, labels)
    bodies, body_of = number([species.body for species in truth.species])
    groups = [np.flatnonzero(body_of == body) for body in range(len(bodies))]
    groups = [rows for rows in groups if len(rows) >= GROUP_SPECIES]
    families = number([species.taxon.lineage("family") for species in truth.species])[1]
    traits = np.asarray([species.traits for species in truth.species])

    several = [rows for rows in groups if len(np.unique(families[rows])) > 1]
    inside = np.concatenate(several)
    vectors, clades = prototypes[inside], families[inside]
    plans = np.unique(body_of[inside], return_inverse=True)[1]
    gradients = {
        f"ridge_r_{trait}": between.continuous_trait(
            vectors, traits[inside, place], clades, groups=plans, permutations=0
        ).ridge_r
        for place, trait in enumerate(TRAITS)
    }
    above_chance = {}
    for name in ("habitat", "diet"):
        values = np.asarray([getattr(species, name) for species in truth.species])
        probe = between.discrete_trait(
            vectors, values[inside], clades, groups=plans, permutations=0
        )
        above_chance[f"{name}_accuracy"] = probe.accuracy - probe.chance
    variation = {}
    for name, variants in (("sex", truth.male), ("life_stage", truth.juvenile)):
        each = [
            within(features[part], labels[part], variants[part], permutations=20)
            for part in (np.isin(labels, rows) for rows in groups)
        ]
        species = [entry for group in each for entry in group.species]
        variation |= {
            f"rho_{name}": _share_inside(species),
            f"rho_{name}_chance": _mean([group.random_direction for group in each], groups),
            f"rho_halves_{name}": _mean([group.halves for group in each], groups),
            f"rho_null_{name}": _mean([group.null_mean for group in each], groups),
            f"fisher_{name}": _average([entry.fisher_raw for entry in species]),
            f"fisher_removed_{name}": _average([entry.fisher_removed_raw for entry in species]),
        }
    aligned = [_distance_correlation(traits[rows], prototypes[rows]) for rows in groups]
    return Measures(
        zero_shot_top1=float(right.mean()),
        zero_shot_chance=1 / len(truth.species),
        one_shot_top1=float(few_shot(features, labels, 1, {}).fold_top1.mean()),
        trait_alignment=_mean(aligned, groups),
        ridge_r=float(np.mean(list(gradients.values()))),
        **gradients,
        **above_chance,
        **variation,
    )


def _share_inside(species: list[SpeciesWithin]) -> float | None:
    """rho over species; those whose variants hardly differ weigh little, None where none do."""
    signals = np.asarray([entry.signal for entry in species], np.float64)
    inside = np.asarray([entry.inside for entry in species], np.float64)
    if signals.mean() < 2 * signals.std() / len(signals) ** 0.5:
        return None
    return float(sum(inside.tolist()) / signals.sum())


def _distance_correlation(traits: np.ndarray, prototypes: np.ndarray) -> float:
    upper = np.triu_indices(len(traits), 1)
    apart = np.linalg.norm(traits[:, None] - traits[None], axis=2)[upper]
    seen = 1 - (prototypes @ prototypes.T)[upper]
    return float(np.asarray(spearmanr(apart, seen))[0])


def _mean(values: list[float], groups: list[np.ndarray]) -> float:
    return float(np.average(values, weights=[len(rows) for rows in groups]))


def _average(values: list[float | None]) -> float:
    return float(np.asarray(values, np.float64).mean())
