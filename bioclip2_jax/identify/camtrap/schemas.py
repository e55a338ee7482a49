"""What Camtrap DP says of its tables: the official profile and schemas, as they are, and their use.

The folder beside this file holds release 1.0.2 of https://github.com/tdwg/camtrap-dp with its
licence (MIT). Columns, types and limits are read from there and written down nowhere else.
"""

import datetime
import functools
import json
import math
import re
import zoneinfo
from importlib import resources
from typing import Any

from bioclip2_jax.errors import UsageError

VERSION = "1.0.2"
URL = f"https://raw.githubusercontent.com/tdwg/camtrap-dp/{VERSION}"
TABLES = ("deployments", "media", "observations")
_EXIF_DATE = re.compile(r"(\d{4}):(\d\d):(\d\d)\b")
_OFFSET = re.compile(r"[+-]\d\d:?\d\d")
_YES, _NO = {"true", "yes", "1", "t", "y"}, {"false", "no", "0", "f", "n"}

Field = dict[str, Any]


@functools.cache
def official(name: str) -> dict[str, Any]:
    """One of the official files: "camtrap-dp-profile" or "media-table-schema"."""
    file = resources.files("bioclip2_jax.identify.camtrap") / VERSION / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


@functools.cache
def fields(table: str) -> dict[str, Field]:
    """The columns of a table, in order: name → what the schema says of it."""
    return {field["name"]: field for field in official(f"{table}-table-schema")["fields"]}


def project_choices(name: str) -> list[str]:
    """What a property of the project may be."""
    own = official("camtrap-dp-profile")["allOf"][1]["properties"]["project"]["properties"][name]
    return own.get("enum") or own["items"]["enum"]


def zone_of(text: str) -> datetime.tzinfo:
    """The time zone that somebody names: "Europe/Brussels", "UTC" or "+01:00".

    Raises:
      UsageError: there is no such zone.
    """
    if _OFFSET.fullmatch(text):
        zone = datetime.datetime.strptime(text, "%z").tzinfo
        assert zone
        return zone
    try:
        return zoneinfo.ZoneInfo(text)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise UsageError(
            f"--timezone {text}: no such time zone here; write a name such as Europe/Brussels, or"
            " an offset such as +01:00 for a camera that knows no summer time"
        ) from error


def time_of(text: str, zone: datetime.tzinfo) -> datetime.datetime:
    """A date with its time, as ISO 8601 or EXIF write it; of `zone` where it names none.

    Raises:
      ValueError: it is none, or a date alone.
    """
    text = _EXIF_DATE.sub(r"\1-\2-\3", text.strip(), count=1)
    time = datetime.datetime.fromisoformat(text)
    if ":" not in text:
        raise ValueError("a date without a time")
    time = time.replace(microsecond=0)
    return time if time.tzinfo else time.replace(tzinfo=zone)


def checked(field: Field, text: str, zone: datetime.tzinfo) -> str:
    """A cell as the schema wants it.

    Raises:
      ValueError: it cannot be meant; the message says what is wanted.
    """
    limits = field["constraints"]
    if not text:
        if limits["required"]:
            raise ValueError("is missing")
        return ""
    choices = limits.get("enum")
    if choices and text not in choices:
        raise ValueError(f"is none of {', '.join(choices)}")
    match field["type"]:
        case "number" | "integer":
            return _number(text, limits, whole=field["type"] == "integer")
        case "boolean":
            if text.lower() not in _YES | _NO:
                raise ValueError("is neither true nor false")
            return "true" if text.lower() in _YES else "false"
        case "datetime":
            try:
                return time_of(text, zone).isoformat()
            except ValueError as error:
                raise ValueError("is no time; write 2026-03-01T22:00:00") from error
    return text


def _number(text: str, limits: dict[str, Any], *, whole: bool) -> str:
    try:
        value = float(text.replace(",", "."))  # as spreadsheets of half the world write it
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (whole and value != int(value)):
        raise ValueError(f"is no {'whole ' * whole}number")
    low, high = limits.get("minimum", -math.inf), limits.get("maximum", math.inf)
    if not low <= value <= high:
        raise ValueError(f"is not between {low:g} and {high:g}".replace(" and inf", " and more"))
    return str(int(value)) if whole else text.replace(",", ".")
