"""Individuals of a simulated tree of life, photographed into a dataset.

A picture is a function of (seed, number) and may be drawn in any order.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioclip2_jax.data.records import Record, make_record
from bioclip2_jax.errors import UsageError
from bioclip2_jax.prepare.simulated.bodies import Appearance
from bioclip2_jax.prepare.simulated.photograph import render
from bioclip2_jax.prepare.simulated.tree import GROUPS, TRAITS, Species, appearance, grow_tree
from bioclip2_jax.prepare.source import Part, Picture

LABELS = ("sex", "lifeStage", "habitat", "diet", "activity", *(f"trait_{t}" for t in TRAITS))
_PICTURES_A_PART = 500
_STRAYS = 0.15  # share of individuals pictured outside their habitat


@dataclass(frozen=True)
class Individual:
    """One organism to be photographed; `number` seeds its picture."""

    number: int
    species: Species
    male: bool
    juvenile: bool
    habitat: str


def draw_individuals(
    seed: int, species: Sequence[Species], num_images: int
) -> dict[str, list[Individual]]:
    """Split → individuals. Species have long-tailed counts, at least 4 pictures each.

    A tenth of each species (and at least one picture) goes to `val`, as many to `test`.

    Raises:
      UsageError: fewer than four pictures a species.
    """
    if num_images < 4 * len(species):
        raise UsageError(
            f"--images {num_images} is fewer than 4 for each of {len(species)} species"
        )
    rng = np.random.default_rng((seed, 1))
    popularity = rng.lognormal(0, 1, len(species))
    counts = rng.multinomial(num_images - 4 * len(species), popularity / popularity.sum()) + 4
    splits: dict[str, list[Individual]] = {"train": [], "val": [], "test": []}
    number = 0
    for kind, count in zip(species, counts, strict=True):
        held_out = max(1, round(0.1 * count))
        for i, (male, juvenile, stray) in enumerate(rng.random((3, count)).T):
            split = "val" if i < held_out else "test" if i < 2 * held_out else "train"
            individual = Individual(
                number=number,
                species=kind,
                male=bool(male < 0.5),
                juvenile=bool(juvenile < 0.3),
                habitat=draw_habitat(kind, stray),
            )
            splits[split].append(individual)
            number += 1
    return splits


def draw_habitat(species: Species, chance: float) -> str:
    """Where an individual is met: at home, or for the smallest chances of [0, 1) astray."""
    habitats = next(group.habitats for group in GROUPS if group.body == species.body)
    elsewhere = [habitat for habitat in habitats if habitat != species.habitat]
    stray = chance / _STRAYS
    return elsewhere[int(stray * len(elsewhere))] if stray < 1 else species.habitat


def look_of(individual: Individual) -> Appearance:
    """The appearance of an individual."""
    return appearance(
        individual.species,
        male=individual.male,
        juvenile=individual.juvenile,
        habitat=individual.habitat,
    )


def photograph(seed: int, individual: Individual, image_size: int) -> Record:
    """The record of one individual, with its true traits as labels."""
    species = individual.species
    rng = np.random.default_rng((seed, 2, individual.number))
    labels = {
        "sex": "male" if individual.male else "female",
        "lifeStage": "juvenile" if individual.juvenile else "adult",
        "habitat": individual.habitat,
        "diet": species.diet,
        "activity": species.activity,
    }
    traits = zip(TRAITS, species.traits, strict=True)
    return make_record(
        key=f"sim-{seed}-{individual.number:07d}",
        image=render(look_of(individual), rng, image_size),
        taxon=species.taxon,
        vernacular_name=species.common_name,
        source="simulated",
        licence="CC0-1.0",
        dataset_name="simulated-tree-of-life",
        labels=labels | {f"trait_{name}": f"{value:.4f}" for name, value in traits},
    )


@dataclass(frozen=True, kw_only=True)
class SimulatedTree:
    """A source: a tree of life grown from a seed, and pictures of its individuals."""

    seed: int
    num_species: int
    num_images: int
    image_size: int

    def parts(self, folder: Path) -> list[Part]:
        """Slices of the individuals.

        Raises:
          UsageError: impossible sizes.
        """
        del folder
        count = len(_individuals(self.seed, self.num_species, self.num_images))
        return [
            Part(file="individuals", rows=(start, min(start + _PICTURES_A_PART, count)))
            for start in range(0, count, _PICTURES_A_PART)
        ]

    def read(self, part: Part) -> Iterator[Picture]:
        """Photographs the individuals of a slice."""
        individuals = _individuals(self.seed, self.num_species, self.num_images)
        for split, individual in individuals[slice(*part.rows or ())]:
            record = photograph(self.seed, individual, self.image_size)
            yield Picture(file="", split=split, record=record)


@functools.lru_cache(1)
def _individuals(seed: int, num_species: int, num_images: int) -> list[tuple[str, Individual]]:
    """All of them with their split."""
    splits = draw_individuals(seed, grow_tree(seed, num_species), num_images)
    return [(split, individual) for split, those in splits.items() for individual in those]
