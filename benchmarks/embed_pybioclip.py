"""pybioclip's way to features of pictures; the half of `benchmarks/embed.py` that runs torch.

What its command `embed` does, picture by picture and in batches: open_clip's model and its own
transform, `BaseClassifier.create_image_features`. Prints one JSON object.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

with contextlib.suppress(ImportError):
    import vision_operators  # noqa: F401  (torchvision's wheel beside a CPU build of torch)

import torch
from bioclip import predict


def main(job: dict) -> dict:
    """Encodes the pictures once to warm up, and once for the clock."""
    if not job["compile"]:
        torch.compile = lambda model: model
    classifier = predict.BaseClassifier(device=job["device"], model_str=job["model"])
    paths = sorted(map(str, Path(job["pictures"]).glob("*.jpg")))

    def embed(some: list[str]) -> list[list[float]]:
        found = []
        for first in range(0, len(some), job["batch"]):
            pictures = [classifier.ensure_rgb_image(p) for p in some[first : first + job["batch"]]]
            found += classifier.create_image_features(pictures, normalize=False).tolist()
        return found

    embed(paths[: job["batch"]])
    began, used = time.perf_counter(), time.process_time()
    features = embed(paths)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    return {"seconds": seconds, "cpu_seconds": used, "first": features[0]}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
