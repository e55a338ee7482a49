"""What an index of 214 million records costs a loader process: memory, time to start and to resume.

    python benchmarks/scale_index.py [--clusters HOSTSxPROCESSES ...] [--records N] [--shards S]
                                     [--written W] [--json]

Two datasets of the paper's sizes are laid out, TreeOfLife-200M and 26 million for replay, with all
their metadata and lanes. W of the shards are written, with as many (empty) pictures as each of so
many shards holds, and all others are links to these: what a process opens, it reads and holds as if
it were another file. The written ones are dropped from the system's memory before each process.

Then one loader process of each kind of cluster runs by itself, as one that resumes a run of the
paper's batch after 70,000 steps does. It imports what it needs, opens both datasets, and reads its
rows of a step (`resume_seconds`, from after the imports); then it reads a record of every shard
that any later step could bring it (`seconds`, from the start of the process). `megabytes` is all
that it holds then, its libraries too (PSS); `index_megabytes` what came after the imports.
"""

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter

from bioclip2_jax.data import feeding, order, pipeline
from bioclip2_jax.data.records import make_record
from bioclip2_jax.prepare import settle
from bioclip2_jax.prepare.shards import OPTIONS, file_name, serialised, write_metadata
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.training import recipe

BATCHES = {"main": 32 * 2816, "replay": 32 * 320}
STEP = 70_000
RECIPE = f"--config={Path(__file__).resolve().parents[1] / 'configs' / 'common.py'}"
THREADS = recipe.parse_recipe([RECIPE]).data.threads


def lay_out(folder: Path, records: int, shards: int, written: int) -> None:
    """A dataset whose first shards are written and whose others are links to them."""
    folder.mkdir()
    length = -(-records // shards)
    numbered = [
        settle.Shard(split="train", number=n, start=(0, 0), stop=settle.END, records=length)
        for n in range(shards)
    ]
    paths = [folder / file_name(folder.name, shard, shards) for shard in numbered]
    record = serialised(make_record(key="", image=b"", taxon=Taxon()), ())
    for number, path in enumerate(paths):
        if number >= written:
            path.hardlink_to(paths[number % written])
            continue
        writer = ArrayRecordWriter(str(path), OPTIONS)
        for _ in range(length):
            writer.write(record)
        writer.close()
    write_metadata(folder, numbered, [], description="A benchmark.", licence="None.")


def drop(home: Path) -> None:
    """Takes the written shards out of the system's memory."""
    for path in {path.stat().st_ino: path for path in home.glob("*/*.array_record-*")}.values():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def held() -> float:
    """Megabytes of this process; its share of what others have too."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system does not tell the memory of a process")


def rows_of(worker: int, hosts: int, workers: int, batch: int) -> list[range]:
    """The rows of a batch that a process of the last host makes."""
    local = batch // hosts
    parts = feeding.count_parts(local, workers, THREADS)
    slices = [feeding.slice_of(local, n, parts, workers) for n in range(worker, parts, workers)]
    return [range(batch - local + own.start, batch - local + own.stop) for own in slices]


def process(home: Path, hosts: int, workers: int, began: float) -> dict:
    """What one process met."""
    importlib.import_module("grain.experimental")  # as the order of records does when it is needed
    imported, before = time.time(), held()
    streams = [
        pipeline.open_corpus(str(home / name), "train", 42, batch, stream=stream)
        for stream, (name, batch) in enumerate(BATCHES.items())
    ]
    rows = [rows_of(workers - 1, hosts, workers, corpus.batch_size) for corpus in streams]
    for corpus, own in zip(streams, rows, strict=True):
        for part in own:
            indices = [index for _, index in order.examples_at(corpus, STEP, part)]
            for record in corpus.source.read(indices):
                assert isinstance(record, dict)
    resumed = time.time()
    shards, records = 0, 0
    for corpus, own in zip(streams, rows, strict=True):
        lanes = math.gcd(corpus.lanes, corpus.batch_size)
        share = corpus.batch_size // lanes
        mine = {row // share for part in own for row in part}
        numbers = [n for n in range(len(corpus.source.shards.lengths)) if n % lanes in mine]
        for record in corpus.source.read(corpus.source.shards.starts[numbers].tolist()):
            assert isinstance(record, dict)
        shards += len(numbers)
        records += int(corpus.source.shards.lengths[numbers].sum())
    return {
        "hosts": hosts,
        "workers": workers,
        "megabytes": held(),
        "index_megabytes": held() - before,
        "seconds": time.time() - began,
        "processor_seconds": time.process_time(),
        "resume_seconds": resumed - imported,
        "shards": shards,
        "records": records,
    }


def main() -> None:
    """Prints a row a cluster."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", nargs="+", default=["64x8", "4x16"])
    parser.add_argument("--records", type=int, default=214_000_000)
    parser.add_argument("--shards", type=int, default=16_384)
    parser.add_argument("--written", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        home, *cluster = json.loads(options.process)
        return print(json.dumps(process(Path(home), *cluster)))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        length = -(-options.records // options.shards)
        replay = -(-options.records * 26 // 214)
        lay_out(Path(name, "main"), options.records, options.shards, options.written)
        lay_out(Path(name, "replay"), replay, -(-replay // length), options.written // 8)
        for cluster in options.clusters:
            drop(Path(name))
            job = json.dumps([name, *map(int, cluster.split("x")), time.time()])
            command = [sys.executable, __file__, "--process", job]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout) | {"measured_records": length * options.written})
    if options.json:
        return print(json.dumps(rows))
    for row in rows:
        print(
            "{hosts} hosts of {workers} processes: {megabytes:.0f} MB each,"
            " {index_megabytes:.0f} of them for {records} records in {shards} shards;"
            " {seconds:.1f} s ({processor_seconds:.1f} s of a processor) to open them all,"
            " {resume_seconds:.1f} s to resume".format(**row)
        )


if __name__ == "__main__":
    main()
