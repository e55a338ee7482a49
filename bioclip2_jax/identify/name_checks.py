"""What is wrong with lists of names, and parts of them: a score must not be split in silence."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rapidfuzz import fuzz, process

from bioclip2_jax.data.tables import SCIENTIFIC_NAME_COLUMNS, normal
from bioclip2_jax.errors import UsageError
from bioclip2_jax.prepare.hygiene import conflicts
from bioclip2_jax.text.taxonomy import COLUMNS, RANKS, Taxon

Names = dict[Taxon, str]  # → common name

ACCEPTED_COLUMNS = ("acceptednameusage", "acceptedscientificname", "acceptedname")
_OF_THE_NAME = frozenset(SCIENTIFIC_NAME_COLUMNS).union(
    *(COLUMNS[kind] for kind in ("genus", "generic name", "species", "epithet", "below species"))
)
_MOST_COMPARED = 200_000  # names whose spellings are compared with each other
_SHOWN = 10  # of one kind
_LIKE = 80  # of 100, how much alike a name is that may be meant


def accepted_taxon(row: Mapping[str, str]) -> tuple[Taxon, str]:
    """The taxon of a row of a table, and what it is a synonym of; "" for most."""
    own = Taxon.from_row(row)
    accepted = next((row[h] for h in row if normal(h) in ACCEPTED_COLUMNS and row[h]), "")
    if not accepted:
        return own, ""
    above = {header: cell for header, cell in row.items() if normal(header) not in _OF_THE_NAME}
    other = Taxon.from_row({**above, "scientificName": accepted})
    if not other.genus or (own.species and not other.species):
        return own, ""
    if other.scientific_name == own.scientific_name:
        return own, ""
    return other, own.scientific_name


def without_doubles(names: Names) -> tuple[Names, list[str]]:
    """One entry of each name whose lineages do not contradict each other, the fullest.

    Returns:
      The names, in their order; and what was joined, and what may be one and is not.
    """
    places: dict[tuple[str, ...], list[int]] = {}  # what may be the same
    kept: list[tuple[Taxon, str]] = []
    joined = []
    for taxon, common in names.items():
        same = places.setdefault((taxon.deepest_rank or "", taxon.scientific_name), [])
        twin = next((place for place in same if _agree(taxon, kept[place][0])), None)
        if twin is None:
            same.append(len(kept))
            kept.append((taxon, common))
            continue
        other, known = kept[twin]
        whole = Taxon(*(a or b for a, b in zip(other.ranks, taxon.ranks, strict=True)))
        kept[twin] = whole, known or common
        joined.append(f"{taxon.scientific_name} is listed with several lineages; it counts once")
    notes = shortened(joined)
    if len(kept) <= _MOST_COMPARED:
        notes += suspicions(taxon for taxon, _ in kept)
    return dict(kept), notes


def _agree(one: Taxon, two: Taxon) -> bool:
    return all(a == b or not a or not b for a, b in zip(one.ranks, two.ranks, strict=True))


def suspicions(taxa: Iterable[Taxon]) -> list[str]:
    """Names that may be one: spelt nearly alike, or below two others."""
    alike, split = [], []
    for row in conflicts(dict.fromkeys(taxa, 1)):
        if row.kind == "spelling":
            alike.append(
                f"{row.name} and {row.other} are spelt nearly alike; if they are one {row.rank},"
                " correct the list: its score is split between them"
            )
        elif row.kind == "parents":
            split.append(
                f"{row.name} ({row.rank}) stands below {row.parent} and {row.other_parent}; if one"
                " of them is wrong, correct the list: its score is split between them"
            )
    return shortened(alike) + shortened(split)


def shortened(notes: Sequence[str]) -> list[str]:
    """The first of many notes, and how many there are more."""
    rest = len(notes) - _SHOWN
    return [*notes[:_SHOWN], f"… and {rest:,} more such names"] if rest > 0 else [*notes]


# ---- Parts of a list


def part_of(
    taxa: Sequence[Taxon], within: Sequence[str], without: Sequence[str], place: str
) -> tuple[np.ndarray, list[str]]:
    """The taxa below any of some names and below none of others.

    Args:
      taxa: the list.
      within: "RANK=NAME" each; none for all.
      without: likewise.
      place: of the list, for errors.

    Returns:
      [taxa] bool, and notes.

    Raises:
      UsageError: no RANK=NAME, or the list has no such name or nothing is left of it.
    """
    notes: list[str] = []
    chosen = np.ones(len(taxa), bool)
    if within:
        masks = [_below(taxa, text, "--within", place, notes) for text in within]
        chosen = np.logical_or.reduce(masks)
    for text in without:
        chosen &= ~_below(taxa, text, "--without", place, notes)
    if not chosen.any():
        raise UsageError(f"{place}: --within and --without leave no name of it")
    return chosen, notes


def _below(
    taxa: Sequence[Taxon], text: str, option: str, place: str, notes: list[str]
) -> np.ndarray:
    rank, _, name = (part.strip() for part in text.partition("="))
    rank, name = rank.lower(), " ".join(name.replace("_", " ").split())
    if rank not in RANKS or not name:
        raise UsageError(
            f"{option} {text}: write RANK=NAME, such as {option} class=Insecta; ranks are"
            f" {', '.join(RANKS)}"
        )
    mask = _has(taxa, rank, name)
    if mask.any():
        return mask
    others = [(other, found) for other in RANKS if (found := _has(taxa, other, name)).any()]
    if len(others) == 1:  # a slip that leaves no doubt
        notes.append(f"{option} {text}: {name} is a {others[0][0]}, which is taken")
        return others[0][1]
    known = {names[-1] for taxon in taxa if (names := _names(taxon, rank))}
    if not known:
        raise UsageError(f"{option} {text}: no name of {place} has its {rank}")
    raise UsageError(f"{option} {text}: no {rank} of {place} is called so{meant(name, known)}")


def _names(taxon: Taxon, rank: str) -> tuple[str, ...]:
    """What a taxon is called at a rank: of a subspecies, also as its species."""
    if rank != "species":
        name = taxon.ranks[RANKS.index(rank)]
        return (name,) if name else ()
    if not (taxon.genus and taxon.species):
        return ()
    return taxon.scientific_name, f"{taxon.genus} {taxon.species.split()[0]}"


def _has(taxa: Sequence[Taxon], rank: str, name: str) -> np.ndarray:
    name = name.casefold()
    found = (any(name == own.casefold() for own in _names(taxon, rank)) for taxon in taxa)
    return np.fromiter(found, bool, len(taxa))


def by_name(taxa: Sequence[Taxon]) -> dict[tuple[str, str], list[int]]:
    """(rank, name) → the numbers of the taxa that have it there, of all ranks."""
    rows: dict[tuple[str, str], list[int]] = {}
    for number, taxon in enumerate(taxa):
        for rank in RANKS:
            for name in {*_names(taxon, rank)}:
                rows.setdefault((rank, name), []).append(number)
    return rows


def listed(
    taxa: Sequence[Taxon], wanted: Sequence[Taxon], place: str
) -> tuple[np.ndarray, list[str]]:
    """The taxa that a list names; of a name above species, all that stand below it.

    Args:
      taxa: that there are features of.
      wanted: the list.
      place: of the list, for errors.

    Returns:
      [taxa] bool; and of each name that is not among them, the nearest that is.

    Raises:
      UsageError: not one is.
    """
    chosen, missing, rows = np.zeros(len(taxa), bool), [], by_name(taxa)
    for taxon in wanted:
        rank = taxon.deepest_rank or ""
        found = rows.get((rank, taxon.scientific_name))
        if found is None:
            missing.append((rank, taxon.scientific_name))
        else:
            chosen[found] = True
    notes = []
    for rank, name in missing[: _SHOWN + 1]:
        known = [other for other_rank, other in rows if other_rank == rank]
        notes.append(f"{place}: {name} is not among the names{meant(name, known)}")
    notes += [""] * (len(missing) - len(notes))
    if not chosen.any():
        raise UsageError(notes[0] if notes else f"{place}: names nothing")
    return chosen, shortened(notes)


def meant(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names, as the end of a sentence; "" if none is near."""
    near = process.extractOne(name, known, scorer=fuzz.ratio, score_cutoff=_LIKE)
    return f"; did you mean {near[0]}?" if near else ""
