"""Our train step at one setting; the half of `benchmarks/py` that runs JAX.

Takes one JSON object as its argument and prints another.
"""

import hashlib
import json
import resource
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

from bioclip2_jax.training.xla_flags import set_flags

JOB = json.loads(sys.argv[1])
set_flags(JOB["setting"].get("attention", "xla"))

import jax  # noqa: E402
import msgspec  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import NamedSharding  # noqa: E402
from product_rate import product_rate  # noqa: E402

from bioclip2_jax.models.presets import PRESETS  # noqa: E402
from bioclip2_jax.text.tokenizer import TOKEN_LENGTHS  # noqa: E402
from bioclip2_jax.training import sharding  # noqa: E402
from bioclip2_jax.training.hardware import chip_of  # noqa: E402
from bioclip2_jax.training.step import (  # noqa: E402
    StepSettings,
    check_split,
    init_state,
    make_train_step,
    train_flops_per_step,
)
from bioclip2_jax.weights import layout  # noqa: E402
from bioclip2_jax.weights.tensors import open_safetensors  # noqa: E402
from configs import bioclip2_vitl14  # noqa: E402


def kernels(folder: str, steps: int) -> dict[str, list]:
    """Milliseconds a step of a trace's kernels, and of the pauses between them, longest first."""
    path = sorted(Path(folder).rglob("*.xplane.pb"))[-1]
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    streams = [
        line
        for plane in planes
        if "GPU" in plane.name
        for line in plane.lines
        if line.name.startswith("Stream")
    ]
    busy, count, idle = Counter(), Counter(), Counter()
    events = sorted(
        (event.start_ns, event.start_ns + event.duration_ns, event.name)
        for stream in streams
        for event in stream.events
    )
    end, last = 0.0, ""
    for start, stop, name in events:
        busy[name] += stop - start
        count[name] += 1
        if last and start > end:
            idle[f"{last[:40]} -> {name[:40]}"] += start - end
        if stop > end:
            end, last = stop, name
    scale = 1e6 * steps

    def longest(times: Counter) -> list:
        return [[name[:70], round(ns / scale, 4)] for name, ns in times.most_common(90)]

    return {
        "busy_ms": sum(busy.values()) / scale,
        "idle_ms": sum(idle.values()) / scale,
        "kernels": [[*row, count[row[0]] / steps] for row in longest(busy)],
        "pauses": longest(idle)[:40],
    }


def main(job: dict) -> dict:
    """Takes `steps` steps several times and reports the median."""
    folder, setting = Path(job["folder"]), dict(job["setting"])
    model = PRESETS[job["model"]]
    config = bioclip2_vitl14.get_config()
    config.train.update(batch_size=job["batch"], replay_batch_size=job["replay"])
    config.train.micro_batches = setting.pop("micro_batches", 1)
    cut = setting.pop("cut_captions", False)
    config.model.update({"name": job["model"], "dtype": job["dtype"], "block_parts": 1} | setting)
    # Not by `recipe.compose`, which imports what reads datasets, and no data are needed here.
    values = config.data.to_dict() | config.train.to_dict() | config.model.to_dict()
    values |= {"seed": config.seed, "optimizer": values}
    execution = values | {"gather": sharding.gather}
    settings = msgspec.convert(values | {"execution": execution}, StepSettings)
    mesh = sharding.make_mesh(-1, 1, devices=jax.devices()[:1])
    check_split(settings, mesh)

    params = layout.read_params(open_safetensors(folder / "weights.safetensors"), model)
    found = np.load(folder / "batch.npz")
    batch, first = {}, 0
    for prefix, count in (("", job["batch"]), ("replay_", job["replay"])):
        rows = slice(first, first + count)
        tokens, first = found["tokens"][rows], first + count
        longest = int((tokens != 0).sum(1).max())
        length = next(n for n in TOKEN_LENGTHS if n >= longest) if cut else tokens.shape[1]
        batch |= {prefix + "images": found["images"][rows], prefix + "tokens": tokens[:, :length]}
        batch[prefix + "weights"] = np.ones(count, np.float32)
    batch = jax.device_put(batch, NamedSharding(mesh, sharding.BATCH))

    shapes = jax.eval_shape(lambda: init_state(settings, model, params))
    shardings = sharding.tree_shardings(shapes, mesh)
    make = jax.jit(lambda p: init_state(settings, model, p), out_shardings=shardings)
    state = make(jax.device_put(params, shardings.params))
    step = make_train_step(settings, model, mesh, shardings)
    before = time.perf_counter()
    step = step.lower(state, batch).compile()
    compiled = time.perf_counter() - before
    state, values = step(state, batch)
    loss = float(values["loss"])
    for _ in range(2):
        state, values = step(state, batch)
    jax.block_until_ready(state)
    times = []
    for _ in range(job["rounds"]):
        before = time.perf_counter()
        for _ in range(job["steps"]):
            state, values = step(state, batch)
        jax.block_until_ready(state)
        times.append((time.perf_counter() - before) / job["steps"])
    digest = None
    if job.get("digest"):
        # Of all weights after so many steps: two runs with the same are the same run.
        leaves = jax.tree.leaves(jax.device_get(state.params))
        digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()[:16]
    traced = {}
    if job.get("profile"):
        with jax.profiler.trace(job["profile"]):
            for _ in range(3):
                state, values = step(state, batch)
            jax.block_until_ready(state)
        traced = {"kernels": kernels(job["profile"], 3)}
    device = jax.devices()[0]
    chip, stats = chip_of(device.device_kind), device.memory_stats() or {}
    peak = (
        stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "loss": loss,
        "last_loss": float(values["loss"]),
        "digest": digest,
        "step_seconds": statistics.median(times),
        "peak_gib": peak / 2**30,
        "compile_seconds": compiled,
        "text_length": batch["tokens"].shape[1],
        "model_flops": train_flops_per_step(settings, model, 77),
        "product_rate": product_rate(job["toy"]),
        "peak_rate": chip and chip.flops,
        "device": device.device_kind,
        "versions": {"jax": jax.__version__},
    } | traced


if __name__ == "__main__":
    print(json.dumps(main(JOB)))
