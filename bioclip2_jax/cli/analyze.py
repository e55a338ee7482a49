"""`bioclip2 analyze`."""

import click

from bioclip2_jax.cli import options
from bioclip2_jax.evaluation import findings
from bioclip2_jax.text.taxonomy import RANKS

# Shared by the analyses of kept features.
_FEATURES = click.option(
    "--features", required=True, type=options.Place(), help="Made by `bioclip2 embed`."
)
_OUT = click.option(
    "--out", required=True, type=options.Place(file_okay=False), help="Folder for the results."
)
_LOCAL_OUT = click.option(
    "--out",
    required=True,
    type=options.Place(
        file_okay=False,
        here="dozens of small runs are trained here; name a folder on a disk, and copy it then",
    ),
    help="Folder for the results.",
)
_SPLIT = click.option("--split", help="Only pictures of this split.  [default: all]")
_MIN_IMAGES = click.option(
    "--min-images",
    default=1,
    type=click.IntRange(min=1),
    help="Species with fewer pictures are left out.",
)
_PERMUTATIONS = click.option(
    "--permutations", default=999, type=click.IntRange(min=1), help="For p."
)
_SEED = click.option("--seed", default=0, type=click.IntRange(min=0), help="Of all draws.")


@click.group()
def analyze() -> None:
    """Look for what a model knows beyond the names of species.

    \b
    Example:
      bioclip2 analyze between --features features/birds --traits avonet.csv --out results/birds
    """


@analyze.command(short_help="Find traits in the order of the species.")
@_FEATURES
@_OUT
@click.option(
    "--traits",
    "table",
    type=options.Place(),
    help="CSV with a row a species, such as AVONET.  [default: the labels of the pictures]",
)
@click.option("--species-column", help="Of that CSV, with binomials.  [default: found by name]")
@click.option("--trait", "continuous", multiple=True, help="Numeric trait; may be repeated.")
@click.option(
    "--log-trait",
    "logarithms",
    multiple=True,
    help="Numeric trait whose logarithm is looked for, such as a mass; may be repeated.",
)
@click.option("--label", "discrete", multiple=True, help="Trait with classes; may be repeated.")
@click.option(
    "--leave-out",
    default="family",
    type=click.Choice(RANKS[:-1]),
    help="Rank of the clades that are predicted from the others.",
)
@_MIN_IMAGES
@_SPLIT
@_PERMUTATIONS
@_SEED
def between(features: str, out: str, **settings) -> None:
    """Are the species ordered by how they live, though the model was told nothing of it?

    Every trait is predicted for clades that the prediction has not seen, and its distances between
    species are compared with those of the features. p-values are those of traits dealt at random
    to the species, and "by the tree" of traits that are inherited along the lineages and know
    nothing of the features; "adjusted" allows for the number of traits (Benjamini-Hochberg). A
    label of single pictures counts by its majority in a species. Writes
    between.json, between.csv with a row a species, species_map.svg and, for numeric traits,
    trait_axes.svg to OUT.

    \b
    Examples:
      bioclip2 analyze between --features features/quickstart --out analysis
      bioclip2 analyze between --features features/birds --traits avonet.csv \\
        --log-trait Mass --trait Hand-Wing.Index --label Habitat --out analysis
    """
    from bioclip2_jax.analysis import run as program

    result = program.between(features, out, findings.BetweenSettings(**settings))
    for row in (*result.continuous, *result.discrete):
        click.echo(_trait_line(row))
        for text in row.cautions:
            click.echo(f"caution: {text}")


@analyze.command(short_help="Find sex or life stage across the species' differences.")
@_FEATURES
@_OUT
@click.option(
    "--variant", "label", required=True, help="Label of the pictures: sex, lifeStage, disease."
)
@click.option("--values", nargs=2, help="Two of its values.  [default: all, if there are just two]")
@click.option(
    "--species-rank",
    default="species",
    type=click.Choice(RANKS[2:]),
    help="Taxa of this rank count as species.",
)
@click.option(
    "--dimensions",
    type=click.IntRange(min=1),
    help="Leading ones of the between-species subspace.  [default: all, one less than species]",
)
@_MIN_IMAGES
@_SPLIT
@_PERMUTATIONS
@_SEED
def within(
    features: str,
    out: str,
    label: str,
    values: tuple[str, str] | None,
    dimensions: int | None,
    **settings,
) -> None:
    """Does the difference of two variants lie across the differences between species?

    rho is the share of it that lies inside the subspace which the species span: 0 is orthogonal.
    The species with pictures of both variants span it, those with two of each are measured; where
    the others would change the result, that is said.
    Writes within.json, within.csv with a row a species, rho_by_species.svg and, for three species
    or more, panel_1.svg to OUT.

    \b
    Examples:
      bioclip2 analyze within --features features/quickstart --variant sex --out analysis
      bioclip2 analyze within --features features/leaves --variant disease \\
        --values healthy "late blight" --dimensions 20 --out analysis
    """
    from bioclip2_jax.analysis import run as program

    result = program.within(
        features,
        out,
        label,
        values or None,
        dimensions=dimensions,
        settings=findings.WithinSettings(**settings),
    )
    for line in _within_lines(result):
        click.echo(line)


@analyze.command(short_help="Theorem 5.1 as a numerical experiment.")
@_OUT
@_SEED
def theory(out: str, seed: int) -> None:
    """When does the difference of two variants turn orthogonal, and what does the hierarchy do?

    Trains linear encoders of known factors under the contrastive loss: over the course of training,
    for few and many species, logit scales, alike prototypes, strong and weak variants; and with
    captions that spell out a lineage against captions that share nothing. About a minute on two
    CPU cores. Writes theory.json and theory.svg to OUT.

    \b
    Example:
      bioclip2 analyze theory --out results/theory
    """
    from bioclip2_jax.analysis import run as program

    program.theory(out, seed, click.echo)


@analyze.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    short_help="Ask at many scales whether the paper's claims hold.",
)
@_LOCAL_OUT
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="That share the trees of factors.  [default: one a core]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="--config=FILE")
def scaling(out: str, processes: int | None, arguments: tuple[str, ...]) -> None:
    """Do species align with how they live, and do variants turn aside, the more so with scale?

    Small models are trained on more and more species, pictures and steps of trees of life whose
    traits are known: many trees as factors behind a fixed nonlinear map, and one, at the two ends
    of the scale, in pictures. Captions are lineages, lineages with the level loss, or names without
    order, with and without replay. The recipe says beforehand what is claimed; every claim is
    answered by its slope over the trees, and asked again of shuffled traits and variants. Three
    quarters of an hour on two idle CPU cores; started again, it goes on.
    Writes scaling.json, scaling.csv, scaling.md with the tables, and a figure for each claim,
    scaling_CLAIM.svg, to OUT.

    \b
    --config=FILE          study and recipe, such as configs/scaling.py
    --config.KEY=VALUE     replaces one of its settings

    \b
    Examples:
      bioclip2 analyze scaling --config=configs/scaling.py --out runs/scaling
      bioclip2 analyze scaling --config=configs/scaling.py --config.study.pictures.seeds=0 \\
        --config.study.factors.trees=6 --out runs/factors
    """
    from bioclip2_jax.analysis import study as program
    from bioclip2_jax.training.recipe import parse_recipe

    program.run(parse_recipe(arguments), out, processes, click.echo)


def _trait_line(row: findings.ContinuousTrait | findings.DiscreteTrait) -> str:
    """An entry of `continuous` or `discrete` of a between result, in one line."""

    def both(name: str) -> str:
        """p of traits dealt at random, and of such as follow the tree."""
        inherited = f"{name}_tree_p"
        known = getattr(row, inherited) is not None
        more = f"; by the tree {_adjusted(row, inherited)}" if known else ""
        return f"({_adjusted(row, f'{name}_p')}{more})"

    if isinstance(row, findings.DiscreteTrait):
        return (
            f"{row.label}: accuracy {row.accuracy:.2f} with {row.clade} left out, chance"
            f" {row.chance:.2f} {both('accuracy')}, silhouette {_r(row.separation)}"
            f" {both('separation')}, {row.num_species} species"
        )
    inside = ""
    if row.within_clade_r is not None:
        inside = f", inside clades r {_r(row.within_clade_r)} ({_adjusted(row, 'within_clade_p')})"
    return (
        f"{row.trait}: r {_r(row.ridge_r)}, R2 {_r(row.ridge_r2)} with {row.clade} left out"
        f" {both('ridge')}{inside}, distances {_r(row.spearman)} {both('mantel')},"
        f" {row.num_species} species"
    )


def _within_lines(result: findings.Within) -> list[str]:
    """A within result in lines: one a species, and one over all."""
    lines = []
    for row in result.species:
        counts = " + ".join(map(str, row.counts))
        lines.append(
            f"{row.name} ({counts}): rho {_r(row.rho)}, uncorrected {row.rho_raw:.2f}"
            f" ({_adjusted(row, 'rho_p')}), Fisher {row.fisher:.3f} above a floor of"
            f" {row.fisher_floor or 0:.3f} ({_adjusted(row, 'fisher_p')}), without"
            f" the species' subspace {row.fisher_removed:.3f}"
        )
    rho = result.rho
    span = "" if rho.interval is None else " [{:.2f}, {:.2f}]".format(*rho.interval)
    lines.append(
        f"{result.label}, {result.num_species} species: rho {_r(rho.mean)}{span}, uncorrected in"
        f" halves {rho.halves_mean:.2f}, random divisions {rho.null_mean:.2f} ({_p(rho.p)}), a"
        f" random direction {rho.random_direction:.2f} ({result.dimensions} of"
        f" {result.settings.dim} dimensions)"
    )
    if result.plane is not None:
        plane = result.plane
        lines.append(
            f"in the plane of three species: rho {_r(plane.rho)}, uncorrected {plane.rho_raw:.2f},"
            f" a random direction {plane.random_direction:.2f} ({plane.triples} triples)"
        )
    return lines + [f"caution: {text}" for text in result.cautions]


def _r(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.2f}"


def _adjusted(
    row: findings.ContinuousTrait | findings.DiscreteTrait | findings.SpeciesVariants, name: str
) -> str:
    """A p-value, and what is left of it among those of the other rows."""
    value = row.adjusted.get(name)
    return _p(getattr(row, name)) + ("" if value is None else f", adjusted {value:.3f}")


def _p(value: float | None) -> str:
    return "" if value is None else f"p {value:.3f}"
