"""The experiments on Theorem 5.1 as one figure."""

from collections.abc import Sequence

from matplotlib import pyplot
from matplotlib.axes import Axes

from bioclip2_jax.evaluation.experiments import Hierarchy, Orthogonality, Theory
from bioclip2_jax.report.figures.style import COLORS, MARKERS, STYLE, WIDTH, svg

_SWEEPS = {
    "species": "number of species",
    "scale": "logit scale",
    "cosine": "cosine between prototypes",
    "overlap": "likeness of the difference to another species",
}


def theory_curves(theory: Theory) -> str:
    """SVG of the course of training, the sweeps, and the role of the hierarchy."""
    rows = theory.orthogonality
    with pyplot.rc_context(STYLE):
        figure, all_axes = pyplot.subplots(
            2 + len(_SWEEPS), 1, figsize=(WIDTH, 2.2 * (2 + len(_SWEEPS)))
        )
        course = [row for row in rows if row.sweep == "course"]
        for place, shared in enumerate((True, False)):
            part = [row for row in course if row.shared == shared]
            name = "one factor for all species" if shared else "one factor a species"
            _line(all_axes[0], [max(row.step, 1) for row in part], part, place, name)
        all_axes[0].axhline(course[0].chance, color="#555", linestyle=":", label="chance")
        _steps(all_axes[0], course)
        _legend(all_axes[0])
        for axes, (name, label) in zip(all_axes[1:-1], _SWEEPS.items(), strict=True):
            part = [row for row in rows if row.sweep == name]
            values = [getattr(row, name) for row in part]
            _line(axes, values, part, 0, "after training")
            chances = [row.chance for row in part]
            axes.plot(values, chances, color="#555", linestyle=":", label="chance")
            if name in ("species", "scale"):
                _logarithmic(axes, values)
            axes.set_xlabel(label)
        for axes in all_axes[:-1]:
            axes.set_ylabel("ρ")
            axes.set_ylim(bottom=0)
        axes = all_axes[-1]
        seen = [row for row in theory.hierarchy if row.space == "seen"]
        for place, captions in enumerate(("hierarchical", "flat")):
            part = [row for row in seen if row.captions == captions]
            steps = [max(row.step, 1) for row in part]
            _line(axes, steps, part, place, f"{captions} captions", measure="tree")
        _steps(axes, seen)
        axes.set_ylabel("distances and tree")
        axes.set_ylim(bottom=0)
        _legend(axes)
        figure.tight_layout()
        return svg(figure, "Experiments on theorem 5.1")


def _steps(axes: Axes, rows: Sequence[Orthogonality | Hierarchy]) -> None:
    """An axis of training steps; the start stands where step 1 would."""
    steps = sorted({row.step for row in rows})
    _logarithmic(axes, [max(step, 1) for step in steps], steps)
    axes.set_xlabel("training step")


def _logarithmic(
    axes: Axes, values: Sequence[float], labels: Sequence[float] | None = None
) -> None:
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{label:g}" for label in labels or values])
    axes.minorticks_off()


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def _line(
    axes: Axes,
    x: Sequence[float],
    rows: Sequence[Orthogonality | Hierarchy],
    place: int,
    label: str,
    measure: str = "rho",
) -> None:
    """A measure of the rows with its standard errors, in the colour and shape of that place."""
    values, errors = ([getattr(row, measure + end) for row in rows] for end in ("", "_se"))
    axes.errorbar(
        x,
        values,
        yerr=errors,
        color=COLORS[place],
        marker=MARKERS[place],
        markersize=4,
        label=label,
    )
