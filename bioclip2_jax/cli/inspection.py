"""Plain-text descriptions of datasets and models, and pictures taken out of a dataset."""

import re
from pathlib import Path

import jax
import numpy as np

from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UserError
from bioclip2_jax.text.taxonomy import RANKS

_SUFFIX = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"GI": ".gif", b"BM": ".bmp"}


def describe_data(data_dir: str) -> str:
    """Splits with their image counts, taxa per rank, and the most and least pictured taxa."""
    lines = [f"{data_dir}"]
    lines += [
        f"  {name:<10} {count:>9,} images" for name, count in dataset.splits(data_dir).items()
    ]
    taxa = dataset.read_taxa(data_dir)
    for rank in RANKS:
        names = {e.taxon.lineage(rank) for e in taxa if e.taxon.lineage(rank)[-1]}
        lines.append(f"  {rank:<10} {len(names):>9,} taxa")
    by_count = sorted(taxa, key=lambda entry: -sum(entry.counts.values()))
    lines.append("  most pictured:  " + _named(by_count[:3]))
    lines.append("  least pictured: " + _named(by_count[-3:]))
    return "\n".join(lines)


def _named(entries: list) -> str:
    return ", ".join(f"{e.scientific_name or '?'} ({sum(e.counts.values()):,})" for e in entries)


def describe_model(path: str) -> str:
    """Step, sizes, preprocessing and every tensor with its shape and root mean square."""
    from bioclip2_jax.weights.load import load

    model = load(path)
    leaves = jax.tree_util.tree_leaves_with_path(model.params)
    total = sum(np.size(leaf) for _, leaf in leaves)
    step = "" if model.step is None else f", step {model.step:,}"
    lines = [f"{path}: {total:,} parameters{step}", f"  {model.config}", f"  {model.preprocess}"]
    for keys, leaf in leaves:
        name = "/".join(key.key for key in keys)
        size = np.sqrt(np.mean(np.square(np.asarray(leaf, np.float32))))
        lines.append(f"  {name:<44} {str(np.shape(leaf)):<18} rms {size:.4g}")
    return "\n".join(lines)


def extract_pictures(data_dir: str, split: str, count: int, out: Path) -> list[Path]:
    """Writes `count` images, evenly spread over a split, as they came, named by their taxon.

    Raises:
      UserError: the split holds no image.
    """
    source = dataset.open_split(data_dir, split)
    if not len(source):
        raise UserError(f"{data_dir}: split {split!r} is empty")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in np.unique(np.linspace(0, len(source) - 1, count).astype(int)):
        record = source[int(index)]
        name = re.sub(r"\W+", "_", f"{record['scientificName']} {index}").strip("_")
        path = out / (name + _SUFFIX.get(record["image"][:2], ".img"))
        path.write_bytes(record["image"])
        paths.append(path)
    return paths
