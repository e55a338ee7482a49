"""What the numerical experiments of `bioclip2 analyze` write: theory.json and scaling.json.

Files of older versions lack fields with a default.
"""

from dataclasses import dataclass
from typing import Any

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
    """Means of what `linear_encoder.measure` returns."""

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
