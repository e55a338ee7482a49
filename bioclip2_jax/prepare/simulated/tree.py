"""A simulated tree of life: lineages, heritable traits, individuals, and their photographs.

Continuous traits follow Brownian motion along the branches, discrete ones switch with a fixed
chance on each branch, so relatives look alike and live alike. Everything is a function of the
seed; a picture is a function of (seed, number) and may be drawn in any order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bioclip2_jax.data.records import Record, make_record
from bioclip2_jax.errors import UsageError
from bioclip2_jax.prepare.simulated.bodies import Appearance
from bioclip2_jax.prepare.simulated.names import LatinNames, common_name
from bioclip2_jax.prepare.simulated.photograph import render
from bioclip2_jax.prepare.write import Summary, write_dataset
from bioclip2_jax.text.taxonomy import Taxon

TRAITS = (
    "hue",
    "second_hue",
    "saturation",
    "lightness",
    "elongation",
    "head",
    "appendage",
    "limb",
    "frequency",
    "contrast",
)
# Standard deviation of a trait's change along one branch, and chance that a discrete trait
# switches there, for the branches that lead to orders, families, genera and species.
_STEPS = (0.8, 0.7, 0.5, 0.45)
_SWITCH = (0.3, 0.3, 0.15, 0.1)
_STRAYS = 0.15  # share of individuals pictured outside their habitat
_HOLES = 0.08  # share of orders and families without a name
_DIETS = ("plants", "seeds", "insects", "meat")
_ACTIVITIES = ("diurnal", "diurnal", "crepuscular", "nocturnal")
_PATTERNS = ("plain", "stripes", "bands", "spots")
LABELS = ("sex", "lifeStage", "habitat", "diet", "activity", *(f"trait_{t}" for t in TRAITS))


@dataclass(frozen=True)
class _Group:
    """A higher taxon with its own body plan.

    Attributes:
      lineage: kingdom, phylum, class; the class of ray-finned fish is empty, as in GBIF.
      body: see `bodies.py`.
      share: of all species.
      hue: (centre, spread) on the colour circle.
      habitats: where its members live.
      endings: of order and family names.
      nouns: for common names.
    """

    lineage: tuple[str, str, str]
    body: str
    share: float
    hue: tuple[float, float]
    habitats: tuple[str, ...]
    endings: tuple[str, str]
    nouns: tuple[str, ...]


_LAND = ("forest", "grassland", "desert", "wetland")
_WATER = ("river", "reef", "deep sea")
_ANY_HUE = (0.0, 0.30)
_ANIMAL, _PLANT, _FUNGUS = ("iformes", "idae"), ("ales", "aceae"), ("ales", "aceae")
_GROUPS = (
    _Group(("Animalia", "Chordata", "Aves"), "bird", 0.20, _ANY_HUE, _LAND, _ANIMAL,
           ("finch", "thrush", "warbler", "crake", "shrike", "lark", "tanager", "rail")),
    _Group(("Animalia", "Chordata", ""), "fish", 0.15, _ANY_HUE, _WATER, _ANIMAL,
           ("perch", "dace", "wrasse", "goby", "bream", "darter")),
    _Group(("Animalia", "Chordata", "Mammalia"), "mammal", 0.11, (0.08, 0.04), _LAND, _ANIMAL,
           ("vole", "fox", "antelope", "marten", "civet", "hare")),
    _Group(("Animalia", "Arthropoda", "Insecta"), "beetle", 0.10, _ANY_HUE, _LAND, _ANIMAL,
           ("beetle", "chafer", "weevil", "borer")),
    _Group(("Animalia", "Arthropoda", "Insecta"), "butterfly", 0.12, _ANY_HUE, _LAND, _ANIMAL,
           ("skipper", "brushfoot", "satyr", "swallowtail", "blue")),
    _Group(("Animalia", "Arthropoda", "Arachnida"), "spider", 0.06, (0.07, 0.05), _LAND, _ANIMAL,
           ("spider", "weaver", "hunter")),
    _Group(("Plantae", "Tracheophyta", "Magnoliopsida"), "flower", 0.12, (0.9, 0.25), _LAND,
           _PLANT, ("daisy", "bellflower", "rose", "campion", "poppy")),
    _Group(("Plantae", "Tracheophyta", "Polypodiopsida"), "fern", 0.04, (0.30, 0.04),
           ("forest", "wetland"), _PLANT, ("fern", "bracken")),
    _Group(("Plantae", "Tracheophyta", "Pinopsida"), "conifer", 0.03, (0.36, 0.05),
           ("forest", "grassland"), _PLANT, ("pine", "spruce", "fir")),
    _Group(("Fungi", "Basidiomycota", "Agaricomycetes"), "mushroom", 0.07, (0.04, 0.12),
           ("forest", "grassland"), _FUNGUS, ("webcap", "bolete", "bonnet", "waxcap")),
)  # fmt: skip


@dataclass(frozen=True)
class Species:
    """A tip of the tree.

    Attributes:
      taxon: its lineage.
      common_name: English, may be empty.
      traits: [len(TRAITS)] float64, the z-scores at the tip.
      body, form, pattern: see `bodies.Appearance`.
      habitat, diet, activity: discrete traits.
      base_hue, hue_spread: of its group, for `appearance`.
    """

    taxon: Taxon
    common_name: str
    traits: tuple[float, ...]
    body: str
    form: int
    pattern: str
    habitat: str
    diet: str
    activity: str
    base_hue: float
    hue_spread: float


def grow_tree(seed: int, num_species: int) -> list[Species]:
    """Grows the tree and returns its tips.

    Raises:
      UsageError: fewer species than groups of organisms.
    """
    if num_species < len(_GROUPS):
        raise UsageError(f"--species {num_species}: at least {len(_GROUPS)}, one of each group")
    rng = np.random.default_rng((seed, 0))
    shares = np.array([group.share for group in _GROUPS])
    counts = np.maximum(1, np.floor(shares / shares.sum() * num_species)).astype(int)
    counts[0] += num_species - counts.sum()
    names, used_common = LatinNames(rng), set()
    return [
        species
        for group, count in zip(_GROUPS, counts, strict=True)
        for species in _grow_group(group, int(count), rng, names, used_common)
    ]


@dataclass(frozen=True)
class _State:
    """Heritable values at a node."""

    traits: np.ndarray
    form: int
    pattern: str
    habitat: str
    activity: str

    def descend(self, level: int, group: _Group, rng: np.random.Generator) -> "_State":
        traits = self.traits + rng.normal(0, _STEPS[level], len(TRAITS))

        def drift(value, choices):
            return choices[rng.integers(len(choices))] if rng.random() < _SWITCH[level] else value

        # The form of tail, ear or cap is settled with the family.
        form = int(rng.integers(4)) if level <= 1 else self.form
        pattern, activity = drift(self.pattern, _PATTERNS), drift(self.activity, _ACTIVITIES)
        return _State(traits, form, pattern, drift(self.habitat, group.habitats), activity)


def _grow_group(
    group: _Group, count: int, rng: np.random.Generator, names: LatinNames, used_common: set[str]
) -> Iterator[Species]:
    def pick(choices):
        return choices[rng.integers(len(choices))]

    root = _State(
        rng.normal(0, 0.4, len(TRAITS)), 0, pick(_PATTERNS), pick(group.habitats), "diurnal"
    )
    for in_order in _split(count, 9, rng):
        order_state = root.descend(0, group, rng)
        order = "" if rng.random() < _HOLES else names.latin(2, group.endings[0])
        for in_family in _split(in_order, 4, rng):
            family_state = order_state.descend(1, group, rng)
            family = "" if rng.random() < _HOLES else names.latin(2, group.endings[1])
            noun = pick(group.nouns)
            for in_genus in _split(in_family, 2, rng):
                genus_state = family_state.descend(2, group, rng)
                genus = names.latin(2, pick(("us", "a", "is", "on")))
                for _ in range(in_genus):
                    state = genus_state.descend(3, group, rng)
                    taxon = Taxon(*group.lineage, order, family, genus, names.epithet(genus))
                    species = _tip(taxon, group, state)
                    look = appearance(species, male=True, juvenile=False, habitat=species.habitat)
                    name = common_name(look, noun, rng, used_common)
                    yield replace(species, common_name=name)


def _tip(taxon: Taxon, group: _Group, state: _State) -> Species:
    # Diet follows the appendage (beak, mouthparts) through thresholds.
    diet = _DIETS[int(np.searchsorted((-0.7, 0.0, 0.7), state.traits[TRAITS.index("appendage")]))]
    if taxon.kingdom != "Animalia":
        diet = "light" if taxon.kingdom == "Plantae" else "dead wood"
    return Species(
        taxon,
        "",
        tuple(float(value) for value in state.traits),
        group.body,
        state.form,
        state.pattern,
        state.habitat,
        diet,
        state.activity,
        *group.hue,
    )


def _split(count: int, mean: int, rng: np.random.Generator) -> list[int]:
    """Divides `count` species unevenly among children that hold `mean` on average."""
    children = max(1, round(count / mean))
    extra = rng.multinomial(count - children, rng.dirichlet(np.full(children, 0.7)))
    return [1 + int(number) for number in extra]


def appearance(species: Species, *, male: bool, juvenile: bool, habitat: str) -> Appearance:
    """What an individual of a species looks like."""
    traits = dict(zip(TRAITS, species.traits, strict=True))
    return Appearance(
        body=species.body,
        hue=(species.base_hue + species.hue_spread * traits["hue"]) % 1,
        second_hue=(0.5 + 0.25 * traits["second_hue"]) % 1,
        saturation=float(0.6 + 0.25 * np.tanh(traits["saturation"])),
        lightness=float(0.65 + 0.2 * np.tanh(traits["lightness"])),
        elongation=traits["elongation"],
        head=traits["head"],
        appendage=traits["appendage"],
        limb=traits["limb"],
        frequency=traits["frequency"],
        contrast=traits["contrast"],
        pattern=species.pattern,
        form=species.form,
        juvenile=juvenile,
        male=male,
        nocturnal=species.activity == "nocturnal",
        habitat=habitat,
    )


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
    for one, count in zip(species, counts, strict=True):
        held_out = max(1, round(0.1 * count))
        male, juvenile, strays = rng.random((3, count))
        for i in range(count):
            split = "val" if i < held_out else "test" if i < 2 * held_out else "train"
            habitat = draw_habitat(one, strays[i])
            splits[split].append(Individual(number, one, male[i] < 0.5, juvenile[i] < 0.3, habitat))
            number += 1
    return splits


def draw_habitat(species: Species, chance: float) -> str:
    """Where an individual is met: at home, or for the smallest chances of [0, 1) astray."""
    habitats = next(group.habitats for group in _GROUPS if group.body == species.body)
    elsewhere = [habitat for habitat in habitats if habitat != species.habitat]
    stray = chance / _STRAYS
    return elsewhere[int(stray * len(elsewhere))] if stray < 1 else species.habitat


def look_of(one: Individual) -> Appearance:
    """The appearance of an individual."""
    return appearance(one.species, male=one.male, juvenile=one.juvenile, habitat=one.habitat)


def photograph(seed: int, one: Individual, image_size: int) -> Record:
    """The record of one individual, with its true traits as labels."""
    species = one.species
    rng = np.random.default_rng((seed, 2, one.number))
    labels = {
        "sex": "male" if one.male else "female",
        "lifeStage": "juvenile" if one.juvenile else "adult",
        "habitat": one.habitat,
        "diet": species.diet,
        "activity": species.activity,
    }
    traits = zip(TRAITS, species.traits, strict=True)
    return make_record(
        key=f"sim-{seed}-{one.number:07d}",
        image=render(look_of(one), rng, image_size),
        taxon=species.taxon,
        vernacular_name=species.common_name,
        source="simulated",
        licence="CC0-1.0",
        dataset_name="simulated-tree-of-life",
        labels=labels | {f"trait_{name}": f"{value:.4f}" for name, value in traits},
    )


def prepare_simulated(
    out_dir: Path,
    *,
    seed: int,
    num_species: int,
    num_images: int,
    image_size: int,
    overwrite: bool = False,
) -> Summary:
    """Grows a tree, photographs its individuals and writes the dataset.

    Raises:
      UsageError: impossible sizes, or `out_dir` is in use.
    """
    splits = draw_individuals(seed, grow_tree(seed, num_species), num_images)

    def records(individuals: list[Individual]) -> Iterator[Record]:
        return (photograph(seed, one, image_size) for one in individuals)

    return write_dataset(
        {split: records(individuals) for split, individuals in splits.items()},
        out_dir,
        name="simulated",
        description=f"A simulated tree of life: {num_species} species, seed {seed}.",
        label_names=LABELS,
        total=num_images,
        overwrite=overwrite,
    )
