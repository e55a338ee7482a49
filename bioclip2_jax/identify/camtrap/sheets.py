"""The tables of a Camtrap DP package that grow with the pictures."""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bioclip2_jax import files
from bioclip2_jax.identify import formats
from bioclip2_jax.identify.camtrap import schemas
from bioclip2_jax.identify.name_lists import RANK

SET_ASIDE = ("filePath", "deploymentID", "scientificName", "classificationProbability", "reason")


@dataclass(frozen=True)
class Taxon:
    """The best name of a picture or box; all empty where there is none.

    Attributes:
      name: scientific.
      score: of it.
      about: what datapackage.json says of it under `taxonomic`.
    """

    name: str = ""
    score: float | str = ""
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, columns: Sequence[str], answers: Sequence[tuple[Sequence[str], float]]) -> "Taxon":
        """The first of the answers, whose cells are those of a label list's columns."""
        if not answers:
            return cls()
        cells, score = answers[0]
        name, rank, above = formats.scientific(columns, cells)
        cells_of = {key: value for key, value in above.items() if key != RANK}
        known = {key: value for key, value in cells_of.items() if value and value != name}
        about = {"scientificName": name, "taxonRank": rank, **known}
        return cls(name, score, about)

    @property
    def kind(self) -> str:
        """Camtrap DP knows neither plants nor fungi; nor is told what shows none of the names."""
        if not self.name:
            return "unknown"
        if self.name == "Homo sapiens":
            return "human"
        kingdom = self.about.get("kingdom", "Animalia")
        return "animal" if "Animalia" in (kingdom, self.name) else "unknown"


class Sheets:
    """The tables that grow with the pictures; what comes twice is written once."""

    def __init__(self, folder: Path, stack: ExitStack):
        """In a folder; `stack` closes them."""
        self._folder, self._stack = folder, stack
        self._seen: set[str] = set()
        self._media, self._observations = (
            self._opened(name, [*schemas.fields(name)]) for name in ("media", "observations")
        )
        self._aside: csv.DictWriter | None = None
        self._taxa: dict[str, Mapping[str, str]] = {}

    @property
    def has_set_aside(self) -> bool:
        """Whether anything is in set-aside.csv."""
        return self._aside is not None

    @property
    def taxa(self) -> list[Mapping[str, str]]:
        """Those that were seen, by name."""
        return [self._taxa[name] for name in sorted(self._taxa)]

    def media(self, row: Mapping[str, Any]) -> bool:
        """Whether it is a new one."""
        return self._written(self._media, row, row["mediaID"])

    def observation(self, row: Mapping[str, Any], taxon: Taxon) -> None:
        """One of a picture, or of a box in it."""
        self._written(self._observations, row, row["observationID"])
        if taxon.name:
            self._taxa.setdefault(taxon.name, taxon.about)

    def set_aside(self, row: Mapping[str, Any]) -> bool:
        """Whether it is the first row of its picture."""
        self._aside = self._aside or self._opened("set-aside", SET_ASIDE)
        self._aside.writerow(row)
        is_new, _ = row["filePath"] not in self._seen, self._seen.add(row["filePath"])
        return is_new

    def _written(self, table: csv.DictWriter, row: Mapping[str, Any], name: str) -> bool:
        if name in self._seen:
            return False
        self._seen.add(name)
        table.writerow(row)
        return True

    def _opened(self, name: str, columns: Sequence[str]) -> csv.DictWriter:
        file = self._stack.enter_context(files.writing(self._folder / f"{name}.csv"))
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self._stack.callback(text.detach)  # which writes what is left, before the file is closed
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        return writer
