"""What `bioclip2 analyze` finds in features, as it is written: between.json and within.json.

Rows extend what the analyses measure by names. Files of older versions lack fields with a default.
"""

from dataclasses import dataclass, field

from bioclip2_jax.measures.intervals import Interval

# ---- Between species


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """How a continuous trait shows in the prototypes of species.

    Attributes:
      spearman: rank correlation of the trait's and the features' (cosine) pairwise distances.
      mantel_p: of it, when species swap their trait values.
      mantel_tree_p: of it, when the trait evolves along the lineages and knows nothing of the
        features; None where no lineages are known, and in files of the first versions.
      ridge_r: correlation of held-out predictions and truth, both taken as departures from the mean
        of the species that the prediction was learned from.
      ridge_r2: 1 - squared error / squared error of that mean; 0 is no use.
      ridge_p: of `ridge_r`, when species swap their trait values.
      ridge_tree_p: of `ridge_r`, when the trait evolves along the lineages.
      within_clade_r: the same correlation of what is left after every clade's own mean is taken
        from predictions and truth; None if no clade has two species.
      within_clade_p: of it, when species swap trait values with members of their clade.
      cautions: what so few species cannot show, a sentence each.
      adjusted: name of each p → the same, adjusted for the number of traits (`analysis.nulls`);
        empty where a single trait was measured by itself, and in files of the first versions.
    """

    spearman: float
    mantel_p: float
    mantel_tree_p: float | None = None
    ridge_r: float
    ridge_r2: float
    ridge_p: float
    ridge_tree_p: float | None = None
    within_clade_r: float | None
    within_clade_p: float | None
    cautions: list[str] = field(default_factory=list)
    adjusted: dict[str, float] = field(default_factory=dict)


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
      separation_tree_p: of it, when labels follow the lineages; None as for `mantel_tree_p`.
      accuracy: mean over the classes of the share of species that the held-out probe names rightly;
        classes that occur in one fold of clades alone take no part, as nothing teaches them.
      chance: 1 / classes that take part, what a probe that ignores the features gets.
      accuracy_p: of `accuracy`, when species swap labels.
      accuracy_tree_p: of `accuracy`, when labels follow the lineages.
      cautions, adjusted: as of `Gradient`.
    """

    separation: float
    separation_p: float
    separation_tree_p: float | None = None
    accuracy: float
    chance: float
    accuracy_p: float
    accuracy_tree_p: float | None = None
    cautions: list[str] = field(default_factory=list)
    adjusted: dict[str, float] = field(default_factory=dict)


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
      rho: corrected for noise; None where the difference does not exceed its noise, with fewer than
        four pictures of a variant, or where no direction between species can be told from noise.
        Not clipped: an orthogonal difference is as often below 0 as above.
      rho_raw: with U from all pictures, not corrected.
      rho_p: share of random divisions of the same pictures whose difference lies inside U at most
        as much; small means more orthogonal than the variation between individuals.
      fisher_raw: ||m1 - m2||^2 / (tr S1 + tr S2), S the covariance inside a variant; None in files
        of the first versions, whose `fisher` it was.
      fisher: the same, corrected: what the noise of the means adds is subtracted, so that it is 0
        on average where the variants do not differ, and as often below.
      fisher_floor: what was subtracted, about 1 / n for n pictures of each variant.
      fisher_removed, fisher_removed_raw: the same after U is projected out.
      fisher_p: share of random divisions whose means differ at least as much.
      fisher_smallest_p: the least that so few pictures can give.
      adjusted: `rho_p` and `fisher_p`, each adjusted for the number of species, see
        `analysis.nulls`.
      signal, inside: unbiased estimates of ||v||^2 and ||U'v||^2; None where rho needs more
        pictures.
    """

    counts: tuple[int, int]
    rho: float | None
    rho_raw: float
    rho_p: float
    fisher: float
    fisher_removed: float
    fisher_raw: float | None = None
    fisher_removed_raw: float | None = None
    fisher_floor: float | None = None
    fisher_p: float
    fisher_smallest_p: float | None = None
    adjusted: dict[str, float] = field(default_factory=dict)
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
    all_species: float | None = None
    null_mean: float
    p: float
    raw_mean: float
    halves_mean: float | None = None
    random_direction: float


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A Fisher ratio over all species, and its 95 % interval.

    `raw` is the uncorrected one, None in files of the first versions, whose `mean` it was.
    """

    mean: float
    interval: Interval | None = None
    raw: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plane:
    """rho in the plane of three species' means, as the paper's figure shows it, over triples.

    Attributes:
      rho: sum of insides / sum of signals, as over all species; None where no plane can be told
        from noise.
      rho_raw: mean, not corrected.
      random_direction: share of a random direction.
      triples: of species that were taken.
    """

    rho: float | None
    rho_raw: float
    random_direction: float
    triples: int


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
      subspace_species, dim: species that span the space between species, and dimensions of the
        features.
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
    """within.json; `resolved`, `plane` and `cautions` as in `within.Within`."""

    analysis: str = "within"
    model: str | None = None
    features: str = ""
    label: str = ""
    variants: tuple[str, str]
    num_species: int | None = None
    dimensions: int | None = None
    resolved: int | None = None
    settings: WithinSettings = WithinSettings()
    rho: Share
    fisher: Ratio
    fisher_removed: Ratio
    fisher_floor: float | None = None
    plane: Plane | None = None
    cautions: list[str] = field(default_factory=list)
    species: list[SpeciesVariants]
    panels: list[Panel] = field(default_factory=list)
