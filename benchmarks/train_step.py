"""Our train step against open_clip's: same weights, same batch, same device, one after the other.

    python benchmarks/train_step.py [--model vit_l14] [--batch 256,512,1024] [--json]
    python benchmarks/train_step.py --toy            # seconds, on a CPU
    bash benchmarks/on_gpu.sh                        # the rows that matter, in minutes

Biological and replay pairs, the latter one in nine as in the paper; forward, backward, AdamW;
bfloat16 (open_clip: autocast) with float32 parameters. Each side runs at several settings, each in
a process of its own, and is judged by its best. MFU counts the model's FLOPs, without
recomputation, at captions of 77 tokens: 3 x pairs x sum over towers of 2 x tokens x (weights of the
blocks + 2 x layers x tokens x width); see `training.step.train_flops_per_step`. Settings with
`cut_captions` do less work for the same loss and count the same FLOPs; with `fp8` the MLPs multiply
in 8 bits, which is compared with our other settings and never with open_clip. open_clip needs
`pip install torch open_clip_torch`; without it our side runs alone.
"""

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights.description import to_open_clip

HERE = Path(__file__).parent
_KERNELS = {"remat": "none", "attention": "packed", "scan": False}
_CUDNN = _KERNELS | {"attention": "cudnn"}
_CUT = {"cut_captions": True}
_FP8 = {"fp8": "mlp"}
_GPU = [
    _KERNELS,
    _KERNELS | _CUT,
    _KERNELS | _CUT | _FP8,
    _CUDNN,
    {"remat": "dots", "attention": "packed", "scan": False},
    {"remat": "full", "attention": "packed", "block_parts": 4},
    _KERNELS | {"micro_batches": 4},
]
# (script, pairs of both kinds, setting): most important first. The last is the original's share
# of a GPU, in one pass.
_ONE_CALL = [
    ("step_ours.py", (256, 32), _KERNELS | _CUT),
    ("step_ours.py", (256, 32), _KERNELS | _CUT),
    ("step_ours.py", (256, 32), _KERNELS | _CUT | _FP8),
    ("step_ours.py", (256, 32), _KERNELS | _CUT | _FP8),
    ("step_ours.py", (256, 32), _KERNELS),
    ("step_open_clip.py", (256, 32), {"compile": True, "checkpointing": False}),
    (
        "step_ours.py",
        (2816, 320),
        {"remat": "full", "attention": "packed", "block_parts": 4} | _CUT,
    ),
]
_PLAIN = {"remat": "none", "scan": False}
_TOY = [_PLAIN, _PLAIN | _CUT, _PLAIN | _CUT | _FP8]


def measure(script: str, job: dict) -> dict:
    """One process, one measurement; a failure is a row of its own."""
    paths = [str(HERE.parent), str(HERE.parent / "tests" / "parity")]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    # As training keeps its compiled steps: what the compiler tries differs from run to run.
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", f"{job['folder']}/compiled")
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # larger batches
    done = subprocess.run(
        [sys.executable, HERE / script, json.dumps(job)],
        capture_output=True,
        text=True,
        env=environment,
    )
    row = {"script": script} | {key: job[key] for key in ("batch", "replay", "setting")}
    pairs = job["batch"] + job["replay"]
    if done.returncode:
        memory = "out of memory" in done.stderr.lower() or "RESOURCE_EXHAUSTED" in done.stderr
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        row["failed"] = "out of memory" if memory else last
    else:
        row |= json.loads(done.stdout.strip().splitlines()[-1])
        row["samples_per_second"] = pairs / row["step_seconds"]
    print(describe(script, row), file=sys.stderr, flush=True)
    if job["lines"]:
        with open(job["lines"], "a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")  # a call that is cut keeps its part
    return row


def describe(script: str, row: dict) -> str:
    """One line for a person."""
    setting = " ".join(f"{key}={value}" for key, value in row["setting"].items())
    head = f"{script.split('_', 1)[1][:-3]:10} {row['batch']}+{row['replay']} {setting}:"
    if "failed" in row:
        return f"{head} {row['failed']}"
    return (
        f"{head} {row['samples_per_second']:,.1f} samples/s, peak {row['peak_gib']:.1f} GiB,"
        f" loss {row['loss']:.5f}"
    )


def summary(ours: list[dict], theirs: list[dict]) -> dict:
    """Both sides' best rows, their ratio, and how busy ours keeps the device."""
    worked = [[row for row in rows if "failed" not in row] for rows in (ours, theirs)]
    if not worked[0]:
        raise SystemExit("error: none of our settings ran; the lines above say why")

    def rate(row: dict) -> float:
        return row["samples_per_second"]

    narrow = [row for row in worked[0] if row["setting"].get("fp8", "none") != "none"]
    worked[0] = [row for row in worked[0] if row not in narrow] or narrow
    equal = [row for row in worked[0] if not row["setting"].get("cut_captions")]
    best, best_equal = max(worked[0], key=rate), max(equal or worked[0], key=rate)
    flops = best_equal["model_flops"] / best_equal["step_seconds"]
    found = {
        "device": best["device"],
        "versions": best["versions"],
        "samples_per_second": rate(best_equal),
        "samples_per_second_cut_captions": rate(best),
        "mfu": best_equal["peak_rate"] and flops / best_equal["peak_rate"],
        "share_of_product_rate": flops / best_equal["product_rate"],
        "largest_batch": max(row["batch"] + row["replay"] for row in worked[0]),
        "ours": ours,
        "open_clip": theirs,
    }
    if narrow:
        # Another computation, whose loss is near: beside the others, never for them.
        found["samples_per_second_fp8"] = max(map(rate, narrow))
        found["over_bfloat16_fp8"] = max(map(rate, narrow)) / rate(best)
        found["loss_difference_fp8"] = max(abs(row["loss"] - best["loss"]) for row in narrow)
    if worked[1]:
        peer = max(worked[1], key=rate)
        same = [row for row in worked[0] if row["batch"] == peer["batch"]]
        found |= {
            "versions": best["versions"] | peer["versions"],
            "ratio": rate(best_equal) / rate(peer),
            "ratio_cut_captions": rate(best) / rate(peer),
            "open_clip_samples_per_second": rate(peer),
            "open_clip_largest_batch": max(row["batch"] + row["replay"] for row in worked[1]),
            "loss_difference": max((abs(row["loss"] - peer["loss"]) for row in same), default=None),
        }
    return found


def main() -> None:
    """Measures, prints lines while it goes and a summary at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(PRESETS), default="vit_l14")
    parser.add_argument("--batch", default="256,512,1024", help="images a step, to try in turn")
    parser.add_argument("--steps", type=int, default=10, help="steps of one of three timings")
    parser.add_argument("--toy", action="store_true", help="a tiny model in float32, no compiler")
    parser.add_argument("--profile", metavar="DIR", help="write a trace of our fastest setting")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--lines", metavar="FILE", help="also write each row at once, as JSON")
    parser.add_argument("--pictures", metavar="FILE", help="made by step_inputs.py --pictures")
    parser.add_argument("--one-call", action="store_true", help="few rows, as on_gpu.sh wants them")
    options = parser.parse_args()
    if options.toy:
        options.model, options.batch, options.steps = "tiny", "32", min(options.steps, 2)
    batches = [int(size) for size in options.batch.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "folder": folder,
            "model": options.model,
            "model_cfg": to_open_clip(PRESETS[options.model]),
            "dtype": "float32" if options.toy else "bfloat16",
            "learning_rate": 1e-4,
            "steps": options.steps,
            "rounds": 3,
            "toy": options.toy,
            "lines": options.lines,
            "digest": options.one_call,
        }
        pairs = max(size + size // 8 for size in batches)
        if options.one_call:
            pairs = max(sum(sizes) for _, sizes, _ in _ONE_CALL)
        prepared = [options.pictures] if options.pictures else []
        subprocess.run(
            [sys.executable, HERE / "step_inputs.py", folder, options.model, str(pairs), *prepared],
            check=True,
            env=os.environ
            | {"PYTHONPATH": f"{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"}
            | {"JAX_PLATFORMS": "cpu"},
        )

        def rows(script: str, settings: list[dict]) -> list[dict]:
            found, full = [], set()
            for setting, size in itertools.product(settings, sorted(batches)):
                key = json.dumps(setting)
                if key in full:
                    continue  # what did not fit will not fit with more
                sizes = {"batch": size, "replay": size // 8, "setting": setting}
                found.append(measure(script, job | sizes))
                if found[-1].get("failed") == "out of memory":
                    full.add(key)
            return found

        if options.one_call:
            measured = []
            for script, (batch, replay), setting in _ONE_CALL:
                sizes = {"batch": batch, "replay": replay, "setting": setting}
                if batch > 1000:
                    sizes |= {"rounds": 1, "steps": 3}
                if not measured or ("fp8" in setting and "fp8" not in measured[-1]["setting"]):
                    sizes |= {"profile": f"{folder}/trace{len(measured)}"}
                measured.append(measure(script, job | sizes))
            ours, theirs = (
                [row for row in measured if row["script"] == name]
                for name in ("step_ours.py", "step_open_clip.py")
            )
        else:
            ours, theirs = rows("step_ours.py", _TOY if options.toy else _GPU), []
        if not options.one_call and importlib.util.find_spec("open_clip"):
            settings = [{"compile": not options.toy, "checkpointing": on} for on in (False, True)]
            theirs = rows("step_open_clip.py", settings)
        if options.profile and not options.toy:
            worked = [row for row in ours if "failed" not in row]
            best = max(worked, key=lambda row: row["samples_per_second"])
            again = {key: best[key] for key in ("batch", "replay", "setting")}
            measure("step_ours.py", job | again | {"profile": options.profile})
    found = summary(ours, theirs)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"ours {found['samples_per_second']:,.1f} samples/s", end="")
    print(f", {found['share_of_product_rate']:.0%} of a matrix product's rate", end="")
    print(f", MFU {found['mfu']:.0%}" if found["mfu"] else "")
    if "ratio" in found:
        print(f"open_clip {found['open_clip_samples_per_second']:,.1f} samples/s")
        print(f"ratio {found['ratio']:.2f}, with cut captions {found['ratio_cut_captions']:.2f}")
        print(f"losses differ by {found['loss_difference']:.1e}")
    else:
        print("open_clip is not installed: no ratio")


if __name__ == "__main__":
    main()
