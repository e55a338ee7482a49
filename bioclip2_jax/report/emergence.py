"""The part of the report about emergent properties: results of `bioclip2 analyze`."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from bioclip2_jax.report import published, read
from bioclip2_jax.report.read import Result

WORST_SPECIES = 12  # rows of the table of species with variants


def parts(results: Sequence[Result], draw: Callable[[str], Markup]) -> dict[str, list[dict]]:
    """What the page shows of each analysis, by kind; empty without any.

    Args:
      results: of a report; those of evaluations are passed over.
      draw: puts a figure into the page.

    Raises:
      UserError: a result is damaged.
    """
    found: dict[str, list[dict]] = {}
    for result in results:
        if result.kind in read.ANALYSES:
            found.setdefault(result.kind, []).append(_part(result))
    return found


def _part(result: Result) -> dict:
    values = result.values
    part = {"name": result.model or result.path.parent.name, "values": values, "figures": []}
    if result.kind == "within":
        ranked = sorted(values["species"], key=lambda row: row["rho"])
        part |= {
            "species": ranked[:WORST_SPECIES],
            "hidden": len(ranked) - WORST_SPECIES,
            "published": published.VARIANT_SHARE,
            "source": published.VARIANT_SHARE_SOURCE,
        }
    if result.kind == "scaling":
        keys = [key for run in values["runs"] for key, value in run.items() if _is_number(value)]
        part["measures"] = [k for k in dict.fromkeys(keys) if k not in ("images", "seed")]
    return part


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
