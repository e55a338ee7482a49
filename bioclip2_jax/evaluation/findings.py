"""What `bioclip2 analyze` writes: between.json, within.json, theory.json and scaling.json.

Rows extend what the analyses measure by names. Files of older versions lack fields with a default.
"""

from dataclasses import dataclass, field
from typing import Any

Interval = tuple[float, float]

# ---- Between species


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """How a continuous trait shows in the prototypes of species.

    Attributes:
      spearman: rank correlation of the trait's and the features' (cosine) pairwise distances.
      mantel_p: of it, when species swap their trait values.
      ridge_r: correlation of held-out predictions and truth, both taken as departures from the mean
        of the species that the prediction was learned from.
      ridge_r2: 1 - squared error / squared error of that mean; 0 is no use.
      ridge_p: of `ridge_r`, when species swap their trait values.
      within_clade_r: the same correlation of what is left after every clade's own mean is taken
        from predictions and truth; None if no clade has two species.
      within_clade_p: of it, when species swap trait values with members of their clade.
    """

    spearman: float
    mantel_p: float
    ridge_r: float
    ridge_r2: float
    ridge_p: float
    within_clade_r: float | None
    within_clade_p: float | None


@dataclass(frozen=True, kw_only=True)
class ContinuousTrait(Gradient):
    """The same of a named trait.

    Attributes:
      trait: its name.
      num_species: of which it is known.
      clade: rank of the clades that are held out.
      projections: species, its value, its place along the direction in which the trait grows.
      predictions: held out, in the same order.
    """

    trait: str
    num_species: int
    clade: str
    projections: list[tuple[str, float, float]]
    predictions: list[float]


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How a discrete trait with c classes shows in the prototypes of species.

    Attributes:
      separation: mean silhouette over the species, cosine distance; -1 to 1, 0 is none.
      separation_p: of it, when species swap labels.
      accuracy: mean over the classes of the share of species that the held-out probe names rightly;
        classes that occur in one fold of clades alone take no part, as nothing teaches them.
      chance: 1 / classes that take part, what a probe that ignores the features gets.
      accuracy_p: of `accuracy`, when species swap labels.
    """

    separation: float
    separation_p: float
    accuracy: float
    chance: float
    accuracy_p: float


@dataclass(frozen=True, kw_only=True)
class DiscreteTrait(Separation):
    """The same of a named trait; `clade` is the rank of the clades that are held out."""

    label: str
    num_species: int
    num_classes: int
    clade: str


@dataclass(frozen=True, kw_only=True)
class SpeciesMap:
    """Two layouts of the species; `group` is their order, or the lowest rank known above it."""

    species: list[str]
    group: list[str]
    pca: list[tuple[float, float]]
    tsne: list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class BetweenSettings:
    """What is looked for between species.

    Attributes:
      table: with a row for a species; None takes the labels of the pictures.
      species_column: of the table; None finds it.
      continuous: names of numeric traits.
      logarithms: names of numeric traits whose logarithm is looked for.
      discrete: names of traits with classes.
      split: only pictures of this split make the prototypes.
      leave_out: rank of the clades that are held out.
      min_images: species with fewer pictures are left out.
      permutations: of every trait.
      seed: of the permutations and the map.
    """

    table: str | None = None
    species_column: str | None = None
    continuous: tuple[str, ...] = ()
    logarithms: tuple[str, ...] = ()
    discrete: tuple[str, ...] = ()
    split: str | None = None
    leave_out: str = "family"
    min_images: int = 1
    permutations: int = 999
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Between:
    """between.json; `map` is missing where nothing is to be drawn."""

    analysis: str = "between"
    model: str | None = None
    features: str = ""
    num_images: int | None = None
    num_species: int | None = None
    settings: BetweenSettings = BetweenSettings()
    continuous: list[ContinuousTrait]
    discrete: list[DiscreteTrait]
    map: SpeciesMap | None = None


# ---- Within species


@dataclass(frozen=True, kw_only=True)
class Variants:
    """How the two variants of one species differ.

    Attributes:
      counts: pictures of variants 0 and 1.
      rho: corrected for noise; None where the difference does not exceed its noise, or with fewer
        than four pictures of a variant. Not clipped: an orthogonal difference is as often below 0
        as above.
      rho_raw: with U from all pictures, not corrected.
      rho_p: share of random divisions of the same pictures whose difference lies inside U at most
        as much; small means more orthogonal than the variation between individuals.
      fisher: ||m1 - m2||^2 / (tr S1 + tr S2), S the covariance inside a variant.
      fisher_removed: the same after U is projected out.
      fisher_p: share of random divisions whose means differ at least as much.
      signal, inside: unbiased estimates of ||v||^2 and ||U'v||^2; None where rho needs more
        pictures.
    """

    counts: tuple[int, int]
    rho: float | None
    rho_raw: float
    rho_p: float
    fisher: float
    fisher_removed: float
    fisher_p: float
    signal: float | None = None
    inside: float | None = None


@dataclass(frozen=True, kw_only=True)
class SpeciesVariants(Variants):
    """The same of a named species."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Share:
    """rho over all species, see `within.Within`: `mean` is its `rho`, `raw_mean` its `rho_raw`."""

    mean: float | None
    interval: Interval | None = None
    null_mean: float
    p: float
    raw_mean: float
    halves_mean: float | None = None
    random_direction: float


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A Fisher ratio over all species, and its 95 % interval."""

    mean: float
    interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A picture in a panel: which of the three species, which variant, and where."""

    species: int
    variant: int
    xyz: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Three species in the plane of their means and one direction out of it.

    Attributes:
      names: of the species.
      rho: mean uncorrected rho in this plane.
      points: some of their pictures.
      means: of the variants of every species.
    """

    names: list[str]
    rho: float
    points: list[Point]
    means: list[tuple[tuple[float, float, float], tuple[float, float, float]]]


@dataclass(frozen=True, kw_only=True)
class WithinSettings:
    """How variants within species are compared.

    Attributes:
      split: only pictures of this split.
      species_rank: rank whose taxa count as species.
      min_images: species with fewer pictures are left out of the space between species too.
      permutations: random divisions of the pictures of each species.
      seed: of all draws.
      subspace_species, dim: species that span that space, and dimensions of the features.
    """

    split: str | None = None
    species_rank: str = "species"
    min_images: int = 1
    permutations: int = 999
    seed: int = 0
    subspace_species: int | None = None
    dim: int | None = None


@dataclass(frozen=True, kw_only=True)
class Within:
    """within.json."""

    analysis: str = "within"
    model: str | None = None
    features: str = ""
    label: str = ""
    variants: tuple[str, str]
    num_species: int | None = None
    dimensions: int | None = None
    settings: WithinSettings = WithinSettings()
    rho: Share
    fisher: Ratio
    fisher_removed: Ratio
    species: list[SpeciesVariants]
    panels: list[Panel] = field(default_factory=list)


# ---- Theorem 5.1; `..._se` are standard errors over the replicates


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of the first experiment.

    Attributes:
      species: K.
      dim: d of the embeddings.
      scale: inverse temperature beta.
      cosine: between any two prototypes: 0 is orthonormal, 1 all the same.
      strength: length of the variants' difference, where species have length 1.
      overlap: share, as a cosine, of the difference that looks like another species.
      shared: the same factor makes the variants of all species (as size may), instead of one
        factor a species. In the latter case embeddings of the variants are free parameters.
    """

    species: int = 16
    dim: int = 64
    scale: float = 30.0
    cosine: float = 0.0
    strength: float = 1.0
    overlap: float = 0.0
    shared: bool = True


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Means of `linear_encoder.Measures`."""

    rho: float
    rho_se: float
    rho_images: float
    rho_images_se: float
    difference: float
    difference_se: float
    outside: float
    outside_se: float
    fisher: float
    fisher_se: float
    accuracy: float
    accuracy_se: float
    loss: float
    loss_se: float


@dataclass(frozen=True, kw_only=True)
class Orthogonality(Trained, Setting):
    """A setting after so many steps.

    Attributes:
      sweep: the setting that varies; "course": none, every reported step is a row.
      chance: rho of a random direction.
      stiffness_ratio: see `theory.stiffness_ratio`.
      step: of training.
      pull_inside, pull_outside: see `linear_encoder.pulls`.
    """

    sweep: str
    chance: float
    stiffness_ratio: float
    step: int
    pull_inside: float
    pull_inside_se: float
    pull_outside: float
    pull_outside_se: float


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """How distances of species agree with their traits, see `theory.hierarchy`.

    Attributes:
      captions: "hierarchical" or "flat".
      space: whose distances: "captions", "seen" or "unseen" (the mean images of these species).
      step: of training.
      tree, phylogenetic, ecological, ecological_in_genus: Spearman correlations of the distances.
    """

    captions: str
    space: str
    step: int
    tree: float
    tree_se: float
    phylogenetic: float
    phylogenetic_se: float
    ecological: float
    ecological_se: float
    ecological_in_genus: float
    ecological_in_genus_se: float


@dataclass(frozen=True, kw_only=True)
class SeenHierarchy(Trained, Hierarchy):
    """The same of species that were trained on; `chance` is the rho of a random direction."""

    chance: float


@dataclass(frozen=True, kw_only=True)
class TheorySettings:
    """`base` is what the sweeps vary, `branches` are those of the tree."""

    seed: int
    steps: int
    replicates: int
    base: Setting
    branches: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Theory:
    """theory.json; of the rows of `hierarchy`, those of seen species are `SeenHierarchy`."""

    analysis: str = "theory"
    settings: TheorySettings
    orthogonality: list[Orthogonality]
    hierarchy: list[Hierarchy]


# ---- The scaling study


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What one model of the study was trained on; the general model saw 0 images of the tree."""

    captions: str
    replay: bool
    images: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured of one model of the study, see `scaling.measure`.

    Attributes:
      zero_shot_top1, one_shot_top1: accuracy over all species.
      trait_alignment: Spearman correlation of distances between species in all traits and in the
        features.
      ridge_r_TRAIT: correlation of a trait with its prediction from species of other families.
      ridge_r: mean over the traits.
      habitat_accuracy, diet_accuracy: balanced accuracy of a probe on other families, minus chance.
      rho_VARIANT, fisher_VARIANT, fisher_removed_VARIANT: see `within`; rho is the share inside the
        space between the species of a body plan, None where the variants' difference is no larger
        than its noise.
      rho_VARIANT_chance: that of a random direction.
      rho_halves_VARIANT, rho_null_VARIANT: without the correction for noise, of the variants and of
        random divisions of the same pictures.
    """

    zero_shot_top1: float
    zero_shot_chance: float | None = None
    one_shot_top1: float | None = None
    trait_alignment: float
    ridge_r_hue: float | None = None
    ridge_r_second_hue: float | None = None
    ridge_r_saturation: float | None = None
    ridge_r_lightness: float | None = None
    ridge_r_elongation: float | None = None
    ridge_r_head: float | None = None
    ridge_r_appendage: float | None = None
    ridge_r_limb: float | None = None
    ridge_r_frequency: float | None = None
    ridge_r_contrast: float | None = None
    ridge_r: float
    habitat_accuracy: float
    diet_accuracy: float | None = None
    rho_sex: float | None
    rho_sex_chance: float | None = None
    rho_halves_sex: float | None = None
    rho_null_sex: float | None = None
    fisher_sex: float
    fisher_removed_sex: float | None = None
    rho_life_stage: float | None
    rho_life_stage_chance: float | None = None
    rho_halves_life_stage: float | None = None
    rho_null_life_stage: float | None = None
    fisher_life_stage: float
    fisher_removed_life_stage: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run(Measures, Arm):
    """One model of the study."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is varied.

    Attributes:
      sizes: numbers of training pictures, ascending.
      num_species: of the tree.
      seeds: of the training; the trees and the pictures are those of seed 0.
    """

    sizes: tuple[int, ...] = (500, 1500, 4500, 13500)
    num_species: int = 96
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True, kw_only=True)
class ScalingSettings(Study):
    """The same and the recipe of all runs."""

    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """scaling.json."""

    analysis: str = "scaling"
    settings: ScalingSettings
    runs: list[Run]


# Name of the file → what it holds.
KINDS = {"between": Between, "within": Within, "theory": Theory, "scaling": Scaling}
