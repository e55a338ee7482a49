"""What the names of the folders around a picture say that it shows.

Understood are iNaturalist's lineages ("00001_Animalia_Chordata_…_Ursus_arctos"), binomials
("Ursus_arctos", "Ursus arctos", "Ursus/arctos") and lineages of nested folders, from the kingdom
down or with parts of it ("Aves/Acanthis flammea"). Anything else ("American_Crow", "Red fox") is no
scientific name: it becomes the label as it is, and names a class but no place in the lineage.
"""

import functools
import re
from dataclasses import dataclass

from bioclip2_jax.text import joined
from bioclip2_jax.text.taxonomy import RANKS, Taxon, clean

_NUMBER = re.compile(r"\d+[\s._-]+(?=\D)")
_GENUS, _EPITHET = re.compile(r"×?[A-Z][a-z]+"), re.compile(r"[×a-z][\w.×'-]*")
# Only what common names do not have: "Quercus robur L.", but not "Black footed Albatross".
_AUTHOR = re.compile(r"[(&].*|.*[.,)]|\d{4}")
# Folders that say nothing of what is in them.
_NO_NAMES = re.compile(
    r"(images?|imgs?|photos?|pictures?|pics|data(set)?|jpe?gs?|pngs?|raw|crops?|all)", re.IGNORECASE
)
# What common names begin with, or what people sort by; no genus is called so.
_NO_GENERA = re.compile(
    r"(a|the|common|great|greater|little|lesser|large|small|giant|wild|domestic|house|garden|tree"
    r"|water|sea|river|mountain|wood|field|forest|desert|polar|snow|sand|swamp|marsh|grass"
    r"|black|white|red|brown|blue|green|yellow|gr[ae]y|gold(en)?|silver|pink|purple|orange|scarlet"
    r"|northern|southern|eastern|western|american|european|african|asian|indian|chinese|japanese"
    r"|animals?|birds?|cats?|dogs?|fish(es)?|insects?|mammals?|reptiles?|amphibians?|plants?"
    r"|flowers?|trees|fungi|mushrooms?|butterfl(y|ies)|spiders?|bees?|ants?|leaf|leaves|fruits?"
    r"|apple|tomato|potato|corn|pepper|grape|cherry|peach|strawberry|bell)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Named:
    """What is known of the pictures in a folder; or the `problem` with it."""

    taxon: Taxon = Taxon()
    scientific_name: str = ""
    vernacular_name: str = ""
    problem: str = ""


@functools.lru_cache(4096)
def named(folders: tuple[str, ...]) -> Named:
    """Reads the names of folders from the outmost to the one that a picture lies in."""
    names = [name for name in folders if not _NO_NAMES.fullmatch(name)]
    if not names:
        return Named(problem="it lies in no folder that says what it shows")
    species = (i for i, name in enumerate(names) if _lineage(name) or _binomial(_plain(name)))
    names = names[: next(species, len(names)) + 1]  # below lie sexes, places, sessions
    above, last = [_plain(name) for name in names[:-1]], _plain(names[-1])
    if not clean(last):
        return Named(problem=f"its folder says nothing ({names[-1]})")
    if last.isdecimal():
        return Named(problem=f"its folder is called by a number ({last}); rename it after a taxon")
    taxon = _lineage(names[-1]) or _nested([*above, last])
    if taxon:
        return Named(taxon=taxon)
    genus = above[-1] if above and " " not in above[-1] + last else ""
    binomial = _binomial(last) or _binomial(f"{genus} {last}")
    if binomial:
        return Named(taxon=_under(above, binomial))
    rank = joined.rank_of(last)
    if rank is not None or joined.is_kingdom(last):
        return Named(taxon=_under(above, {RANKS[rank or 0]: last}))
    is_common = " " in last or last[0].islower()
    common_name = last if is_common else ""
    return Named(taxon=_under(above, {}), scientific_name=last, vernacular_name=common_name)


def _plain(name: str) -> str:
    """The name without a number before it: "001.Black_footed_Albatross"."""
    return " ".join(re.sub(r"[_+]", " ", _NUMBER.sub("", name, count=1)).split())


def _lineage(name: str) -> Taxon | None:
    """The lineage that one name joins, with holes or without."""
    cells = re.split("[_ ]", _NUMBER.sub("", name))
    if len(cells) < 3 or not joined.is_kingdom(cells[0]):
        return None
    if len(cells) < 7:
        return joined.placed(" ".join(cells))
    return Taxon.from_row(dict(zip(RANKS, [*cells[:6], " ".join(cells[6:])], strict=True)))


def _nested(names: list[str]) -> Taxon | None:
    """The lineage that folders make from the kingdom down."""
    if len(names) < 2 or not joined.is_kingdom(names[0]):
        return None
    if len(names) >= 7:
        return Taxon.from_row(dict(zip(RANKS, names, strict=False)))
    if len(names) > 2 and names[-1].split()[0] == names[-2]:  # "…/Ursus/Ursus arctos"
        names = [*names[:-2], names[-1]]
    if any(" " in name for name in names[:-1]):
        return None
    return joined.placed(" ".join(filter(clean, names)))


def _binomial(text: str) -> dict[str, str] | None:
    """Genus and epithet, "" where that is open ("Ursus sp."); None for other names."""
    first, *rest = text.split() or [""]
    is_binomial = _GENUS.fullmatch(first) and not _NO_GENERA.fullmatch(first) and rest
    if not is_binomial or not _EPITHET.fullmatch(rest[0]):
        return None
    if not all(_EPITHET.fullmatch(word) or _AUTHOR.fullmatch(word) for word in rest):
        return None
    taxon = Taxon.from_row({"scientificName": text})
    return {"genus": taxon.genus, "species": taxon.species} if taxon.genus else None


def _under(above: list[str], names: dict[str, str]) -> Taxon:
    """The lineage with what the folders above tell for certain."""
    ranks = {name: 0 if joined.is_kingdom(name) else joined.rank_of(name) for name in above}
    told = {RANKS[rank]: name for name, rank in ranks.items() if rank is not None}
    return Taxon.from_row(told | names)
