"""A list of names as long as TreeOfLife-200M's: memory and time of `predict --names`.

    python benchmarks/name_list.py [--names 867455] [--pictures 10000] [--rank species] [--json]

Names and features are made up (random directions, written as `bioclip2 labels` writes them), and
pictures are features near some of them, so that only the list is measured. Another process reads
the files and names the pictures; its memory beside the matrix is its largest less that of the
matrix. For a sample the best names are compared with those of the dense computation.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bioclip2_jax.identify.name_lists import choose
from bioclip2_jax.measures import streamed
from bioclip2_jax.measures.scores import probabilities, sum_groups, top_k, unit

SCALE, K, SAMPLE, AT_A_TIME = 100.0, 5, 8, 1 << 16
PICTURES = "pictures.npy"


def write_files(folder: Path, count: int, dim: int) -> None:
    """Label files of so many species, in genera of eight, families of 64, and so on."""
    rng = np.random.default_rng(0)
    path = folder / "txt_emb_species.npy"
    columns = np.lib.format.open_memmap(path, "w+", np.float32, (dim, count))
    for first in range(0, count, AT_A_TIME):
        size = min(AT_A_TIME, count - first)
        columns[:, first : first + size] = unit(rng.normal(size=(size, dim))).T
    del columns
    sizes = {"k": 8**7, "p": 8**6, "c": 8**5, "o": 8**4, "f": 8**2, "g": 8}
    names = [
        [[*(f"{rank.upper()}{n // size:x}us" for rank, size in sizes.items()), f"s{n:x}us"], ""]
        for n in range(count)
    ]
    (folder / "txt_emb_species.json").write_text(json.dumps(names))


def pictures_of(folder: Path, count: int) -> np.ndarray:
    """Features near names that are drawn from all of the list."""
    rng = np.random.default_rng(1)
    columns = np.load(folder / "txt_emb_species.npy", mmap_mode="r")
    chosen = columns[:, np.sort(rng.integers(columns.shape[1], size=count))].T
    return unit(chosen + 0.05 * rng.normal(size=chosen.shape)).astype(np.float32)


def measure(folder: Path, pictures: int, rank: str) -> dict:
    """Names the pictures, as `predict` does."""
    began = time.perf_counter()
    labels = choose(names=folder, rank=rank)
    assert labels.vectors is not None
    read = time.perf_counter()
    is_single = len(labels.rows) == len(labels.groups)
    groups = None if is_single else labels.groups
    names = streamed.LongList(labels.vectors.read, len(labels.groups), groups=groups)
    ready = time.perf_counter()
    seconds, answers = 0.0, []
    features = np.load(folder / PICTURES)
    for first in range(0, pictures, 128):
        before = time.perf_counter()
        answers.append(names.best(features[first : first + 128], SCALE, K)[:2])
        seconds += time.perf_counter() - before
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    matrix = 4 * labels.vectors.dim * len(labels.groups)
    places, shares = (np.concatenate(part) for part in zip(*answers, strict=True))
    return {
        "names": len(labels.groups),
        "pictures": pictures,
        "rank": rank,
        "read_seconds": read - began,
        "load_seconds": ready - read,
        "seconds": seconds,
        "matrix_gib": matrix / 2**30,
        "beside_gib": (peak - matrix) / 2**30,
    } | compared(labels.vectors.read, labels.groups, features[:SAMPLE], places, shares)


def compared(read, groups, features, places, shares) -> dict:
    """The first pictures' answers beside those of the dense computation."""
    count = len(groups)
    names = np.concatenate([read(n, min(n + AT_A_TIME, count)) for n in range(0, count, AT_A_TIME)])
    dense = sum_groups(probabilities(features, names, SCALE), groups)
    best = top_k(dense, K)
    expected = np.take_along_axis(dense, best, axis=1)
    found = np.take_along_axis(dense, places[: len(features)], axis=1)
    error = np.abs(shares[: len(features)] / expected - 1).max()
    return {
        "same_names": bool((places[: len(features)] == best).all()),
        "same_scores": bool(np.allclose(found, expected, rtol=1e-4)),
        "score_error": float(error),
    }


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=867_455)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rank", default="species")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.toy:
        options.names, options.pictures, options.dim = 2 * streamed.STRETCH + 1000, 16, 8
    if options.folder:
        print(json.dumps(measure(options.folder, options.pictures, options.rank)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), options.names, options.dim)
        # Here: pages of the matrix that were looked at count as memory.
        np.save(Path(folder, PICTURES), pictures_of(Path(folder), options.pictures))
        command = [sys.executable, __file__, "--folder", folder, "--rank", options.rank]
        command += ["--pictures", str(options.pictures)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row = json.loads(done.stdout)
    if options.json:
        print(json.dumps(row))
        return
    print(
        f"{row['names']:,} names, {row['pictures']:,} pictures at {row['rank']}:"
        f" read in {row['read_seconds']:.0f} s, on the device in {row['load_seconds']:.0f} s,"
        f" named in {row['seconds']:.1f} s; {row['beside_gib']:.2f} GiB beside the matrix of"
        f" {row['matrix_gib']:.2f}; names {'equal' if row['same_names'] else 'UNEQUAL'},"
        f" scores within {row['score_error']:.1e}"
    )


if __name__ == "__main__":
    main()
