"""Lineages of organisms: seven Darwin Core ranks, any of which may be unknown."""

import functools
import html
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")

# What people call a column of a lineage, as `normal` writes it, the best name first. Exports of
# iNaturalist write taxon_family_name.
COLUMNS = {rank: (rank, f"taxon{rank}name") for rank in RANKS} | {
    "class": ("class", "cls", "classname", "taxonclassname"),
    "genus": ("genus", "genericname", "taxongenusname"),
    "epithet": ("specificepithet", "speciesepithet"),
    "below species": ("infraspecificepithet", "subspecies", "taxonsubspeciesname"),
}

_NULL = re.compile(
    r"[\W_]*|unknown|null|none|nil|nan|n/?a|n\.a|#n/a|<na>|not (available|applicable)"
    r"|un(identified|determined|classified|assigned)|incertae sedis",
    re.IGNORECASE,
)
_KINGDOMS = {
    "Metazoa": "Animalia",
    "Archaeplastida": "Plantae",
    "Chloroplastida": "Plantae",
    "Viridiplantae": "Plantae",
}

_GENUS = re.compile(r"×?[^\W\d_]{2,}(-[^\W\d_]+)?")
_EPITHET = re.compile(r"×?(\d+-)?[^\W\d_]{2,}([-'’][^\W\d_]+)*")
# Open nomenclature: the name before the mark is known, the one behind it is not.
_OPEN = re.compile(r"(x|sp|spp|spec|cf|aff|nr|indet|ined|gen)\.?\d*")
_BELOW_SPECIES = re.compile(r"(notho)?(subsp|ssp|var|subvar|f|fo|forma)")
# Words in lower case that follow a name without being part of it, mostly of its authors.
_NO_EPITHET = re.compile(
    r"agg|auct|group|complex|sensu|non|nom|hort|cv|pro|and|et|al|ex|in|von|van|der|den|de|da|del"
    r"|della|di|do|dos|du|la|le|el|ter|ten|zu|zur|af|av"
)
_VIRUS = re.compile(r"(virus|viroid|phage)\b", re.IGNORECASE)


def clean(value: object) -> str:
    """A name without HTML entities, surplus blanks and trailing dots; '' for null-like values."""
    text = "" if value is None else str(value)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    text = " ".join(text.split()).rstrip(". ")
    return "" if _NULL.fullmatch(text) else text


@dataclass(frozen=True, order=True)
class Taxon:
    """One lineage. Unknown ranks are empty and may lie between known ones.

    `species` is the specific epithet, with a subspecies after a blank ("arctos syriacus") and the
    hybrid sign, if any, right before it ("×domestica").
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
        higher = (self.kingdom, self.phylum, self.class_, self.order, self.family)
        return (*higher, self.genus, self.species)

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
        """Reads a table row with the headers of Darwin Core, iNaturalist, pybioclip or our own.

        Headers may differ in case, blanks, underscores and namespace ("dwc:genus"). Ranks are
        capitalised, epithets lower-cased, null-like values dropped; Metazoa becomes Animalia and
        the clades of green plants Plantae (BioCLIP, `naming.py`). Authors, open nomenclature
        ("sp.", "cf. arctos") and a repeated genus are cut from the epithet. `scientificName` fills
        in a missing genus or epithet, but never contradicts the genus column, and the rank above
        species that `taxonRank` says it is of. An epithet without any genus is dropped: it names
        nothing.
        """
        cells: dict[str, str] = {}
        for key, value in row.items():
            header = normal(str(key))
            cells[header] = cells.get(header) or clean(value)

        def cell(column: str) -> str:
            return next((cells[name] for name in COLUMNS[column] if cells.get(name)), "")

        known = {rank: cell(rank) for rank in RANKS}
        rank, whole_name = cells.get("taxonrank", "").lower(), cells.get("scientificname", "")
        if rank in RANKS[:6] and not known[rank]:
            known[rank] = _uninomial(whole_name)
        higher = [_capitalize(known[rank]) for rank in RANKS[:5]]
        higher[0] = _KINGDOMS.get(higher[0], higher[0])
        genus, epithet = _split_species(known["species"], known["genus"])
        epithet = _split_species(cell("epithet"), genus)[1] or epithet
        if not (genus and epithet):
            named = _split_scientific_name(whole_name)
            if not genus:
                genus, epithet = named
            elif named[0] == genus:
                epithet = epithet or named[1]
        if epithet and " " not in epithet:
            below = cell("below species").split()
            # A whole trinomial may stand here; its genus and epithet are known by now.
            below = below[2:] if below and _capitalize(below[0]) == genus else below
            words = [epithet, *(word.lower() for word in below[:1]), *below[1:]]
            epithet = _epithet(words, lenient=True)
        return cls(*higher, genus=genus, species=epithet if genus else "")


@dataclass(frozen=True)
class TaxonEntry:
    """A taxon of a dataset with its names and its number of images in each split."""

    taxon: Taxon
    scientific_name: str
    vernacular_name: str
    counts: dict[str, int] = field(default_factory=dict, compare=False)


@functools.lru_cache(1024)
def taxon_ids(taxon: Taxon, scientific_name: str) -> tuple[int, ...]:
    """A number for the taxon at each rank, kingdom to species; -1 where the rank is unknown.

    Lineages count, not names alone, so homonyms differ. The last number is never -1: where the
    species is unknown the scientific name stands for it. Distinct taxa share a number with a chance
    of 1 in 2^31.
    """
    ids = [
        zlib.crc32("|".join(taxon.ranks[: depth + 1]).encode()) >> 1 if name else -1
        for depth, name in enumerate(taxon.ranks)
    ]
    if ids[-1] == -1:
        ids[-1] = zlib.crc32("|".join([*taxon.ranks, scientific_name]).encode()) >> 1
    return tuple(ids)


@functools.lru_cache(4096)
def normal(header: str) -> str:
    """A column name without namespace, case, blanks, dots, dashes and underscores."""
    return re.sub(r"[\s_.-]", "", re.split("[:/]", header)[-1].lower())


def _attach_hybrid_signs(name: str) -> str:
    """'Malus x domestica' and 'Malus × domestica' as 'Malus ×domestica'."""
    return re.sub(r"(?<!\S)(?:[xX×✕]\s+|[×✕])(?=\w)", "×", name)


def _capitalize(name: str) -> str:
    name = _attach_hybrid_signs(name)
    sign = name[:1] if name[:1] in ("×", "+") else ""
    name = name.removeprefix(sign).strip()
    return sign + name.capitalize()


def _split_species(species: str, genus: str) -> tuple[str, str]:
    """(genus, epithet) from a `species` cell, an epithet or a whole binomial, and a `genus` cell.

    The genus cell wins over the genus of a binomial, as in the original.
    """
    if " " in genus and species.lower().startswith(f"{genus.lower()} "):
        species = species[len(genus) + 1 :]  # "Candidatus Phytoplasma"
    words = _words(species.lower().capitalize() if species.isupper() else species)
    named = _capitalize(genus)
    if _VIRUS.search(" ".join(words[1:])):
        return named, species.lower()  # "Tobacco mosaic virus" is no binomial
    if len(words) > 1:
        first, rest = words[0], words[1:]
        # "gorilla gorilla" beside "Gorilla" is a subspecies, beside "gorilla" a binomial.
        is_written_high = first.removeprefix("×")[:1].isupper()
        is_known_genus = first == genus or (is_written_high and _capitalize(first) == named)
        if not genus and _is_genus(first):
            named, words = _capitalize(first), rest
        elif is_known_genus or (is_written_high and rest[0].islower()):
            words = rest
    elif words == [named] and not species.isupper() and species != species.lower():
        words = []  # the genus once more; the epithet of a tautonym is in lower case
    if any(word[0] == "×" for word in words[1:]):
        return named, _cross(words)
    return named, _epithet(words, lenient=True)


def _split_scientific_name(name: str) -> tuple[str, str]:
    """(genus, epithet) of a `scientificName`; ('', '') for anything but a clear species name.

    A single word is not taken for a genus: it may as well be a family or an order.
    """
    words = _words(name)
    if len(words) < 2 or not _is_genus(words[0]) or not words[0].istitle():
        return "", ""
    parents = [word[1:].rstrip(".") for word in words[1:] if word[0] == "×"]
    if any(not parent.islower() or _OPEN.fullmatch(parent) for parent in parents):
        return "", ""  # another genus, or no species at all
    if _VIRUS.search(" ".join(words[1:])):
        return "", ""
    epithet = _epithet(words[1:], lenient=False)
    return (words[0], epithet) if epithet or _OPEN.fullmatch(words[1].lower()) else ("", "")


def _uninomial(name: str) -> str:
    """The name of a taxon above species without its authors; '' if there is none."""
    word = "".join(_words(name)[:1])
    return word if _is_genus(word) and word != "Candidatus" else ""


def _is_genus(word: str) -> bool:
    return bool(clean(word) and _GENUS.fullmatch(word) and not _OPEN.fullmatch(word.lower()))


def _words(name: str) -> list[str]:
    """Words of a name without subgenera and authors in brackets; hybrid signs attached.

    The second parent of a cross loses its genus: "Canis lupus × C. latrans" → "lupus ×latrans".
    """
    name = _attach_hybrid_signs(re.sub(r"\([^)]*\)", " ", name))
    if "×" in name:
        genus = name.partition(" ")[0]
        name = re.sub(rf"×({re.escape(genus)}|{re.escape(genus[:1])}\.)\s+", "×", name)
    return name.split()


def _cross(words: list[str]) -> str:
    """The epithets of a cross of two species; '' where a parent is not named to the species."""
    first = _epithet(words[:1], lenient=True)
    others = [word.lower() for word in words[1:] if word[0] == "×" or word.islower()]
    are_named = all(
        _EPITHET.fullmatch(parent) and not _OPEN.fullmatch(parent.removeprefix("×"))
        for parent in others
    )
    return " ".join([first, *others]) if first and are_named else ""


def _is_epithet(word: str) -> bool:
    is_part_of_authors = _NO_EPITHET.fullmatch(word.lower().rstrip("."))
    is_word = word.islower() and clean(word) and _EPITHET.fullmatch(word)
    return bool(is_word and not is_part_of_authors)


def _epithet(words: list[str], *, lenient: bool) -> str:
    """The specific and, if any, the lowest-ranked infraspecific epithet that `words` begin with.

    Args:
      words: what follows the genus, authors and rank marks included.
      lenient: takes the first word whatever it looks like (the column says it is an epithet).
    """
    epithets: list[str] = []
    expected = True  # whether an epithet may stand here: at the start and behind a rank mark
    for word in words:
        mark = word.lower().rstrip(".")
        is_rank = _BELOW_SPECIES.fullmatch(mark)
        is_no_name = is_rank or not clean(word)
        if _OPEN.fullmatch(mark.removeprefix("×")) or (is_no_name and not epithets):
            break
        if is_rank:
            expected = True
        elif not epithets and lenient and len(mark) > 1:
            epithets = [clean(word.lower())]
        elif expected and _is_epithet(word):
            expected = not epithets
            epithets = [*epithets[:1], word]
        elif not epithets:
            break
        else:
            expected = False
    return " ".join(epithets)
