"""Within species: does the difference of two variants lie across the differences of species?

The paper (section 5.3, theorem 5.1) finds that training on species leaves room for what the names
do not tell, such as sex or life stage, in directions orthogonal to those that tell species apart.
rho is the share of the variants' squared difference that lies inside the between-species subspace:
0 is orthogonal, and a random direction has about (dimensions of the subspace) / (dimensions of the
features).

rho is ||U'v||^2 / ||v||^2, v the difference of a species' two variant means and U an orthonormal
basis of the centred species means: our reading, for no copy of the paper's formula was found. Means
of few pictures are noisy. The noise of v lies inside U as any other noise does, and the noise of
the species means turns U itself; `rho` is corrected for both, and its interval holds both (see
`subspace`). Fisher's ratio is about 1 / n for n pictures a variant whatever the true difference;
`fisher` is what is left when that is subtracted.

U is spanned by the species of which both variants are known, each by the middle between them. A
species whose variants are unknown may be nine males in ten pictures, so that its mean lies along
the very difference that is asked about, and U with it. `rho_all` is the share where all species
span U.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from bioclip2_jax.analysis.nulls import LEVEL
from bioclip2_jax.analysis.subspace import Pictures, Share, cautions
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation.findings import Plane, Variants
from bioclip2_jax.measures.intervals import Interval, student

MIN_IMAGES = 2  # of each variant
MIN_FOR_RHO = 4  # of each variant
TRIPLES = 100
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
      spanning: species that span it.
      resolved: its leading dimensions that can be told from noise, in which `rho` is measured.
      species: one entry each.
      rho: sum of `inside` / sum of `signal`, so that species whose variants hardly differ weigh
        little; None where the sum of `signal` is not positive, or no species has enough pictures.
      rho_interval: 95 %, over species, and of the subspace's own error; None for fewer than three
        species, or where the subspace cannot be told from noise or may be tilted.
      rho_all: rho where all species span the subspace, None where those of unknown variants add
        nothing to it, or leave no dimension outside.
      rho_raw: mean over species.
      halves: mean uncorrected rho with v from one half of a species' pictures and U from the other.
      null_mean: the same for random divisions of each half.
      p: share of random divisions, of all species at once, for which it is at most `halves`.
      random_direction: dimensions / d, the share of a random direction.
      fisher, fisher_removed, fisher_raw, fisher_removed_raw, fisher_floor: means over species.
      fisher_interval, fisher_removed_interval: 95 %, over species.
      plane: rho in the plane of three species, over triples of them; None for fewer than three.
      cautions: what the figures cannot be trusted for, a sentence each.
    """

    dimensions: int
    spanning: int
    resolved: int
    species: list[SpeciesWithin]
    rho: float | None
    rho_interval: Interval | None
    rho_all: float | None
    rho_raw: float
    halves: float
    null_mean: float
    p: float
    random_direction: float
    fisher: float
    fisher_interval: Interval | None
    fisher_removed: float
    fisher_removed_interval: Interval | None
    fisher_raw: float
    fisher_removed_raw: float
    fisher_floor: float
    plane: Plane | None
    cautions: list[str]


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

    Args:
      features: [n, d] float.
      species: [n] int.
      variants: [n] int, 0 or 1, -1 unknown.
      dimensions: leading directions of the between-species subspace; None takes all, one fewer than
        the species that span it. Those are the species with pictures of both variants; all species
        where fewer than two have them, or these span too few directions.
      permutations: random divisions of the pictures of each species.
      seed: of halves, divisions and triples.

    Raises:
      UserError: no species has both variants, or there is only one species.
      UsageError: `dimensions` is below 1, beyond what the species span, or leaves nothing outside.
    """
    features = np.asarray(features, np.float64)
    names, numbers = np.unique(np.asarray(species), return_inverse=True)
    variants = np.asarray(variants)
    counts = np.zeros((len(names), 2), np.int64)
    np.add.at(counts, (numbers[variants >= 0], variants[variants >= 0]), 1)
    known = np.flatnonzero(counts.min(axis=1) > 0)
    few = len(known) < 2 or (dimensions or 0) >= len(known)
    spanning = np.arange(len(names)) if few else known
    dimensions = check_dimensions(len(spanning), features.shape[1], dimensions)
    measured = np.flatnonzero(counts.min(axis=1) >= MIN_IMAGES)
    if not len(measured):
        raise UserError(
            f"no species has {MIN_IMAGES} pictures of each variant: there is nothing to compare"
        )
    pictures = Pictures.of(features, numbers, variants, counts)
    enough = measured[counts[measured].min(axis=1) >= MIN_FOR_RHO]
    share = Share.of(pictures, enough, spanning, dimensions)
    basis = _basis(pictures.middles[spanning], dimensions)
    entries, shares, nulls = [], [], []
    for number in measured.tolist():
        rows = pictures.rows(number)
        entry, halves, null = _one_species(
            features[rows],
            variants[rows],
            species=names[number].item(),
            others=pictures.middles[spanning[spanning != number]],
            basis=basis,
            permutations=permutations,
            rng=np.random.default_rng((seed, number)),
        )
        place = np.flatnonzero(enough == number)
        if len(place) and share.inside.resolved:
            inner = float(share.inside.squares[place[0]])
            rho = inner / entry.signal if entry.signal and entry.signal > 0 else None
            entry = replace(entry, rho=rho, inside=inner)
        entries.append(entry)
        shares.append(halves)
        nulls.append(null)
    null = np.mean(nulls, axis=0)

    everyone = None
    if 0 < len(spanning) < len(names) and len(names) - 1 < features.shape[1]:
        everyone = Share.of(pictures, enough, np.arange(len(names)), len(names) - 1).rho
    tilted = len(np.setdiff1d(spanning, known)) > 0
    interval = None if tilted else share.interval()

    def over(name: str) -> np.ndarray:
        return np.asarray([getattr(entry, name) for entry in entries])

    return Within(
        dimensions=dimensions,
        spanning=len(spanning),
        resolved=share.inside.resolved,
        species=entries,
        rho=share.rho,
        rho_interval=interval,
        rho_all=everyone,
        rho_raw=float(over("rho_raw").mean()),
        halves=float(np.mean(shares)),
        null_mean=float(null.mean()) if permutations else math.nan,
        p=_share(null <= np.mean(shares) + _TIE),
        random_direction=dimensions / features.shape[1],
        fisher=float(over("fisher").mean()),
        fisher_interval=student(over("fisher")),
        fisher_removed=float(over("fisher_removed").mean()),
        fisher_removed_interval=student(over("fisher_removed")),
        fisher_raw=float(over("fisher_raw").mean()),
        fisher_removed_raw=float(over("fisher_removed_raw").mean()),
        fisher_floor=float(over("fisher_floor").mean()),
        plane=_plane(pictures, enough, seed),
        cautions=cautions(share, everyone, len(names), tilted=tilted) + _too_few(entries),
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


def _too_few(entries: Sequence[SpeciesWithin]) -> list[str]:
    """A sentence about the species whose pictures cannot give a small p, if there are any."""
    least = [entry.fisher_smallest_p or 0.0 for entry in entries]
    count = sum(p > LEVEL for p in least)
    if not count:
        return []
    return [
        f"{count} of {len(entries)} species have so few pictures that p of Fisher's ratio cannot"
        f" fall below {LEVEL}, however unlike their variants are (at worst {max(least):.2f})"
    ]


def _middle(features: np.ndarray, variants: np.ndarray) -> np.ndarray:
    return (features[variants == 0].mean(axis=0) + features[variants == 1].mean(axis=0)) / 2


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
    rng: np.random.Generator,
) -> tuple[SpeciesWithin, float, np.ndarray]:
    """A species' entry, the raw rho of its halves, and [permutations] that of random divisions."""
    counts = np.bincount(variants)
    means = np.stack([features[variants == variant].mean(axis=0) for variant in (0, 1)])
    residuals = features - means[variants]
    spare = counts[variants] - 1  # degrees of freedom of a picture's variant
    difference = means[1] - means[0]

    observed, null = 0.0, np.zeros(permutations)
    for half in _halves(variants, rng):
        own = _middle(features[~half], variants[~half])
        plane = _basis(np.vstack([others, own]), basis.shape[1])
        weights = _difference_weights(variants[half], permutations, rng)
        deltas = weights @ features[half]
        flat = ((deltas @ plane) ** 2).sum(axis=1)
        shares = flat / np.maximum((deltas**2).sum(axis=1), 1e-300)
        observed += shares[0] / 2
        null += shares[1:] / 2

    whole = _difference_weights(variants, permutations, rng)[1:]
    permuted = ((whole @ features) ** 2).sum(axis=1)

    def squares(difference: np.ndarray, residuals: np.ndarray) -> np.ndarray:
        """[3]: of the difference, its noise, and the spread inside the variants."""
        each = (residuals**2).sum(axis=1)
        noise, spread = each @ (1 / (spare * counts[variants])), each @ (1 / spare)
        return np.asarray([difference @ difference, noise, spread])

    length, noise, spread = whole_squares = squares(difference, residuals)
    flat = squares(difference @ basis, residuals @ basis)
    left, left_noise, left_spread = whole_squares - flat
    spread, left_spread = max(spread, 1e-300), max(left_spread, 1e-300)
    divisions = math.comb(len(variants), int(counts[0]))
    entry = SpeciesWithin(
        species=species,
        counts=(int(counts[0]), int(counts[1])),
        rho=None,
        rho_raw=float(flat[0] / max(length, 1e-300)),
        rho_p=_share(null <= observed + _TIE),
        fisher=float((length - noise) / spread),
        fisher_removed=float((left - left_noise) / left_spread),
        fisher_raw=float(length / spread),
        fisher_removed_raw=float(left / left_spread),
        fisher_floor=float(noise / spread),
        fisher_p=_share(permuted >= length * (1 - _TIE)),
        # Of equal halves, the division with both names swapped has the same length.
        fisher_smallest_p=max((1 + (counts[0] == counts[1])) / divisions, 1 / (1 + permutations)),
        signal=float(length - noise),
    )
    return entry, observed, null


def _plane(pictures: Pictures, measured: np.ndarray, seed: int) -> Plane | None:
    """rho of three species in the plane of their means, over all triples or `TRIPLES` of them."""
    if len(measured) < 3:
        return None
    some = itertools.islice(itertools.combinations(measured, 3), TRIPLES + 1)
    triples = [np.asarray(three) for three in some]
    if len(triples) > TRIPLES:
        rng = np.random.default_rng((seed, 3))
        triples = [rng.choice(measured, 3, replace=False) for _ in range(TRIPLES)]
    found = [Share.of(pictures, three, three, 2) for three in triples]
    told = [each for each in found if each.inside.resolved == 2]
    total = sum(float(each.signal.sum()) for each in told)
    raw = []
    for three in triples:
        vectors = pictures.differences[three]
        flat = ((vectors @ _basis(pictures.middles[three], 2)) ** 2).sum(axis=1)
        raw.append(float((flat / np.maximum((vectors**2).sum(axis=1), 1e-300)).mean()))
    inner = sum(float(each.inside.squares.sum()) for each in told)
    return Plane(
        rho=inner / total if total > 0 else None,
        rho_raw=float(np.mean(raw)),
        random_direction=2 / pictures.middles.shape[1],
        triples=len(triples),
    )
