"""Conversion of TreeOfLife tars to a dataset: its cost beside decoding alone, its memory, its end.

    python benchmarks/convert.py                        # cost and memory
    python benchmarks/convert.py --kills 10 --ray       # and that no kill and no runner shows

Cost is processor time of `bioclip2 prepare webdataset`, over that of decoding every picture once in
this process. Memory is the largest process of a conversion, with ten times as many pictures beside
it. A killed conversion is killed with all its processes, at random times, and called again.
"""

import argparse
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bioclip2_jax.data import images

BASES = (
    200  # different pictures; each stands in several records, told apart by bytes behind its end
)
RANKS = ("Animalia", "Chordata", "Aves", "Passeriformes", "Paridae", "Parus")


def base_pictures(size: int) -> list[bytes]:
    """JPEGs with the roughness of photographs."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(BASES):
        coarse = rng.integers(0, 256, (size // 8 + 1, size // 8 + 1, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((size, size)), np.float32)
        pixels = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
        found.append(buffer.getvalue())
    return found


def write_tars(folder: Path, count: int, per_tar: int, size: int) -> list[bytes]:
    """TreeOfLife tars of `count` pictures; the pictures that they are made of."""
    bases = base_pictures(size)
    folder.mkdir()
    for start in range(0, count, per_tar):
        with tarfile.open(folder / f"shard-{start // per_tar:05d}.tar", "w") as tar:
            for number in range(start, min(start + per_tar, count)):
                for suffix, data in members(number, bases[number % BASES]).items():
                    entry = tarfile.TarInfo(f"{number:08d}-0000-4000-8000-000000000000.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return bases


def members(number: int, picture: bytes) -> dict[str, bytes]:
    """The files of one sample, after TreeOfLife-toolbox; every second is of a rare species."""
    species = number % 9973 if number % 2 else number % 211
    parts = ("bar", "cel", "dun", "fro", "gla", "hip", "jor", "kes", "lim", "mon")
    epithet = "".join(parts[int(digit)] for digit in f"{species:04d}")
    name, common = f"{RANKS[-1]} {epithet}", f"Tit {species}"
    lineage = " ".join((*RANKS, epithet))
    texts = {
        "scientific_name": name,
        "common_name": common,
        "taxonomic_name": lineage,
        "sci": f"a photo of {name}.",
        "com": f"a photo of {common}.",
        "taxon": f"a photo of {lineage}.",
        "sci_com": f"a photo of {name} with common name {common}.",
        "taxon_com": f"a photo of {lineage} with common name {common}.",
    }
    encoded = {f"{suffix}.txt": text.encode() for suffix, text in texts.items()}
    return {"jpg": picture + number.to_bytes(8, "big")} | encoded


def command(tars: Path, out: Path, *options: str) -> list[str]:
    """The call of a conversion."""
    base = [sys.executable, "-m", "bioclip2_jax", "prepare", "webdataset", str(tars)]
    return [*base, "--out", str(out), *options]


def cost(arguments: list[str]) -> tuple[float, float]:
    """Processor seconds, and the megabytes of the largest process, of a call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_maxrss / 1024


def decoding(bases: list[bytes], count: int) -> float:
    """Processor seconds of decoding `count` pictures."""
    before = time.process_time()
    for picture in bases:
        images.decode(picture)
    return (time.process_time() - before) / len(bases) * count


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a dataset."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def killed(tars: Path, out: Path, kills: int, seconds: float, undisturbed: dict) -> bool:
    """Whether conversions that are killed at random times, and called again, end as ever."""
    rng, met = random.Random(0), 0
    while met < kills:
        process = subprocess.Popen(
            command(tars, out), start_new_session=True, stdout=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.1, 0.9) * seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            met += 1
        process.wait()
        if met == kills or out.exists():
            if not out.exists():
                subprocess.run(command(tars, out), check=True, stdout=subprocess.DEVNULL)
            if contents(out) != undisturbed:
                return False
            shutil.rmtree(out)
    return True


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--ray", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        per_tar = max(options.count // 20, 1)
        bases = write_tars(home / "tars", options.count, per_tar, options.size)
        alone = decoding(bases, options.count)
        seconds, _ = cost(command(home / "tars", home / "one", "--processes", "1"))
        print(
            f"{options.count:,} pictures of {options.size} px: {seconds:.1f} s of processor time,"
            f" decoding {alone:.1f} s, ratio {seconds / alone:.2f};"
            f" {options.count / seconds:.0f} pictures/s and core"
        )
        undisturbed = contents(home / "one")
        start = time.perf_counter()
        subprocess.run(command(home / "tars", home / "cores"), check=True)
        wall = time.perf_counter() - start
        print(f"all cores: {wall:.1f} s, equal: {contents(home / 'cores') == undisturbed}")
        if options.kills:
            same = killed(home / "tars", home / "killed", options.kills, wall, undisturbed)
            print(f"killed {options.kills} times: equal {same}")
            shares = [
                subprocess.Popen(command(home / "tars", home / "shares", "--task", f"{i}/4"))
                for i in range(4)
            ]
            assert all(share.wait() == 0 for share in shares)
            print(f"four shares: equal {contents(home / 'shares') == undisturbed}")
        if options.ray:
            on_ray(home / "tars", home / "ray")
            print(f"Ray, two workers: equal {contents(home / 'ray') == undisturbed}")
        for folder in ("tars", "one", "cores"):
            shutil.rmtree(home / folder)
        for count in (options.count, 10 * options.count):
            write_tars(home / f"tiny-{count}", count, max(options.count // 20, 1), 16)
            tiny = command(home / f"tiny-{count}", home / f"out-{count}", "--processes", "1")
            print(f"{count:,} tiny pictures: at most {largest(tiny):.0f} MB")


def largest(arguments: list[str]) -> float:
    """Megabytes of the largest process of a call, in a process that has had no other."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True,"
        " stdout=subprocess.DEVNULL);"
        " print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    run = [sys.executable, "-c", script, *arguments]
    return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def on_ray(tars: Path, out: Path) -> None:
    """Converts on a cluster of two workers on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    options = ("--runner", "ray", "--address", cluster.address)
    try:
        subprocess.run(command(tars, out, *options), check=True, stdout=subprocess.DEVNULL)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
