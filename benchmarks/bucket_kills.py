"""A training in a bucket that is killed again and again ends as one on a disk, bit for bit.

    PYTHONPATH=.:tests/helpers python benchmarks/bucket_kills.py [--kills N] [--seed N]

Data, run, compiled steps and results lie in a bucket of a stand-in for Google's on this machine.
Two processes train and are killed with SIGKILL at N random points, one of them first or both at
once, while they start, step or save; then they end. Beside them `bioclip2 evaluate --follow`
measures every checkpoint. An undisturbed run of two processes on a disk is what the end is compared
with: all arrays of the last checkpoint, and the losses of all steps. Afterwards the checkpoints are
evaluated once more: what the follower said of each has to be the same, so that it saw none that was
not whole. Prints a line for each kill and what came out, and ends with an error where anything of
it is not so.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import buckets
import jax
import numpy as np
import processes
from processes import arguments, short_data

from bioclip2_jax import files
from bioclip2_jax.weights import checkpoint, seal

HERE = Path(__file__).resolve().parents[1]
EVERY = 2  # steps between checkpoints
STEPS_A_KILL = 4  # and at most so many between two kills
START_SECONDS = 8.0  # about as long as a start takes


def main() -> None:
    """Runs the campaign in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, buckets.emulator() as environment:
        os.environ |= environment | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        os.chdir(folder)  # where a folder called "gs:" would be
        campaign(Path(folder), f"gs://{buckets.BUCKET}", options.kills, random.Random(options.seed))


def campaign(folder: Path, bucket: str, kills: int, dice: random.Random) -> None:
    """The undisturbed run, the killed one, and what they have in common."""
    began = time.monotonic()
    steps = kills * STEPS_A_KILL + 4
    settings = {"steps": steps, "checkpoint_every": EVERY, "keep_checkpoints": steps}
    data = short_data(folder / "data")
    there, workdir = buckets.upload(data, f"{bucket}/data"), f"{bucket}/run"
    processes.run_together(2, arguments(folder / "undisturbed", data, **settings))
    say(f"undisturbed on a disk: {time.monotonic() - began:.0f} s")

    log = folder / "follow.log"
    follower = evaluate(log, workdir, there, "--follow")
    slowly = arguments(workdir, there, recipe="slowly", **settings)
    for number in range(kills):
        kill(number, workdir, slowly, dice)
        assert follower.poll() is None, log.read_text()
    messages = processes.run_together(2, arguments(workdir, there, **settings))
    assert "damaged" not in messages[0], messages[0]
    assert follower.wait(timeout=600) == 0, log.read_text()
    say(f"ended and followed: {time.monotonic() - began:.0f} s")

    ours, theirs = (processes.state_at(place, steps) for place in (workdir, folder / "undisturbed"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    losses = processes.losses(workdir)
    assert losses == processes.losses(folder / "undisturbed") and len(losses) == steps
    saved = checkpoint.steps(workdir)
    assert saved == list(range(EVERY, steps + 1, EVERY)), saved
    assert not any(seal.damage(checkpoint.step_dir(workdir, step)) for step in saved)
    again = evaluate(folder / "again.log", workdir, there, "--step=all", f"--out={bucket}/again")
    assert again.wait(timeout=600) == 0, (folder / "again.log").read_text()
    for step in saved:
        followed, whole = (
            files.read_json(files.place(home) / str(step) / "zero_shot.json")
            for home in (f"{workdir}/eval", f"{bucket}/again")
        )
        assert followed == whole, f"step {step}"
    cached = list(files.below(files.place(workdir) / "compile_cache"))
    assert cached
    assert not any(path.name == "gs:" for path in (*folder.rglob("*"), *HERE.iterdir()))
    say(
        f"{kills} kills: {len(saved)} checkpoints, all followed, {len(cached)} compiled programs in"
        f" the bucket, all arrays and {steps} losses equal, no folder gs:, "
        f"{time.monotonic() - began:.0f} s"
    )


def kill(number: int, workdir: str, args: list[str], dice: random.Random) -> None:
    """Starts two processes and kills them at a random point."""
    before = checkpoint.latest_step(workdir) or 0
    both = processes.start_together(2, args)
    if number % 4 == 3:
        time.sleep(dice.uniform(0, START_SECONDS))
    else:
        goal = before + dice.choice(range(EVERY, STEPS_A_KILL + 1, EVERY))
        processes.wait_until(lambda: (checkpoint.latest_step(workdir) or 0) >= goal, both)
        time.sleep(dice.uniform(0, 0.4))
    victims = ([0], [1], [0, 1])[number % 3]
    processes.kill([both[victim] for victim in victims])
    time.sleep(dice.choice((0, 0.2)))
    processes.kill(both)
    after = checkpoint.latest_step(workdir) or 0
    home = files.place(workdir) / checkpoint.FOLDER
    left = {name.split("/")[0] for name in files.below(home)} - {
        *map(str, checkpoint.steps(workdir))
    }
    assert not (files.place(workdir) / "done.json").exists(), "ended before it could be killed"
    say(f"kill {number + 1}: process {victims}, at step {after}, half-written: {sorted(left)}")


def evaluate(log: Path, workdir: str, data: str, *options: str) -> subprocess.Popen:
    """A `bioclip2 evaluate` of the pictures that are trained on."""
    words = ["evaluate", f"--workdir={workdir}", f"--data={data}", "--split=train", *options]
    cache = log.with_name("cache")
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "bioclip2_jax", *words, "--tasks=zero_shot", "--batch-size=16"],
            env=os.environ | {"PYTHONPATH": str(HERE), "JAX_COMPILATION_CACHE_DIR": str(cache)},
            stdout=file,
            stderr=file,
        )


def say(line: str) -> None:
    """Prints at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
