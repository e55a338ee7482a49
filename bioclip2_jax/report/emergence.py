"""The part of the report about emergent properties: results of `bioclip2 analyze`."""

from collections.abc import Callable

from markupsafe import Markup

from bioclip2_jax.report import published
from bioclip2_jax.report.read import Result

SHOWN_SPECIES = 12  # rows of the table of variants


def part(result: Result, draw: Callable[[str], Markup]) -> dict:
    """What the page shows of one analysis.

    Args:
      result: of a kind in `read.ANALYSES`.
      draw: puts a figure into the page.
    """
    values = result.values
    name = result.model or result.path.parent.name
    part = {"kind": result.kind, "name": name, "values": values, "figures": []}
    if result.kind == "within":
        known = [row for row in values["species"] if row["rho"] is not None]
        unknown = [row for row in values["species"] if row["rho"] is None]
        ranked = [*sorted(known, key=lambda row: row["rho"]), *unknown]
        part |= {
            "species": ranked[:SHOWN_SPECIES],
            "hidden": len(ranked) - SHOWN_SPECIES,
            "published": published.VARIANT_SHARE,
            "source": published.VARIANT_SHARE_SOURCE,
        }
    if result.kind == "scaling":
        keys = [key for run in values["runs"] for key, value in run.items() if _is_number(value)]
        part["measures"] = [k for k in dict.fromkeys(keys) if k not in ("images", "seed")]
    return part


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
