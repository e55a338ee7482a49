"""`bioclip2 search` beside a plain pass of numpy over the same files, in one process.

    python benchmarks/search.py [--rows 1000000] [--dim 768] [--twins 40000] [--json]

The features are made up: clusters whose spread falls along the directions as a trained model's
does, float16, in files of 50,000 rows. The plain pass reads each file as a whole, multiplies and
sorts out the best; both take turns, and the medians are compared. Memory is the largest of the
process after our first pass, less what it was before the store was opened. Near duplicates in a
store of `--twins` rows stand beside the product of all with all.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bioclip2_jax.features import parts
from bioclip2_jax.features.duplicates import near_duplicates
from bioclip2_jax.features.library import Library
from bioclip2_jax.features.search import best
from bioclip2_jax.weights.description import Preprocess

K, THRESHOLD, A_FILE, BLOCK = 20, 0.98, 50_000, 4096


def write_store(folder: Path, rows: int, dim: int) -> None:
    """Clusters of 50 rows; of each hundredth row there is a near duplicate."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    spread = np.arange(1, dim + 1) ** -0.5
    maker = parts.Maker("made up", None, "0")
    about = parts.About(maker, Preprocess(224), dim, "float16", {}, [], "0")
    for number, first in enumerate(range(0, rows, A_FILE)):
        size = min(A_FILE, rows - first)
        centres = rng.standard_normal((-(-size // 50), dim)).repeat(50, axis=0)[:size]
        features = (centres + 0.7 * rng.standard_normal((size, dim))) * spread
        features[100::100] = features[99:-1:100] * (1 + 0.05 * rng.standard_normal(dim))
        made = [parts.Row(f"{row:08d}.jpg", row, {}, {}) for row in range(first, first + size)]
        path = parts.part_path(folder, number)
        parts.write_part(path, made, features.astype(np.float32), about)
    whole = {**vars(about), "num_parts": number + 1, "num_rows": rows, "complete": True}
    parts.write_about(folder, parts.About(**whole))


def plain(folder: Path, query: np.ndarray, *, exact: bool = False) -> np.ndarray:
    """Rows of the best, by one product a file; `exact`: with the lengths that float16 leaves."""
    scores = []
    for path in sorted(folder.glob("features-*.parquet")):
        column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
        features = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(query))
        features = features.astype(np.float32)
        scores.append(features @ query)
        if exact:
            scores[-1] /= np.linalg.norm(features, axis=1)
    every = np.concatenate(scores)
    found = np.argpartition(-every, K)[:K]
    return found[np.argsort(-every[found], kind="stable")]


def all_with_all(library: Library) -> int:
    """Rows with a near duplicate, by the product of every block with every later one."""
    features = np.concatenate([stretch for _, stretch in library.stretches()])
    found = np.zeros(len(features), bool)
    for first in range(0, len(features), BLOCK):
        for other in range(first, len(features), BLOCK):
            cosines = features[first : first + BLOCK] @ features[other : other + BLOCK].T
            if first == other:
                np.fill_diagonal(cosines, -1)
            near = cosines >= THRESHOLD - 1e-6
            found[first : first + BLOCK] |= near.any(axis=1)
            found[other : other + BLOCK] |= near.any(axis=0)
    return int(found.sum())


def peak() -> int:
    """Bytes, the largest so far, of this program: `getrusage` counts who started it, too."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition("VmHWM:")[2].split()[0])


def timed(function, *arguments) -> tuple[np.ndarray, Any]:
    """Seconds by the clock and of the processor, and what comes out."""
    began = np.array([time.perf_counter(), time.process_time()])
    found = function(*arguments)
    return np.array([time.perf_counter(), time.process_time()]) - began, found


def measure(folder: Path, rounds: int) -> dict:
    """Both passes in turns, and both ways to near duplicates."""
    before = peak()
    library = Library(folder / "store")
    query, _ = library.find([f"{len(library) // 2:08d}.jpg"])
    seconds, passes, memory = [], [], 0
    for _ in range(rounds):
        took, found = timed(best, library, query, K)
        memory = memory or peak() - before
        seconds.append(took)
        took, _ = timed(plain, folder / "store", query[0])
        passes.append(took)
    expected = plain(folder / "store", query[0], exact=True)
    twins = Library(folder / "twins")
    took, ours = timed(near_duplicates, twins, THRESHOLD)
    dense, count = timed(all_with_all, twins)
    (wall, processor), (plain_wall, plain_processor) = (
        np.median(each, axis=0).tolist() for each in (seconds, passes)
    )
    return {
        "rows": len(library),
        "seconds": wall,
        "plain_seconds": plain_wall,
        "ratio": wall / plain_wall,
        "processor_ratio": processor / plain_processor,
        "memory_mib": memory / 2**20,
        "same": [hit.row for hit in found[0]] == expected.tolist(),
        "twins_of": len(twins),
        "twins": len(ours),
        "same_twins": len(ours) == count,
        "twins_seconds": took[0],
        "all_with_all_seconds": dense[0],
    }


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--twins", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.toy:
        options.rows, options.dim, options.twins = 20_000, 32, 3000
    if options.folder:
        print(json.dumps(measure(options.folder, options.rounds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder, "store"), options.rows, options.dim)
        write_store(Path(folder, "twins"), options.twins, options.dim)
        # Another process: its largest memory is that of the search.
        command = [sys.executable, __file__, "--folder", folder, "--rounds", str(options.rounds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row = json.loads(done.stdout)
    if options.json:
        print(json.dumps(row))
        return
    print(
        f"{row['rows']:,} rows: {row['seconds']:.2f} s, a plain pass {row['plain_seconds']:.2f} s"
        f" (ratio {row['ratio']:.2f}, of processor time {row['processor_ratio']:.2f}),"
        f" {row['memory_mib']:.0f} MiB more;"
        f" answers {'equal' if row['same'] else 'UNEQUAL'}\n"
        f"near duplicates of {row['twins_of']:,} rows: {row['twins_seconds']:.1f} s, all with all"
        f" {row['all_with_all_seconds']:.1f} s; {row['twins']:,} pictures,"
        f" {'as many' if row['same_twins'] else 'NOT AS MANY'}"
    )


if __name__ == "__main__":
    main()
