"""What lives where pictures were taken: a prior over names for each place, out of records.

A place is an H3 cell, whose windows are itself with its six neighbours, the same of the coarser
cells that it is in, and the world; or a region, and the world; or the world alone.
"""

import functools
import hashlib
import posixpath
import re
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import tables
from bioclip2_jax.data.exif import Capture
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify.name_tree import NameTree
from bioclip2_jax.identify.occurrences import (
    CELLS,
    FINEST,
    LATITUDES,
    LONGITUDES,
    OF_REGIONS,
    REGIONS,
    UNKNOWN,
    Records,
    h3,
)
from bioclip2_jax.measures.local_shares import shares

# Of windows that reach some 60, 400 and 2,800 km. More of them between would count the same records
# more often.
RESOLUTIONS = (FINEST, 2, 0)
STRENGTH = 0.5  # see docs/identify.md
_KEPT = 1 << 24  # shares that are kept, of as many places as these make
_POINT = re.compile(r"\s*([-+]?\d+(?:\.\d+)?)\s*,\s*([-+]?\d+(?:\.\d+)?)\s*")
_NUMBERS = re.compile(r"[-+\d.,;\s]+")
_FOLDERS = ("folder", "directory", "deploymentid")

Point = tuple[float, float]  # latitude, longitude
Spot = Point | str  # or the name of a region
Where = Callable[[str, Capture | None], Spot | None]


class Places:
    """The prior of each place; what `predict.Local` asks for.

    Attributes:
      strength: of its say.
      asked, unknown: pictures that it was asked of, and of these those of no known place.
    """

    def __init__(self, records: Records, names: NameTree, where: Where, strength: float = STRENGTH):
        """Of the records of a list.

        Args:
          records: from `occurrences.read`.
          names: of the list.
          where: (picture, what its camera wrote) → where it was taken.
          strength: the exponent of a share.
        """
        self.strength, self.asked, self.unknown = strength, 0, 0
        self._records, self._names, self._where = records, names, where
        self._cells, self._of_row = np.unique(records.places, return_inverse=True)
        self._numbers = {name.casefold(): n for n, name in enumerate(records.regions)}
        size = max(4, _KEPT // len(names.taxa))
        self.weights = functools.lru_cache(size)(self._weights)

    def place_of(self, picture: str, capture: Capture | None) -> Hashable | None:
        """The cell, the number of the region, or the world; None where it is not known."""
        self.asked += 1
        place = UNKNOWN
        if self._records.kind:
            spot = self._where(picture, capture)
            place = None if spot is None else self._place(spot)
        self.unknown += place is None
        return place

    def shares(self, place: int) -> np.ndarray:
        """[names] float64, as of `local_shares.shares`."""
        return shares(self._names.tree, [self._count(rows) for rows in self._windows(place)])

    def tells(self) -> str:
        """What tells these records from others."""
        digest = hashlib.sha256("|".join(self._records.regions).encode())
        for part in (self._records.places, self._records.nodes, self._records.counts):
            digest.update(part.tobytes())
        return digest.hexdigest()[:12]

    def _weights(self, place: int) -> np.ndarray:
        """[names] float64: shares, that of the least likely name being 1."""
        own = self.shares(place)
        return own / own.min()

    def _place(self, spot: Spot) -> int | None:
        if isinstance(spot, str):
            return self._numbers.get(spot.casefold())
        return h3().latlng_to_cell(*spot, FINEST) if self._records.kind == CELLS else None

    def _windows(self, place: int) -> list[np.ndarray]:
        """[pairs] bool each, the narrowest first."""
        found = []
        if place != UNKNOWN and self._records.kind == CELLS:
            grid = h3()
            for resolution in RESOLUTIONS:
                around = grid.grid_disk(grid.cell_to_parent(place, resolution), 1)
                found.append(np.isin(self._parents[resolution], around)[self._of_row])
        elif place != UNKNOWN:
            found.append(self._records.places == place)
        return [*found, np.ones(len(self._of_row), bool)]

    @functools.cached_property
    def _parents(self) -> dict[int, np.ndarray]:
        """Resolution → [cells] int64, the coarser cell of each."""
        parent = h3().cell_to_parent
        cells = self._cells.tolist()
        return {
            of: np.array([c if c == UNKNOWN else parent(c, of) for c in cells], np.int64)
            for of in RESOLUTIONS
        }

    def _count(self, rows: np.ndarray) -> np.ndarray:
        nodes = int(self._names.tree.starts[-1])
        return np.bincount(self._records.nodes[rows], self._records.counts[rows], nodes)


# ---- Where pictures were taken


def by_camera(_: str, capture: Capture | None) -> Point | None:
    """As EXIF tells it."""
    if capture is None or capture.latitude is None or capture.longitude is None:
        return None
    return capture.latitude, capture.longitude


def read_where(text: str, records: Records, roots: Sequence[str]) -> tuple[Where, str]:
    """Reads `--place`.

    Args:
      text: LAT,LON, a region of the records, or a table.
      records: from `occurrences.read`.
      roots: folders that a table's file names may count from.

    Returns:
      Where a picture was taken, and what tells it from another `--place`.

    Raises:
      UsageError: it is none of these, or does not go with the records.
      UserError: the table cannot be used.
    """
    regions = {name.casefold() for name in records.regions}
    if text.casefold() in regions:
        return lambda picture, capture: text, text
    point = _point(text)
    if point:
        if records.kind == OF_REGIONS:
            raise UsageError(
                f"--place {text}: {records.path} has regions and no coordinates; name one of them:"
                f" {few(records.regions)}"
            )
        return lambda picture, capture: point, text
    if files.place(text).is_file():
        spots, folders = _table(text, records.kind)
        told = hashlib.sha256(repr(sorted([*spots.items(), *folders.items()])).encode())
        roots = [*roots, posixpath.dirname(text)]

        def where(picture: str, _: Capture | None) -> Spot | None:
            return _of_picture(picture, spots, folders, roots)

        return where, f"{len(spots) + len(folders):,} with checksum {told.hexdigest()[:12]}"
    what = f"a region of {records.path} ({few(records.regions)})" if records.regions else "LAT,LON"
    raise UsageError(
        f"--place {text}: neither {what} nor a table; LAT,LON are degrees, such as 52.7,23.8"
    )


def few(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:5]) + ", …" * (len(names) > 5)


def _point(text: str) -> Point | None:
    """The coordinates that are written there; None where none can be meant."""
    match = _POINT.fullmatch(text)
    if not match:
        if "," in text and _NUMBERS.fullmatch(text):
            raise UsageError(
                f"--place {text}: write latitude and longitude in degrees with a decimal point and"
                " one comma between them, such as 52.7,23.8"
            )
        return None
    latitude, longitude = map(float, match.groups())
    if why := _fault(latitude, longitude):
        raise UsageError(f"--place {text}: {why}; write LAT,LON in degrees, such as 52.7,23.8")
    return latitude, longitude


def _fault(latitude: float, longitude: float) -> str:
    """Why coordinates are none; "" if they are."""
    if latitude == longitude == 0:
        return "0,0 is what stands where no place is known"
    if not abs(latitude) <= 90:
        swapped = " (are latitude and longitude swapped?)" if abs(longitude) <= 90 else ""
        return f"a latitude of {latitude:g} lies beyond the poles{swapped}"
    return "" if abs(longitude) <= 180 else f"a longitude of {longitude:g} lies beyond 180"


def _table(path: str, kind: str) -> tuple[dict[str, Spot], dict[str, Spot]]:
    """File → place, and folder → place."""
    table = tables.open_table(files.place(path))
    file, folder = table.column(tables.FILE_COLUMNS), table.column(_FOLDERS)
    y, x, region = (table.column(of) for of in (LATITUDES, LONGITUDES, REGIONS))
    if not (file or folder) or not (region if kind == OF_REGIONS else y and x):
        raise UserError(
            f"--place {path}: needs a column `filename`, or `deploymentID` or `folder` of the"
            " folders of pictures, and decimalLatitude and decimalLongitude, or `region` where"
            " --occurrences has regions"
        )
    spots: dict[str, Spot] = {}
    folders: dict[str, Spot] = {}
    for line, row in table.rows():
        if kind == OF_REGIONS:
            spot: Spot = row[region or ""]
        elif not (row[y or ""] or row[x or ""]):
            continue
        else:
            spot = _cells(path, line, row[y or ""], row[x or ""])
        name = (row[file or folder or ""]).replace("\\", "/").strip("/" * (not file))
        if name and spot:
            (spots if file else folders)[name] = spot
    return spots, folders


def _cells(path: str, line: int, latitude: str, longitude: str) -> Point:
    try:
        point = float(latitude.replace(",", ".")), float(longitude.replace(",", "."))
        why = _fault(*point)
    except ValueError:
        point, why = (0.0, 0.0), "no degrees"
    if why:
        raise UserError(
            f"--place {path}, line {line}: {latitude} {longitude}: {why}; correct the row, or leave"
            " both cells empty where nobody knows"
        )
    return point


def _of_picture(
    picture: str,
    spots: Mapping[str, Spot],
    folders: Mapping[str, Spot],
    roots: Sequence[str],
) -> Spot | None:
    """By its file as written or from one of the roots, or by the innermost folder above it."""
    name = posixpath.normpath(picture.replace("\\", "/"))
    names = [picture, name]
    for root in roots:
        start = posixpath.normpath(root) + "/" if root else ""
        names += [name[len(start) :]] if start and name.startswith(start) else []
    if found := next((spots[one] for one in names if one in spots), None):
        return found
    parts = name.split("/")[:-1]
    for end in range(len(parts), 0, -1):
        for start_ in range(end):
            if found := folders.get("/".join(parts[start_:end])):
                return found
    return None
