"""Texts of a taxon: the captions of training and the class names of evaluation."""

import random

from bioclip2_jax.taxonomy import Taxon, clean

TEXT_KINDS = ("sci", "com", "taxon", "sci_com", "taxon_com")


def text_kind(seed: int, step: int) -> str:
    """The one text kind of all captions of a step, uniform over `TEXT_KINDS`.

    The original draws with `random.seed(step)` alone; the run's seed is mixed in here.
    """
    return random.Random(f"{seed}/{step}").choice(TEXT_KINDS)


def lineage_text(taxon: Taxon, rank: str = "species") -> str:
    """Known names from kingdom to `rank` joined by blanks; unknown ranks are left out."""
    return " ".join(name for name in taxon.lineage(rank) if name)


def caption(kind: str, taxon: Taxon, scientific_name: str = "", common_name: str = "") -> str:
    """The training caption of an image (original: TreeOfLife-toolbox; paper, section 3).

    `S` is the taxon's binomial or deepest name, else `scientific_name`, else "Unknown"; `T` the
    lineage, else S; a missing common name is replaced by S, so every kind exists for every image.

    Args:
      kind: one of `TEXT_KINDS`.

    Returns:
      "a photo of S.", "a photo of T with common name C." and so on.
    """
    scientific = taxon.scientific_name or clean(scientific_name) or "Unknown"
    name = clean(common_name) or scientific
    lineage = lineage_text(taxon) or scientific
    return {
        "sci": f"a photo of {scientific}.",
        "com": f"a photo of {name}.",
        "taxon": f"a photo of {lineage}.",
        "sci_com": f"a photo of {scientific} with common name {name}.",
        "taxon_com": f"a photo of {lineage} with common name {name}.",
    }[kind]


def class_name(kind: str, taxon: Taxon, common_name: str = "", as_is: str = "") -> str:
    """What stands for a class in the zero-shot templates (original: `naming_eval.py`).

    Unlike in captions nothing replaces a missing common name in the `_com` forms, and a lineage
    without kingdom is cut to the binomial.

    Args:
      kind: one of `TEXT_KINDS`, or `asis` for `as_is` unchanged.

    Returns:
      The text without "a photo of" and without a final dot.
    """
    if kind == "asis":
        return as_is
    scientific = taxon.scientific_name or clean(as_is) or "Unknown"
    lineage = lineage_text(taxon) if taxon.kingdom else scientific
    common = clean(common_name)
    with_common = f" with common name {common}" if common else ""
    return {
        "sci": scientific,
        "com": common or scientific,
        "taxon": lineage,
        "sci_com": scientific + with_common,
        "taxon_com": lineage + with_common,
    }[kind]
