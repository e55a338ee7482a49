"""Between species: do the prototypes of species order themselves by how the species live?

The paper shows it in pictures (section 5.2: Darwin's finches by beak, fish by habitat); here it is
measured. A trait is predicted by ridge regression for clades that the regression has not seen, so
that a model which merely knows relatives by sight gains nothing inside the clade that is left out.

All p-values come from permutations of the trait and are one-sided. Their null says that the trait
is dealt to the species at random. Real traits are inherited: one that evolved without any regard to
what the features show still agrees with them where deep branches differ in both, and is then found.
`within_clade_p` asks more: it deals a trait anew only among the members of a clade and looks only
at differences inside clades, so its null leaves every difference between clades to ancestry. What
ancestry does inside a clade it does not see. The p-values with `tree` in their names are those of
traits that evolve along the lineages and know nothing of the features, see `phylogeny`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bioclip2_jax.analysis.nulls import arrangements, cautions, divisions, p_value
from bioclip2_jax.analysis.phylogeny import Tree, deal_labels, evolve_values
from bioclip2_jax.analysis.ridge import assign_folds, gradient_axis, nested_ridge
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation.findings import Gradient, Separation
from bioclip2_jax.measures.scores import unit

MAX_PAIRED = 1500  # species whose pairwise distances are compared; more are thinned at random
MIN_SPECIES = 6


@dataclass(frozen=True, kw_only=True)
class ContinuousTrait(Gradient):
    """How a continuous trait shows in the prototypes of s species.

    Attributes:
      predictions: [s] float64, held out.
      axis: [d] float64 of length 1, the direction of the features in which the trait grows, fitted
        to all species.
      projections: [s] float64, places of the species along it. Fitted, not held out: with more
        dimensions than species they always look good.
    """

    predictions: np.ndarray
    axis: np.ndarray
    projections: np.ndarray


def prototypes(features: np.ndarray, species: np.ndarray) -> np.ndarray:
    """Mean feature of every species, of length 1.

    Args:
      features: [n, d] float, L2-normalised.
      species: [n] int, numbered 0 ... s-1, each with at least one picture.

    Returns:
      [s, d] float64.
    """
    species = np.asarray(species)
    sums = np.zeros((species.max() + 1, features.shape[1]))
    np.add.at(sums, species, features)
    return unit(sums)


def continuous_trait(
    prototypes: np.ndarray,
    values: np.ndarray,
    clades: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    lineages: Mapping[str, np.ndarray] | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> ContinuousTrait:
    """Looks for a continuous trait in the prototypes.

    The ridge's strength is chosen by the squared error on clades held out of the training clades,
    for every permutation anew.

    Args:
      prototypes: [s, d] float.
      values: [s] float, finite.
      clades: [s] int, such as the number of the family; at least three.
      groups: [s] int; the ridge looks only at differences inside them, see `nested_ridge`.
      lineages: rank → [s] int, coarse ranks first (`accuracy.lineage_groups`), along which traits
        evolve for `mantel_tree_p` and `ridge_tree_p`; None, or no rank, for none of these.
      permutations: of the trait, of each kind.
      seed: of the permutations.

    Raises:
      UserError: fewer than 6 species or 3 clades, or the trait has one value.
    """
    features = np.asarray(prototypes, np.float64)
    values = np.asarray(values, np.float64)
    clades = _check(values, clades)
    if np.ptp(values) == 0:
        raise UserError(f"the trait has the same value, {values[0]:g}, in all species")
    rng = np.random.default_rng((seed, 0))
    tree = Tree.of(lineages, np.arange(len(values))) if lineages else None
    tree_rng = np.random.default_rng((seed, 2))
    rows = _thin(len(values), rng)
    ways = [np.arange(len(rows))] + [rng.permutation(len(rows)) for _ in range(permutations)]
    far = _far_ranks(features[rows])
    mantel = _mantel(far, values[rows], ways)
    mantel_tree_p = ridge_tree_p = None
    if tree:
        inherited = evolve_values(
            tree.select(rows), features[rows], values[rows], permutations, tree_rng
        )
        mantel_tree_p = _beside(mantel, _alignments(far, inherited))

    standard = (values - values.mean()) / values.std()
    dealt = [standard] + [rng.permutation(standard) for _ in range(permutations)]
    inside = [_permute_within(standard, clades, rng) for _ in range(permutations)]
    if tree:
        inside.extend(evolve_values(tree, features, standard, permutations, tree_rng).T)
    targets = np.stack([*dealt, *inside], axis=1)
    folds = assign_folds(clades)
    held_out = nested_ridge(features, folds, targets[:, None], groups, group_targets=True)
    predictions = held_out.predictions[:, 0]
    bound = np.r_[0, permutations + 1 : 2 * permutations + 1]
    # Departures from what a fold is predicted without features: that guess alone would correlate
    # negatively, as the training species miss just the fold's own.
    base = held_out.baselines[:, 0]
    correlations = _correlate(predictions - base, targets - base)
    free, inherited = correlations[: permutations + 1], correlations[2 * permutations + 1 :]
    residual, spread = predictions[:, 0] - standard, base[:, 0] - standard
    within_r = within_p = None
    counts = {"values": arrangements(values)}
    if np.bincount(clades).max() > 1:
        within = _correlate(
            _centre_within(predictions[:, bound], clades), _centre_within(targets[:, bound], clades)
        )
        within_r, within_p = float(within[0]), p_value(within)
        counts["values inside the clades"] = arrangements(values, clades)

    kinds = {"traits dealt at random": free[1:]}
    if tree:
        ridge_tree_p = _beside(free, inherited)
        kinds["traits that follow the tree"] = inherited

    axis = gradient_axis(features, folds, standard)
    return ContinuousTrait(
        spearman=float(mantel[0]),
        mantel_p=p_value(mantel),
        mantel_tree_p=mantel_tree_p,
        ridge_r=float(free[0]),
        ridge_r2=float(1 - (residual**2).sum() / (spread**2).sum()),
        ridge_p=p_value(free),
        ridge_tree_p=ridge_tree_p,
        within_clade_r=within_r,
        within_clade_p=within_p,
        cautions=cautions("the held-out correlation", 0.0, kinds, counts),
        predictions=predictions[:, 0] * values.std() + values.mean(),
        axis=axis,
        projections=(features - features.mean(axis=0)) @ axis,
    )


def discrete_trait(
    prototypes: np.ndarray,
    labels: np.ndarray,
    clades: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    lineages: Mapping[str, np.ndarray] | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Separation:
    """Looks for a discrete trait in the prototypes.

    The probe is ridge regression of the classes' indicators; a held-out species gets the class
    whose mean score is nearest to its own. These means, and the ridge's strength, come from clades
    held out of the training clades, so that a common class has no advantage over a rare one.

    Args:
      prototypes: [s, d] float.
      labels: [s] int or str.
      clades: [s] int; at least three.
      groups: [s] int; the probe looks only at differences inside them, see `nested_ridge`.
      lineages: as of `continuous_trait`, for `separation_tree_p` and `accuracy_tree_p`.
      permutations: of the labels, of each kind.
      seed: of the permutations.

    Raises:
      UserError: fewer than 6 species or 3 clades, all labels are the same, or fewer than two of
        them occur in several folds of clades.
    """
    features = np.asarray(prototypes, np.float64)
    clades = _check(labels, clades)
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < 2:
        raise UserError(f"all species have the same label, {names[0]}")
    rng = np.random.default_rng((seed, 1))
    dealt = np.stack([numbers] + [rng.permutation(numbers) for _ in range(permutations)], axis=1)
    rows = _thin(len(features), rng)
    separation = silhouettes(features[rows], dealt[rows], len(names))
    tree = Tree.of(lineages, np.arange(len(numbers))) if lineages else None
    tree_rng = np.random.default_rng((seed, 3))
    separation_tree_p = accuracy_tree_p = None
    if tree:
        inherited = deal_labels(tree.select(rows), numbers[rows], permutations, tree_rng).T
        inherited = silhouettes(features[rows], inherited, len(names))
        separation_tree_p = _beside(separation, inherited)

    folds = assign_folds(clades)
    table = np.zeros((len(names), folds.max() + 1), bool)
    table[numbers, folds] = True
    spread = (table.sum(axis=1) > 1)[numbers]  # species whose class occurs in several folds
    classes, folds = (np.unique(x[spread], return_inverse=True)[1] for x in (numbers, folds))
    num_classes = int(classes.max(initial=-1)) + 1
    if num_classes < 2 or folds.max() < 2:
        raise UserError(
            "fewer than two labels occur in several clades, so that none can be told in a clade"
            " that is held out: leave out a finer rank"
        )
    inherited = np.zeros((0, len(classes)), np.int64)
    if tree:
        part, allowed = tree.select(np.flatnonzero(spread)), partial(_is_spread, folds)
        inherited = deal_labels(part, classes, permutations, tree_rng, allowed)
    ways = _deal_spread(classes, folds, permutations, rng)
    dealt = np.stack([classes, *ways, *inherited], axis=1)
    targets = (dealt[:, None] == np.arange(num_classes)[:, None]).astype(np.float64)
    held_out = nested_ridge(
        features[spread], folds, targets, None if groups is None else groups[spread]
    )
    distances = np.full((num_classes, *dealt.shape), np.inf)
    for number in range(num_classes):
        gaps = held_out.predictions - held_out.class_means[folds, number]
        # A class that the training species lack has no mean, and is never the answer.
        distances[number] = np.nan_to_num((gaps**2).sum(axis=1), nan=np.inf)
    right = (distances.argmin(axis=0) == dealt)[:, None] & (targets > 0)
    accuracy = (right.sum(axis=0) / targets.sum(axis=0)).mean(axis=0)
    accuracy, inherited = np.split(accuracy, [1 + permutations])
    kinds = {"labels dealt at random": accuracy[1:]}
    if tree:
        accuracy_tree_p = _beside(accuracy, inherited)
        kinds["labels that follow the tree"] = inherited
    return Separation(
        separation=float(separation[0]),
        separation_p=p_value(separation),
        separation_tree_p=separation_tree_p,
        accuracy=float(accuracy[0]),
        chance=1 / num_classes,
        accuracy_p=p_value(accuracy),
        accuracy_tree_p=accuracy_tree_p,
        cautions=cautions(
            "the held-out accuracy", 1 / num_classes, kinds, {"labels": divisions(numbers)}
        ),
    )


def silhouettes(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean silhouette coefficient (Rousseeuw 1987) by cosine distance for many labellings at once.

    Args:
      features: [s, d] float.
      labels: [s, p] int below `num_classes`, a labelling a column.

    Returns:
      [p] float64; a class of one member counts 0, as scikit-learn has it, and so does a labelling
      with one class.
    """
    normal = unit(features)
    distances = 1 - normal @ normal.T
    np.fill_diagonal(distances, 0)
    blocks = []
    for start in range(0, labels.shape[1], 64):
        part = labels[:, start : start + 64]
        members = (part[:, None] == np.arange(num_classes)[:, None]).astype(np.float64)
        counts = members.sum(axis=0)
        sums = (distances @ members.reshape(len(features), -1)).reshape(members.shape)
        own_count = np.take_along_axis(counts, part, axis=0)
        own_sum = np.take_along_axis(sums, part[:, None], axis=1)[:, 0]
        own = own_sum / np.maximum(own_count - 1, 1)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
        other = np.where(members > 0, np.inf, means).min(axis=1)
        with np.errstate(invalid="ignore"):
            values = (other - own) / np.maximum(np.maximum(other, own), 1e-300)
        alone = (own_count <= 1) | ~np.isfinite(other)
        blocks.append(np.where(alone, 0.0, values).mean(axis=0))
    return np.concatenate(blocks)


def _check(values: np.ndarray, clades: np.ndarray) -> np.ndarray:
    numbers = np.unique(np.asarray(clades), return_inverse=True)[1]
    if len(values) < MIN_SPECIES:
        raise UserError(f"{len(values)} species are too few; at least {MIN_SPECIES} are needed")
    if numbers.max() < 2:
        raise UserError(
            f"the species belong to {numbers.max() + 1} clade(s); at least three are needed, to"
            " learn from, to choose the ridge's strength and to predict: leave out a finer rank"
        )
    return numbers


def _beside(statistics: np.ndarray, null: np.ndarray) -> float | None:
    """p of the first statistic in another null; None where that is empty."""
    return p_value(np.append(statistics[0], null)) if len(null) else None


def _thin(count: int, rng: np.random.Generator) -> np.ndarray:
    if count <= MAX_PAIRED:
        return np.arange(count)
    return np.sort(rng.choice(count, MAX_PAIRED, replace=False))


def _far_ranks(features: np.ndarray) -> np.ndarray:
    """[pairs] ranks of the cosine distances of [s, d], less their mean, in length 1."""
    normal = unit(features)
    return _ranks(1 - (normal @ normal.T)[np.triu_indices(len(features), 1)])


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    ranks = rankdata(values)
    ranks -= ranks.mean()
    return ranks / max(float(np.linalg.norm(ranks)), 1e-300)


def _mantel(far: np.ndarray, values: np.ndarray, ways: Sequence[np.ndarray]) -> np.ndarray:
    """[ways] rank correlations of distances where the values are dealt in each of these ways."""
    from scipy.spatial.distance import squareform

    first, second = np.triu_indices(len(values), 1)
    # Swapping species permutes rows and columns of the ranks, which are found only once.
    square = squareform(_ranks(np.abs(values[first] - values[second])))
    return np.asarray([far @ square[way[first], way[second]] for way in ways])


def _alignments(far: np.ndarray, traits: np.ndarray) -> np.ndarray:
    """[p], the same of other traits [s, p]."""
    first, second = np.triu_indices(len(traits), 1)
    return np.asarray([far @ _ranks(np.abs(t[first] - t[second])) for t in traits.T])


def _permute_within(values: np.ndarray, clades: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    order = np.argsort(clades, kind="stable")
    shuffled = np.lexsort((rng.random(len(values)), clades))
    out = np.empty_like(values)
    out[order] = values[shuffled]
    return out


def _deal_spread(
    labels: np.ndarray, folds: np.ndarray, permutations: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Permutations in which, as in the labels themselves, each class occurs in several folds."""
    spread: list[np.ndarray] = []
    for _ in range(100 * (permutations + 10)):
        if len(spread) == permutations:
            return spread
        dealt = rng.permutation(labels)
        if _is_spread(folds, dealt[None])[0]:
            spread.append(dealt)
    raise UserError(
        "a label is so rare that chance hardly ever deals it to species of several clades:"
        " leave out a finer rank, or rows with rare labels"
    )


def _is_spread(folds: np.ndarray, labellings: np.ndarray) -> np.ndarray:
    """[p, s] labellings → [p] bool, whether each class occurs in several folds."""
    table = np.zeros((len(labellings), labellings.max(initial=0) + 1, folds.max() + 1), bool)
    table[np.arange(len(labellings))[:, None], labellings, folds] = True
    return (table.sum(axis=2) > 1).all(axis=1)


def _centre_within(values: np.ndarray, clades: np.ndarray) -> np.ndarray:
    sums = np.zeros((clades.max() + 1, values.shape[1]))
    np.add.at(sums, clades, values)
    return values - (sums / np.bincount(clades)[:, None])[clades]


def _correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation of the columns; 0 where one does not vary."""
    first = first - first.mean(axis=0)
    second = second - second.mean(axis=0)
    sizes = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    return (first * second).sum(axis=0) / np.maximum(sizes, 1e-300)
