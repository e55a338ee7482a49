"""How much of a difference lies inside the span of noisy means, and how sure that is.

M [k, d] are the centred means of k species, v a difference, and the share wanted is v'Pv / v'v with
P the projection on the leading directions of M's rows. In terms of A = MM' and g = Mv it is

    v'Pv = g'A^+ g,

and both A and g are estimated without bias, as the noise of the means adds to A's diagonal alone.
So species that lie close together for the noise of their means, whose plain span is half noise,
still give the span of their true means, as long as each direction can be told from noise at all.

With y = A^+ g and r = v - M'y, the part of v outside, noise E of the means and e of the difference
move the estimate by 2 y'E r in first order, and add u'A^+ u, u = E r + M h + E h and h = e - E'y,
in second. The latter's expectation is subtracted, the variance of both is what is returned. There
the noise is taken to have the same shape in all species, though not the same size.
"""

import math
from dataclasses import dataclass

import numpy as np

from bioclip2_jax.measures import intervals

TILT = 0.05  # by which both rho may differ without a word


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The scatter inside the variants of all species together.

    Attributes:
      shape: [d, d], its covariance, divided by its trace.
      square: unbiased trace of the square of that; 1 / square directions share the noise.
    """

    shape: np.ndarray
    square: float

    @classmethod
    def of(cls, residuals: np.ndarray, freedom: int) -> "Noise":
        """From [n, d] departures from the means of their kind, with so many degrees of freedom."""
        covariance = residuals.T @ residuals
        trace = np.trace(covariance)
        shape = covariance / trace if trace > 0 else np.eye(len(covariance)) / len(covariance)
        square = ((shape**2).sum() - 1 / freedom) / (1 + 1 / freedom)
        return cls(shape=shape, square=float(max(square, 1 / len(shape))))


@dataclass(frozen=True, kw_only=True)
class Means:
    """The k species that span the subspace.

    Attributes:
      places: [k, d], their means.
      noise: [k], sum of the variances of each mean.
    """

    places: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Of the variants of m species.

    Attributes:
      vectors: [m, d].
      noise: [m], sum of the variances of each.
      own: [m] int, row of the species in the means; -1 for one that is not among them.
      shared: [m], sum of the covariances of a difference and its species' mean.
    """

    vectors: np.ndarray
    noise: np.ndarray
    own: np.ndarray
    shared: np.ndarray

    @property
    def signal(self) -> np.ndarray:
        """[m], unbiased squared lengths."""
        return (self.vectors**2).sum(axis=1) - self.noise


@dataclass(frozen=True, kw_only=True)
class Inside:
    """Result of `inside`.

    Attributes:
      squares: [m], unbiased squared lengths of the differences inside the subspace.
      resolved: leading directions that can be told from noise; only these count.
      apart: whether all that were wanted can be told from noise, and from those left out.
      variance: of the sum of `squares`, from the noise of the means alone.
      scatter: sum of the variances of squares - rho * signal, from the noise of the differences
        alone.
    """

    squares: np.ndarray
    resolved: int
    apart: bool
    variance: float
    scatter: float


def inside(means: Means, differences: Differences, noise: Noise, dimensions: int) -> Inside:
    """Squared lengths of the differences inside the span of the means.

    Args:
      means: of the species.
      differences: of some of them, or of others.
      noise: of all pictures.
      dimensions: leading directions of the means' scatter, below k.
    """
    count = len(means.places)
    places = means.places - means.places.mean(axis=0)
    size, shape = means.noise, noise.shape
    # What noise lies in the plain span of the means moves them inside it, and changes nothing.
    plain = np.linalg.svd(places, full_matrices=False)[2][: count - 1]
    outside = max(1 - float(((plain @ shape) * plain).sum()), 0.0)
    centre = np.eye(count) - 1 / count
    gram = places @ places.T - centre @ (outside * size[:, None] * centre)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][: count - 1], vectors[:, ::-1][:, : count - 1]
    # The norm of such a noise matrix, as of Wigner's and Wishart's.
    blur = size.mean() * (2 * np.sqrt(count * noise.square) + count * noise.square)
    blur = max(blur, 1e-12 * values[0])
    resolved = int((values[:dimensions] > blur).sum())
    beyond = values[dimensions] if dimensions < count - 1 else 0.0
    apart = resolved == dimensions and bool(values[dimensions - 1] - max(beyond, 0.0) > blur)

    kept, inverse = vectors[:, :resolved], 1 / values[:resolved]
    inverted = (kept * inverse) @ kept.T
    products = places @ differences.vectors.T
    own = np.flatnonzero(differences.own >= 0)
    place = differences.own[own]
    shared = np.zeros_like(products)
    shared[place, own] = differences.shared[own]
    products = products - outside * centre @ shared
    weights = inverted @ products  # y, [k, m]
    rests = differences.vectors - weights.T @ places  # r, [m, d]

    drift = differences.noise + size @ weights**2 - 2 * (weights * shared).sum(axis=0)
    seen = rests @ shape
    across = seen @ rests.T
    added = (np.diag(inverted) @ size) * (np.diag(across) - drift * noise.square)
    added += differences.noise * (inverted * (places @ shape @ places.T)).sum()
    mixed = inverted @ (places @ seen.T)
    added += 2 * (mixed * (shared - size[:, None] * weights)).sum(axis=0)
    squares = (products * weights).sum(axis=0) - added

    pull = weights @ rests
    other = vectors[:, resolved:], values[resolved:]
    if dimensions < count - 1 and resolved:
        pull = pull + _turning(places, products, (kept, values[:resolved]), other, blur)
    linear = 4 * float(size @ ((pull @ shape) * pull).sum(axis=1))
    scaled = inverted * np.sqrt(np.outer(size, size))
    square = 2 * float((scaled**2).sum() * (across**2).sum())

    # A difference's own noise moves v'(P - rho)v; `turns` is of P times the shape.
    total = differences.signal.sum()
    rho = squares.sum() / total if total > 0 else 0.0
    arms = weights.T @ places - rho * differences.vectors
    turns, twice = (
        inverted @ places @ shape @ places.T,
        (inverted * (places @ shape @ shape @ places.T)),
    )
    spare = max((turns * turns.T).sum() - 2 * rho * twice.sum() + rho**2 * noise.square, 0.0)
    each = 4 * differences.noise * ((arms @ shape) * arms).sum(axis=1)
    return Inside(
        squares=squares,
        resolved=resolved,
        apart=apart,
        variance=linear + square,
        scatter=float((each + 2 * differences.noise**2 * spare).sum()),
    )


def _turning(
    places: np.ndarray,
    products: np.ndarray,
    kept: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    blur: float,
) -> np.ndarray:
    """[k, d], what is to be added to `pull` where noise turns kept directions into other ones.

    Directions below the blur are no directions of the species; what they hold lies outside.
    """
    told = other[1] > blur
    (w, a), (x, b) = kept, (other[0][:, told], other[1][told])
    gaps = np.maximum(a[:, None] - b, blur)
    parts = (w.T @ products / np.sqrt(a)[:, None]) @ (x.T @ products / np.sqrt(b)[:, None]).T
    u, t = (w.T @ places) / np.sqrt(a)[:, None], (x.T @ places) / np.sqrt(b)[:, None]
    first = parts * b / (np.sqrt(a)[:, None] * gaps)
    second = parts * np.sqrt(b) / gaps
    return w @ first @ t + x @ second.T @ u


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Means and scatter of all species.

    Attributes:
      middles: [s, d], between the means of the variants where both are known, else the mean.
      middle_noise: [s], sum of the variances of each.
      differences: [s, d], zero where a variant is unknown.
      difference_noise, shared: [s], see `subspace.Differences`.
      noise: of all pictures.
    """

    middles: np.ndarray
    middle_noise: np.ndarray
    differences: np.ndarray
    difference_noise: np.ndarray
    shared: np.ndarray
    noise: Noise
    kinds: np.ndarray

    @classmethod
    def of(
        cls, features: np.ndarray, numbers: np.ndarray, variants: np.ndarray, counts: np.ndarray
    ) -> "Pictures":
        """Species with both variants are known by these, the others by all their pictures."""
        both = counts.min(axis=1) > 0
        kinds = np.where(
            both[numbers], np.where(variants >= 0, 2 * numbers + variants, -1), 2 * numbers
        )
        rows = np.flatnonzero(kinds >= 0)
        size = np.bincount(kinds[rows], minlength=2 * len(counts))
        means = np.zeros((len(size), features.shape[1]))
        np.add.at(means, kinds[rows], features[rows])
        means /= np.maximum(size, 1)[:, None]
        residuals = features[rows] - means[kinds[rows]]
        squares = np.bincount(kinds[rows], (residuals**2).sum(axis=1), minlength=len(size))
        spare = np.maximum(size - 1, 0)
        freedom, freedom_known = max(int(spare.sum()), 1), max(int(spare @ both.repeat(2)), 1)
        # A single picture does not tell how it scatters; it is taken to do as the others.
        variance = np.where(size > 1, squares / np.maximum(spare, 1), squares.sum() / freedom)
        errors = (variance / np.maximum(size, 1)).reshape(-1, 2)
        pairs = means.reshape(len(counts), 2, -1)
        return cls(
            middles=np.where(both[:, None], pairs.mean(axis=1), pairs[:, 0]),
            middle_noise=np.where(both, errors.sum(axis=1) / 4, errors[:, 0]),
            differences=np.where(both[:, None], pairs[:, 1] - pairs[:, 0], 0),
            difference_noise=errors.sum(axis=1),
            shared=(errors[:, 1] - errors[:, 0]) / 2,
            # Where variants are unknown, their difference is no noise of those that are known.
            noise=Noise.of(residuals[both[numbers[rows]]], freedom_known),
            kinds=kinds,
        )

    def rows(self, number: int) -> np.ndarray:
        """Pictures of known variant of a species."""
        return np.flatnonzero(self.kinds // 2 == number)


@dataclass(frozen=True, kw_only=True)
class Share:
    """rho of some species in the subspace of some."""

    inside: Inside
    signal: np.ndarray
    spanning: int
    dimensions: int

    @classmethod
    def of(
        cls, pictures: Pictures, measured: np.ndarray, spanning: np.ndarray, dimensions: int
    ) -> "Share":
        """Of species that are `measured` where others, or the same, are `spanning`: [...] int."""
        place = np.full(len(pictures.middles), -1)
        place[spanning] = np.arange(len(spanning))
        differences = Differences(
            vectors=pictures.differences[measured],
            noise=pictures.difference_noise[measured],
            own=place[measured],
            shared=pictures.shared[measured],
        )
        means = Means(places=pictures.middles[spanning], noise=pictures.middle_noise[spanning])
        found = inside(means, differences, pictures.noise, dimensions)
        return cls(
            inside=found, signal=differences.signal, spanning=len(spanning), dimensions=dimensions
        )

    @property
    def rho(self) -> float | None:
        """Sum of the insides / sum of the signals."""
        total = self.signal.sum()
        if not self.inside.resolved or total <= 0:
            return None
        return float(self.inside.squares.sum() / total)

    def interval(self) -> intervals.Interval | None:
        """95 %: the spread of the species about rho, and the error of the subspace they share."""
        rho, count, total = self.rho, len(self.signal), self.signal.sum()
        if rho is None or count < intervals.MIN_CASES or not self.inside.apart:
            return None
        spread = ((self.inside.squares - rho * self.signal) ** 2).sum() * count / (count - 1)
        variance = spread + self.inside.variance
        # Welch and Satterthwaite: only the spread is estimated from few species.
        freedom = (count - 1) * (variance / max(spread, 1e-300)) ** 2
        half = intervals.student_quantile(freedom) * math.sqrt(variance)
        # Three species may lie close by chance; they are no surer than their pictures make them.
        least = self.inside.scatter + self.inside.variance
        half = max(half, intervals.student_quantile(math.inf) * math.sqrt(least)) / total
        return rho - half, rho + half


def cautions(share: Share, everyone: float | None, count: int, *, tilted: bool) -> list[str]:
    """What a share cannot be trusted for, beside that in the subspace of all `count` species."""
    said = []
    spanning, dimensions = share.spanning, share.dimensions
    if tilted:
        said.append(
            f"all {spanning} species span the subspace, also those of which only one variant or"
            " none is known; where their pictures are mostly of one variant, rho is too large"
        )
    if share.rho is not None and everyone is not None and abs(everyone - share.rho) > TILT:
        said.append(
            f"rho is {share.rho:.2f} in the subspace of the {spanning} species whose variants are"
            f" known, {everyone:.2f} in that of all {count}: the others may be tilted by pictures"
            " that are mostly of one variant"
        )
    if share.inside.resolved < dimensions:
        said.append(
            f"only {share.inside.resolved} of the {dimensions} dimensions between species can be"
            " told from the noise of their means, so that rho is the share inside those"
        )
    elif not share.inside.apart:
        said.append(
            f"dimension {dimensions} between species cannot be told from the next: take more or"
            " fewer for an interval"
        )
    return said
