"""Boxes of a detector, each named by itself: MegaDetector's JSON, and SpeciesNet's.

MegaDetector's has `images` with `file` and `detections`, SpeciesNet's `predictions` with
`filepath`; a box is [left, top, width, height] in shares of the upright picture. Animals are named;
people, vehicles and whatever else is passed through.
"""

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from bioclip2_jax import files
from bioclip2_jax.data import buckets, images
from bioclip2_jax.errors import UserError
from bioclip2_jax.identify.name_lists import RANK
from bioclip2_jax.identify.obscure import Rule
from bioclip2_jax.text.taxonomy import RANKS

ANIMAL, BLANK = "animal", "blank"
_CATEGORIES = {"1": ANIMAL, "2": "person", "3": "vehicle"}  # where the file does not say
_TELLS_PLACE = re.compile("gps|latitude|longitude", re.IGNORECASE)
_FILES = {"images": "file", "predictions": "filepath"}


class NotNamed(images.BadImage):
    """A box of a person or a vehicle."""


class Box(NamedTuple):
    """A box, or a picture that the detector could not read.

    Attributes:
      file: of the picture, as the detector calls it.
      number: among the detections of the picture; -1 for none.
      category: "animal", "person", …; "" for none.
      confidence: of the detector.
      place: left, top, width, height, in shares of the picture's sides.
      fault: why the detector could not read it.
    """

    file: str
    number: int = -1
    category: str = ""
    confidence: float = 0.0
    place: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    fault: str = ""


@dataclass(frozen=True)
class Cut:
    """How a box is cut out.

    Attributes:
      threshold: boxes of less confidence are left alone.
      padding: shares of its sides that are added on each side.
      square: whether the shorter side is made as long as the longer one.
    """

    threshold: float = 0.2
    padding: float = 0.1
    square: bool = True

    def region(self, size: tuple[int, int], place: Sequence[float]) -> tuple[int, int, int, int]:
        """The pixels (left, top, right, bottom) of a box in a picture of `size`."""
        whole = np.asarray(size, float)
        start, sides = np.asarray(place[:2]) * whole, np.asarray(place[2:]) * whole
        centre, sides = start + sides / 2, sides * (1 + 2 * self.padding)
        if self.square:
            sides = np.full(2, sides.max())
        sides = np.clip(sides, 1, whole)
        start = np.clip(centre - sides / 2, 0, whole - sides)
        (left, top), (right, bottom) = np.round(start), np.round(start + sides)
        return int(left), int(top), int(max(right, left + 1)), int(max(bottom, top + 1))


class Boxes:
    """The boxes of a file, numbered; used as `inputs.Inputs` is.

    Attributes:
      count: of the boxes.
      others: none.
      document: the file as it is.
    """

    def __init__(self, path: str, folder: str, cut: Cut, *, blanks: bool = False):
        """Reads a detector's file.

        Args:
          path: of the file.
          folder: that the names in it count from.
          cut: which boxes, and how.
          blanks: whether pictures without any such box are among them, as `BLANK`.

        Raises:
          UserError: the file cannot be read, or is no such file; names the entry.
        """
        self.document = files.read_json_object(path)
        self.others: list[str] = []
        self._folder, self._cut = folder, cut
        self._boxes = list(_boxes_of(self.document, path, cut.threshold, blanks=blanks))
        self.count = len(self._boxes)

    @property
    def detector(self) -> str:
        """What it calls itself, as far as the file says so."""
        info = self.document.get("info")
        if isinstance(info, dict) and info.get("detector"):
            return str(info["detector"])
        entries = self.document.get("predictions") or ()
        version = next((str(e["model_version"]) for e in entries if e.get("model_version")), "")
        return f"SpeciesNet {version}".strip() if entries else ""

    def box(self, number: int) -> Box:
        """A box."""
        return self._boxes[number]

    def name(self, number: int) -> str:
        """Its picture, as the detector calls it."""
        return self._boxes[number].file

    def names(self) -> Iterable[str]:
        """The pictures of all boxes."""
        return (box.file for box in self._boxes)

    def capture(self, number: int) -> None:
        """Nobody asks when it was taken; see `captured.Captured`."""

    def look(self, number: int, *, use_truncated: bool) -> images.Seen:
        """What is in a box.

        Raises:
          NotNamed: it holds no animal.
          BadImage, OSError: its picture cannot be read.
        """
        self._check(number)
        return self.see(number, self.read(number), use_truncated=use_truncated)

    def read(self, number: int) -> bytes:
        """Its whole encoded picture.

        Raises:
          OSError: it cannot be had.
        """
        file = self._boxes[number].file.replace("\\", "/")
        return buckets.read_bytes(files.place(os.path.join(self._folder, file)))

    def see(self, number: int, data: bytes, *, use_truncated: bool) -> images.Seen:
        """What is in a box of an encoded picture; raises as `look`."""
        self._check(number)
        seen = images.read(data, use_truncated=use_truncated)
        region = self._cut.region(seen.image.size, self._boxes[number].place)
        part: Image.Image = seen.image.crop(region)
        return images.Seen(image=part, size=part.size, notes=seen.notes)

    def _check(self, number: int) -> None:
        box = self._boxes[number]
        if box.fault:
            raise images.BadImage(box.fault)
        if box.category != ANIMAL:
            raise NotNamed(box.category)

    def listing(self) -> str:
        """In few letters; two that are alike have the same boxes."""
        text = json.dumps([self.document, *vars(self._cut).values()], sort_keys=True)
        checksum = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return f"{self.count:,} boxes with checksum {checksum}"


def _boxes_of(
    document: Mapping[str, Any], path: str, threshold: float, *, blanks: bool
) -> Iterable[Box]:
    kind = next((key for key in _FILES if isinstance(document.get(key), list)), None)
    if kind is None:
        raise UserError(
            f"{path}: holds neither `images`, as MegaDetector writes it, nor `predictions`, as"
            " SpeciesNet does"
        )
    categories = _CATEGORIES | dict(document.get("detection_categories") or {})
    for index, entry in enumerate(document[kind]):
        try:
            file = entry[_FILES[kind]]
            found = entry.get("detections")
            failure = entry.get("failure") or entry.get("failures")
            if found is None and failure:
                yield Box(file=file, fault=f"the detector could not read it ({failure})")
                continue
            is_blank = blanks
            for number, detection in enumerate(found or []):
                confidence = float(detection["conf"])
                if confidence < threshold:
                    continue
                is_blank = False
                place = tuple(float(side) for side in detection["bbox"])
                if len(place) != 4 or not all(map(math.isfinite, place)):
                    raise ValueError("bbox is not four numbers")
                category = str(detection["category"])
                category = detection.get("label") or categories.get(category, category)
                yield Box(file, number, str(category), confidence, place)
            if is_blank:
                yield Box(file=file, category=BLANK)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            place = f"{path}: entry {index} of {kind}"
            raise UserError(f"{place} is not as it should be ({why})") from error


def write_back(
    document: Mapping[str, Any],
    rows: Iterable[dict[str, Any]],
    columns: Sequence[str],
    target: IO,
    *,
    place_of: Callable[[str], Rule | None] | None = None,
) -> None:
    """Writes a detector's file again, with `classifications` at the boxes that were named.

    All else stays as it is, but for coordinates that it may hold. MegaDetector's refer to
    `classification_categories`, to which the names are added; SpeciesNet's are `classes` and
    `scores`.

    Args:
      document: as the detector wrote it.
      rows: of the output.
      columns: of the rows: the file first, among them `box` and `score`.
      target: the file.
      place_of: picture → what is done to its coordinates; None to leave all of them out.
    """
    changed: dict[str, Any] = json.loads(json.dumps(document))  # a copy
    kind = next(key for key in _FILES if isinstance(changed.get(key), list))
    names = name_columns(columns)
    entries = {entry[_FILES[kind]]: entry for entry in changed[kind]}
    known = changed.get("classification_categories") or {}
    ids = {name: number for number, name in known.items()}
    free = (number for number in map(str, itertools.count()) if number not in known)
    answers: dict[tuple[str, int], list[tuple[str, float]]] = {}
    for row in rows:
        if row["score"] is not None:
            name = name_of([row[column] for column in names]) or row.get(RANK, "")
            pair = name, row["score"]
            answers.setdefault((row[columns[0]], row["box"]), []).append(pair)
    for (file, number), best in answers.items():
        detection = entries[file]["detections"][number]
        if kind == "predictions":
            classes, scores = zip(*best, strict=True)
            detection["classifications"] = {"classes": [*classes], "scores": [*scores]}
            continue
        for name, _ in best:
            if name not in ids:
                ids[name] = next(free)
        detection["classifications"] = [[ids[name], round(score, 5)] for name, score in best]
    for file, entry in entries.items():
        rule = place_of(file) if place_of else None
        if not place_of or rule:
            _obscure(entry, rule)
    if kind == "images":
        changed["classification_categories"] = known | {ids[name]: name for name in ids}
    target.write(json.dumps(changed, indent=1).encode() + b"\n")


def _obscure(entry: dict[str, Any], rule: Rule | None) -> None:
    """Takes coordinates out of a picture's entry; by a rule, SpeciesNet's come back coarsened."""
    point = entry.get("latitude"), entry.get("longitude")
    for key in [key for key in entry if key != "detections"]:
        if _TELLS_PLACE.search(key):
            del entry[key]
        else:
            entry[key] = _without_places(entry[key])
    numbers = [float(side) for side in point if isinstance(side, int | float)]
    if rule and len(numbers) == 2 and not rule.is_withheld:
        place = rule.apply(numbers[0], numbers[1])
        entry |= {"latitude": place.latitude, "longitude": place.longitude}


def _without_places(value: Any) -> Any:
    """EXIF as MegaDetector copies it, by tags or as lists that begin with them, without GPS."""
    if isinstance(value, dict):
        return {k: _without_places(v) for k, v in value.items() if not _TELLS_PLACE.search(k)}
    if isinstance(value, list):
        return [
            _without_places(item)
            for item in value
            if not (isinstance(item, list) and any(_TELLS_PLACE.search(str(x)) for x in item[:2]))
        ]
    return value


def name_of(cells: Sequence[str]) -> str:
    """The name in cells of ranks, the species as a binomial at their end; or of a free label."""
    return next(filter(None, reversed(cells)), "")


def name_columns(columns: Sequence[str]) -> list[str]:
    """Those columns of an output that make a name, the deepest last."""
    wanted = (*RANKS[:-1], "species", "scientificName", "classification")
    return [column for column in wanted if column in columns]
