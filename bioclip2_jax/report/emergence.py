"""The part of the report about emergent properties: results of `bioclip2 analyze`."""

from collections.abc import Iterator

from bioclip2_jax.evaluation.experiments import Scaling, Theory
from bioclip2_jax.evaluation.findings import Between, Within
from bioclip2_jax.report.figures import scaling as scaling_figures
from bioclip2_jax.report.figures import theory as theory_figures
from bioclip2_jax.report.figures import traits as trait_figures
from bioclip2_jax.report.gather import ResultFile

SHOWN_SPECIES = 12  # rows of the table of variants


def part(result: ResultFile) -> dict:
    """What the page shows of one analysis, a result of a kind in `gather.ANALYSES`."""
    values = result.values
    name = result.model or result.path.parent.name
    part = {"kind": result.kind, "name": name, "values": values, "figures": list(_figures(values))}
    if isinstance(values, Within):
        ranked = sorted(values.species, key=lambda row: (row.rho is None, row.rho or 0))
        part |= {"species": ranked[:SHOWN_SPECIES], "hidden": len(ranked) - SHOWN_SPECIES}
    if isinstance(values, Scaling):
        part["answers"] = [row for row in values.hypotheses if row.family in scaling_figures.SHOWN]
    return part


def _figures(values: Between | Within | Theory | Scaling) -> Iterator[tuple[str, str]]:
    """Titles and SVG of all that the result can be drawn as."""
    if isinstance(values, Between):
        if values.continuous:
            yield "Traits along their axes", trait_figures.trait_axes(values)
        if values.map:
            yield "Map of the species", trait_figures.species_map(values.map)
    elif isinstance(values, Within):
        for panel in values.panels:
            yield ", ".join(panel.names), trait_figures.variant_panel(panel, values.variants)
        if any(row.rho is not None for row in values.species):
            yield "ρ of every species", trait_figures.rho_by_species(values)
    elif isinstance(values, Scaling):
        yield from scaling_figures.claim_figures(values)
    else:
        yield "Share inside, and the tree", theory_figures.theory_curves(values)
