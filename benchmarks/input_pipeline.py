"""Our loader beside open_clip's own, on the same JPEGs: processor time an image.

    python benchmarks/input_pipeline.py [--images DIR] [--peer-python PATH] [--json]

What counts is the time of the whole tree of processes, from one moment to another of a loader that
runs: decoding, a random crop to 224 pixels, captions, tokens, batches. open_clip's side is
`get_wds_dataset` with the transform that it trains with, read from tars; PATH is a Python that has
torch, open_clip and webdataset, by default this one. Pictures are of 512 and 256 pixels, squares
cut from those below DIR (512: four of them side by side, since few are as large), and of 224,
squashed. Without DIR they are smooth noise.
"""

import argparse
import importlib.util
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from convert import base_pictures
from PIL import Image

from bioclip2_jax.data import images, pipeline
from bioclip2_jax.data.records import make_record
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.text.captions import caption
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.training import recipe

HERE = Path(__file__).resolve().parent
RECIPE = f"--config={HERE.parent / 'configs' / 'common.py'}"
SIZES = (512, 256, 224)
VIEW, BATCH, PICTURES = 224, 32, 1000


def pictures(folder: Path | None, size: int) -> list[bytes]:
    """Square JPEGs of one size, of photographs if there is a folder of them."""
    if folder is None:
        return base_pictures(size)
    tiles = 2 if size > 256 else 1  # a side
    show = images.eval_transform(size // tiles, "squash" if size == VIEW else "shortest")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    wanted = PICTURES * tiles**2
    chosen = [paths[n * len(paths) // wanted] for n in range(wanted)]
    views = np.stack([show(images.decode(path.read_bytes())) for path in chosen])
    mosaics = views.reshape(PICTURES, tiles, tiles, size // tiles, size // tiles, 3)
    squares = mosaics.swapaxes(2, 3).reshape(PICTURES, size, size, 3)
    encoded = []
    for pixels in squares:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


def write_both(encoded: Sequence[bytes], home: Path) -> None:
    """The same pictures and captions as our dataset, `home/ours`, and as tars, `home/tars`."""
    records = []
    (home / "tars").mkdir(parents=True)
    with tarfile.open(home / "tars" / "0.tar", "w") as tar:
        for number, data in enumerate(encoded):
            taxon = Taxon("Animalia", "Chordata", "Aves", "", "Paridae", "Parus", f"p{number}")
            key = f"{number:06d}"
            records.append(make_record(key=key, image=data, taxon=taxon))
            text = caption("taxon", taxon).encode()
            for suffix, content in (("jpg", data), ("txt", text)):
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    write_dataset({"train": records}, home / "ours", name="ours", description="A benchmark.")


def tree(root: int) -> dict[int, list[str]]:
    """A process and all below it → what Linux's /proc/PID/stat says behind its name."""
    stats = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
    found, added = set(), {root}
    while added:
        found |= added
        added = {process for process, fields in stats.items() if int(fields[1]) in added}
    return {process: stats[process] for process in found if process in stats}


def processor_seconds(root: int) -> float:
    """Of a process and all below it that live."""
    ticks = sum(int(fields[11]) + int(fields[12]) for fields in tree(root).values())
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(command: Sequence[str], count: int) -> float:
    """Milliseconds an image of a loader that says when it runs, and when `count` more are there.

    It has to wait then: what has ended no longer tells how long it ran.
    """
    paths = [str(HERE.parent), str(HERE.parent / "tests" / "parity"), os.environ.get("PYTHONPATH")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # it may leave workers behind
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    try:
        told = (line for line in process.stdout if line == "now\n")
        seconds = [processor_seconds(process.pid) for _ in itertools.islice(told, 2)]
        if len(seconds) != 2:
            raise SystemExit(f"{command[1]} failed; see above")
        return 1000 * (seconds[1] - seconds[0]) / count
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ours(home: Path, job: dict) -> None:
    """Runs our loader, and says so."""
    config = recipe.parse_recipe([RECIPE])
    config.data.dir = str(home / "ours")
    config.data.decode, config.data.workers = job["decode"], job["workers"]
    config.data.threads = 1  # of each worker, as open_clip's have
    config.train.batch_size = BATCH
    config.train.steps = 1_000_000
    batches = pipeline.batches(recipe.compose(config).data, VIEW)
    for part in (job["warm"], job["count"]):
        for _ in range(part // BATCH):
            assert next(batches)["images"].shape == (BATCH, VIEW, VIEW, 3)
        print("now", flush=True)
    signal.pause()


def main() -> None:
    """Prints a row a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--peer-python")
    parser.add_argument("--decode", default="simd")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    job = {"decode": options.decode, "workers": options.workers, "count": options.count}
    job |= {"warm": max(options.count // 4, BATCH), "batch": BATCH, "view": VIEW}
    if options.ours:
        return ours(options.ours, job)
    here = all(importlib.util.find_spec(name) for name in ("open_clip_train", "webdataset"))
    peer = options.peer_python or (sys.executable if here else None)
    rows = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            home = Path(name)
            write_both(pictures(options.images, size), home)
            again = [sys.executable, str(HERE / "input_pipeline.py"), "--ours", name]
            again += [f"--{key}={job[key]}" for key in ("decode", "workers", "count")]
            mine, others = measure(again, options.count), None
            if peer:
                script = str(HERE / "input_open_clip.py")
                tars = json.dumps(job | {"tars": str(home / "tars")})
                others = measure([peer, script, tars], options.count)
        rows.append({"size": size, "ours_cpu_ms": mine, "open_clip_cpu_ms": others})
        rows[-1]["ratio"] = others and others / mine
        if not options.json:
            beside = f", open_clip {others:.2f} ms, {others / mine:.2f} times" if peer else ""
            print(f"{size} px: {mine:.2f} ms of processor time an image{beside}")
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
