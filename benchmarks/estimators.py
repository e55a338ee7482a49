"""Do the analyses' figures say what is so? Each is asked where the truth was planted.

    python benchmarks/estimators.py [--toy] [--json]      # some minutes on one core

- rho: twelve species of known sex, and twelve of unknown sex whose pictures are of males in some
  share; the true rho is 0.
- fisher: the ratio for variants that do not differ.
- coverage: of rho's 95 % interval.
- tree: traits that evolve along the lineages, as the features do but with no regard to them: how
  often is p at most 0.05 when the trait is dealt at random, and when it is dealt by the tree? On
  the tree that the null supposes, and where the branches are others. Last, traits that the features
  do show: how often are they found?
- few_shot: how often do the intervals hold the accuracy that is had with other pictures and other
  examples?
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from bioclip2_jax.analysis import between
from bioclip2_jax.analysis.within import within
from bioclip2_jax.errors import UserError
from bioclip2_jax.measures import accuracy, intervals
from bioclip2_jax.measures.scores import unit
from bioclip2_jax.measures.simple_shot import few_shot

Row = dict[str, float | str]
RANKS = ("order", "family", "genus")


# ---- Variants within species


def variants_world(
    rng: np.random.Generator, *, species: int, dim: int, images: int, rho: float, apart: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means [s, d] of species, a difference [s, d] for each, and numbers and variants of pictures.

    A share rho of every difference, all of length a half, lies inside the span of the means.
    """
    means = rng.normal(size=(species, dim)) * apart / dim**0.5
    span = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)[2][: species - 1]
    inner = unit(rng.normal(size=(species, species - 1)) @ span)
    outer = rng.normal(size=(species, dim))
    outer = unit(outer - outer @ span.T @ span)
    differences = (rho**0.5 * inner + (1 - rho) ** 0.5 * outer) / 2
    return (
        means,
        differences,
        np.repeat(np.arange(species), 2 * images),
        np.tile(np.repeat([0, 1], images), species),
    )


def photographs(rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    """[n, d] around the centres."""
    return centres + rng.normal(size=centres.shape) * 0.7 / centres.shape[1] ** 0.5


def rho(toy: bool) -> Iterator[Row]:
    """rho beside species of unknown sex, whose true value is 0."""
    dim, known, images = 64, 12, 6
    for males in (0.5, 0.3, 0.1):
        rng, found = np.random.default_rng(0), []
        for _ in range(3 if toy else 40):
            means, _, species, variants = variants_world(
                rng, species=2 * known, dim=dim, images=images, rho=0, apart=1.5
            )
            span = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)[2][:-1]
            sex = rng.normal(size=dim)
            sex = unit(sex - sex @ span.T @ span)
            odds = np.where(species % 2, males, 1 - males)
            male = np.where(species < known, variants, rng.random(len(species)) < odds)
            features = photographs(rng, means[species] + np.outer(male - 0.5, sex))
            told = np.where(species < known, variants, -1)
            one = within(features, species, told, permutations=0)
            low, high = one.rho_interval or (np.nan, np.nan)
            found.append((one.rho, one.rho_all, low <= 0 <= high, len(one.cautions) > 0))
        mean = np.mean(np.asarray(found, float), axis=0).tolist()
        names = ("rho", "rho_all_species", "coverage", "cautioned")
        yield {"males": f"{males:.0%} / {1 - males:.0%}", **dict(zip(names, mean, strict=True))}


def fisher(toy: bool) -> Iterator[Row]:
    """Fisher's ratio of variants that do not differ."""
    for images in (4, 6, 10, 20):
        rng, found = np.random.default_rng(1), []
        for _ in range(3 if toy else 40):
            means, _, species, variants = variants_world(
                rng, species=12, dim=64, images=images, rho=0, apart=1.5
            )
            one = within(photographs(rng, means[species]), species, variants, permutations=0)
            found.append((one.fisher, one.fisher_removed, one.fisher_raw, one.fisher_floor))
        mean = np.mean(found, axis=0).tolist()
        names = ("corrected", "corrected_removed", "uncorrected", "floor")
        yield {"images": images, **dict(zip(names, mean, strict=True))}


def coverage(toy: bool) -> Iterator[Row]:
    """rho's interval, for few and many species, far apart and close."""
    for species, images, apart, share in (
        (3, 10, 1.5, 0.3), (12, 6, 1.5, 0.0), (12, 6, 1.5, 0.3), (12, 10, 0.5, 0.3),
        (12, 10, 0.5, 0.7), (40, 10, 1.0, 0.3), (40, 10, 0.5, 0.7),
    ):  # fmt: skip
        rng, found = np.random.default_rng(2), []
        for _ in range(3 if toy else 100):
            means, differences, numbers, variants = variants_world(
                rng, species=species, dim=128, images=images, rho=share, apart=apart
            )
            centres = means[numbers] + (variants - 0.5)[:, None] * differences[numbers]
            one = within(photographs(rng, centres), numbers, variants, permutations=0)
            low, high = one.rho_interval or (np.nan, np.nan)
            found.append((one.rho, low <= share <= high, high - low, one.rho_interval is None))
        value, hits, width, none = np.asarray(found, float).T
        given = none == 0
        yield {
            "species": species,
            "images": images,
            "apart": apart,
            "true_rho": share,
            "rho": float(np.nanmean(value)),
            "coverage": float(hits[given].mean()) if given.any() else np.nan,
            "width": float(np.median(width[given])) if given.any() else np.nan,
            "without_interval": float(none.mean()),
        }


# ---- Traits between species


def taxonomy(rng: np.random.Generator, species: int) -> dict[str, np.ndarray]:
    """rank → [s] clades of unequal size: up to five orders, each up to four families, and so on."""
    groups, above = {}, np.zeros(species, np.int64)
    for rank, most in zip(RANKS, (5, 4, 3), strict=True):
        below = np.zeros(species, np.int64)
        for clade in np.unique(above):
            inside = above == clade
            below[inside] = rng.choice(most, inside.sum(), p=rng.dirichlet(np.full(most, 2.0)))
        above = np.unique(above * max(most, 5) + below, return_inverse=True)[1]
        groups[rank] = above
    return groups | {"species": np.arange(species)}


def by_ranks(
    rng: np.random.Generator, species: int, steps: tuple[float, ...], *, uneven: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A taxonomy, and the covariance of traits whose branches have these lengths.

    If they are `uneven`, each branch is as long as chance has it, by an exponential law.
    """
    groups = taxonomy(rng, species)
    covariance = np.zeros((species, species))
    for own, step in zip(groups.values(), steps, strict=True):
        length = step * (rng.exponential(size=own.max() + 1) if uneven else np.ones(own.max() + 1))
        covariance += np.where(own[:, None] == own, length[own], 0)
    return groups, covariance


def by_splits(rng: np.random.Generator, species: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A tree of two-way splits (Yule), its ranks cut at heights of chance, and the covariance."""
    joined, clades, height = np.zeros((species, species)), [[n] for n in range(species)], 0.0
    while len(clades) > 1:
        height += rng.exponential(1 / len(clades))
        first, second = sorted(rng.choice(len(clades), 2, replace=False))
        joined[np.ix_(clades[first], clades[second])] = height
        joined[np.ix_(clades[second], clades[first])] = height
        clades[first] += clades.pop(second)
    cuts = height * np.sort(rng.uniform(0.15, 0.85, len(RANKS)))[::-1]
    groups = {
        rank: np.unique((joined < cut).argmax(axis=1), return_inverse=True)[1]
        for rank, cut in zip(RANKS, cuts, strict=True)
    }
    return groups | {"species": np.arange(species)}, height - joined


TREES: dict[str, Callable[[np.random.Generator, int], tuple[dict[str, np.ndarray], np.ndarray]]] = {
    "its own": lambda rng, count: by_ranks(rng, count, (1, 1, 1, 1)),
    "deep branches": lambda rng, count: by_ranks(rng, count, (8, 1, 0.5, 0.5)),
    "families of old": lambda rng, count: by_ranks(rng, count, (0.2, 5, 0.2, 0.2)),
    "branches of chance": lambda rng, count: by_ranks(rng, count, (1, 1, 1, 1), uneven=True),
    "another tree": by_splits,
}
SEEN = "its own, and seen"


def tree(toy: bool) -> Iterator[Row]:
    """False positives of the nulls, and what they find."""
    for name in (*TREES, SEEN):
        yield of_tree(name, toy)


def of_tree(name: str, toy: bool) -> Row:
    """How often p is at most 0.05, by test and null."""
    count, draws, dim, permutations = (30, 2, 8, 19) if toy else (60, 200, 32, 99)
    rng, grow = np.random.default_rng(3), TREES.get(name, TREES["its own"])
    found: list[dict[str, bool]] = []
    while len(found) < draws:
        groups, covariance = grow(rng, count)
        families = groups["family"]
        root = np.linalg.cholesky(covariance + 1e-9 * np.eye(count))
        features, trait = root @ rng.normal(size=(count, dim)), root @ rng.normal(size=count)
        if name == SEEN:
            trait += 3 * features[:, 0]
        given = {"lineages": groups, "permutations": permutations, "seed": len(found)}
        features = unit(features)
        try:
            one = between.continuous_trait(features, trait, families, **given)
            two = between.discrete_trait(features, trait > np.median(trait), families, **given)
        except UserError:  # hardly any families, or a class in one alone
            continue
        values = vars(one) | vars(two)
        tests = (f"{test}_p" for test in ("mantel", "ridge", "separation", "accuracy"))
        names = [name for test in tests for name in (test, test.replace("_p", "_tree_p"))]
        found.append({name: values[name] <= 0.05 for name in names})
    return {"tree": name} | {
        null: float(np.mean([hits[null] for hits in found])) for null in found[0]
    }


# ---- Few examples


def shots(toy: bool) -> Iterator[Row]:
    """Intervals of few-shot, for the same and for other draws of the examples."""
    classes, dim, images, noise = (6, 16, 12, 1.2) if toy else (10, 32, 20, 1.2)

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.tile(np.arange(classes), count)
        features = centres[labels] + noise * rng.normal(size=(len(labels), dim))
        return unit(features).astype(np.float32), labels

    centres = np.random.default_rng(4).normal(size=(classes, dim)) / 2
    for k in (1, 5):
        rng = np.random.default_rng(5)
        many = [few_shot(*draw(rng, 4 * images), k, {}).fold_top1 for _ in range(5 if toy else 200)]
        truth = float(np.mean(many))
        hits = []
        for _ in range(5 if toy else 200):
            features, labels = draw(rng, images)
            one = few_shot(features, labels, k, {})
            summary = accuracy.summarize(one.outcomes, labels)
            interval = summary.intervals["top1"]
            assert interval and summary.top1 is not None
            wider = intervals.over_draws(summary.top1, interval, one.fold_top1.tolist())
            assert wider
            hits.append([low <= truth <= high for low, high in (interval, wider)])
        plain, with_draws = np.mean(hits, axis=0).tolist()
        yield {"k": k, "accuracy": truth, "coverage": plain, "coverage_with_draws": with_draws}


PARTS = {"rho": rho, "fisher": fisher, "coverage": coverage, "tree": tree, "few_shot": shots}


def main() -> None:
    """Runs the parts one by one and prints their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", action="store_true", help="a few draws, to see that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated")
    options = parser.parse_args()
    found: dict[str, list[Row]] = {}
    for part in options.part or PARTS:
        start = time.process_time()
        found[part] = list(PARTS[part](options.toy))
        print(f"{part}: {time.process_time() - start:.0f} s", file=sys.stderr, flush=True)
        if not options.json:
            print(table(found[part]), end="\n\n", flush=True)
    if options.json:
        print(json.dumps(found, indent=1))


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    for row in rows:
        texts = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()]
        lines.append(texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
