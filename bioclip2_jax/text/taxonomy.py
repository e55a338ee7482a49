"""Lineages of organisms: seven Darwin Core ranks, any of which may be unknown."""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bioclip2_jax.text.names import (
    clean,
    family_of,
    is_uncertain,
    join_below_species,
    split_scientific_name,
    split_species,
    tidy,
    uninomial,
)

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")

# What people call a column of a lineage, as `normal` writes it, the best name first. Exports of
# iNaturalist write taxon_family_name.
COLUMNS = {rank: (rank, f"taxon{rank}name") for rank in RANKS} | {
    "class": ("class", "cls", "classname", "taxonclassname"),
    "genus": ("genus", "taxongenusname"),
    "generic name": ("genericname",),
    "epithet": ("specificepithet", "speciesepithet"),
    "below species": ("infraspecificepithet", "subspecies", "taxonsubspeciesname"),
}

# What else `from_row` looks at.
MORE_COLUMNS = {"rank": ("taxonrank",), "whole name": ("scientificname",)}
_RANK_NAMES = {rank: rank for rank in RANKS} | {
    "regnum": "kingdom",
    "division": "phylum",
    "divisio": "phylum",
    "classis": "class",
    "ordo": "order",
    "familia": "family",
    "fam": "family",
    "gen": "genus",
}
# Other names of kingdoms.
KINGDOMS = {
    "Metazoa": "Animalia",
    "Archaeplastida": "Plantae",
    "Chloroplastida": "Plantae",
    "Viridiplantae": "Plantae",
}


@dataclass(frozen=True, order=True, slots=True)
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
        capitalised, epithets lower-cased, null-like values and placeholders ("unplaced",
        "Genus indet.", "uncultured fungus", codes of traps and barcodes) dropped; Metazoa becomes
        Animalia and the clades of green plants Plantae (BioCLIP, `naming.py`). Authors, subgenera,
        open nomenclature ("sp.", "cf. arctos", "arctos?") and a repeated genus are cut from the
        epithet. Where `species` is a whole binomial of the genus column, `specificEpithet` and
        `genericName` may belong to a synonym in `scientificName` (GBIF), and `species` counts.
        `scientificName` fills in a missing genus or epithet, but never contradicts the genus
        column, and the rank above species that `taxonRank` says it is of. An epithet without any
        genus is dropped: it names nothing.
        """
        return _reader(tuple(row))(row)


@functools.lru_cache(16)
def _reader(headers: tuple[object, ...]) -> Callable[[Mapping], Taxon]:
    """What reads the rows of a table with these headers, each set of cells once."""
    columns = {
        meaning: [header for name in names for header in headers if normal(str(header)) == name]
        for meaning, names in (COLUMNS | MORE_COLUMNS).items()
    }
    used = [header for candidates in columns.values() for header in candidates]
    places = {meaning: [used.index(h) for h in names] for meaning, names in columns.items()}

    @functools.lru_cache(1 << 13)
    def read(cells: tuple[str, ...]) -> Taxon:
        first = {
            meaning: next((name for place in where if (name := tidy(cells[place]))), "")
            for meaning, where in places.items()
        }
        return _taxon(first)

    def read_row(row: Mapping) -> Taxon:
        cells = [row[header] for header in used]
        return read(tuple([cell if isinstance(cell, str) else clean(cell) for cell in cells]))

    return read_row


def _taxon(cells: Mapping[str, str]) -> Taxon:
    """The lineage that tidy cells name; their keys are those of `COLUMNS` and `MORE_COLUMNS`."""
    higher = [uninomial(cells[rank]) for rank in RANKS[:5]]
    genus_cell, species_cell, whole_name = (cells[c] for c in ("genus", "species", "whole name"))
    rank = _RANK_NAMES.get(cells["rank"].lower(), "species")
    if rank == "genus":
        genus_cell = genus_cell or whole_name
    elif rank != "species":
        place = RANKS.index(rank)
        higher[place] = higher[place] or uninomial(whole_name)
    higher[0] = KINGDOMS.get(higher[0], higher[0])
    if not genus_cell and not split_species(species_cell, "")[0]:
        genus_cell = cells["generic name"]

    genus, epithet = split_species(species_cell, genus_cell)
    own = split_species(cells["epithet"], genus)[1]
    read = ((epithet, species_cell), (own, cells["epithet"]))
    is_doubted = any(not name and is_uncertain(cell) for name, cell in read)
    is_binomial = species_cell[:1].isupper() and species_cell.lower().startswith(
        f"{genus.lower()} "
    )
    is_synonym = bool(own and epithet and is_binomial and _first(own) != _first(epithet))
    if not is_synonym:
        epithet = own or epithet
    if not (genus and epithet):
        named = split_scientific_name(whole_name)
        if not genus:
            genus, epithet = named
        elif named[0] == genus:
            epithet = epithet or named[1]
    if is_doubted:
        epithet = ""  # whatever the other columns say
    if epithet and " " not in epithet and cells["below species"] and not is_synonym:
        epithet = join_below_species(genus, epithet, cells["below species"])
    if not genus:
        higher[4] = higher[4] or family_of(genus_cell)
    elif not epithet and genus in higher:
        genus = ""  # "Coleoptera sp.", or a table that repeats the last name it knows
    return Taxon(*higher, genus=genus, species=epithet if genus else "")


def _first(epithet: str) -> str:
    return epithet.removeprefix("×").split()[0]


@dataclass(frozen=True)
class TaxonEntry:
    """A taxon of a dataset with its names and its number of images in each split."""

    taxon: Taxon
    scientific_name: str
    vernacular_name: str
    counts: dict[str, int] = field(default_factory=dict, compare=False)


@functools.lru_cache(4096)
def normal(header: str) -> str:
    """A column name without namespace, case, blanks, dots, dashes and underscores."""
    return re.sub(r"[\s_.-]", "", re.split("[:/]", header)[-1].lower())
