"""The loader as a training meets it: the first batch, what waits in memory, what a kill leaves.

    python benchmarks/loader.py [--images DIR] [--workers N]... [--batch N] [--json]

A row for each number of workers. A process takes batches of 224 pixels from JPEGs of 256 as fast as
they come, then stops and keeps the last one, and is killed with SIGKILL.

start_seconds            until all workers run
first_seconds            from then to the first batch
images_per_second        afterwards
first_in_batches         first_seconds over what a batch takes at that rate
first_work_in_batches    the same of processor time instead, for machines that are busy otherwise
held_batches             memory of the stopped process and its workers (PSS, without files) beyond
                         what they hold with batches of 8, over the bytes of a batch
held_with_unmapped       the same with shared memory that no process has looked at
gone_seconds             from SIGKILL until no process of it is left
left_processes, left_shared_memory   5 s after SIGKILL
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from input_pipeline import HERE, RECIPE, VIEW, pictures, processor_seconds, tree

from bioclip2_jax.data import pipeline
from bioclip2_jax.data.feeding import WorkerFeed
from bioclip2_jax.data.records import make_record
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.training import recipe

SMALL = 8  # images a batch, for what is held in any case
SECONDS = 5  # after a kill


def living(root: int) -> set[int]:
    """A process and all below it that have not ended."""
    return {process for process, fields in tree(root).items() if fields[0] != "Z"}


def shared_files(processes: set[int]) -> dict[tuple[int, int], int]:
    """Device and inode → bytes of the shared memory that processes have open or mapped."""
    sizes = {}
    for process in processes:
        for link in (
            *Path(f"/proc/{process}/fd").iterdir(),
            *Path(f"/proc/{process}/map_files").iterdir(),
        ):
            try:
                if os.readlink(link).startswith(("/memfd:", "/dev/shm/")):
                    status = link.stat()
                    sizes[status.st_dev, status.st_ino] = 512 * status.st_blocks
            except OSError:
                continue  # closed meanwhile
    return sizes


def held(processes: set[int]) -> tuple[int, int]:
    """Bytes that they hold: by PSS; and with all shared memory, mapped or not.

    Without programs and libraries on disk, which they share with whatever else runs.
    """
    own = shared = 0
    for process in processes:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        sizes = dict(re.findall(r"^(Pss_\w+): +(\d+) kB", text, re.M))
        own += 1024 * int(sizes["Pss_Anon"])
        shared += 1024 * int(sizes["Pss_Shmem"])
    return own + shared, own + max(shared, sum(shared_files(processes).values()))


def now() -> tuple[float, float]:
    """The time, and the processor time of this process and all below it."""
    return time.perf_counter(), processor_seconds(os.getpid())


def feed(job: dict) -> None:
    """Takes batches, says what came when, and stops."""
    config = recipe.parse_recipe([RECIPE])
    config.data.dir, config.data.workers = job["data"], job["workers"]
    config.train.batch_size, config.train.steps = job["batch"], 1_000_000
    settings = recipe.compose(config).data
    began = time.perf_counter()
    batches = pipeline.batches(settings, VIEW)
    if isinstance(batches, WorkerFeed):
        batches.wait_for_workers()
    marks = [now()]
    for count in (1, job["count"]):
        for _ in range(count):
            batch = next(batches)
            batch["images"].max()  # as whoever sends it to a device
        marks.append(now())
    (start, first, end), (before, once, after) = zip(*marks, strict=True)
    row = {
        "start_seconds": start - began,
        "first_seconds": first - start,
        "images_per_second": job["count"] * job["batch"] / (end - first),
        "first_in_batches": (first - start) / (end - first) * job["count"],
        "first_work_in_batches": (once - before) / (after - once) * job["count"],
        "batch_bytes": sum(rows.nbytes for rows in batch.values()),
    }
    print(json.dumps(row), flush=True)
    signal.pause()


def watch(job: dict) -> dict:
    """What a process of `feed` says, what it holds when all is made, and what its end leaves."""
    command = [sys.executable, str(HERE / "loader.py"), "--feed", json.dumps(job)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        row = json.loads(process.stdout.readline())
        seen, members, files = None, set(), set()
        while seen != (seen := held(members := living(process.pid))):
            time.sleep(1)
        files = set(shared_files(members))
        row["pss"], row["with_unmapped"] = seen
    finally:
        process.kill()
        killed = time.perf_counter()
        process.wait()
    # Orphans have another parent.
    alive, passed = members, 0.0
    while alive and passed < SECONDS:
        time.sleep(0.01)
        alive = {member for member in members if running(member)}
        passed = time.perf_counter() - killed
    row["gone_seconds"] = passed
    row["left_processes"] = len(alive)
    named = [path.stat() for path in Path("/dev/shm").iterdir()]
    left = {(status.st_dev, status.st_ino) for status in named} | set(shared_files(alive))
    row["left_shared_memory"] = len(left & files)
    return row


def running(process: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main() -> None:
    """Prints a row for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--feed", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.feed:
        return feed(options.feed)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        records = [
            make_record(
                key=f"{n:06d}-{m}",
                image=data + bytes([m]),
                taxon=Taxon("Animalia", "Chordata", f"C{n}"),
            )
            for n, data in enumerate(pictures(options.images, 256))
            for m in range(20)
        ]
        data = Path(name) / "data"
        write_dataset({"train": records}, data, name="data", description="A benchmark.")
        for workers in options.workers or (0, 1, 2):
            job = {"data": str(data), "workers": workers}
            count = options.batches * options.batch // SMALL  # as many pictures
            small = watch(job | {"batch": SMALL, "count": count})
            row = watch(job | {"batch": options.batch, "count": options.batches})
            size = row.pop("batch_bytes")
            pss, unmapped = row.pop("pss"), row.pop("with_unmapped")
            row |= {
                "held_batches": (pss - small["pss"]) / size,
                "held_with_unmapped": (unmapped - small["with_unmapped"]) / size,
                "small_bytes": small["pss"],
            }
            rows.append({"workers": workers, "batch": options.batch} | row)
            if not options.json:
                print(", ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()))
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
