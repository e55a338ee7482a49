"""The part of the report about emergent properties: results of `bioclip2 analyze`."""

from collections.abc import Callable, Iterator

from markupsafe import Markup

from bioclip2_jax.report import published
from bioclip2_jax.report.figures import scaling as scaling_figures
from bioclip2_jax.report.figures import theory as theory_figures
from bioclip2_jax.report.figures import traits as emergence_figures
from bioclip2_jax.report.gather import Result

SHOWN_SPECIES = 12  # rows of the table of variants


def part(result: Result, draw: Callable[[str], Markup]) -> dict:
    """What the page shows of one analysis.

    Args:
      result: of a kind in `read.ANALYSES`.
      draw: puts a figure into the page.
    """
    values = result.values
    name = result.model or result.path.parent.name
    figures = [(title, draw(svg)) for title, svg in _figures(result.kind, values)]
    part = {"kind": result.kind, "name": name, "values": values, "figures": figures}
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
        measured = {key for run in values["runs"] for key in run}
        part["measures"] = {k: title for k, title, _ in scaling_figures.PANELS if k in measured}
    return part


def _figures(kind: str, values: dict) -> Iterator[tuple[str, str]]:
    """Titles and SVG of all that the result can be drawn as."""
    if kind == "between":
        if values.get("continuous"):
            yield "Traits along their axes", emergence_figures.trait_axes(values)
        if values.get("map"):
            yield "Map of the species", emergence_figures.species_map(values)
    if kind == "within":
        for panel in values.get("panels", ()):
            title = ", ".join(panel["names"])
            yield title, emergence_figures.variant_panel(panel, values["variants"])
        if any(row["rho"] is not None for row in values["species"]):
            yield "ρ of every species", emergence_figures.rho_by_species(values)
    if kind == "scaling":
        yield "Against the number of pictures", scaling_figures.scaling_curves(values)
    if kind == "theory":
        yield "Share inside, and the tree", theory_figures.theory_curves(values)
