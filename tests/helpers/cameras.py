"""Pictures as cameras write them: a colour, when and where it was taken."""

import io
from pathlib import Path

from colour_world import COLOURS
from PIL import Image

Triple = tuple[float, float, float]


def photograph(
    colour: str,
    taken: str = "",
    *,
    offset: str = "",
    latitude: Triple | None = None,
    longitude: Triple | None = None,
    hemispheres: str = "NE",
    kind: str = "JPEG",
) -> bytes:
    """An encoded picture of one colour, with EXIF."""
    image = Image.new("RGB", (80, 40), COLOURS[colour])
    exif = Image.Exif()
    exif[0x010F] = "RECONYX"
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    if offset:
        exif.get_ifd(0x8769)[0x9011] = offset
    if latitude and longitude:
        north, east = hemispheres
        exif.get_ifd(0x8825).update({1: north, 2: latitude, 3: east, 4: longitude, 0x1F: 5.0})
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


def write(path: str | Path, *arguments, **how) -> None:
    """Puts a `photograph` there."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(photograph(*arguments, **how))
