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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from bioclip2_jax import files
from bioclip2_jax.data import buckets, images
from bioclip2_jax.errors import UserError
from bioclip2_jax.text.taxonomy import RANKS

ANIMAL = "animal"
_CATEGORIES = {"1": ANIMAL, "2": "person", "3": "vehicle"}  # where the file does not say
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

    def __init__(self, path: str, folder: str, cut: Cut):
        """Reads a detector's file.

        Args:
          path: of the file.
          folder: that the names in it count from.
          cut: which boxes, and how.

        Raises:
          UserError: the file cannot be read, or is no such file; names the entry.
        """
        self.document = files.read_json_object(path)
        self.others: list[str] = []
        self._folder, self._cut = folder, cut
        self._boxes = list(_boxes_of(self.document, path, cut.threshold))
        self.count = len(self._boxes)

    def box(self, number: int) -> Box:
        """A box."""
        return self._boxes[number]

    def name(self, number: int) -> str:
        """Its picture, as the detector calls it."""
        return self._boxes[number].file

    def look(self, number: int, *, use_truncated: bool) -> images.Seen:
        """What is in a box.

        Raises:
          NotNamed: it holds no animal.
          BadImage, OSError: its picture cannot be read.
        """
        box = self._boxes[number]
        if box.fault:
            raise images.BadImage(box.fault)
        if box.category != ANIMAL:
            raise NotNamed(box.category)
        path = files.place(os.path.join(self._folder, box.file.replace("\\", "/")))
        seen = images.read(buckets.read_bytes(path), use_truncated=use_truncated)
        part: Image.Image = seen.image.crop(self._cut.region(seen.image.size, box.place))
        return images.Seen(image=part, size=part.size, notes=seen.notes)

    def listing(self) -> str:
        """In few letters; two that are alike have the same boxes."""
        text = json.dumps([self.document, *vars(self._cut).values()], sort_keys=True)
        checksum = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return f"{self.count:,} boxes with checksum {checksum}"


def _boxes_of(document: Mapping[str, Any], path: str, threshold: float) -> Iterable[Box]:
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
            for number, detection in enumerate(found or []):
                confidence = float(detection["conf"])
                if confidence < threshold:
                    continue
                place = tuple(float(side) for side in detection["bbox"])
                if len(place) != 4 or not all(map(math.isfinite, place)):
                    raise ValueError("bbox is not four numbers")
                category = str(detection["category"])
                category = detection.get("label") or categories.get(category, category)
                yield Box(file, number, str(category), confidence, place)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            place = f"{path}: entry {index} of {kind}"
            raise UserError(f"{place} is not as it should be ({why})") from error


def write_back(
    document: Mapping[str, Any], rows: Iterable[dict[str, Any]], columns: Sequence[str], target: IO
) -> None:
    """Writes a detector's file again, with `classifications` at the boxes that were named.

    All else stays as it is. MegaDetector's refer to `classification_categories`, to which the names
    are added; SpeciesNet's are `classes` and `scores`.

    Args:
      document: as the detector wrote it.
      rows: of the output.
      columns: of the rows: the file first, among them `box` and `score`.
      target: the file.
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
            pair = name_of([row[column] for column in names]), row["score"]
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
    if kind == "images":
        changed["classification_categories"] = known | {ids[name]: name for name in ids}
    target.write(json.dumps(changed, indent=1).encode() + b"\n")


def name_of(cells: Sequence[str]) -> str:
    """The name in cells of ranks, the species as a binomial at their end; or of a free label."""
    return next(filter(None, reversed(cells)), "")


def name_columns(columns: Sequence[str]) -> list[str]:
    """Those columns of an output that make a name, the deepest last."""
    wanted = (*RANKS[:-1], "species", "scientificName", "classification")
    return [column for column in wanted if column in columns]
