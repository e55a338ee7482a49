"""Plans the paper's recipe on several TPU slices and writes docs/scaling.md.

    python benchmarks/scaling.py            # needs libtpu; an hour on two idle cores, or more

Each row is one run of `bioclip2 plan`, which compiles up to eight times. Its answers are kept in
--kept; rows whose answer is there are not planned again.
"""

import argparse
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAPER, LARGER = "configs/bioclip2_vitl14.py", "configs/bioclip2_5_vith14.py"
RUNS = [
    (PAPER, "v5e:16x16", {}),
    (PAPER, "v5e:8x16", {}),
    (PAPER, "v5e:4x8", {}),
    (PAPER, "v5p:4x4x4", {}),
    (PAPER, "v6e:8x16", {}),
    (PAPER, "v6e:4x8", {}),
    (PAPER, "v5e:8x16", {"mesh.slices": 2}),
    (LARGER, "v5p:4x4x8", {"train.batch_size": 65_536, "train.replay_batch_size": 0}),
]
# The same work for each chip on more and more of them.
GROWTH = [
    (PAPER, layout, {"train.batch_size": 352 * chips, "train.replay_batch_size": 40 * chips})
    for layout, chips in (("v5e:4x4", 16), ("v5e:8x8", 64), ("v5e:16x16", 256))
]


def plan(recipe: str, topology: str, changes: dict, kept: Path, *, as_it_is: bool) -> dict:
    """The JSON object of one plan."""
    command = [sys.executable, "-m", "bioclip2_jax", "plan", f"--config={recipe}", "--json"]
    command += ["--topology", topology, *(f"--config.{k}={v}" for k, v in changes.items())]
    command += ["--as-it-is"] if as_it_is else []
    name = "_".join([Path(recipe).stem, topology, *map(str, changes.values()), str(as_it_is)])
    path = kept / f"{re.sub('[^0-9A-Za-z]+', '_', name)}.json"
    if not path.exists():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode not in (0, 1) or not done.stdout:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        path.write_text(done.stdout, encoding="utf-8")
        print(done.stderr, file=sys.stderr)
    return json.loads(path.read_text(encoding="utf-8"))


def row(recipe: str, topology: str, changes: dict, kept: Path, *, as_it_is: bool = False) -> str:
    """One line of the table."""
    found = plan(recipe, topology, changes, kept, as_it_is=as_it_is)
    settings = found["settings"]
    moved = sum(found["collective_bytes"].values()) / 1e9
    slices, share = settings["mesh.slices"], settings["model.remat_share"]
    keeps = "nothing" if settings["model.remat"] == "full" else settings["model.remat"]
    keeps += f" in {share:.0%}" if share < 1 else ""
    before = f"{found['step_seconds_as_it_is']:.2f}" if found["fits"] else "does not fit"
    return (
        f"| {found['model']} | {f'{slices} x ' if slices > 1 else ''}{topology} |"
        f" {found['chips']} |"
        f" {found['batch_size']:,} + {found['replay_batch_size']:,} | {before} |"
        f" {keeps} | {settings['train.micro_batches']} |"
        f" {found['temporary_gib']:.2f} | {found['argument_gib']:.2f} | {found['hbm_gib']:.0f} |"
        f" {moved:.1f} | {found['step_seconds_at_best']:.2f} |"
        f" {found['samples_per_second_at_best']:,.0f} | {found['mfu_bound']:.0%} |"
        f" {found['days_at_best']:.1f} |"
    )


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=Path, default=Path("scaling_plans"))
    kept = parser.parse_args().kept
    kept.mkdir(parents=True, exist_ok=True)
    head = (
        "| model | slice | chips | pairs a step | as it is | blocks keep | micro-batches |"
        " temporaries | arguments | HBM | received | step at best | samples/s at best | MFU bound |"
        " days at best |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    rows = [row(*run, kept) for run in RUNS]
    growth = [row(*run, kept, as_it_is=True) for run in GROWTH]
    page = f"""# Scaling

Made by `python benchmarks/scaling.py` with jax {metadata.version("jax")} and libtpu
{metadata.version("libtpu")}: the true train step, bio and replay pairs, 77 tokens, bfloat16,
compiled for each slice by the TPU's own compiler without the hardware. Memory is GiB a chip and
comes from the compiler; `received` is GB a chip and step, read from the compiled program, with
ring algorithms. Times are what the chips' peak rates allow at best (products with those that are
computed again over peak FLOP/s, or bytes over the network), not measurements: nothing here ran on
a TPU. `as it is` is the step of the unchanged recipe in seconds; the rest of a line is the fastest
setting that fits, of up to eight that were compiled (`bioclip2 plan` gives its `--config` keys).

{head}
{chr(10).join(rows)}

The same pairs a chip (352 + 40) on more chips, as the recipe is:

{head}
{chr(10).join(growth)}

Other slices and settings: `bioclip2 plan --help`.
"""
    (ROOT / "docs" / "scaling.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
