"""A simulated tree of life: lineages and heritable traits.

Continuous traits follow Brownian motion along the branches, discrete ones switch with a fixed
chance on each branch, so relatives look alike and live alike. Everything is a function of the
seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bioclip2_jax.errors import UsageError
from bioclip2_jax.prepare.simulated.bodies import Appearance
from bioclip2_jax.prepare.simulated.names import LatinNames, common_name
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
_HOLES = 0.08  # share of orders and families without a name
_DIETS = ("plants", "seeds", "insects", "meat")
_ACTIVITIES = ("diurnal", "diurnal", "crepuscular", "nocturnal")
_PATTERNS = ("plain", "stripes", "bands", "spots")


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
GROUPS = (
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
    if num_species < len(GROUPS):
        raise UsageError(f"--species {num_species}: at least {len(GROUPS)}, one of each group")
    rng = np.random.default_rng((seed, 0))
    shares = np.array([group.share for group in GROUPS])
    counts = np.maximum(1, np.floor(shares / shares.sum() * num_species)).astype(int)
    counts[0] += num_species - counts.sum()
    names, used_common = LatinNames(rng), set()
    return [
        species
        for group, count in zip(GROUPS, counts, strict=True)
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
        return _State(
            traits=traits,
            form=form,
            pattern=drift(self.pattern, _PATTERNS),
            activity=drift(self.activity, _ACTIVITIES),
            habitat=drift(self.habitat, group.habitats),
        )


def _grow_group(
    group: _Group, count: int, rng: np.random.Generator, names: LatinNames, used_common: set[str]
) -> Iterator[Species]:
    def pick(choices):
        return choices[rng.integers(len(choices))]

    root = _State(
        traits=rng.normal(0, 0.4, len(TRAITS)),
        form=0,
        pattern=pick(_PATTERNS),
        habitat=pick(group.habitats),
        activity="diurnal",
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
    base_hue, hue_spread = group.hue
    return Species(
        taxon=taxon,
        common_name="",
        traits=tuple(float(value) for value in state.traits),
        body=group.body,
        form=state.form,
        pattern=state.pattern,
        habitat=state.habitat,
        diet=diet,
        activity=state.activity,
        base_hue=base_hue,
        hue_spread=hue_spread,
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
