"""A Camtrap DP package: datapackage.json, deployments.csv, media.csv and observations.csv.

It is made at the end, of rows that were kept as they came (`lines`). What cannot stand in it, above
all pictures whose time nobody knows, is a row of set-aside.csv, with the reason.
"""

import contextlib
import datetime
import json
import mimetypes
import os
import posixpath
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Any

import bioclip2_jax
from bioclip2_jax import files
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify import formats, outputs
from bioclip2_jax.identify.boxes import ANIMAL, BLANK
from bioclip2_jax.identify.camtrap import schemas
from bioclip2_jax.identify.camtrap.about import MADE
from bioclip2_jax.identify.camtrap.deployments import Deployments, Media, Row
from bioclip2_jax.identify.camtrap.sheets import SET_ASIDE, Sheets, Taxon
from bioclip2_jax.identify.obscure import Obscured, Rule, coarsest
from bioclip2_jax.identify.predict import Prediction

DESCRIPTOR = "datapackage.json"
FILES = (DESCRIPTOR, "deployments.csv", "media.csv", "observations.csv", "set-aside.csv")
_TYPES = {"person": "human", "human": "human", "vehicle": "vehicle", BLANK: BLANK}
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://camtrap-dp.tdwg.org")
_SIDES = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")


def lines(predictions: Iterable[Prediction]) -> bytes:
    """What is kept of pictures, or of boxes in them, until the package is made."""
    return b"".join(map(_line, predictions))


def _line(prediction: Prediction) -> bytes:
    box, capture = prediction.box, prediction.capture
    about = {
        "file": prediction.file_name,
        "box": box and [box.number, box.category, box.confidence, *box.place],
        "taken": capture.taken if capture else "",
        "mediatype": capture.mediatype if capture else "",
        "answers": prediction.answers,
        "note": prediction.note,
        "error": prediction.error,
    }
    return json.dumps(about, ensure_ascii=False).encode() + b"\n"


@dataclass
class Told:
    """What there is to say of a package when it was made.

    Attributes:
      pictures: in the package.
      set_aside: pictures that stand in set-aside.csv alone.
      untimely: pictures outside their deployment's time.
      withheld: deployments that are left out.
    """

    pictures: int = 0
    set_aside: int = 0
    untimely: int = 0
    withheld: int = 0

    @property
    def sentences(self) -> Iterator[str]:
        """What people should know."""
        if self.set_aside:
            yield (
                f"{self.set_aside:,} of {self.pictures + self.set_aside:,} pictures stand in"
                " set-aside.csv alone, with the reason; --media TABLE gives times to those that"
                " have none"
            )
        if self.untimely:
            yield (
                f"{self.untimely:,} pictures were taken outside their deployment's time; look at"
                " the camera's clock, --timezone and the table"
            )
        if self.withheld:
            yield f"{self.withheld:,} deployments are withheld by --obscure, with all pictures"


@dataclass(frozen=True, kw_only=True)
class Package:
    """All that a package is made of beside the rows.

    Attributes:
      deployments, media: the tables.
      about: what datapackage.json says of the project, from `about.read`.
      zone: of pictures that tell none.
      root: the folder that paths in the package count from.
      base: the folder that pictures' names count from; None where they are paths as they are.
      columns: of the cells of an answer, as in a `LabelSet`.
      obscured: rules for sensitive species.
      detector, model: who classifies.
      created: when, with its zone.
      told: what there is to say of it once it is written.
    """

    deployments: Deployments
    media: Media
    about: Mapping[str, Any]
    zone: datetime.tzinfo
    root: str
    base: str | None
    columns: Sequence[str]
    obscured: Obscured | None
    detector: str
    model: str = ""
    created: str = ""
    told: Told = field(default_factory=Told)

    def paths(self, name: str) -> tuple[str, str]:
        """A picture's path in the package, and its whole path."""
        whole = name
        if self.base is not None:
            whole = posixpath.join(self.base, name.replace("\\", "/"))
        if not files.is_remote(whole):
            whole = os.path.abspath(whole)
        if whole.startswith(f"{self.root}/"):
            return whole[len(self.root) + 1 :], whole
        return whole.lstrip("/"), whole

    def refuse_strangers(self, names: Iterable[str]) -> None:
        """Refuses pictures of no deployment, before anything is named.

        Raises:
          UsageError: names the first, and how many there are.
        """
        strangers = [name for name in names if not self._deployment(name)]
        if strangers:
            more = f", as {len(strangers) - 1:,} others" if len(strangers) > 1 else ""
            raise UsageError(
                f"{strangers[0]}: lies in no folder of a deployment of {self.deployments.path}"
                f"{more}; add a row whose deploymentID, or `folder`, is a folder above it, or name"
                " its deploymentID in --media"
            )

    def write(self, rows: IO[bytes], folder: str) -> None:
        """Makes the package. What makes it one, datapackage.json, comes last.

        Args:
          rows: of `lines`.
          folder: may hold an older package.

        Raises:
          UserError: every deployment is withheld.
        """
        place = files.place(folder)
        rules = self._rules(rows)
        hidden = {name for name, rule in rules.items() if rule.is_withheld}
        self.told.withheld = len(hidden)
        if hidden == {*self.deployments.rows}:
            raise UserError(
                f"{folder}: --obscure withholds every deployment, as a sensitive species was named"
                " in each; let it coarsen coordinates, and call again: what was named is kept"
            )
        files.make_folder(place)
        for name in (DESCRIPTOR, "set-aside.csv"):
            with contextlib.suppress(FileNotFoundError, *([Exception] * files.is_remote(place))):
                (place / name).unlink()
        rows.seek(0)
        with ExitStack() as stack:
            sheets = Sheets(place, stack)
            for row in map(json.loads, rows):
                self._add(row, hidden, sheets)
        shown = [*self._shown(rules)]
        files.write_csv(place / "deployments.csv", shown, [*schemas.fields("deployments")])
        text = json.dumps(self._descriptor(folder, shown, sheets, rules), indent=2)
        files.write_text(place / DESCRIPTOR, text + "\n")

    def _rules(self, rows: IO[bytes]) -> dict[str, Rule]:
        """deploymentID → the coarsest rule of any species that was named there."""
        rules: dict[str, Rule] = {}
        if not self.obscured:
            return rules
        rows.seek(0)
        for row in map(json.loads, rows):
            if rule := self.obscured.of(row["answers"]):
                name = self._deployment(row["file"])
                rules[name] = coarsest([rules.get(name), rule]) or rule
        return self.deployments.obscured(rules)

    def _deployment(self, name: str) -> str:
        path, whole = self.paths(name)
        return self.media.of(path, name)[0] or self.deployments.of(whole) or ""

    def _shown(self, rules: Mapping[str, Rule]) -> Iterator[Row]:
        """The deployments as they may be seen. Words that tell of the place go with its digits."""
        for name, row in self.deployments.rows.items():
            rule = rules.get(name)
            if not rule:
                yield row
            elif not rule.is_withheld:
                latitude, longitude = float(row["latitude"]), float(row["longitude"])
                known = float(row["coordinateUncertainty"] or 0)
                place = rule.apply(latitude, longitude, known)
                yield row | {
                    "latitude": str(place.latitude),
                    "longitude": str(place.longitude),
                    "coordinateUncertainty": str(place.uncertainty),
                    "locationName": "",
                    "deploymentComments": place.generalizations,
                }

    def _add(self, row: dict[str, Any], hidden: set[str], sheets: Sheets) -> None:
        path, deployment = self.paths(row["file"])[0], self._deployment(row["file"])
        if deployment in hidden:
            return
        taxon = Taxon.of(self.columns, row["answers"])
        taken = self.media.of(path, row["file"])[1] or row["taken"]
        pattern = schemas.fields("media")["filePath"]["constraints"]["pattern"]
        why = "" if taken else row["error"] or "no time of capture (EXIF DateTimeOriginal)"
        if not why and not re.match(pattern, path):
            why = "Camtrap DP allows no path that begins with '.' or '~' or holds '..'"
        if why:
            cells = (path, deployment, taxon.name, taxon.score, why)
            self.told.set_aside += sheets.set_aside(dict(zip(SET_ASIDE, cells, strict=True)))
            return
        moment = schemas.time_of(taken, self.zone)
        when = moment.isoformat()
        media_id = str(uuid.uuid5(_NAMESPACE, f"{deployment}\n{path}\n{when}"))
        mediatype = row["mediatype"] or mimetypes.guess_type(path)[0] or ""
        media = {
            "mediaID": media_id,
            "deploymentID": deployment,
            "timestamp": when,
            "filePath": path,
            "filePublic": "false",
            "fileName": path.rpartition("/")[2],
            "fileMediatype": mediatype if mediatype.startswith("image/") else "image/*",
            "mediaComments": row["error"] or row["note"],
        }
        if sheets.media(media):
            self.told.pictures += 1
            own = self.deployments.rows[deployment]
            times = (own[key] for key in ("deploymentStart", "deploymentEnd"))
            start, end = map(datetime.datetime.fromisoformat, times)
            self.told.untimely += not start <= moment <= end
        number = row["box"][0] if row["box"] else -1
        observation = {
            "observationID": f"{media_id}_{number if number >= 0 else 'whole'}",
            "deploymentID": deployment,
            "mediaID": media_id,
            "eventStart": when,
            "eventEnd": when,
            "observationLevel": "media",
        }
        sheets.observation(observation | self._classified(row, taxon), taxon)

    def _classified(self, row: Mapping[str, Any], taxon: Taxon) -> dict[str, Any]:
        """What is seen, and who says so: the model, or of people and blanks the detector."""
        number, category, confidence, *place = row["box"] or (-1, "", None)
        cells: dict[str, Any] = {}
        if number >= 0:
            left, top, right, bottom = (
                min(1.0, max(0.0, side))  # detectors go over the edge by a little
                for side in (*place[:2], place[0] + place[2], place[1] + place[3])
            )
            if right > left and bottom > top:
                sides = (left, top, right - left, bottom - top)
                cells |= {name: round(side, 6) for name, side in zip(_SIDES, sides, strict=True)}
        if row["answers"]:
            pairs = [(formats.scientific(self.columns, c)[0], s) for c, s in row["answers"][1:]]
            others = "; ".join(f"{name} {score:.3f}" for name, score in pairs)
            return cells | {
                "observationType": "animal" if row["box"] and not taxon.name else taxon.kind,
                "scientificName": taxon.name,
                "classificationMethod": "machine",
                "classifiedBy": self.model,
                "classificationTimestamp": self.created,
                "classificationProbability": taxon.score if taxon.name else "",
                "observationTags": f"detectionConfidence:{confidence:g}" if row["box"] else "",
                "observationComments": f"other names: {others}" if others else "",
            }
        if row["error"] or category in ("", ANIMAL):
            return cells | {"observationType": "unclassified"}
        return cells | {
            "observationType": _TYPES.get(category, "unknown"),
            "classificationMethod": "machine",
            "classifiedBy": self.detector,
            "classificationProbability": "" if category == BLANK else confidence,
            "observationComments": "" if category in _TYPES else f"detected: {category}",
        }

    def _descriptor(
        self, folder: str, shown: Sequence[Row], sheets: Sheets, rules: Mapping[str, Rule]
    ) -> dict[str, Any]:
        """What datapackage.json says."""
        resources: list[dict[str, Any]] = [
            _resource(name, f"{schemas.URL}/{name}-table-schema.json") for name in schemas.TABLES
        ]
        if sheets.has_set_aside:
            fields = [{"name": name, "type": "string"} for name in SET_ASIDE]
            fields[SET_ASIDE.index("classificationProbability")]["type"] = "number"
            resources.append(_resource("set-aside", {"fields": fields}))
        about = {key: value for key, value in self.about.items() if key not in MADE}
        name = re.sub("[^a-z0-9._-]+", "-", os.path.basename(os.path.abspath(folder)).lower())
        program = {"title": "bioclip2_jax", "version": bioclip2_jax.__version__}
        others = [s for s in about.get("sources", ()) if s.get("title") != program["title"]]
        parse = datetime.datetime.fromisoformat
        made: dict[str, Any] = {
            "resources": resources,
            "profile": f"{schemas.URL}/camtrap-dp-profile.json",
            "name": name.strip("-") or "package",
            "created": self.created,
            **about,
            "sources": [*others, program],
            "spatial": _spatial(shown),
            "temporal": {
                "start": min((row["deploymentStart"] for row in shown), key=parse)[:10],
                "end": max((row["deploymentEnd"] for row in shown), key=parse)[:10],
            },
            "taxonomic": sheets.taxa,
        }
        coarse = [rule.degrees for rule in rules.values() if not rule.is_withheld]
        if coarse:
            own = float(about.get("coordinatePrecision") or 0)  # of a table that is coarse already
            made["coordinatePrecision"] = max(own, round(max(coarse), 5))
        hidden = sum(rule.is_withheld for rule in rules.values())
        if hidden:
            made["informationWithheld"] = (
                f"{hidden} deployments are left out because of sensitive taxa"
            )
        return made


def _resource(name: str, schema: str | dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "path": f"{name}.csv",
        "profile": "tabular-data-resource",
        "format": "csv",
        "mediatype": "text/csv",
        "encoding": "utf-8",
        "schema": schema,
    }


def _spatial(shown: Sequence[Row]) -> dict[str, Any]:
    """What encloses the deployments, as GeoJSON."""
    ys, xs = ([float(row[key]) for row in shown] for key in ("latitude", "longitude"))
    west, east, south, north = min(xs), max(xs), min(ys), max(ys)
    if west == east and south == north:
        return {"type": "Point", "coordinates": [west, south]}
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def refuse_foreign(folder: str) -> None:
    """Refuses a folder with files of somebody else under a package's names.

    Where a call was interrupted, those of a half-made package are there, and its journal.

    Raises:
      UsageError: names the file.
    """
    place = files.place(folder)
    if place.exists() and not place.is_dir():
        raise UsageError(f"--output {folder}: is no folder; --format camtrap-dp makes a folder")
    found = next((name for name in FILES if (place / name).exists()), "")
    if not found or os.path.exists(outputs.journal_of(folder.rstrip("/"))):
        return
    about: Any = {}
    with contextlib.suppress(UserError):
        about = files.read_json(place / DESCRIPTOR)
    sources = about.get("sources", []) if isinstance(about, dict) else []
    if not any(isinstance(s, dict) and s.get("title") == "bioclip2_jax" for s in sources):
        raise UsageError(
            f"{place / found} is there and was not written by `predict`; name another --output"
        )
