"""The scaling study, one figure a claim: its measure in every tree, at every scale."""

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from bioclip2_jax.evaluation.experiments import FIRST, Hypothesis, Row, Scaling
from bioclip2_jax.report.figures.style import COLORS, MARKERS, OTHER_COLOR, STYLE, WIDTH, svg

SHOWN = (FIRST, "check")  # families that are drawn
_START = 3  # the start stands so many times left of the smallest scale

Lines = dict[int, dict[float, float]]


def claim_figures(scaling: Scaling) -> Iterator[tuple[str, str]]:
    """Name and SVG of every claim about the paper's own model."""
    for answer in scaling.hypotheses:
        if answer.family in SHOWN:
            yield answer.name, claim_figure(scaling, answer)


def claim_figure(scaling: Scaling, answer: Hypothesis) -> str:
    """SVG of the measure against the pictures of each scale.

    Thin lines are the trees, the thick one is their mean; what stands at the left is the start.
    Dotted is what is subtracted, or what random weights have; other captions and the theory, where
    they say something, are means.
    """
    rows, beside = scaling.rows, answer.beside
    left = min(row.images for row in rows if row.images) / _START
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(WIDTH, 3.0))
        own = _lines(rows, answer, answer.captions, left)
        for points in own.values():
            axes.plot(*_xy(points), color=OTHER_COLOR, linewidth=0.7, zorder=1)
        if beside:
            named = _lines(rows, answer, answer.captions, left, measure=beside)
            _mean(axes, named, "random divisions", color="#555", linestyle=":")
        if answer.against:
            other = _lines(rows, answer, answer.against, left)
            _mean(axes, other, f"{answer.against} captions", color=COLORS[4], marker=MARKERS[1])
        else:
            theory = _lines(rows, answer, answer.captions, left, world="theory")
            _mean(axes, theory, "Theorem 5.1’s setting", color=COLORS[1], linestyle="--")
            pictures = _lines(rows, answer, answer.captions, left, world="pictures")
            _mean(axes, pictures, "in pictures", color=COLORS[2], marker=MARKERS[2])
        _mean(axes, own, f"{answer.captions} captions", color=COLORS[0], marker=MARKERS[0])
        sizes = sorted({row.images for row in rows if row.images and row.world == "factors"})
        axes.set_xscale("log")
        axes.set_xticks([left, *sizes], ["start", *map(_short, sizes)])
        axes.minorticks_off()
        axes.set_xlabel("training pictures, species and steps with them")
        axes.set_title(textwrap.fill(answer.claim, 48), loc="left", fontsize=9.5)
        axes.legend(fontsize=8, loc="best")
        figure.tight_layout()
        return svg(figure, f"Scaling study {answer.name}")


def _lines(
    rows: Sequence[Row],
    answer: Hypothesis,
    captions: str,
    left: float,
    *,
    measure: str = "",
    world: str = "factors",
) -> Lines:
    """Tree → pictures → value, the start of the world at the left."""
    lines: Lines = defaultdict(dict)
    replay = answer.replay and world != "theory"
    for row in rows:
        value = getattr(row, measure or answer.measure)
        trained = (row.captions, row.replay, row.grows) == (captions, replay, answer.grows)
        if row.world == world and value is not None and (trained or row.captions == "general"):
            lines[row.seed][row.images or left] = value
    return lines


def _xy(points: dict[float, float]) -> tuple[list[float], list[float]]:
    x = sorted(points)
    return x, [points[place] for place in x]


def _mean(axes: Axes, lines: Lines, label: str, **how) -> None:
    """The mean over trees where there are any."""
    places = sorted({place for points in lines.values() for place in points})
    if places:
        means = [np.mean([p[place] for p in lines.values() if place in p]) for place in places]
        axes.plot(places, means, label=label, linewidth=1.6, markersize=5, **how)


def _short(size: int) -> str:
    return f"{size / 1000:g}k" if size >= 1000 else str(size)
