"""Texts of a taxon: the captions of training and the class names of evaluation."""

import functools
import html
import random
import re
from collections.abc import Mapping, Sequence

from bioclip2_jax.errors import UsageError
from bioclip2_jax.text.taxonomy import KINGDOMS, RANKS, Taxon, clean

TEXT_KINDS = ("sci", "com", "taxon", "sci_com", "taxon_com")
LEVELS = RANKS[:-1]  # which level captions stop at

_LONGEST = 1000  # letters of an own caption that are compared
_FRAME, _COMMON = "a photo of ", " with common name "
_PLACEHOLDER = re.compile(r"\bincertae sedis\b|\bun(classified|identified|assigned)\b")
_NULLS = re.compile(r"\b(unknown( taxonomy)?|null|none|nan|n/a)\b")
_OTHER_KINGDOMS = {name.lower(): known.lower() for name, known in KINGDOMS.items()}


def text_kind(seed: int | None, step: int) -> str:
    """The one text kind of all captions of a step, uniform over `TEXT_KINDS`.

    Args:
      seed: of the run. None draws exactly what the original draws, which knows the step alone
        (bioclip-2, training/data.py: `random.seed(step)`, then `random.choice`).
      step: global step, so that every host and every restart agrees.
    """
    return random.Random(step if seed is None else f"{seed}/{step}").choice(TEXT_KINDS)


def levels_at(seed: int, step: int, draw: Sequence[float]) -> tuple[str, ...]:
    """The ranks that the level captions of a step stop at: one, or all six.

    Args:
      seed: of the run.
      step: global step, so that every host and every restart agrees.
      draw: how often each of `LEVELS` is drawn, relative to the others; empty: all at every step.
    """
    if not draw:
        return LEVELS
    return (random.Random(f"level/{seed}/{step}").choices(LEVELS, draw)[0],)


def level_caption(rank: str, taxon: Taxon, scientific_name: str = "") -> str:
    """An image's caption at a level: its lineage down to `rank`, as the evaluator asks for it.

    Unknown ranks are left out, so that among orders a taxon without order has the text of its
    class. Where nothing is known down to `rank` it is the caption "sci".
    """
    name = clean(lineage_text(taxon, rank))
    return f"{_FRAME}{name}." if name else caption("sci", taxon, scientific_name)


def lineage_text(taxon: Taxon, rank: str = "species") -> str:
    """Known names from kingdom to `rank` joined by blanks; unknown ranks are left out."""
    return " ".join(name for name in taxon.lineage(rank) if name)


def caption(kind: str, taxon: Taxon, scientific_name: str = "", common_name: str = "") -> str:
    """The training caption of an image (TreeOfLife-toolbox, tol_hybrid_to_wds).

    Every kind exists for every image. S is the binomial or deepest known name of the taxon, else
    `scientific_name` (which may carry authors, hence second), else "Unknown"; the lineage T and
    the common name C fall back to S.

    Args:
      kind: one of `TEXT_KINDS`.
      taxon: lineage of the image.
      scientific_name: as the source gave it; used when the taxon is empty.
      common_name: vernacular name or ''.

    Returns:
      "a photo of S.", "a photo of T with common name C." and so on; one dot at the end.

    Raises:
      UsageError: there is no such kind.
    """
    _check_kind(kind, TEXT_KINDS)
    return all_captions(taxon, scientific_name, common_name)[kind]


@functools.lru_cache(4096)
def all_captions(
    taxon: Taxon, scientific_name: str = "", common_name: str = ""
) -> Mapping[str, str]:
    """Kind → `caption`, of all kinds."""
    scientific = clean(taxon.scientific_name) or clean(scientific_name) or "Unknown"
    common = clean(common_name) or scientific
    lineage = clean(lineage_text(taxon)) or scientific
    names = {"sci": scientific, "com": common, "taxon": lineage}
    texts = {kind: f"{_FRAME}{name}." for kind, name in names.items()}
    for kind in ("sci", "taxon"):
        texts[f"{kind}_com"] = f"{_FRAME}{names[kind]}{_COMMON}{common}."
    return texts


def difference(
    kind: str, given: str, taxon: Taxon, scientific_name: str = "", common_name: str = ""
) -> str | None:
    """Why a data set's own caption is not what `caption` makes of the names; None where it is.

    Args:
      kind: one of `TEXT_KINDS`.
      given: the own caption.
      taxon, scientific_name, common_name: as for `caption`.

    Returns:
      A short reason to count by, one of a dozen.
    """
    ours = caption(kind, taxon, scientific_name, common_name)
    if given == ours:
        return None
    given = given[:_LONGEST]
    if given.casefold() == ours.casefold():
        return "case"
    if _letters(given) == _letters(ours):
        return "blanks or punctuation"
    (name, common), (our_name, our_common) = _parted(kind, given), _parted(kind, ours)
    if _letters(name) != _letters(our_name):
        other = "another lineage" if kind.startswith("taxon") else "another name"
        return _reason(name, our_name, taxon) or other
    if _NULLS.fullmatch(common):
        return "null-like words"
    # Where there is no common name the scientific one stands for it.
    is_fallback = our_common == taxon.scientific_name.casefold()
    return (_reason(common, our_common, taxon) if is_fallback else None) or "another common name"


def class_name(kind: str, taxon: Taxon, common_name: str = "", as_is: str | None = None) -> str:
    """What stands for a class in the zero-shot templates (bioclip-2, imageomics/naming_eval.py).

    Unlike in captions nothing replaces a missing common name in the `_com` forms, and a lineage
    without kingdom is cut to the binomial. A name at a higher rank is `lineage_text`.

    Args:
      kind: one of `TEXT_KINDS`, or `asis` for `as_is` unchanged.
      taxon: lineage of the class.
      common_name: vernacular name or ''.
      as_is: the class in the user's own words; stands in where the taxon is empty, too.

    Returns:
      The text without "a photo of" and without a final dot.

    Raises:
      UsageError: there is no such kind.
    """
    _check_kind(kind, ("asis", *TEXT_KINDS))
    scientific = clean(taxon.scientific_name) or clean(as_is) or "Unknown"
    if kind == "asis":
        return as_is or scientific
    common = clean(common_name)
    if kind == "com":
        return common or scientific
    name = scientific
    if kind.startswith("taxon") and taxon.kingdom:
        name = clean(lineage_text(taxon))
    return f"{name} with common name {common}" if common and kind.endswith("_com") else name


def _reason(name: str, ours: str, taxon: Taxon) -> str | None:
    """Why scientific names or lineages differ; both in small letters."""
    letters = _letters(ours)
    short = taxon.species.rpartition(" ")[2].casefold()
    head = ours.removesuffix(taxon.species.casefold())
    if " " in taxon.species and _letters(name) == _letters(head + short):
        return "only the last word of the species"
    if _letters(re.sub(r"\bx ", "", name)) == letters:
        return "another sign of a hybrid"
    if _letters(_PLACEHOLDER.sub("", name)) == letters:
        return "a lineage with a placeholder"
    if _NULLS.fullmatch(name) or _letters(_NULLS.sub("", name)) == letters:
        return "null-like words"
    first, _, rest = name.partition(" ")
    if _letters(_OTHER_KINGDOMS.get(first, first) + rest) == letters:
        return "another name of the kingdom"
    return "a name with its authors" if name.startswith(ours + " ") else None


def _parted(kind: str, text: str) -> tuple[str, str]:
    """(name, common name) of a caption in small letters, "" for what its kind does not say."""
    text = " ".join(text.casefold().split()).removeprefix(_FRAME).rstrip(". ")
    if kind == "com":
        return "", text
    name, _, common = text.partition(_COMMON)
    return name, common


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", html.unescape(text).casefold())


def _check_kind(kind: str, kinds: tuple[str, ...]) -> None:
    if kind not in kinds:
        raise UsageError(f"no text kind {kind!r}; choose one of {', '.join(kinds)}")
