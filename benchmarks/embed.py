"""`bioclip2 embed` beside pybioclip's, on the same JPEGs and weights: features a second.

    python benchmarks/embed.py [--pictures 512] [--precision bfloat16] [--peer-python PATH] [--json]

The model is a ViT-B/16 with random weights, the pictures are JPEGs of 512 pixels; decoding,
encoding and, on our side, the writing of the store are timed, reading the model and compiling are
not. PATH is a Python that has torch, open_clip and pybioclip. Both take turns, `--rounds` times,
and the medians are compared, by the clock and by the processor's time, which a busy machine
disturbs less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from convert import base_pictures

import bioclip2_jax
from bioclip2_jax.features import embed, store
from bioclip2_jax.features.encode import spread
from bioclip2_jax.features.sources import open_source
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.open import Source
from bioclip2_jax.weights.write import write

HERE = Path(__file__).resolve().parent


def write_all(home: Path, preset: str, count: int, size: int) -> None:
    """The pictures, and the model as open_clip's folder."""
    (home / "pictures").mkdir()
    bases = base_pictures(size)
    for number in range(count):
        # An end behind the picture's own makes files of one content different ones.
        data = bases[number % len(bases)] + f"{number}".encode()
        (home / "pictures" / f"{number:06d}.jpg").write_bytes(data)
    config = PRESETS[preset]
    flat = layout.flatten(clip.init_params(config, 0))
    arrays = {name: np.asarray(leaf) for name, leaf in flat.items()}
    tensors = layout.of_ours(arrays.__getitem__, config, replay_projection=False)
    preprocess = Preprocess(config.vision.image_size)
    write(Source(config, preprocess, tensors, "weights", home), home / "model", "open_clip")


class Ours:
    """Our side, with everything compiled."""

    def __init__(self, home: Path, batch: int, precision: str):
        self._home, self._batch, self._runs = home, batch, 0
        self._model = spread(bioclip2_jax.load(home / "model", precision))
        self._pictures = open_source([str(home / "pictures")])
        self.run()

    def run(self) -> dict:
        """One store more."""
        self._runs += 1
        out = self._home / f"store-{self._runs}"
        began, used = time.perf_counter(), time.process_time()
        embed.embed(
            self._model,
            "random",
            self._pictures,
            out,
            batch_size=self._batch,
            say=lambda line: None,
        )
        seconds, used = time.perf_counter() - began, time.process_time() - used
        kept = store.read(out)
        first = (kept.features[0] * kept.norms[0]).tolist()
        return {"seconds": seconds, "cpu_seconds": used, "first": first}


def theirs(home: Path, options: argparse.Namespace) -> dict:
    """One round of pybioclip's."""
    job = {
        "model": f"local-dir:{home / 'model'}",
        "pictures": str(home / "pictures"),
        "batch": 10,  # pybioclip's own
        "device": options.device,
        "compile": options.compile,
    }
    paths = [str(HERE.parent / "tests" / "parity"), os.environ.get("PYTHONPATH")]
    done = subprocess.run(
        [options.peer_python, HERE / "embed_pybioclip.py", json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--size", type=int, default=512, help="of the pictures' sides")
    parser.add_argument("--preset", default="vit_b16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="float32", help="ours; pybioclip has float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="of pybioclip")
    parser.add_argument("--compile", action="store_true", help="pybioclip by torch.compile")
    parser.add_argument("--peer-python", help="leave it out for our side alone")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.toy:
        options.pictures, options.size, options.preset, options.rounds = 12, 80, "tiny", 1
    rows: dict[str, list[dict]] = {"ours": [], "pybioclip": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_all(home, options.preset, options.pictures, options.size)
        ours = Ours(home, options.batch, options.precision)
        for _ in range(options.rounds):
            rows["ours"].append(ours.run())
            if options.peer_python:
                rows["pybioclip"].append(theirs(home, options))
    found: dict = {"preset": options.preset, "pictures": options.pictures}
    found["precision"] = options.precision
    for name, runs in rows.items():
        for kind in ("seconds", "cpu_seconds") if runs else ():
            found[f"{name}_{kind}"] = statistics.median(run[kind] for run in runs)
    if rows["pybioclip"]:
        first = [np.asarray(rows[name][0]["first"]) for name in rows]
        found["difference"] = float(np.abs(first[0] - first[1]).max() / np.abs(first[1]).max())
        found["ratio"] = found["pybioclip_seconds"] / found["ours_seconds"]
        found["cpu_ratio"] = found["pybioclip_cpu_seconds"] / found["ours_cpu_seconds"]
    if options.json:
        print(json.dumps(found))
        return
    for name in ("ours", "pybioclip"):
        if f"{name}_seconds" in found:
            rate = options.pictures / found[f"{name}_seconds"]
            each = 1000 * found[f"{name}_cpu_seconds"] / options.pictures
            print(f"{name}: {rate:.2f} features a second, {each:.0f} ms of processor time each")
    if "ratio" in found:
        print(
            f"ratio {found['ratio']:.2f} by the clock, {found['cpu_ratio']:.2f} by processor time;"
            f" features differ by {found['difference']:.1e}"
        )


if __name__ == "__main__":
    sys.exit(main())
