"""Sensitive species, whose coordinates are made coarse or left out of what others may see.

A rule holds for the place, not for the row alone: whoever knows where the pictures beside it were
taken knows all. Its callers therefore take the coarsest rule of all that was seen at a place.
After A. Chapman, Current Best Practices for Generalizing Sensitive Species Occurrence Data (GBIF
2020, https://doi.org/10.15468/doc-5jp4-5g10): cells that stay where they are, never random shifts,
which many pictures average out.
"""

import math
import re
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass

from bioclip2_jax import files
from bioclip2_jax.data import tables
from bioclip2_jax.errors import UserError
from bioclip2_jax.identify import name_checks
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.text.names import uninomial
from bioclip2_jax.text.taxonomy import RANKS, Taxon

_ACTION_COLUMNS = ("action", "obscure", "rule", "coordinates")
_LATITUDE_KM = 110.57, 111.70  # a degree's least and most, at the equator and the poles
_LONGITUDE_KM = 111.32  # at the equator
_DIGITS = 5  # of a degree, a metre: of cells that no decimals describe
_ACTION = re.compile(r"(withh[oe]ld)|([\d.,]+)\s*km|(\d)\s*decimals?", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Coordinates as they may be seen, with what Darwin Core wants said of them.

    Attributes:
      latitude, longitude: in degrees; None where there are none to be seen.
      uncertainty: in metres.
      generalizations: `dataGeneralizations`.
      withheld: `informationWithheld`.
    """

    latitude: float | None = None
    longitude: float | None = None
    uncertainty: float | None = None
    generalizations: str = ""
    withheld: str = ""


@dataclass(frozen=True)
class Rule:
    """What is done to coordinates.

    Attributes:
      km: side of the cells, roughly; infinite for coordinates that are withheld.
      decimals: of a degree that are left; None for cells of so many km.
    """

    km: float
    decimals: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Reads "withhold", "10 km" or "1 decimal".

        Raises:
          ValueError: it is none of these.
        """
        match = _ACTION.fullmatch(text.strip())
        if not match:
            raise ValueError(text)
        withheld, km, decimals = match.groups()
        if withheld:
            return cls(math.inf)
        if decimals:
            return cls(_LONGITUDE_KM / 10 ** int(decimals), int(decimals))
        side = float(km.replace(",", "."))
        if not 0 < side < 10_000:
            raise ValueError(text)
        return cls(side)

    @property
    def is_withheld(self) -> bool:
        """Whether nothing is left."""
        return math.isinf(self.km)

    @property
    def degrees(self) -> float:
        """The step from a latitude to the next."""
        return self.km / _LATITUDE_KM[0] if self.decimals is None else 10.0**-self.decimals

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.is_withheld:
            return "withhold"
        return f"{self.km:g} km" if self.decimals is None else f"{self.decimals} decimals"

    def apply(self, latitude: float, longitude: float, uncertainty: float | None = None) -> Place:
        """The cell that a place is in, by its middle and what encloses it."""
        if self.is_withheld:
            return Place(withheld="coordinates are withheld because of a sensitive taxon")
        rows, digits = self.degrees, _DIGITS if self.decimals is None else self.decimals
        middle = _snapped(latitude, rows, digits, 90, at_steps=self.decimals is not None)
        columns = rows
        if self.decimals is None:
            narrow = max(math.cos(math.radians(middle)), 1e-6)
            columns = min(self.km / (_LONGITUDE_KM * narrow), 360.0)
        beside = _snapped(longitude, columns, digits, 180, at_steps=self.decimals is not None)
        nearest = max(0.0, abs(middle) - rows / 2)  # to the equator, where degrees are longest
        wide = columns * _LONGITUDE_KM * math.cos(math.radians(nearest))
        radius = 1000 * math.hypot(rows * _LATITUDE_KM[1], wide) / 2
        how = f"a grid of {self.km:g} km" if self.decimals is None else f"{self.degrees:g} degrees"
        return Place(
            latitude=middle,
            longitude=beside,
            uncertainty=math.ceil(radius + (uncertainty or 0)),
            generalizations=f"coordinates generalized to {how} because of a sensitive taxon",
        )


def _snapped(degrees: float, step: float, digits: int, most: float, *, at_steps: bool) -> float:
    """The middle of the cell: a multiple of the step where decimals are cut."""
    where = round(degrees / step) if at_steps else math.floor(degrees / step) + 0.5
    return round(max(-most, min(most, where * step)), digits)


def coarsest(rules: Iterable[Rule | None]) -> Rule | None:
    """The rule that leaves the least."""
    return max((rule for rule in rules if rule), key=lambda rule: rule.km, default=None)


def spread(
    rules: Mapping[str, Rule], places: Mapping[str, Collection[Hashable]]
) -> dict[str, Rule]:
    """The rules of all that share a place with one another: the coarsest of them.

    Args:
      rules: of some names.
      places: name → what tells where it is.
    """
    wider = dict(rules)
    while True:
        shared: dict[Hashable, Rule | None] = {}
        for name, rule in wider.items():
            for place in places[name]:
                shared[place] = coarsest([shared.get(place), rule])
        before, wider = wider, {}
        for name, own in places.items():
            if rule := coarsest([before.get(name), *map(shared.get, own)]):
                wider[name] = rule
        if wider == before:
            return wider


@dataclass(frozen=True)
class Obscured:
    """The rules for a list of names.

    Attributes:
      rules: cells of an answer → its rule; answers that nothing is said of are left out.
      notes: which of the table's names are not in the list.
    """

    rules: Mapping[tuple[str, ...], Rule]
    notes: list[str]

    def of(self, answers: Iterable[tuple[tuple[str, ...], float]]) -> Rule | None:
        """The coarsest rule of a picture's answers, the less likely ones included."""
        return coarsest(self.rules.get(tuple(cells)) for cells, _ in answers)


def read(path: str, labels: LabelSet) -> Obscured:
    """Reads a table with scientific names and an `action` each; a genus or family is all of it.

    An answer above species has the rule of each species below it that is in the list.

    Raises:
      UserError: unreadable, or a row that names no taxon or no action; names the line.
    """
    table = tables.open_table(files.place(path))
    action = table.column(_ACTION_COLUMNS)
    if not action:
        raise UserError(
            f"{path}: no column `action`; add it, with `withhold`, `10 km` or `1 decimal` in it"
        )
    whole = table.column(tables.SCIENTIFIC_NAME_COLUMNS)
    known, missing = name_checks.by_name(labels.taxa), []
    rules: dict[tuple[str, ...], Rule] = {}
    for line, row in table.rows():
        try:
            rule = Rule.parse(row[action])
        except ValueError as error:
            raise UserError(
                f"{path}: line {line}: {action} {row[action]!r} is not understood; write"
                " `withhold`, `10 km` or `1 decimal`"
            ) from error
        taxon = Taxon.from_row(row)
        wanted = [(taxon.deepest_rank, taxon.scientific_name)]
        word = uninomial(row[whole]) if whole else ""
        if word and not taxon.deepest_rank:  # whose rank only the list can tell
            wanted = [(rank, word) for rank in RANKS[:-1]]
        elif not taxon.deepest_rank:
            raise UserError(f"{path}: line {line} names no taxon; fill its scientificName")
        places = [place for rank, name in wanted for place in known.get((rank or "", name), ())]
        if not places:
            ranks = {rank for rank, _ in wanted}
            meant = name_checks.meant(wanted[0][1], (n for rank, n in known if rank in ranks))
            missing.append(f"{path}: {wanted[0][1]} is not among the names{meant}")
        for place in places:
            for cells in labels.answers_of(place):
                stricter = coarsest([rules.get(cells), rule])
                assert stricter
                rules[cells] = stricter
    return Obscured(rules=rules, notes=name_checks.shortened(missing))
