"""Figures of `bioclip2 analyze between` and `within` as SVG."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot

from bioclip2_jax.evaluation.findings import Between, Panel, SpeciesMap, Within
from bioclip2_jax.report.figures.species import scatter_groups, spread_rows
from bioclip2_jax.report.figures.style import COLORS, MARKERS, OTHER_COLOR, STYLE, WIDTH, svg

MAX_TRAITS = 12
MAX_SPECIES = 24


def trait_axes(between: Between) -> str:
    """Held-out prediction of every continuous trait against its true value, a dot a species.

    Of many traits, those best predicted are drawn.
    """
    traits = sorted(between.continuous, key=lambda trait: -trait.ridge_r)[:MAX_TRAITS]
    columns = min(2, len(traits))
    lines = -(-len(traits) // columns)
    with pyplot.rc_context(STYLE):
        figure, all_axes = pyplot.subplots(
            lines, columns, figsize=(WIDTH, 0.5 + 2.05 * lines), squeeze=False
        )
        for axes, trait in zip(all_axes.flat, traits, strict=False):
            truth = np.asarray([value for _, value, _ in trait.projections], float)
            low, high = truth.min(), truth.max()
            axes.plot([low, high], [low, high], color=OTHER_COLOR, linewidth=1)
            axes.scatter(
                truth,
                trait.predictions,
                s=18,
                color=COLORS[0],
                alpha=0.75,
                edgecolors="white",
                linewidths=0.3,
            )
            name = trait.trait.removeprefix("trait_").replace("_", " ")
            name = name if len(name) <= 22 else f"{name[:21]}…"  # the next panel's begins there
            measured = f"r = {trait.ridge_r:.2f}, p = {trait.ridge_p:.3f}"
            axes.set_title(f"{name}\n{measured}", loc="left", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.locator_params(nbins=4)
        for axes in all_axes.flat[len(traits) :]:
            axes.set_visible(False)
        figure.supxlabel("measured", fontsize=9.5)
        figure.supylabel(f"predicted, {traits[0].clade} held out", fontsize=9.5)
        figure.tight_layout()
        return svg(figure, "Traits of species predicted from their features")


def species_map(layout: SpeciesMap) -> str:
    """The species laid out by t-SNE, coloured and shaped by order."""
    rows = spread_rows(len(layout.tsne))
    places, groups = np.asarray(layout.tsne)[rows], [layout.group[row] for row in rows]
    return scatter_groups(places, groups, "Map of the species by their features")


def variant_panel(panel: Panel, variants: Sequence[str]) -> str:
    """Three species in the plane of their means and one direction out of it, as in the paper.

    Args:
      panel: what is drawn.
      variants: names of the two variants.
    """
    with pyplot.rc_context(STYLE):
        figure = pyplot.figure(figsize=(WIDTH, WIDTH))
        axes = figure.add_subplot(projection="3d")

        def mark(places: np.ndarray, variant: int, color: str, hollow: str, **style: Any) -> None:
            """Variants differ by shape and fill, so that colour is free for the species."""
            fill = color if variant else hollow
            style |= {"marker": MARKERS[2 * variant], "facecolors": fill, "edgecolors": color}
            axes.scatter(*places.T, depthshade=False, **style)

        points = np.asarray([point.xyz for point in panel.points], float)
        kinds = np.asarray([(point.species, point.variant) for point in panel.points])
        for number, name in enumerate(panel.names):
            color, means = COLORS[number], np.asarray(panel.means[number], float)
            for variant in (0, 1):
                own = points[(kinds == (number, variant)).all(axis=1)]
                mark(own, variant, color, "none", s=14, linewidths=0.7, alpha=0.55)
            axes.plot(*means.T, color=color, linewidth=2.4, label=name)
            for variant in (0, 1):
                mark(means[[variant]], variant, color, "white", s=75, linewidths=1.6)
        for variant, name in enumerate(variants):
            mark(points[:0], variant, "#555555", "none", label=name)  # for the legend alone
        low, high = axes.get_zlim()
        ground = np.asarray([axes.get_xlim(), axes.get_ylim()])
        x, y = np.meshgrid(*ground)
        axes.plot_surface(x, y, np.zeros_like(x), color=OTHER_COLOR, alpha=0.18, linewidth=0)
        axes.set_zlim(low, high)
        axes.view_init(elev=18, azim=-58)
        axes.set_xlabel("species plane 1", labelpad=-12, fontsize=8.5)
        axes.set_ylabel("species plane 2", labelpad=-12, fontsize=8.5)
        axes.set_zlabel("across it", labelpad=-12, fontsize=8.5)
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_ticklabels([])
        axes.set_title(f"ρ = {panel.rho:.2f}", fontsize=10, y=0.98)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, fontsize=8.5)
        return svg(figure, "Variants of three species in the plane of the species and across it")


def rho_by_species(within: Within) -> str:
    """rho of every species and of all, with what random divisions and directions give.

    Species whose variants do not differ clearly (p above 0.05) are drawn hollow; of many species,
    those with the most pictures are drawn.
    """
    rows = [entry for entry in within.species if entry.rho is not None]
    rows = sorted(rows, key=lambda entry: -sum(entry.counts))[:MAX_SPECIES]
    rows.sort(key=lambda entry: entry.rho or 0)
    rho = within.rho
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            figsize=(WIDTH, 1.5 + 0.24 * len(rows)), layout="constrained"
        )
        for value, style, name in (
            (rho.null_mean, ":", "random division"),
            (rho.random_direction, "--", "random direction"),
        ):
            axes.axvline(value, color="#555555", linestyle=style, linewidth=1.2, label=name)
        fills = [COLORS[0] if entry.fisher_p <= 0.05 else "white" for entry in rows]
        shares = np.clip(np.asarray([entry.rho for entry in rows], float), -0.1, 1)
        places = np.arange(len(rows)) + 1
        axes.scatter(shares, places, s=34, facecolors=fills, edgecolors=COLORS[0], zorder=3)
        if rho.mean is not None:
            if rho.interval is not None:
                axes.plot(np.clip(rho.interval, -0.1, 1), [0, 0], color=COLORS[4], linewidth=3)
            mean = np.clip(rho.mean, -0.1, 1)
            axes.scatter(mean, 0, s=60, marker="D", color=COLORS[4], zorder=3)
        names = ["all", *(entry.name for entry in rows)]
        axes.set_yticks(np.arange(len(names)), names, fontsize=8.5)
        for label in axes.get_yticklabels()[1:]:
            label.set_fontstyle("italic")
        axes.set_ylim(len(rows) + 0.6, -0.6)
        axes.set_xlim(-0.13, 1.03)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_xlabel("ρ: share inside the species' subspace")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
        first, second = within.variants
        return svg(figure, f"Share of the difference of {first} and {second} between species")
