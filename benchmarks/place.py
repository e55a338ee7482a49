"""What places bring: the birds of the world, simulated records of them, and simulated pictures.

    python benchmarks/place.py AVONET.csv [--records 1000000] [--pictures 4000]

The list and its lineages are real (AVONET, Tobias et al. 2022: 11,009 species). The rest is made
up: ranges, discs that lie near each other where lineages do; 3,000 spots where people record, with
very unlike effort and abundances; pictures some 30 km from 400 of them, on which rare species are
commoner than among records; features that are alike where lineages are, with noise. What it shows
is how much a prior may bring and cost where records are many or few, not what it brings on
anybody's pictures.

Prints the seconds of reading the table and of a place, and for each strength the first answers that
are right: of all pictures, of those whose species was never recorded within 60 km or so, and the
mean negative log-likelihood.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import h3.api.basic_int as h3
import numpy as np
from scipy.special import log_softmax

from bioclip2_jax.data import tables
from bioclip2_jax.identify import occurrences, places
from bioclip2_jax.identify.name_tree import NameTree
from bioclip2_jax.measures.scores import number, unit
from bioclip2_jax.text.taxonomy import Taxon

STRENGTHS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
DIM, RECORDED, PICTURED = 256, 3000, 400


def birds(path: Path, rng: np.random.Generator) -> tuple[list[Taxon], np.ndarray]:
    """Species of a list, and [species, 3]: latitude, longitude, radius in km of a made-up range.

    A genus lies somewhere in what is its family's part of the world, a species near its genus.
    """
    table = tables.open_table(path)
    columns = [table.column([name]) for name in ("species1", "family1", "order1")]
    taxa = []
    for _, row in table.rows():
        species, family, order = (row[column or ""] for column in columns)
        if len(species.split()) == 2:
            taxa.append(Taxon("Animalia", "Chordata", "Aves", order, family, *species.split()))
    y, x = np.zeros(len(taxa)), np.zeros(len(taxa))
    for rank, spread in (("family", 30), ("genus", 20), ("species", 8)):
        nodes, own = number([taxon.lineage(rank) for taxon in taxa])
        y += rng.normal(scale=spread / 2, size=len(nodes))[own]
        x += rng.normal(scale=60 if rank == "family" else spread, size=len(nodes))[own]
    radius = np.exp(rng.normal(np.log(700), 0.8, size=len(taxa)))
    return taxa, np.stack([np.clip(y, -65, 70), (x + 180) % 360 - 180, radius], axis=1)


def spots(rng: np.random.Generator, ranges: np.ndarray, count: int) -> np.ndarray:
    """[count, 2] degrees, each in the range of some species."""
    y, x, radius = ranges[rng.integers(len(ranges), size=count)].T
    away, turn = (
        np.minimum(radius, 3000) * np.sqrt(rng.uniform(size=count)),
        rng.uniform(0, 7, count),
    )
    latitude = np.clip(y + away * np.cos(turn) / 111, -80, 80)
    longitude = x + away * np.sin(turn) / (111 * np.cos(np.radians(latitude)))
    return np.stack([latitude, (longitude + 180) % 360 - 180], axis=1)


def presence(points: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """[points, species] bool."""
    (y, x), (v, u) = np.radians(points.T)[:, :, None], np.radians(ranges[:, :2].T)[:, None]
    cosine = np.sin(y) * np.sin(v) + np.cos(y) * np.cos(v) * np.cos(x - u)
    return 6371 * np.arccos(np.clip(cosine, -1, 1)) < ranges[:, 2]


def drawn(rng: np.random.Generator, weights: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """For each spot so many species, by [spots, species] weights."""
    return [
        rng.choice(len(own), size=count, p=own / own.sum()) if own.sum() else np.zeros(0, int)
        for own, count in zip(weights, counts, strict=True)
    ]


def features(rng: np.random.Generator, taxa: list[Taxon]) -> np.ndarray:
    """[species, DIM] float32, alike where lineages are."""
    whole = np.zeros((len(taxa), DIM))
    for rank, weight in (("order", 1.0), ("family", 0.8), ("genus", 0.7), ("species", 0.45)):
        nodes, own = number([taxon.lineage(rank) for taxon in taxa])
        whole += weight * rng.normal(size=(len(nodes), DIM))[own]
    return unit(whole).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("avonet", type=Path)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--noise", type=float, default=2.2)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    taxa, ranges = birds(args.avonet, rng)
    abundance = rng.lognormal(sigma=1.5, size=len(taxa))
    here = spots(rng, ranges, RECORDED)
    effort = rng.lognormal(sigma=1.5, size=RECORDED)
    found = drawn(
        rng,
        presence(here, ranges) * abundance,
        rng.multinomial(args.records, effort / effort.sum()),
    )
    names = NameTree(taxa)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.tsv")
        with path.open("w") as file:
            writer = csv.writer(file, delimiter="\t")
            above = ("class", "order", "family", "species")
            writer.writerow([*above, "decimalLatitude", "decimalLongitude"])
            for spot, of_spot in zip(here, found, strict=True):
                for species in of_spot:
                    taxon = taxa[species]
                    writer.writerow(
                        ["Aves", taxon.order, taxon.family, taxon.scientific_name, *spot]
                    )
        start = time.perf_counter()
        records = occurrences.read(str(path), names)
        read = time.perf_counter() - start
    print(f"{len(taxa):,} species; {args.records:,} records read in {read:.1f} s")
    there = here[rng.choice(RECORDED, PICTURED, replace=False)]
    there = there + rng.normal(scale=0.3, size=there.shape)
    # Whoever takes pictures looks for what is rare.
    wanted = presence(there, ranges) * np.sqrt(abundance)
    seen = drawn(rng, wanted, np.full(PICTURED, args.pictures // PICTURED))
    labels = np.concatenate(seen)
    of_spot = np.repeat(np.arange(PICTURED), [len(one) for one in seen])
    known = places.Places(records, names, lambda spot, _: tuple(there[int(spot)]))
    start = time.perf_counter()
    cells = [known.place_of(str(spot), None) for spot in range(PICTURED)]
    logs = np.log([known.shares(cell) for cell in cells])
    print(f"{1000 * (time.perf_counter() - start) / PICTURED:.0f} ms a place")
    vectors = features(rng, taxa)
    noise = rng.normal(size=(len(labels), DIM)) * args.noise / np.sqrt(DIM)
    cosines = unit(vectors[labels] + noise).astype(np.float32) @ vectors.T
    every = np.arange(len(labels))

    def loss(scale: float) -> float:
        return -log_softmax(scale * cosines, axis=1)[every, labels].mean()

    scale = min(range(10, 200, 5), key=loss)
    recorded = [
        {*records.nodes[np.isin(records.places, h3.grid_disk(cell, 1))].tolist()} for cell in cells
    ]
    own = int(names.tree.starts[-2]) + names.tree.groups[labels]
    is_new = np.array([node not in recorded[s] for node, s in zip(own, of_spot, strict=True)])
    print(f"{len(labels):,} pictures, of which {is_new.mean():.0%} of species not recorded near")
    print(f"fitted scale {scale}")
    print("strength  top-1  recorded near  not recorded near  nll")
    for strength in STRENGTHS:
        scores = log_softmax(scale * cosines + strength * logs[of_spot], axis=1)
        right = scores.argmax(axis=1) == labels
        loss = -scores[every, labels].mean()
        print(
            f"{strength:8.3f}  {right.mean():.3f}  {right[~is_new].mean():13.3f}"
            f"  {right[is_new].mean():17.3f}  {loss:.3f}"
        )


if __name__ == "__main__":
    main()
