"""Writes docs/parity.md: every comparison with the PyTorch reference, at full size.

    python tests/parity/report.py

Needs torch, open_clip and transformers, about 16 GB of memory and some minutes.
"""

# ruff: noqa: E402, I001 (vision_operators comes before open_clip)
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import jax
import vision_operators  # noqa: F401
import measures
import open_clip
import texts
import torch


def main() -> None:
    """Runs all comparisons and writes the page."""
    sections = [
        _features(),
        _resizing(),
        _training(),
        _tokens(),
        _pixels(),
        _streaming(),
    ]
    versions = (
        f"Python {platform.python_version()}, jax {jax.__version__}, torch {torch.__version__},"
        f" open_clip {open_clip.__version__}"
    )
    page = "\n\n".join(
        [
            "# Parity with PyTorch",
            "Written by `python tests/parity/report.py`; `tests/parity` holds the same comparisons"
            f" as tests.\n{versions}; float32 on a CPU. Weights are random: none are at special\n"
            "values, and the logit scale is 100, the largest that training allows.",
            *sections,
        ]
    )
    (ROOT / "docs" / "parity.md").write_text(page + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _features() -> str:
    rows = []
    for name in (*measures.ARCHITECTURES, *measures.ODD):
        config = measures.architecture(name)
        with tempfile.TemporaryDirectory() as folder:
            image, text, logits = measures.feature_differences(config, Path(folder))
        layers = f"{config.vision.layers} + {config.text.layers}"
        rows.append(f"| {name} | {layers} | {image:.1e} | {text:.1e} | {logits:.1e} |")
        _say(rows[-1])
    return "\n".join(
        [
            "## Features and logits",
            "",
            "Largest absolute difference from open_clip, through a safetensors file. Features are",
            "L2-normalised; allowed are 2e-5, and 2e-3 for logits.",
            "",
            "| model | layers | image features | text features | logits |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _resizing() -> str:
    cases = [(7, 14), (14, 7), (16, 24), (24, 16), (16, 17)]
    rows = [f"| {a} x {a} → {b} x {b} | {measures.resize_difference(a, b):.1e} |" for a, b in cases]
    return "\n".join(
        [
            "## Position embeddings of another image size",
            "",
            "Largest difference from open_clip's bicubic resizing, of values from N(0, 1).",
            "",
            *("| grid | difference |", "|---|---|"),
            *rows,
        ]
    )


def _training() -> str:
    loss, parameters = measures.training_differences(30)
    return "\n".join(
        [
            "## Training",
            "",
            "30 steps of AdamW with warm-up, cosine and weight decay, 32 pairs and 16 of replay a",
            "step, two visual projections, against open_clip's model and loss with torch's AdamW.",
            "",
            "| | largest difference | allowed |",
            "|---|---|---|",
            f"| loss | {loss:.1e} | 2e-5 |",
            f"| parameters, relative, of any tensor | {parameters:.1e} | 1e-4 |",
        ]
    )


def _tokens() -> str:
    rows = []
    for name, given in (
        ("a catalogue of life", texts.texts(200_000)),
        ("hostile", texts.hostile_texts(20_000)),
    ):
        differing, ours, theirs = measures.token_mismatches(given)
        rows.append(
            f"| {name} | {len(given):,} | {len(differing)} | {ours:,.0f} | {theirs:,.0f}"
            f" | {ours / theirs:.1f} |"
        )
        _say(rows[-1])
    return "\n".join(
        [
            "## Tokens",
            "",
            "A catalogue of life: scientific names with authors, hybrids, subspecies, vernacular",
            "names in twenty scripts, emoji, HTML, control characters, in equal shares; one text",
            "in 200 has 500 words. Hostile: random letters of any script, which often look like",
            "mojibake and then need the same repair here and there. One thread, CPU time.",
            "",
            "| texts | number | ids differ | texts a second | open_clip | ratio |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _pixels() -> str:
    largest, mean = measures.pixel_differences(500)
    return "\n".join(
        [
            "## Pixels",
            "",
            f"500 pictures of {len(measures.MODES)} Pillow modes and sides from 9 to 900 pixels;"
            " shortest side with",
            "centre crop and squash, bicubic and bilinear, to 32 and 224 pixels.",
            "",
            "| | 1/255 | allowed |",
            "|---|---|---|",
            f"| largest difference | {largest:.2g} | 1 |",
            f"| mean difference | {mean:.2g} | 0.05 |",
        ]
    )


def _streaming() -> str:
    """Converts ViT-H/14 in processes of its own, whose peak of memory is read."""
    config = measures.architecture("ViT-H-14")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        measures.save_file(measures.reference(config).state_dict(), place / "h.safetensors")
        size = (place / "h.safetensors").stat().st_size
        for source, target, options in (
            ("h.safetensors", "ours", ()),
            ("ours", "open_clip", ()),
            ("ours", "h.pt", ()),
            ("h.pt", "hf", ("--to", "transformers")),
        ):
            command = [sys.executable, "-c", _CHILD, "convert", place / source, place / target]
            start = time.perf_counter()
            done = subprocess.run(
                [*map(str, command), *options], capture_output=True, text=True, cwd=ROOT
            )
            seconds = time.perf_counter() - start
            if done.returncode:
                raise SystemExit(done.stderr)
            peak = float(done.stdout.splitlines()[-1])
            form = options[1] if options else {"ours": "orbax", "h.pt": "pt"}.get(target, target)
            rows.append(
                f"| {source} → {form} | {peak:.2f} GB | {seconds:.0f} s"
                f" | {size / seconds / 1e6:.0f} MB/s |"
            )
            _say(rows[-1])
        copied = time.perf_counter()
        with (place / "h.safetensors").open("rb") as old, (place / "copy").open("wb") as new:
            while block := old.read(1 << 24):
                new.write(block)
            os.fsync(new.fileno())
        copied = size / (time.perf_counter() - copied) / 1e6
    return "\n".join(
        [
            "## Memory",
            "",
            f"ViT-H/14 in float32, {size / 1e9:.1f} GB; its largest parameter here (an MLP of all"
            " layers) takes",
            f"0.84 GB. A plain copy of the file ran at {copied:.0f} MB/s.",
            "",
            "| conversion | peak memory | time | speed |",
            "|---|---|---|---|",
            *rows,
        ]
    )


_CHILD = """
import re, sys
from bioclip2_jax.cli import cli
try:
    cli(sys.argv[1:])
except SystemExit as stop:
    if stop.code:
        raise
status = open("/proc/self/status").read()  # ru_maxrss counts the parent's memory, too
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024 / 1e9)
"""


if __name__ == "__main__":
    main()
