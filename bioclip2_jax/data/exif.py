"""When and where a camera says that it took a picture: EXIF's DateTimeOriginal and GPS.

Read from the encoded file, whatever becomes of its pixels. What is damaged counts as not there.
"""

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from bioclip2_jax.data import images

_EXIF, _GPS = 0x8769, 0x8825
_TAKEN, _OFFSET = 0x9003, 0x9011  # DateTimeOriginal, OffsetTimeOriginal
_LATITUDE, _LONGITUDE = (1, 2), (3, 4)  # the letter of the hemisphere, and three numbers
_ERROR = 0x1F  # GPSHPositioningError, in metres


@dataclass(frozen=True)
class Capture:
    """What a camera wrote beside the pixels.

    Attributes:
      taken: ISO 8601 to the second; with an offset only where the camera wrote one. "" for none.
      latitude, longitude: in degrees, of WGS84 as cameras have it.
      uncertainty: of the place, in metres.
      mediatype: such as "image/jpeg"; "" if the file is of no known format.
    """

    taken: str = ""
    latitude: float | None = None
    longitude: float | None = None
    uncertainty: float | None = None
    mediatype: str = ""


def capture(data: bytes) -> Capture:
    """What an encoded picture tells of itself. Safe to call from threads."""
    mediatype = ""
    try:
        image = images.opened(data)
        mediatype = Image.MIME.get(image.format or "", "")
        exif = image.getexif()
        place = _place(exif.get_ifd(_GPS))
        return Capture(_taken(exif.get_ifd(_EXIF)), *place, mediatype)
    except Exception:  # damaged files make decoders raise nearly anything
        return Capture(mediatype=mediatype)


def _taken(tags: Mapping[int, Any]) -> str:
    try:
        time = datetime.datetime.strptime(_text(tags.get(_TAKEN)), "%Y:%m:%d %H:%M:%S")
    except ValueError:  # also "0000:00:00 00:00:00", of a clock that was never set
        return ""
    try:
        zone = datetime.datetime.strptime(_text(tags.get(_OFFSET)), "%z").tzinfo
    except ValueError:
        zone = None
    return time.replace(tzinfo=zone).isoformat()


def _place(tags: Mapping[int, Any]) -> tuple[float | None, float | None, float | None]:
    latitude, longitude = _degrees(tags, _LATITUDE, "NS", 90), _degrees(tags, _LONGITUDE, "EW", 180)
    if latitude is None or longitude is None or latitude == longitude == 0:  # no fix
        return None, None, None
    try:
        error = float(tags[_ERROR])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        error = math.nan
    return latitude, longitude, error if error > 0 else None


def _degrees(
    tags: Mapping[int, Any], where: tuple[int, int], letters: str, most: int
) -> float | None:
    """The angle, to the seventh decimal, a centimetre; None where there is none."""
    letter, parts = _text(tags.get(where[0])).upper(), tags.get(where[1])
    try:
        value = sum(float(part) / 60**power for power, part in enumerate(parts or ()))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not parts or not abs(value) <= most or letter not in (*letters,):  # nor a NaN
        return None
    return round(-value if letter == letters[1] else value, 7)


def _text(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ")
