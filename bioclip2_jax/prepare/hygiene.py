"""Keeps lineages clean: corrections that a curator wrote, and a report of what needs some.

A table of corrections has rows of two kinds, in one file or each in its own:

    rank,name,correct,within
    genus,Bombas,Bombus,
    species,Bombus terestris,terrestris,
    family,Ficidae,Moraceae,Plantae
    order,Caenogastropoda,unknown,

renames `name`, as `taxa.csv` writes it, wherever it stands at `rank`. A species is a binomial, or
an epithet of any genus; where `correct` is a binomial, it moves to that genus. "unknown" leaves a
hole. `within`, which may be left out or empty, limits a row to what is below a name, since genera
of plants and animals may share theirs. And

    scientificName,order,family,genus,species
    Felis pajeros,Carnivora,Felidae,Leopardus,colocola

replaces the lineage of the taxon of that name (not of those below it) at the ranks which the table
has, holes included.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import OSA

from bioclip2_jax.data.tables import open_table
from bioclip2_jax.errors import UserError
from bioclip2_jax.text.names import clean, split_species, tidy, uninomial
from bioclip2_jax.text.taxonomy import COLUMNS, RANKS, Taxon, normal

_RENAMES = ("rank", "name", "correct")
_GENUS, _SPECIES = RANKS.index("genus"), RANKS.index("species")
_LINEAGES_OF_A_NAME = 20  # the commonest are compared with each other
_NAMES_AT_A_TIME = 100_000  # whose spellings are compared in memory


class Rule(NamedTuple):
    """What becomes of a lineage: names from kingdom to epithet, None for those that stay."""

    correct: tuple[str | None, ...]
    within: str  # a name above, "" for any
    line: int


@dataclass(frozen=True)
class Corrections:
    """What a curator knows better; without rules nothing is changed.

    Attributes:
      names: (place of the rank, wrong name) → rules.
      lineages: scientific name → rules.
    """

    names: Mapping[tuple[int, str], Sequence[Rule]] = field(default_factory=dict)
    lineages: Mapping[str, Sequence[Rule]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Corrections":
        """Reads a table of corrections.

        Raises:
          UserError: not such a table; or a row with an unknown rank, an empty cell, what is no
            name, or another correction of a name that was corrected before.
        """
        table = open_table(path)
        columns = {name: table.column((name,)) for name in (*_RENAMES, "within", "scientificname")}
        replaced = [place for place, rank in enumerate(RANKS) if table.columns(_headers(rank))]
        has_renames = all(columns[name] for name in _RENAMES)
        if not has_renames and not (columns["scientificname"] and replaced):
            raise UserError(
                f"{path}: a table of corrections has the columns rank, name and correct, or"
                " scientificName and the ranks to replace"
            )
        names: dict[tuple[int, str], list[Rule]] = {}
        lineages: dict[str, list[Rule]] = {}
        for line, row in table.rows():
            cells = {name: row[column] if column else "" for name, column in columns.items()}
            try:
                if has_renames and (cells["name"] or not cells["scientificname"]):
                    key, correct = _rename(cells)
                    rules = names.setdefault(key, [])
                else:
                    key, correct = _replacement(row, cells["scientificname"], replaced)
                    rules = lineages.setdefault(key, [])
                _add(rules, Rule(correct, uninomial(tidy(cells["within"])), line))
            except ValueError as error:
                raise UserError(f"{path}, line {line}: {error}") from error
        return cls(names=names, lineages=lineages)

    def apply(self, taxon: Taxon, scientific_name: str = "") -> Taxon:
        """The taxon with its lineage replaced, or else with its names corrected from kingdom down.

        Args:
          taxon: as it was read.
          scientific_name: as the source writes it; rows may be about what `taxon` does not tell.
        """
        names = ranks = taxon.ranks
        for name in (taxon.scientific_name, _key_of(scientific_name)) if self.lineages else ():
            rule = _rule_for(self.lineages.get(name, ()), ranks[:_SPECIES])
            if rule:
                return Taxon(*_corrected(ranks, rule))
        if not self.names:
            return taxon
        for place, name in enumerate(ranks[:_SPECIES]):
            rule = _rule_for(self.names.get((place, name), ()), ranks[:place] + names[:place])
            names = _corrected(names, rule)
        return Taxon(*(self._with_species(taxon, names) if taxon.species else names))

    def _with_species(self, taxon: Taxon, names: tuple[str, ...]) -> tuple[str, ...]:
        """`names` with the epithet corrected, below its old genus or the corrected one."""
        epithet, _, below = taxon.species.partition(" ")
        above = taxon.ranks[:_SPECIES] + names[:_SPECIES]
        for wrong, kept in ((taxon.species, ""), (epithet, below)):
            for key in (f"{taxon.genus} {wrong}", f"{names[_GENUS]} {wrong}", wrong):
                rule = _rule_for(self.names.get((_SPECIES, key), ()), above)
                if rule:
                    *higher, species = _corrected(names, rule)
                    return (*higher, f"{species} {kept}".strip() if species else "")
        return names


def _headers(rank: str) -> tuple[str, ...]:
    return COLUMNS[rank] + (COLUMNS["epithet"] if rank == "species" else ())


def _rename(cells: Mapping[str, str]) -> tuple[tuple[int, str], tuple[str | None, ...]]:
    """((place, wrong name), what is right); raises ValueError."""
    for column in _RENAMES:
        if not cells[column]:
            raise ValueError(f"the cell of {column!r} is empty")
    rank = cells["rank"].lower()
    if rank not in RANKS:
        raise ValueError(f"there is no rank {cells['rank']!r}; choose one of {', '.join(RANKS)}")
    place = RANKS.index(rank)
    wrong, right = _names_at(rank, cells["name"]), _names_at(rank, cells["correct"])
    for column, names in (("name", wrong), ("correct", right)):
        if not names[place] and (column == "name" or clean(cells[column])):
            raise ValueError(f"{cells[column]!r} cannot be read as a name of the rank {rank}")
    if wrong == right:
        raise ValueError(f"{cells['name']!r} and {cells['correct']!r} are read alike")
    key = " ".join(filter(None, wrong[_GENUS:])) if rank == "species" else wrong[place]
    correct = (name if name or here == place else None for here, name in enumerate(right))
    return (place, key), tuple(correct)


def _names_at(rank: str, cell: str) -> tuple[str, ...]:
    """The cell as lineages write it; a species with its genus, if the cell has that."""
    if rank == "species":
        return ("",) * _GENUS + split_species(tidy(cell), "")
    return Taxon.from_row({rank: cell}).ranks


def _replacement(
    row: Mapping[str, str], scientific_name: str, replaced: Sequence[int]
) -> tuple[str, tuple[str | None, ...]]:
    """(scientific name, what is right); raises ValueError."""
    key = _key_of(scientific_name)
    if not key:
        raise ValueError("the cell of 'scientificName' is empty or names nothing")
    by_header = {normal(header): cell for header, cell in row.items()}
    cells = {name: by_header.get(name, "") for rank in RANKS for name in _headers(rank)}
    ranks = Taxon.from_row(cells).ranks
    if not any(ranks):
        raise ValueError(f"no rank of {scientific_name!r} is filled")
    if not ranks[_SPECIES] and any(clean(cells[name]) for name in _headers("species")):
        raise ValueError("the species cannot be read; give its epithet and its genus")
    places = {*replaced, *([_GENUS] if ranks[_GENUS] else [])}
    return key, tuple(name if place in places else None for place, name in enumerate(ranks))


def _key_of(scientific_name: str) -> str:
    """What a scientific name is known by: its binomial, or else all of it."""
    taxon = Taxon.from_row({"scientificName": scientific_name})
    return taxon.scientific_name if taxon.species else tidy(scientific_name)


def _add(rules: list[Rule], rule: Rule) -> None:
    for other in rules:
        if other.within == rule.within and other.correct != rule.correct:
            raise ValueError(f"line {other.line} corrects the same name to something else")
    rules.append(rule)


def _rule_for(rules: Sequence[Rule], above: Sequence[str]) -> Rule | None:
    """The first rule within one of the names above, or else the one for all."""
    narrow = next((rule for rule in rules if rule.within and rule.within in above), None)
    return narrow or next((rule for rule in rules if not rule.within), None)


def _corrected(names: tuple[str, ...], rule: Rule | None) -> tuple[str, ...]:
    if rule is None:
        return names
    pairs = zip(names, rule.correct, strict=True)
    return tuple(name if correct is None else correct for name, correct in pairs)


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Two things in the lineages that may be one.

    Attributes:
      kind: "parents" for a name below two, "homonym" for one in two kingdoms, "spelling" for two
        names that differ by a letter, or by two neighbours that changed places.
      rank: of the names.
      name, other: the one with more pictures first; the same name unless the spelling is meant.
      parent, other_parent: the names above them.
      images, other_images: pictures of each.
    """

    kind: str
    rank: str
    name: str
    other: str
    parent: str
    other_parent: str
    images: int
    other_images: int


def conflicts(taxa: Mapping[Taxon, int]) -> list[Conflict]:
    """What in the lineages contradicts itself or looks like a slip of the pen.

    These are names from phylum to genus with two parents of one rank (holes contradict nothing),
    and names of one rank that are spelt nearly alike: genera anywhere, epithets within their genus,
    others unless their parents differ. Many a pair is right; the more unequal the numbers of
    pictures, the earlier it comes, and homonyms of different kingdoms come last.

    Args:
      taxa: lineage → number of pictures.
    """
    rows: list[Conflict] = []
    epithets: dict[str, Counter[str]] = {}
    lineages: Counter[tuple[str, ...]] = Counter()
    for taxon, images in taxa.items():
        *higher, species = taxon.ranks
        lineages[tuple(higher)] += images
        if species:
            epithets.setdefault(taxon.genus, Counter())[species.partition(" ")[0]] += images
    for rank in reversed(RANKS[:_SPECIES]):
        above: dict[str, Counter[tuple[str, ...]]] = {}
        shorter: Counter[tuple[str, ...]] = Counter()
        for (*higher, name), images in lineages.items():
            shorter[tuple(higher)] += images
            if name:
                above.setdefault(name, Counter())[tuple(higher)] += images
        rows += _two_parents(rank, above)
        rows += _alike(rank, above)
        lineages = shorter
    rows += _alike_epithets(epithets)
    return sorted(rows, key=_suspicion)


def _suspicion(row: Conflict) -> tuple:
    unequal = row.images / max(row.other_images, 1)
    return row.kind == "homonym", -unequal, row.kind, row.name, row.other, row.other_parent


def _two_parents(rank: str, above: Mapping[str, Counter[tuple[str, ...]]]) -> Iterator[Conflict]:
    """Names whose lineages contradict each other at the lowest rank that both of them know."""
    for name, lineages in above.items():
        kinds: dict[tuple[int, str, str], str] = {}
        for one, two in itertools.combinations(_commonest(lineages), 2):
            place = _lowest_common(one, two)
            if place is not None and one[place] != two[place]:
                kind = "homonym" if one[0] and two[0] and one[0] != two[0] else "parents"
                first, second = sorted((one[place], two[place]))
                key = (place, first, second)
                kinds[key] = max(kinds.get(key, ""), kind)  # "parents", if any pair says so
        for (place, *parents), kind in kinds.items():
            images = Counter({parent: 0 for parent in parents})
            for lineage, count in lineages.items():
                if lineage[place] in images:
                    images[lineage[place]] += count
            yield _conflict(kind, rank, [(images[parent], name, parent) for parent in parents])


def _alike(rank: str, above: Mapping[str, Counter[tuple[str, ...]]]) -> Iterator[Conflict]:
    """Names of a rank above species that are spelt nearly alike."""
    for names in _neighbours([("", name) for name in sorted(above)]):
        one, two = (_commonest(above[name])[0] for _, name in names)
        place = _lowest_common(one, two)
        if rank == "genus" or place is None or one[place] == two[place]:
            parents = (next(filter(None, reversed(lineage)), "") for lineage in (one, two))
            pair = zip(names, parents, strict=True)
            yield _conflict(
                "spelling",
                rank,
                [(above[name].total(), name, parent) for (_, name), parent in pair],
            )


def _alike_epithets(epithets: Mapping[str, Counter[str]]) -> Iterator[Conflict]:
    """Epithets of one genus that are spelt nearly alike; names below species do not count."""
    batch: list[tuple[str, str]] = []
    for place, genus in enumerate(sorted(epithets), 1):
        batch += [(genus, epithet) for epithet in sorted(epithets[genus])]
        if len(batch) >= _NAMES_AT_A_TIME or place == len(epithets):
            for pair in _neighbours(batch):
                sides = [(epithets[g][epithet], f"{g} {epithet}", g) for g, epithet in pair]
                yield _conflict("spelling", "species", sides)
            batch = []


def _conflict(kind: str, rank: str, sides: list[tuple[int, str, str]]) -> Conflict:
    """Of two (images, name, parent)."""
    first, second = sorted(sides, key=lambda side: (-side[0], *side[1:]))
    return Conflict(
        kind=kind,
        rank=rank,
        name=first[1],
        other=second[1],
        parent=first[2],
        other_parent=second[2],
        images=first[0],
        other_images=second[0],
    )


def _commonest(lineages: Counter[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return sorted(lineages, key=lambda names: (-lineages[names], names))[:_LINEAGES_OF_A_NAME]


def _lowest_common(one: Sequence[str], two: Sequence[str]) -> int | None:
    """The lowest rank that both lineages know."""
    known = (place for place in range(len(one) - 1, -1, -1) if one[place] and two[place])
    return next(known, None)


def _neighbours(names: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Pairs of (block, name) of one block that are one edit or swap apart.

    Such names are equal after at most one letter of each is left out; so what remains without each
    of the letters is sorted by its hash, and only names that meet there are compared.
    """
    shorter = (hash((block, rest)) for block, name in names for rest in _without_a_letter(name))
    lengths = np.array([len(name) + 1 for _, name in names], np.int64)
    keys = np.fromiter(shorter, np.int64, count=int(lengths.sum()))
    owners = np.repeat(np.arange(len(names)), lengths)
    order = np.argsort(keys, kind="stable")
    keys, owners = keys[order], owners[order]
    edges = np.flatnonzero(np.diff(keys)) + 1
    starts, ends = np.r_[0, edges], np.r_[edges, len(keys)]
    pairs: set[tuple[int, int]] = set()
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        pairs.update(itertools.combinations(sorted({*owners[start:end].tolist()}), 2))
    for one, two in sorted(pairs):
        pair = [names[one], names[two]]
        if pair[0][0] == pair[1][0] and OSA.distance(pair[0][1], pair[1][1], score_cutoff=1) == 1:
            yield pair


def _without_a_letter(name: str) -> Iterable[str]:
    yield name
    for place in range(len(name)):
        yield name[:place] + name[place + 1 :]
