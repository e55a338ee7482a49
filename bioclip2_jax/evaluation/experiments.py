"""What the numerical experiments of `bioclip2 analyze` write: theory.json and scaling.json.

Files of older versions lack fields with a default.
"""

from dataclasses import dataclass, field
from typing import Any

from bioclip2_jax.measures.intervals import Interval

LEVEL = 0.05  # of a corrected p, for a claim to hold
FIRST = "paper"  # the family of claims about the paper's own model

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
    """What one model of the study was trained on.

    Attributes:
      world: "factors" or "pictures"; of factors also "scratch", trained from random weights, and
        "theory", in Theorem 5.1's setting.
      captions: "hierarchical", "level" (second captions down to a drawn rank as well), "flat";
        "general" of the model that all start from and "untrained" of random weights.
      replay: pictures and captions of the start are trained on beside the others.
      grows: "all", or the one thing of "species", "images" and "steps" that does; "" for the start.
      species, images, steps: how many; 0 for the start.
      seed: of the tree, its pictures and the training.
    """

    world: str
    captions: str
    replay: bool
    grows: str
    species: int
    images: int
    steps: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How the order of the species agrees with how they live.

    Inherited traits evolve along the tree, convergent ones are drawn for each species alone.

    Attributes:
      inherited_seen, convergent_seen: Spearman correlation of distances between species in these
        traits and in the features; species that are trained on at every scale. None where all have
        the same traits.
      inherited_unseen, convergent_unseen: of species that no model is trained on.
      inherited_held_out_seen, ...: correlation of the traits with their prediction from species of
        other families, mean over traits; None where there are too few families.
    """

    inherited_seen: float | None
    inherited_unseen: float | None
    convergent_seen: float | None
    convergent_unseen: float | None
    inherited_held_out_seen: float | None = None
    inherited_held_out_unseen: float | None = None
    convergent_held_out_seen: float | None = None
    convergent_held_out_unseen: float | None = None


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Of the variants within the species that are trained on at every scale, see `within`.

    Attributes:
      plane_VARIANT: rho in the plane of three species, as the paper draws it, corrected; None where
        the variants do not differ beyond noise.
      plane_null_VARIANT: the same share of random divisions of the same pictures.
      rho_VARIANT: in the space of all these species, corrected.
      halves_VARIANT, null_VARIANT: the same not corrected, of halves of the pictures, and of random
        divisions of these.
      fisher_VARIANT, fisher_removed_VARIANT: Fisher's ratio before and after that space is removed,
        both less the noise of the means.
      few_shot_VARIANT: accuracy from five pictures of each variant of a species; chance is 0.5.
    """

    plane_sex: float | None = None
    plane_null_sex: float | None = None
    rho_sex: float | None = None
    halves_sex: float | None = None
    null_sex: float | None = None
    fisher_sex: float | None = None
    fisher_removed_sex: float | None = None
    few_shot_sex: float | None = None
    plane_life_stage: float | None = None
    plane_null_life_stage: float | None = None
    rho_life_stage: float | None = None
    halves_life_stage: float | None = None
    null_life_stage: float | None = None
    fisher_life_stage: float | None = None
    fisher_removed_life_stage: float | None = None
    few_shot_life_stage: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measures(Variation, Alignment):
    """What is measured of one model of the study, see `scaling.measure`.

    Attributes:
      zero_shot: accuracy among the species that are trained on at every scale; None for the start,
        which knows no names.
      zero_shot_chance: one of them.
      effective_rank: of the features of these species' pictures: (sum of the variances)² / sum of
        their squares, along the principal axes.
      logit_scale: learned, at the end; None where it was not looked at.
    """

    zero_shot: float | None = None
    zero_shot_chance: float
    effective_rank: float
    logit_scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row(Measures, Arm):
    """One model of the study."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is asked of the rows, said before they are made.

    Attributes:
      name: short, of its figure.
      claim: a sentence.
      measure: of `Measures`.
      beside: another one, which is subtracted.
      sign: 1 if it is claimed to rise with scale, -1 if it is to fall.
      least: change a doubling, in the measure's unit, below which it would not matter.
      world, captions, replay: of the models that it is about.
      against: captions of other models, whose slope is subtracted.
      grows: see `Arm`.
      family: claims whose p-values are corrected together.
    """

    name: str
    claim: str
    measure: str
    sign: int
    least: float
    beside: str = ""
    world: str = "factors"
    captions: str = "hierarchical"
    replay: bool = True
    against: str = ""
    grows: str = "all"
    family: str = FIRST


@dataclass(frozen=True, kw_only=True)
class Hypothesis(Claim):
    """A claim and its answer.

    Attributes:
      slope: change of the measure a doubling, median over trees (Hodges and Lehmann); of pictures
        where all grow. None where fewer than three trees have one.
      interval: 95 %, over trees.
      p: two-sided, signed-rank test over trees.
      p_corrected: Holm's, over the claims of the family.
      holds: p_corrected is at most 0.05, and the slope has the claimed sign.
      refuted: the interval lies below `least` in the claimed direction.
      trees: slope of every tree.
      detectable: slope that would be found in four of five such studies, by the spread of these.
      predicted: slope in Theorem 5.1's setting in the same world; None where that says nothing.
      in_pictures: change a doubling from the one end of the scale to the other, in pictures.
      shuffled_null: of 100 studies of permuted traits or variants, those where p_corrected is above
        0.05; `shuffled_null_plain`: where p is. None where the measure knows of neither.
    """

    slope: float | None
    interval: Interval | None
    p: float
    p_corrected: float
    holds: bool
    refuted: bool
    trees: list[float]
    detectable: float | None = None
    predicted: float | None = None
    in_pictures: float | None = None
    shuffled_null: int | None = None
    shuffled_null_plain: int | None = None

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.holds:
            return "holds"
        if self.p_corrected <= LEVEL:
            return "the opposite holds"
        return "refuted" if self.refuted else "open"


@dataclass(frozen=True, kw_only=True)
class FactorStudy:
    """The world of factors and what varies in it.

    Attributes:
      trees: how many; each has traits, pictures and a renderer of its own.
      first_tree: the seed of the first; those of pilots are others.
      branches: of the tree, from orders to species.
      unseen: species that no model is trained on.
      species, images, steps: ascending, of each scale.
      alone: the scale that stands still while one of the three grows.
      captions: of the models that are trained, each with and without replay.
      shuffles: permutations of a tree that the shuffled controls choose among; 0 for none.
    """

    trees: int = 12
    first_tree: int = 100
    branches: tuple[int, ...] = (4, 4, 4, 8)
    unseen: int = 64
    species: tuple[int, ...] = (28, 56, 112, 224, 448)
    images: tuple[int, ...] = (500, 1500, 4500, 13500, 40500)
    steps: tuple[int, ...] = (16, 48, 144, 432, 1296)
    alone: int = 2
    captions: tuple[str, ...] = ("hierarchical", "level", "flat")
    shuffles: int = 12


@dataclass(frozen=True, kw_only=True)
class PictureStudy:
    """The two ends of the scale in pictures.

    Attributes:
      seeds: one set of models each; 0 for no pictures at all.
      tree: species of the simulated tree; its birds are the species of the study.
      unseen: birds that no model is trained on.
      species, images, steps: of either end.
      captions: of the models, all with replay.
      general_images, general_steps: of the start.
      per_cell: pictures of each species, sex and life stage to measure with.
    """

    seeds: int = 1
    tree: int = 420
    unseen: int = 24
    species: tuple[int, ...] = (20, 60)
    images: tuple[int, ...] = (500, 12800)
    steps: tuple[int, ...] = (16, 400)
    captions: tuple[str, ...] = ("hierarchical", "level", "flat")
    general_images: int = 6000
    general_steps: int = 320
    per_cell: int = 10


@dataclass(frozen=True, kw_only=True)
class ScalingSettings:
    """All that the study's result depends on; `config` is the recipe of the pictures' models."""

    factors: FactorStudy
    pictures: PictureStudy
    claims: list[Claim]
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """scaling.json.

    Attributes:
      rows: one a model.
      hypotheses: one a claim.
      shuffled_null: of 100 studies of permuted traits and variants, those in which no claim of the
        first family has a p_corrected of 0.05 or less.
    """

    analysis: str = "scaling"
    settings: ScalingSettings
    rows: list[Row]
    hypotheses: list[Hypothesis] = field(default_factory=list)
    shuffled_null: int | None = None
