"""Time and memory of the evaluators at the sizes of real benchmarks, on random features.

    python benchmarks/evaluators.py [--toy] [--json]      # a few minutes on two cores

Each part runs in a process of its own, so that its peak memory is its own, features included:
zero-shot with its calibration and open set, SimpleShot beside the original's broadcast distances,
and the clustering of Herbarium 19. Those distances would not fit: they are timed for some queries,
and the time for all is in proportion.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable


def measured(call: Callable) -> tuple[object, dict]:
    """The result of a call, with its wall and processor seconds."""

    def processor() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    wall, cpu = time.perf_counter(), processor()
    result = call()
    wall, cpu = time.perf_counter() - wall, processor() - cpu
    return result, {"seconds": wall, "cpu_seconds": cpu}


def peak_gib() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def world(images: int, classes: int, dim: int, noise: float) -> tuple:
    """Features around one direction a class, all of length 1: images, labels, classes; a tree."""
    import numpy as np

    from bioclip2_jax.text.taxonomy import RANKS

    rng = np.random.default_rng(0)

    def unit(features: np.ndarray) -> np.ndarray:
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        return features

    names = unit(rng.standard_normal((classes, dim), np.float32))
    labels = rng.integers(classes, size=images)
    found = rng.standard_normal((images, dim), np.float32)
    found *= noise
    found += names[labels]
    # A lineage has about four children; the classes are in no order.
    groups, own = {}, rng.permutation(classes)
    for rank in reversed(RANKS):
        groups[rank] = own
        own = own // 4
    return unit(found), labels, names, dict(reversed(groups.items()))


def zero_shot(toy: bool) -> dict:
    """100,000 names, 10,000 images."""
    images, classes, dim = (200, 500, 32) if toy else (10_000, 100_000, 768)
    import numpy as np

    from bioclip2_jax.evaluation.protocols.zero_shot import zero_shot
    from bioclip2_jax.measures import calibration, open_set

    features, labels, names, groups = world(images, classes, dim, 0.25)
    prompted = {r: names[: of.max() + 1].copy() for r, of in groups.items() if r != "species"}
    given = features, labels, names, 50.0
    result, row = measured(lambda: zero_shot(*given, groups, prompted))
    scaled, calibrated = measured(lambda: calibration.temperature_scaling(*given))
    hidden = open_set.hidden_classes(labels)
    listed = np.delete(names, hidden, axis=0)
    unknown = np.isin(labels, hidden)
    opened, novel = measured(lambda: open_set.open_set(features, unknown, listed, 50.0))
    top1 = result.outcomes.top[1].mean()
    return {
        "images": images,
        "classes": classes,
        "dim": dim,
        "top1": float(top1),
        **row,
        "temperature": scaled.temperature,
        "calibration_seconds": calibrated["seconds"],
        "auroc": opened.auroc_probability,
        "open_set_seconds": novel["seconds"],
        "features_gib": sum(x.nbytes for x in (features, names, *prompted.values())) / 2**30,
        "peak_gib": peak_gib(),
    }


def few_shot(toy: bool) -> dict:
    """50,000 images of 555 classes, five folds, one and five examples."""
    images, classes, dim, slice_ = (1000, 20, 32, 16) if toy else (50_000, 555, 768, 48)
    import numpy as np

    from bioclip2_jax.measures.simple_shot import FOLDS, few_shot

    features, labels, _, groups = world(images, classes, dim, 0.12)
    found, row = measured(lambda: [few_shot(features, labels, k, groups) for k in (1, 5)])
    peak = peak_gib()

    # The original's own form: all differences of queries and centroids at once.
    rows = np.asarray(found[1].support[0])
    mean = features[rows].mean(axis=0)
    centred = features - mean
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    centroids = centred[rows].reshape(classes, -1, dim).mean(axis=1)
    queries = np.setdiff1d(np.arange(images), rows)[:slice_]

    def broadcast() -> np.ndarray:
        try:
            import torch
        except ImportError:
            return ((centroids[:, None] - centred[queries][None]) ** 2).sum(axis=2).argmin(axis=0)
        given = torch.from_numpy(centroids), torch.from_numpy(centred[queries])
        return ((given[0][:, None] - given[1][None]) ** 2).sum(dim=2).argmin(dim=0).numpy()

    broadcast()
    answers, original = measured(broadcast)
    asked = sum(int(one.outcomes.trials.sum()) for one in found)
    seconds = original["seconds"] * asked / slice_
    every = np.asarray(found[1].classes)
    ours = (centroids**2).sum(axis=1) - 2 * centred[queries] @ centroids.T
    return {
        "images": images,
        "classes": classes,
        "dim": dim,
        "folds": FOLDS,
        "queries": asked,
        "top1": [float(one.fold_top1.mean()) for one in found],
        **row,
        "original_form": "torch" if "torch" in sys.modules else "numpy",
        "original_slice": slice_,
        "original_seconds": seconds,
        "original_gib": 4 * classes * (images - classes) * dim / 2**30,
        "same_answers": float((every[answers] == every[ours.argmin(axis=1)]).mean()),
        "ratio": seconds / row["seconds"],
        "features_gib": features.nbytes / 2**30,
        "peak_gib": peak,
    }


def herbarium19(toy: bool) -> dict:
    """30,000 images of 683 classes, half of them old."""
    images, classes, dim = (1200, 20, 32) if toy else (30_000, 683, 768)
    import numpy as np

    from bioclip2_jax.evaluation.protocols.herbarium19 import herbarium19, split_labelled

    features, labels, _, _ = world(images, classes, dim, 0.1)
    is_old = np.arange(classes) < classes // 2
    labelled = split_labelled(labels, is_old)
    found, row = measured(lambda: herbarium19(features, labels, labelled, is_old))
    counts = {"images": images, "classes": classes, "dim": dim, "labelled": int(labelled.sum())}
    return counts | {"accuracy": found.accuracy, **row, "peak_gib": peak_gib()}


PARTS = {"zero_shot": zero_shot, "few_shot": few_shot, "herbarium19": herbarium19}


def main() -> None:
    """Runs the parts one by one and prints their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", action="store_true", help="sizes of a test")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--part", choices=PARTS, help="in this process, as JSON")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options.toy)))
        return
    found = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part, *(["--toy"] if options.toy else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[part] = json.loads(done.stdout)
        print(f"{part}: {found[part]}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    named, shot, clustered = (found[part] for part in PARTS)
    print(
        f"zero-shot, {named['images']:,} x {named['classes']:,}: {named['seconds']:.0f} s, and"
        f" {named['calibration_seconds']:.0f} s for the temperature,"
        f" {named['open_set_seconds']:.0f} s for the open set; {named['peak_gib']:.2f} GiB at most"
    )
    print(
        f"SimpleShot, {shot['images']:,} x {shot['classes']:,}, {shot['folds']} folds of 1 and 5:"
        f" {shot['seconds']:.1f} s, {shot['ratio']:.0f} times as fast as the broadcast form;"
        f" {shot['peak_gib']:.2f} GiB at most"
    )
    print(
        f"Herbarium 19, {clustered['images']:,} x {clustered['classes']:,}:"
        f" {clustered['seconds']:.1f} s, {clustered['cpu_seconds']:.1f} s of processors;"
        f" {clustered['peak_gib']:.2f} GiB at most"
    )


if __name__ == "__main__":
    main()
