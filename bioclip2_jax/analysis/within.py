"""Within species: does the difference of two variants lie across the differences of species?

The paper (section 5.3, theorem 5.1) finds that training on species leaves room for what the names
do not tell, such as sex or life stage, in directions orthogonal to those that tell species apart.
rho is the share of the variants' squared difference that lies inside the between-species subspace:
0 is orthogonal, and a random direction has about (dimensions of the subspace) / (dimensions of the
features).

As the paper's, rho is ||U'v||^2 / ||v||^2, v the difference of a species' two variant means and U
an orthonormal basis of the centred species means. Means of few pictures are noisy, and the noise of
v lies inside U as any other noise does, whatever the true difference; `rho` therefore subtracts
what the noise adds to numerator and denominator, estimated from the scatter inside variants. For
that, U must not have seen the pictures that v comes from: the pictures of a species are halved,
U takes its mean from one half, v and its noise come from the other, then the halves change
places. Where there are few species this is repeated. It takes two pictures of each variant in each
half.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation.findings import Variants
from bioclip2_jax.measures.intervals import Interval

BOOTSTRAPS = 2000
MIN_IMAGES = 2  # of each variant
MIN_FOR_RHO = 4  # of each variant, for the scatter inside a half
HALVINGS = 24  # in all, but at least one a species: many species average on their own
_TIE = 1e-12  # divisions that are the same differ by rounding


@dataclass(frozen=True, kw_only=True)
class SpeciesWithin(Variants):
    """One species with both variants; `species` is its number."""

    species: int


@dataclass(frozen=True, kw_only=True)
class Within:
    """Over all species with both variants.

    Attributes:
      dimensions: of the between-species subspace.
      species: one entry each.
      rho: sum of `inside` / sum of `signal`, so that species whose variants hardly differ weigh
        little; None where the sum of `signal` is not positive, or no species has enough pictures.
      rho_interval: 95 %, bootstrap over species; None for fewer than three species.
      rho_raw: mean over species.
      halves: mean uncorrected rho with v from one half of a species' pictures and U from the other.
      null_mean: the same for random divisions of each half.
      p: share of random divisions, of all species at once, for which it is at most `halves`.
      random_direction: dimensions / d, the share of a random direction.
      fisher, fisher_removed: means over species.
      fisher_interval, fisher_removed_interval: 95 %, bootstrap over species.
    """

    dimensions: int
    species: list[SpeciesWithin]
    rho: float | None
    rho_interval: Interval | None
    rho_raw: float
    halves: float
    null_mean: float
    p: float
    random_direction: float
    fisher: float
    fisher_interval: Interval | None
    fisher_removed: float
    fisher_removed_interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Three species in three dimensions, as in the paper's figure.

    The first two axes span the plane of the three species means, the third is the direction
    orthogonal to it in which the variants differ most.

    Attributes:
      points: [m, 3] float64, pictures with a known variant.
      species: [m] int, 0 ... 2.
      variants: [m] int.
      means: [3, 2, 3] float64, of the variants of every species.
      rho: mean uncorrected rho of the three species in this plane.
    """

    points: np.ndarray
    species: np.ndarray
    variants: np.ndarray
    means: np.ndarray
    rho: float


def within(
    features: np.ndarray,
    species: np.ndarray,
    variants: np.ndarray,
    *,
    dimensions: int | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Within:
    """Measures rho and Fisher's ratio for every species with at least two pictures of each variant.

    Other species only help to span the between-species subspace. A species' mean is the mean of its
    variants' means where both are known, lest an uneven sex ratio tilt the subspace.

    Args:
      features: [n, d] float.
      species: [n] int.
      variants: [n] int, 0 or 1, -1 unknown.
      dimensions: leading directions of the between-species subspace; None takes all, one fewer than
        species.
      permutations: random divisions of the pictures of each species.
      seed: of halves, divisions and bootstrap.

    Raises:
      UserError: no species has both variants, or there is only one species.
      UsageError: `dimensions` is below 1, beyond what the species span, or leaves nothing outside.
    """
    features = np.asarray(features, np.float64)
    names, numbers = np.unique(np.asarray(species), return_inverse=True)
    variants = np.asarray(variants)
    pictures_of = [np.flatnonzero(numbers == number) for number in range(len(names))]
    means = np.stack([_species_mean(features[rows], variants[rows]) for rows in pictures_of])
    dimensions = check_dimensions(len(names), features.shape[1], dimensions)
    basis = _basis(means, dimensions)
    labelled = [rows[variants[rows] >= 0] for rows in pictures_of]
    measured = [
        number
        for number, rows in enumerate(labelled)
        if np.bincount(variants[rows], minlength=2).min() >= MIN_IMAGES
    ]
    if not measured:
        raise UserError(
            f"no species has {MIN_IMAGES} pictures of each variant: there is nothing to compare"
        )
    entries, shares, nulls = [], [], []
    for number in measured:
        rows = labelled[number]
        entry, share, null = _one_species(
            features[rows],
            variants[rows],
            species=names[number].item(),
            others=np.delete(means, number, axis=0),
            basis=basis,
            permutations=permutations,
            halvings=-(-HALVINGS // len(measured)),
            rng=np.random.default_rng((seed, number)),
        )
        entries.append(entry)
        shares.append(share)
        nulls.append(null)
    null = np.mean(nulls, axis=0)
    pairs = np.asarray([(e.inside, e.signal) for e in entries if e.inside is not None])
    pairs = pairs.reshape(-1, 2)
    rng = np.random.default_rng((seed, len(names)))
    draws = rng.integers(len(entries), size=(BOOTSTRAPS, len(entries)))
    pair_draws = rng.integers(max(len(pairs), 1), size=(BOOTSTRAPS, len(pairs)))
    sums = pairs[pair_draws].sum(axis=1)
    inside, signal = pairs.sum(axis=0)
    ratios = sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], np.nan)
    bounded = signal > 0 and not np.isnan(ratios).any()
    fisher = np.asarray([entry.fisher for entry in entries])
    fisher_removed = np.asarray([entry.fisher_removed for entry in entries])
    return Within(
        dimensions=dimensions,
        species=entries,
        rho=float(inside / signal) if signal > 0 else None,
        rho_interval=_interval(ratios, len(pairs)) if bounded else None,
        rho_raw=float(np.mean([entry.rho_raw for entry in entries])),
        halves=float(np.mean(shares)),
        null_mean=float(null.mean()),
        p=_share(null <= np.mean(shares) + _TIE),
        random_direction=dimensions / features.shape[1],
        fisher=float(fisher.mean()),
        fisher_interval=_interval(fisher[draws].mean(axis=1), len(entries)),
        fisher_removed=float(fisher_removed.mean()),
        fisher_removed_interval=_interval(fisher_removed[draws].mean(axis=1), len(entries)),
    )


def check_dimensions(num_species: int, dim: int, dimensions: int | None) -> int:
    """Dimensions of the between-species subspace, the default resolved; errors as `within`."""
    if num_species < 2:
        raise UserError(
            "there is only one species, so nothing differs between species; embed others with it"
        )
    wanted = num_species - 1 if dimensions is None else dimensions
    if wanted >= dim:
        raise UsageError(
            f"a between-species subspace of {wanted} dimensions fills all {dim} of the features,"
            f" so that every difference lies inside; take fewer leading ones, such as"
            f" {max(1, dim // 4)} (--dimensions), or fewer species"
        )
    if not 1 <= wanted <= num_species - 1:
        raise UsageError(
            f"{wanted} dimensions: {num_species} species span 1 to {num_species - 1} (--dimensions)"
        )
    return wanted


def panel(
    features: np.ndarray, species: np.ndarray, variants: np.ndarray, three: Sequence[int]
) -> Panel:
    """The paper's 3-D figure for three species.

    Args:
      features: [n, d] float.
      species: [n] int.
      variants: [n] int, 0 or 1, -1 unknown.
      three: numbers of three species, each with both variants.

    Raises:
      UserError: one of them lacks a variant.
    """
    features = np.asarray(features, np.float64)
    species, variants = np.asarray(species), np.asarray(variants)
    means = np.zeros((len(three), 2, features.shape[1]))
    for place, number in enumerate(three):
        for variant in (0, 1):
            rows = (species == number) & (variants == variant)
            if not rows.any():
                raise UserError(f"species {number} has no picture of variant {variant}")
            means[place, variant] = features[rows].mean(axis=0)
    centres = means.mean(axis=1)
    plane = _basis(centres, 2)
    differences = means[:, 1] - means[:, 0]
    outside = differences - differences @ plane @ plane.T
    third = np.linalg.svd(outside, full_matrices=False)[2][0]
    third *= np.sign(outside.sum(axis=0) @ third) or 1
    axes = np.column_stack([plane, third])
    rows = np.flatnonzero(np.isin(species, list(three)) & (variants >= 0))
    place = np.asarray([list(three).index(number) for number in species[rows]])
    centre = centres.mean(axis=0)
    inside = ((differences @ plane) ** 2).sum(axis=1)
    return Panel(
        points=(features[rows] - centre) @ axes,
        species=place,
        variants=variants[rows],
        means=(means - centre) @ axes,
        rho=float((inside / np.maximum((differences**2).sum(axis=1), 1e-300)).mean()),
    )


def _share(hits: np.ndarray) -> float:
    """Permutation p-value; the observed case counts itself."""
    return float((1 + hits.sum()) / (1 + len(hits)))


def _interval(draws: np.ndarray, num_species: int) -> Interval | None:
    if num_species < 3:
        return None
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def _species_mean(features: np.ndarray, variants: np.ndarray) -> np.ndarray:
    if all((variants == variant).any() for variant in (0, 1)):
        return (features[variants == 0].mean(axis=0) + features[variants == 1].mean(axis=0)) / 2
    return features.mean(axis=0)


def _basis(means: np.ndarray, dimensions: int) -> np.ndarray:
    """[s, d] species means → [d, dimensions] orthonormal, leading directions of their scatter."""
    return np.linalg.svd(means - means.mean(axis=0), full_matrices=False)[2][:dimensions].T


def _halves(variants: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two masks that share the pictures of either variant."""
    first = np.zeros(len(variants), bool)
    for variant in (0, 1):
        first[rng.permutation(np.flatnonzero(variants == variant))[::2]] = True
    return first, ~first


def _difference_weights(
    variants: np.ndarray, permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """[1 + permutations, n] weights that make the difference of means; the first are the true."""
    counts = np.bincount(variants, minlength=2)
    dealt = rng.permuted(np.tile(variants, (permutations, 1)), axis=1)
    return np.where(np.vstack([variants, dealt]) == 1, 1 / counts[1], -1 / counts[0])


# Its matrices are small: threads would wait for each other longer than they work.
@threadpool_limits.wrap(limits=1)
def _one_species(
    features: np.ndarray,
    variants: np.ndarray,
    *,
    species: int,
    others: np.ndarray,
    basis: np.ndarray,
    permutations: int,
    halvings: int,
    rng: np.random.Generator,
) -> tuple[SpeciesWithin, float, np.ndarray]:
    """A species' entry, the raw rho of its halves, and [permutations] that of random divisions."""
    counts = np.bincount(variants)
    means = np.stack([features[variants == variant].mean(axis=0) for variant in (0, 1)])
    residuals = features - means[variants]
    spare = counts[variants] - 1  # degrees of freedom of a picture's variant
    difference = means[1] - means[0]

    inside = observed = 0.0
    null = np.zeros(permutations)
    enough = counts.min() >= MIN_FOR_RHO
    halves = [half for _ in range(halvings) for half in _halves(variants, rng)]
    for place, half in enumerate(halves):
        own = _species_mean(features[~half], variants[~half])
        plane = _basis(np.vstack([others, own]), basis.shape[1])
        if enough:
            inside += _inside(features[half], variants[half], plane) / len(halves)
        if place > 1:
            continue  # other halvings of the same pictures are no further evidence
        weights = _difference_weights(variants[half], permutations, rng)
        deltas = weights @ features[half]
        flat = ((deltas @ plane) ** 2).sum(axis=1)
        shares = flat / np.maximum((deltas**2).sum(axis=1), 1e-300)
        observed += shares[0] / 2
        null += shares[1:] / 2

    whole = _difference_weights(variants, permutations, rng)[1:]
    permuted = ((whole @ features) ** 2).sum(axis=1)
    length = float(difference @ difference)
    flat_length = float(((difference @ basis) ** 2).sum())
    squares = (residuals**2).sum(axis=1)
    signal = length - squares @ (1 / (spare * counts[variants]))
    spread = float(squares @ (1 / spare))
    flat_spread = float(((residuals @ basis) ** 2).sum(axis=1) @ (1 / spare))
    entry = SpeciesWithin(
        species=species,
        counts=(int(counts[0]), int(counts[1])),
        rho=float(inside / signal) if enough and signal > 0 else None,
        rho_raw=flat_length / max(length, 1e-300),
        rho_p=_share(null <= observed + _TIE),
        fisher=length / max(spread, 1e-300),
        fisher_removed=(length - flat_length) / max(spread - flat_spread, 1e-300),
        fisher_p=_share(permuted >= length * (1 - _TIE)),
        signal=float(signal),
        inside=float(inside) if enough else None,
    )
    return entry, observed, null


def _inside(features: np.ndarray, variants: np.ndarray, plane: np.ndarray) -> float:
    """||U'v||^2 without what the noise of the means adds: tr(U'SU) / k for k pictures."""
    places = features @ plane
    parts = [places[variants == variant] for variant in (0, 1)]
    noise = sum(part.var(axis=0, ddof=1).sum() / len(part) for part in parts)
    return float(((parts[1].mean(axis=0) - parts[0].mean(axis=0)) ** 2).sum() - noise)
