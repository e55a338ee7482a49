"""How long `bioclip2 fit` computes, on features of made-up classes: everything but reading files.

    python benchmarks/fit.py [--rows 100000] [--dim 768] [--classes 50] [--text]

Prints seconds of the wall and of the processor, and the figures. Threads are as NumPy's own
settings have them (OPENBLAS_NUM_THREADS=2 for two cores).
"""

import argparse
import time

import numpy as np

from bioclip2_jax.identify import fit
from bioclip2_jax.measures.scores import unit


def made_up(
    rows: int, dim: int, classes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [rows, dim] of classes that lie near each other, labels, and names' features."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, dim)).astype(np.float32) / np.float32(np.sqrt(dim))
    labels = rng.permutation(np.arange(rows) % classes)
    noise = rng.standard_normal((rows, dim), dtype=np.float32)
    features = unit(1 + 0.5 * centres[labels] + noise * np.float32(3 / np.sqrt(dim)))
    names = unit(centres + rng.normal(size=centres.shape) / np.sqrt(dim))
    return features.astype(np.float32), labels, names.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--text", action="store_true")
    args = parser.parse_args()
    features, labels, names = made_up(args.rows, args.dim, args.classes)
    wall, cpu = time.perf_counter(), time.process_time()
    head, verdict = fit.fitted(
        features, labels, text=names if args.text else None, logit_scale=100.0, seed=0
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{args.rows:,} x {args.dim}, {args.classes} classes: {wall:.1f} s ({cpu:.1f} s of cores)"
    )
    for name, figure in verdict.figures.items():
        print(f"{name:12} {figure.accuracy:.4f} {figure.average:.4f} {figure.average_interval}")
    print(
        verdict.kind,
        verdict.strength,
        [(point.k, round(point.average, 3)) for point in verdict.curve],
    )


if __name__ == "__main__":
    main()
