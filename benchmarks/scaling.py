"""Plans the paper's recipe on several TPU slices and writes docs/scaling.md.

    python benchmarks/scaling.py            # about 20 minutes on two cores; needs libtpu

Each row is one run of `bioclip2 plan`.
"""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAPER, LARGER = "configs/bioclip2_vitl14.py", "configs/bioclip2_5_vith14.py"
RUNS = [
    (PAPER, "v5e:16x16", {}),
    (PAPER, "v5e:8x16", {"train.micro_batches": 4}),
    (PAPER, "v5e:4x8", {"train.micro_batches": 16}),
    (PAPER, "v5p:4x4x4", {}),
    (PAPER, "v6e:8x16", {}),
    (PAPER, "v6e:4x8", {"train.micro_batches": 4}),
    (PAPER, "v5e:8x16", {"mesh.slices": 2}),
    (LARGER, "v5p:4x4x8", {"train.batch_size": 65_536, "train.replay_batch_size": 0}),
]
# The same work for each chip on more and more of them.
GROWTH = [
    (PAPER, layout, {"train.batch_size": 352 * chips, "train.replay_batch_size": 40 * chips})
    for layout, chips in (("v5e:4x4", 16), ("v5e:8x8", 64), ("v5e:16x16", 256))
]


def plan(recipe: str, topology: str, changes: dict) -> dict:
    """The JSON object of one plan."""
    command = [sys.executable, "-m", "bioclip2_jax", "plan", f"--config={recipe}", "--json"]
    command += ["--topology", topology, *(f"--config.{k}={v}" for k, v in changes.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    found = json.loads(done.stdout)
    print(f"{topology} {changes}: {found['temporary_gib']:.2f} GiB", file=sys.stderr)
    return found


def row(recipe: str, topology: str, changes: dict) -> str:
    """One line of the table."""
    found = plan(recipe, topology, changes)
    settings = found["settings"]
    moved = sum(found["collective_bytes"].values()) / 1e9
    slices = settings["mesh.slices"]
    return (
        f"| {found['model']} | {f'{slices} x ' if slices > 1 else ''}{topology} |"
        f" {found['chips']} |"
        f" {found['batch_size']:,} + {found['replay_batch_size']:,} |"
        f" {settings['train.micro_batches']} | {'yes' if found['fits'] else 'no'} |"
        f" {found['temporary_gib']:.2f} | {found['argument_gib']:.2f} | {found['hbm_gib']:.0f} |"
        f" {moved:.1f} | {found['step_seconds_at_best']:.2f} |"
        f" {found['samples_per_second_at_best']:,.0f} | {found['mfu_bound']:.0%} |"
        f" {found['days_at_best']:.1f} |"
    )


def main() -> None:
    """Writes the page."""
    head = (
        "| model | slice | chips | pairs a step | micro-batches | fits | temporaries | arguments |"
        " HBM | received | step at best | samples/s at best | MFU bound | days at best |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    page = f"""# Scaling

Made by `python benchmarks/scaling.py` with jax {metadata.version("jax")} and libtpu
{metadata.version("libtpu")}: the true train step, bio and replay pairs, 77 tokens, bfloat16,
compiled for each slice by the TPU's own compiler without the hardware. Memory is GiB a chip and
comes from the compiler; `received` is GB a chip and step, read from the compiled program, with
ring algorithms. Times are what the chips' peak rates allow at best (work with recomputation over
peak FLOP/s, or bytes over the network), not measurements: nothing here ran on a TPU.

{head}
{chr(10).join(row(*run) for run in RUNS)}

The same pairs a chip (352 + 40) on more chips:

{head}
{chr(10).join(row(*run) for run in GROWTH)}

Other slices and settings: `bioclip2 plan --help`.
"""
    (ROOT / "docs" / "scaling.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
