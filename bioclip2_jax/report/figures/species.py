"""Figures about the evaluation of species and about a training run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from bioclip2_jax.evaluation import schema
from bioclip2_jax.measures.calibration import Bin
from bioclip2_jax.measures.intervals import wilson
from bioclip2_jax.measures.maps import flat_map
from bioclip2_jax.measures.prior import PriorPoint
from bioclip2_jax.report.figures.style import (
    BAR_COLOR,
    COLORS,
    MARKERS,
    OTHER_COLOR,
    STYLE,
    WIDTH,
    svg,
)

MAX_POINTS = 2000
# Measures of a rank that stand beside the bars, and how they are drawn.
_MARKS: dict[str, dict[str, Any]] = {
    "prompted_top1": {"marker": "D", "s": 22, "color": COLORS[4], "label": "asked at this rank"},
    "chance": {"marker": "|", "s": 160, "linewidths": 2, "color": "black", "label": "chance"},
}


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the last `width` values at every point."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    starts = np.maximum(np.arange(1, len(values) + 1) - width, 0)
    ends = np.arange(1, len(values) + 1)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _curve(axes: Axes, points: Sequence[tuple[int, float]], color: str, label: str) -> None:
    """A noisy series of (step, value) as a faint line under its running mean."""
    steps, values = np.asarray(points, float).T
    axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.8)
    axes.plot(steps, _smooth(values, max(1, len(values) // 30)), color=color, label=label)


def training_curves(rows: list[dict]) -> list[tuple[str, str]]:
    """Loss, learning rate, logit scale and speed over the steps of `metrics.jsonl`: title → SVG."""
    panels: dict[str, dict[str, str]] = {
        "Loss": {"contrastive_loss": "pictures and names", "replay_loss": "replay"},
        "Learning rate": {"learning_rate": ""},
        "Logit scale": {"logit_scale": ""},
        "Samples per second": {"samples_per_second": ""},
    }
    drawn = []
    for title, series in panels.items():
        with pyplot.rc_context(STYLE):
            figure, axes = pyplot.subplots(figsize=(WIDTH, 2.4))
            for color, (name, label) in zip(COLORS, series.items(), strict=False):
                points = [(row["step"], row[name]) for row in rows if name in row]
                if points:
                    _curve(axes, points, color, label)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if title == "Learning rate":
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
            if len(axes.get_legend_handles_labels()[0]) > 1:
                axes.legend()
            drawn.append((title, svg(figure, f"Training: {title.lower()}")))
    return drawn


def accuracy_over_steps(results: Sequence[schema.ZeroShotResult]) -> str:
    """Zero-shot accuracy of every evaluated checkpoint, `results` by ascending step."""
    steps = [result.step or 0 for result in results]
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(WIDTH, 3.0))
        series = (("macro_top1", "class average"), ("top1", "all images"))
        for color, marker, (name, label) in zip(COLORS, MARKERS, series, strict=False):
            low, high = zip(*(result.intervals[name] or (0, 1) for result in results), strict=True)
            values = [getattr(result, name) for result in results]
            axes.plot(steps, values, color=color, marker=marker, markersize=4, label=label)
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        chance = [result.chance for result in results]
        axes.plot(steps, chance, color="#555", linestyle=":", label="chance")
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=3, fontsize=8.5)
        return svg(figure, "Species accuracy over training")


def accuracy_per_rank(ranks: Mapping[str, schema.NamedRank]) -> str:
    """Bars with 95 % intervals for every rank, with chance and the prompted variant marked."""
    names = list(ranks)
    places = np.arange(len(names))
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(WIDTH, 3.7))
        values = np.asarray([row.top1 for row in ranks.values()], float)
        intervals = np.asarray([row.interval for row in ranks.values()], float)
        errors = np.abs(intervals.T - values)
        axes.barh(places, values, height=0.62, color=BAR_COLOR, label="species, summed")
        axes.errorbar(values, places, xerr=errors, fmt="none", ecolor=COLORS[0], capsize=3)
        rightmost = np.maximum(values, intervals[:, 1])
        for measure, style in _MARKS.items():
            marked = np.asarray([getattr(row, measure) or 0 for row in ranks.values()])
            axes.scatter(marked, places, zorder=3, **style)
            rightmost = np.maximum(rightmost, marked)
        for place, (value, right) in enumerate(zip(values, rightmost, strict=True)):
            axes.text(right + 0.02, place, f"{value:.0%}", va="center", fontsize=8.5)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(axis="y", visible=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.1), ncols=3, fontsize=8.5)
        return svg(figure, "Accuracy per rank")


def reliability(bins: Sequence[Bin]) -> str:
    """Accuracy against confidence with 95 % Wilson intervals; below, how many pictures.

    Args:
      bins: of `calibration.summary`.
    """
    drawn = [(each.low, each.high, each.count, each.confidence, each.accuracy) for each in bins]
    lows, highs, counts, confidence, accuracy = np.asarray(drawn).T
    intervals = [wilson(round(each.accuracy * each.count), each.count) for each in bins]
    errors = np.abs(np.transpose(intervals) - accuracy)
    with pyplot.rc_context(STYLE):
        figure, (axes, below) = pyplot.subplots(
            2, 1, figsize=(WIDTH, 4.7), sharex=True, height_ratios=[3, 1]
        )
        axes.plot([0, 1], [0, 1], color="black", linestyle=":", label="as sure as right")
        axes.errorbar(
            confidence,
            accuracy,
            yerr=errors,
            color=COLORS[0],
            marker="o",
            markersize=5,
            capsize=3,
            linewidth=1.2,
            label="measured",
        )
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel("share right")
        # Above: an overconfident curve fills one corner, a timid one the other.
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8.5)
        widths = highs - lows
        below.bar(lows, counts, widths, align="edge", color=BAR_COLOR, edgecolor="white")
        below.set_ylabel("pictures")
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        below.set_xlabel("probability of the first answer")
        below.set_xlim(-0.02, 1.02)
        for panel, percent_axis in ((axes, axes.yaxis), (below, below.xaxis)):
            percent_axis.set_major_formatter(PercentFormatter(1, decimals=0))
            panel.set_xticks([0, 0.25, 0.5, 0.75, 1])
        figure.align_ylabels()
        figure.tight_layout()
        return svg(figure, "Reliability of the probabilities")


def prior_trade(curves: Mapping[str, Sequence[Sequence[PriorPoint]]]) -> str:
    """Accuracy over pictures against that averaged over taxa, while a prior grows stronger: SVG.

    Args:
      curves: name of a model → for each of its runs, what `zero_shot.json` says under `prior`. Of
        several runs the mean is drawn, and each faintly, at the strengths that all of them have.
    """
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(WIDTH, 3.6))
        marks: list[tuple[float, tuple[float, float], str]] = []
        for number, (name, runs) in enumerate(curves.items()):
            color = COLORS[number % len(COLORS)]
            shared = set.intersection(*({point.strength for point in run} for run in runs))
            strengths = sorted(shared)
            by_strength = [{point.strength: point for point in run} for run in runs]
            lines = np.asarray(
                [[(of[a].macro_top1, of[a].top1) for a in strengths] for of in by_strength], float
            )
            for line in lines if len(lines) > 1 else ():
                axes.plot(*line.T, color=color, linewidth=0.8, alpha=0.4)
            mean = lines.mean(axis=0)
            label = f"{name}, mean of {len(lines)}" if len(lines) > 1 else name
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(*mean.T, color=color, marker=marker, markersize=4, label=label)
            marks += [(a, (x, y), color) for a, (x, y) in zip(strengths, mean, strict=True)]
        axes.margins(0.14)
        axes.autoscale_view()
        _mark_strengths(axes, marks)
        axes.set_xlabel("average over taxa (macro)")
        axes.set_ylabel("over all pictures (micro)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        if len(curves) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), fontsize=8.5)
        return svg(figure, "First answers right while a prior grows stronger")


def _mark_strengths(axes: Axes, marks: Sequence[tuple[float, tuple[float, float], str]]) -> None:
    """The strength beside each point, the ends of a curve first, where there is room for it."""
    ends = {min(a for a, _, _ in marks), max(a for a, _, _ in marks)}
    taken: list[np.ndarray] = []
    for strength, place, color in sorted(marks, key=lambda mark: mark[0] not in ends):
        spot = axes.transAxes.inverted().transform(axes.transData.transform(place))
        if all(abs(x) > 0.14 or abs(y) > 0.07 for x, y in (spot - other for other in taken)):
            taken.append(spot)
            style = {"color": color, "fontsize": 8.5, "textcoords": "offset points"}
            axes.annotate(f"{strength:g}", place, (4, 4), **style)


def class_map(features: np.ndarray, groups: Sequence[str], description: str) -> str:
    """A flat map of class vectors, coloured and shaped by group; small groups share grey.

    Args:
      features: [classes, dim] float32.
      groups: order (or another rank) of every class, "" where unknown.
      description: for readers who cannot see the figure.
    """
    rows = spread_rows(len(features))
    return scatter_groups(flat_map(features[rows]), [groups[row] for row in rows], description)


def spread_rows(count: int) -> list[int]:
    """Which of so many points a map shows: all, or as many as can be told apart."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).astype(int)).tolist()


def scatter_groups(places: np.ndarray, groups: Sequence[str], description: str) -> str:
    """Points of a map, coloured and shaped by group; small groups share grey.

    Args:
      places: [n, 2] float.
      groups: of every point, "" where unknown.
      description: for readers who cannot see the figure.
    """
    group_of = np.asarray([group or "unknown" for group in groups])
    counts = Counter(group_of.tolist())
    named = [name for name, _ in counts.most_common(len(COLORS)) if name != "unknown"]
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(WIDTH, WIDTH))
        for name, color, marker in zip(named, COLORS, MARKERS, strict=False):
            mask = group_of == name
            axes.scatter(
                *places[mask].T,
                s=34,
                color=color,
                marker=marker,
                edgecolors="white",
                linewidths=0.4,
                label=f"{name} ({mask.sum()})",
            )
        rest = ~np.isin(group_of, named)
        if rest.any():
            label = f"other ({len(counts) - len(named)} groups, {rest.sum()})"
            axes.scatter(*places[rest].T, s=26, color=OTHER_COLOR, marker=".", label=label)
        axes.set_xticks([])
        axes.set_yticks([])
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, fontsize=8.5)
        return svg(figure, description)
