"""Settings of foreign files, key by key: followed, checked, or known to change nothing.

Whatever else a file says is refused: what is passed over in silence gives other features than the
model's own.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from bioclip2_jax.errors import UserError

# Why such a model is not read (`HyperbolicCLIP` of arXiv 2606.21838, and MERU, arXiv 2304.09172).
HYPERBOLIC = (
    "a hyperbolic model, whose features are compared by distances on a hyperboloid and not by"
    " cosines, which is all that is computed here; take its Euclidean sister, for BioCLIP-HC"
    " hf-hub:imageomics/bioclip-hc-euclidean"
)


def check_settings(
    where: str,
    settings: Mapping[str, Any],
    *,
    followed: Collection[str],
    fixed: Mapping[str, Collection[Any]],
    idle: Collection[str],
) -> None:
    """Refuses what cannot be followed; null is as good as absent where a key is not `fixed`.

    Args:
      where: the place of these settings inside the file, for messages; "" for its top.
      settings: key → value.
      followed: keys that the caller reads.
      fixed: key → values that mean the plain model.
      idle: keys that change nothing of what a model computes.

    Raises:
      UserError: another value of a fixed key, or keys that are none of the three; all are named.
    """
    for name, values in fixed.items():
        if name in settings and settings[name] not in values:
            choices = " or ".join(repr(value) for value in values if value is not None)
            raise UserError(f"{_inside(where, name)} is {settings[name]!r}; {choices} can be read")
    names = [name for name, value in settings.items() if value is not None]
    unknown = sorted(set(names) - {*followed, *fixed, *idle})
    if unknown:
        raise UserError(
            f"{where} holds {', '.join(unknown)}: not known of a plain CLIP ViT, all that is read;"
            " take out what changes nothing of the model".lstrip()
        )


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def section(where: str, settings: Any) -> dict[str, Any]:
    """An object inside a file.

    Raises:
      UserError: it is missing or something else.
    """
    if not isinstance(settings, dict):
        raise UserError(f"{where} is missing or not an object")
    return settings


def positive(where: str, value: Any, kind: type = int) -> Any:
    """A positive number of this kind; a whole one is a float too.

    Raises:
      UserError: it is missing or something else.
    """
    if value is None:
        raise UserError(f"{where} is missing")
    good = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not good or not 0 < value < math.inf:
        raise UserError(f"{where} is {value!r}, not a positive number")
    return value


def side(where: str, value: Any) -> int:
    """The side of a square: a number, or twice the same, [height, width].

    Raises:
      UserError: it is missing or something else.
    """
    if isinstance(value, list) and len(value) in (1, 2) and value[0] == value[-1]:
        value = value[0]
    return positive(where, value)


def channels(where: str, value: Any, *, above_zero: bool = False) -> tuple[float, ...]:
    """A number for each channel, or one for all; `where` it stands, for messages.

    Raises:
      UserError: it is something else, or not finite, or with `above_zero` not above it.
    """
    values = [value] * 3 if isinstance(value, int | float) else value
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} {value!r} is not three numbers") from error
    if not all(map(math.isfinite, (red, green, blue))):
        raise UserError(f"{where} {value!r} is not three finite numbers")
    if above_zero and min(red, green, blue) <= 0:
        raise UserError(f"{where} {value!r} is not three numbers above zero")
    return red, green, blue


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio that open_clip, which cuts `width * ratio` to a whole number, cuts to `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
