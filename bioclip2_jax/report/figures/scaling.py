"""The scaling study as one figure: every quantity against the number of training pictures."""

from collections import defaultdict

import numpy as np
from matplotlib import pyplot

from bioclip2_jax.evaluation.experiments import Scaling
from bioclip2_jax.report.figures.style import COLORS, MARKERS, STYLE, WIDTH, svg

# Measures of a run, what they are called, and the measure that says what chance gives.
PANELS = (
    ("zero_shot_top1", "Species named right, zero-shot", "zero_shot_chance"),
    ("trait_alignment", "Distances in features and in traits", None),
    ("ridge_r", "Traits predicted in other families", None),
    ("habitat_accuracy", "Habitat in other families, above chance", None),
    ("rho_sex", "ρ of sex", "rho_sex_chance"),
    ("rho_life_stage", "ρ of life stage", "rho_life_stage_chance"),
    ("fisher_sex", "Fisher ratio of sex", None),
    ("fisher_life_stage", "Fisher ratio of life stage", None),
)
_LINES = (("hierarchical", False), ("hierarchical", True), ("flat", False), ("flat", True))


def scaling_curves(scaling: Scaling) -> str:
    """SVG of a study.

    Lines are means over the seeds, bars their range; the point at the left is the general model
    that all runs start from.
    """
    runs = scaling.runs
    sizes = sorted({run.images for run in runs if run.images})
    start = sizes[0] / (sizes[1] / sizes[0] if len(sizes) > 1 else 3)
    with pyplot.rc_context(STYLE):
        figure, all_axes = pyplot.subplots(
            len(PANELS), 1, figsize=(WIDTH, 1.75 * len(PANELS)), sharex=True
        )
        for axes, (measure, title, chance) in zip(all_axes, PANELS, strict=True):
            if chance and getattr(runs[0], chance) is not None:
                axes.axhline(getattr(runs[0], chance), color="#555", linestyle=":", linewidth=1)
            for place, (captions, replay) in enumerate(_LINES):
                values = defaultdict(list)
                for run in runs:
                    if run.images == 0 or (run.captions, run.replay) == (captions, replay):
                        value = getattr(run, measure)
                        values[run.images or start].append(np.nan if value is None else value)
                x = sorted(values)
                mean = np.asarray([np.mean(values[size]) for size in x])
                spread = [mean - [min(values[s]) for s in x], [max(values[s]) for s in x] - mean]
                axes.errorbar(
                    x,
                    mean,
                    yerr=spread if len(scaling.settings.seeds) > 1 else None,
                    color=COLORS[0 if captions == "hierarchical" else 4],
                    linestyle="-" if replay else "--",
                    marker=MARKERS[place],
                    markersize=4,
                    linewidth=1.2,
                    label=f"{captions}{', replay' if replay else ''}",
                )
            axes.set_title(title, loc="left", fontsize=9.5)
            axes.set_xscale("log")
        all_axes[-1].set_xticks([start, *sizes], ["general\nmodel", *(f"{s:,}" for s in sizes)])
        all_axes[-1].minorticks_off()
        all_axes[-1].set_xlabel("training pictures")
        all_axes[0].legend(loc="lower center", bbox_to_anchor=(0.45, 1.12), ncols=2, fontsize=8.5)
        figure.tight_layout()
        return svg(figure, "Scaling study")
