"""Lineages out of the texts that data sets join them to, as TreeOfLife's tars do.

"Animalia Chordata Cypriniformes Cyprinidae Carassius auratus" has no class: ranks that are unknown
leave no gap. Where the text names its ranks (`tagged`) nothing is guessed.
"""

import functools
import re

from bioclip2_jax.text.taxonomy import RANKS, Taxon, clean

_PLACEHOLDER = re.compile(r"\bincertae sedis\b", re.IGNORECASE)
_CANDIDATUS = re.compile(r"\bCandidatus (?=\w)")  # the first of two words of a genus
_FAMILY = RANKS.index("family")
_HOLE, _JOINT = "\0", "\1"
# All of TreeOfLife's kingdoms, and those of viruses and bacteria in newer lists.
_KINGDOMS = re.compile(
    r"Animalia|Plantae|Fungi|Chromista|Protozoa|Bacteria|Archaea|Viruses|Metazoa|Archaeplastida"
    r"|Chloroplastida|Viridiplantae|Eukaryota|Protista|\w+virae"
    r"|(Bacill|Pseudomonad|Fusobacteri|Thermotog|Methanobacteri|Nanobdell|Thermoprote)ati"
)
# What the names of a rank end with, or are, where that is all but certain.
_ENDINGS = {
    "phylum": r"\w+(phyta|\w{3}ota)|Chordata|Arthropoda|Mollusca|Cnidaria|Echinodermata"
    r"|Annelida|Porifera|Nematoda|Platyhelminthes|Bryozoa|Rotifera|Ctenophora|Brachiopoda",
    "class": r"\w+(opsida|mycetes|phyceae|viricetes)|Aves|Mammalia|Amphibia|Reptilia|Insecta"
    r"|Arachnida|Actinopterygii|Elasmobranchii|Gastropoda|Bivalvia|Cephalopoda|Malacostraca",
    "order": r"(?!Whales|Wales|Males|Females)\w+(iformes|ales|ptera)|Odonata|Carnivora|Rodentia"
    r"|Primates|Araneae",
    "family": r"\w+(idae|aceae)",
}


def is_kingdom(word: str) -> bool:
    """Whether a name is one of the few that kingdoms have."""
    return bool(_KINGDOMS.fullmatch(word))


@functools.lru_cache(4096)
def rank_of(word: str) -> int | None:
    """The place among `RANKS` that the ending of a name tells all but certainly."""
    for rank, ending in _ENDINGS.items():
        if re.fullmatch(ending, word):
            return RANKS.index(rank)
    return None


@functools.lru_cache(4096)
def tagged(text: str, scientific_name: str = "") -> Taxon | None:
    """The lineage of "kingdom Animalia phylum Chordata … species arctos"; None for other texts.

    Of several words of a species the scientific name gives back those before the last, see
    `placed`.
    """
    names: dict[str, list[str]] = {rank: [] for rank in RANKS}
    waiting, rank = list(RANKS), ""
    for word in text.split():
        if word in waiting:
            rank, waiting = word, waiting[waiting.index(word) + 1 :]
        elif not rank:
            return None
        else:
            names[rank].append(word)
    if not any(names.values()):
        return None
    return _taxon({rank: " ".join(words) for rank, words in names.items()}, scientific_name)


@functools.lru_cache(4096)
def placed(text: str, scientific_name: str = "") -> Taxon:
    """The lineage of a text that joins the known names from the kingdom down.

    Seven names are the seven ranks. Of fewer the last two are genus and epithet where a small
    letter or the scientific name says so; others stand at the rank that their endings tell
    (-idae and -aceae are families, -iformes and -ales orders, …) and the rest from the top down.
    Joined again the lineage is the text, cleaned; but of a species field with several words the
    original keeps the last alone, and the scientific name gives the others back.

    Args:
      text: "Animalia Chordata Mammalia Carnivora Ursidae Ursus syriacus".
      scientific_name: the same organism's, "Ursus arctos syriacus"; may have authors.
    """
    text = _CANDIDATUS.sub("Candidatus" + _JOINT, _PLACEHOLDER.sub(_HOLE, clean(text)))
    words = text.split()
    start = _start_of_species(words, clean(scientific_name).split())
    genus = "".join(words[start : start + 1]).replace(_JOINT, " ")
    higher = dict(zip(RANKS, _spread(words[:start], 5 if genus else 6), strict=False))
    return _taxon(
        {"genus": genus, "species": " ".join(words[start + 1 :])} | higher, scientific_name
    )


def _start_of_species(words: list[str], named: list[str]) -> int:
    """Where the genus of a species stands; behind the last word where no species is told."""
    small = [i for i, word in enumerate(words) if word.lstrip("×")[:1].islower()]
    if small and small[0] > 0:
        return min(small[0] - 1, 5)
    if len(words) >= 7:
        return 5
    if len(words) > 1 and words[-2] in named[:-1] and words[-1] in named[1:]:
        return len(words) - 2
    # A name of no telling ending that stands alone is most often a genus.
    is_genus = len(words) == 1 and not is_kingdom(words[0]) and rank_of(words[0]) is None
    return 0 if is_genus else len(words)


def _taxon(names: dict[str, str], scientific_name: str) -> Taxon:
    """The lineage with all words of an epithet of which the text has kept the last."""
    taxon = Taxon.from_row(names)
    whole_name = scientific_name.removeprefix(names["genus"] + " ")
    if not taxon.species or whole_name in ("", names["species"]):
        return taxon
    full = Taxon.from_row(names | {"species": whole_name})
    last = full.species.rpartition(" ")[2].lstrip("×")
    is_same = full.genus == taxon.genus and last == taxon.species.lstrip("×")
    return full if is_same else taxon


def _spread(words: list[str], num_ranks: int) -> list[str]:
    """Names above the species, each at its rank; "" for holes."""
    spread, rank = [""] * num_ranks, -1
    for index, word in enumerate(words):
        told, rank = rank_of(word), rank + 1
        if index == 0 and word != _HOLE:  # other kingdoms than those there are not
            told = 0 if is_kingdom(word) else told or 1
        if told is None and rank == _FAMILY:
            told = rank + 1  # every family's name says that it is one
        # There must be room for those behind.
        rank = min(max(rank, told or 0), num_ranks - len(words) + index)
        spread[rank] = "" if word == _HOLE else word
    return spread
