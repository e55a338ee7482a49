"""Lineages of organisms: seven Darwin Core ranks, any of which may be unknown."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")

_NULLS = {"", "unknown", "null", "none", "n/a", "na", "nan", "not available", "incertae sedis"}
# Marks of open nomenclature: the name before them is known, the epithet is not.
_OPEN = {"sp", "spp", "cf", "aff", "indet", "gen", "nr"}
_INFRASPECIFIC = {"subsp", "ssp", "var", "f", "forma", "subvar", "cv"}


def clean(value: object) -> str:
    """A name without outer blanks, doubled blanks and trailing dots; '' for null-like values."""
    text = re.sub(r"\s+", " ", str(value if value is not None else "")).strip().rstrip(".").strip()
    return "" if text.lower() in _NULLS else text


@dataclass(frozen=True, order=True)
class Taxon:
    """One lineage. Unknown ranks are empty and may lie between known ones.

    `species` is the specific epithet, with a subspecies after a blank ("arctos syriacus").
    """

    kingdom: str = ""
    phylum: str = ""
    class_: str = ""
    order: str = ""
    family: str = ""
    genus: str = ""
    species: str = ""

    @property
    def ranks(self) -> tuple[str, ...]:
        """The seven names from kingdom to epithet."""
        return (
            self.kingdom,
            self.phylum,
            self.class_,
            self.order,
            self.family,
            self.genus,
            self.species,
        )

    def lineage(self, rank: str = "species") -> tuple[str, ...]:
        """Names from kingdom down to `rank`, holes included."""
        return self.ranks[: RANKS.index(rank) + 1]

    @property
    def deepest_rank(self) -> str | None:
        """The most specific known rank, None if nothing is known."""
        known = [rank for rank, name in zip(RANKS, self.ranks, strict=True) if name]
        return known[-1] if known else None

    @property
    def scientific_name(self) -> str:
        """The binomial, or the name at the most specific known rank, or ''."""
        if self.genus and self.species:
            return f"{self.genus} {self.species}"
        known = [name for name in self.ranks[:6] if name]
        return known[-1] if known else self.species

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Taxon":
        """Reads a table row with Darwin Core, pybioclip or our own headers, case-insensitive.

        Ranks are capitalised, epithets lower-cased, null-like values dropped. A binomial in
        `species` gives its genus away when the row has none. Without genus and epithet,
        `scientificName` is parsed conservatively (authorship after the epithet is dropped).
        """
        values = {re.sub(r"[^a-z]", "", str(key).lower()): value for key, value in row.items()}
        names = {rank: clean(values.get(rank)) for rank in RANKS}
        names["class"] = names["class"] or clean(values.get("cls"))
        names["class"] = names["class"] or clean(values.get("classname"))
        epithet = clean(values.get("specificepithet")) or clean(values.get("speciesepithet"))
        genus, own_epithet = _split_species(names["species"], names["genus"])
        epithet = epithet or own_epithet
        genus = names["genus"] or genus
        if not genus and not epithet:
            genus, epithet = _parse_scientific_name(clean(values.get("scientificname")))
        below = clean(values.get("infraspecificepithet")) or clean(values.get("subspecies"))
        below = below.split(" ")[-1]
        if below and epithet and below.lower() not in epithet.lower().split(" "):
            epithet = f"{epithet} {below}"
        higher = [_capitalize(names[rank]) for rank in RANKS[:5]]
        return cls(*higher, _capitalize(genus), epithet.lower() if genus else "")


def _capitalize(name: str) -> str:
    if name[:1] in "×+" and len(name) > 1:  # hybrid and graft marks stand before the name
        return name[0] + _capitalize(name[1:].strip())
    return name[:1].upper() + name[1:].lower()


def _split_species(species: str, genus: str) -> tuple[str, str]:
    """(genus or '', epithet) of a `species` cell that holds an epithet or a whole binomial."""
    words = [word for word in species.split(" ") if word]
    if genus and words and words[0].lower() == genus.lower():
        words = words[1:]
        genus = ""
    elif not genus and len(words) > 1 and words[0][:1].isupper():
        genus, words = words[0], words[1:]
    else:
        genus = ""
    words = [word for word in words if word.lower().rstrip(".") not in _INFRASPECIFIC]
    if any(word.lower().rstrip(".") in _OPEN for word in words[:1]):
        words = []
    return genus, " ".join(words)


def _parse_scientific_name(name: str) -> tuple[str, str]:
    """(genus, epithet) of a two- or three-part name; ('', '') when it is no such name.

    A single word is not taken for a genus: it may as well be a family or an order.
    """
    words = re.sub(r"\([^)]*\)", " ", name.replace("×", " × ")).split()
    hybrid = "×" in words[1:2]
    words = [word for word in words if word != "×"]
    if len(words) < 2 or not words[0].isalpha() or not words[0][0].isupper():
        return "", ""
    epithets = []
    for word in words[1:]:
        mark = word.lower().rstrip(".")
        if mark in _INFRASPECIFIC and epithets:
            continue
        if mark in _OPEN or not re.fullmatch(r"[^\W\d_]+(-[^\W\d_]+)*", word) or not word.islower():
            break
        if mark in {"and", "et", "ex", "in", "von", "van", "de", "da", "del", "la", "den", "der"}:
            break  # authors' particles
        epithets.append(word)
    if not epithets:
        return words[0], ""
    return words[0], ("×" if hybrid else "") + " ".join(epithets[:2])


@dataclass(frozen=True)
class TaxonEntry:
    """A taxon of a dataset with its names and its number of images in each split."""

    taxon: Taxon
    scientific_name: str
    vernacular_name: str
    counts: dict[str, int] = field(default_factory=dict, compare=False)
