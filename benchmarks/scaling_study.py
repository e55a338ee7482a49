"""Puts the results of the scaling study into docs/emergence.md.

    bioclip2 analyze scaling --config=configs/scaling.py --out runs/scaling
    python benchmarks/scaling_study.py runs/scaling

The tables go between the marks of the page, and the figure of each claim to docs/figures. `--cost`
says instead what the models of one tree cost, by processor time; the tree is none of the study's.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEASURES = (
    "zero_shot inherited_seen inherited_unseen convergent_seen convergent_unseen plane_sex"
    " plane_null_sex plane_life_stage plane_null_life_stage halves_sex null_sex halves_life_stage"
    " null_life_stage fisher_sex fisher_life_stage few_shot_sex few_shot_life_stage effective_rank"
).split()
BEGIN, END = "<!-- scaling study: begin -->\n", "<!-- scaling study: end -->\n"


def write_page(out: Path) -> None:
    """Tables and figures of the study that OUT holds."""
    from bioclip2_jax.analysis.study_tables import (
        answers_table,
        families_table,
        main_models,
        models_table,
    )
    from bioclip2_jax.evaluation import schema
    from bioclip2_jax.evaluation.experiments import Scaling
    from bioclip2_jax.report.figures.scaling import claim_figures

    result = schema.read(out / "scaling.json", Scaling)
    figures = dict(claim_figures(result))
    for name, figure in figures.items():
        (ROOT / f"docs/figures/scaling_{name}.svg").write_text(figure, encoding="utf-8")
    titles = {one.name: one.claim for one in result.hypotheses}
    parts = [
        "\n".join(answers_table(result)),
        f"Of 100 studies of shuffled traits and variants, {result.shuffled_null} found nothing.",
        "Means over trees, before training (`untrained` are random weights, `general` is the"
        " start) and at each scale: the paper's own model (hierarchical, replay), the same with"
        " flat names, and from random weights (`scratch`). `plane_` is the share in the plane of"
        " three species, `halves_` that in the space of all 28, each beside that of random"
        " divisions (`null_`):",
        "\n".join(models_table(main_models(result.rows), MEASURES)),
        *(f"![{titles[name]}](figures/scaling_{name}.svg)" for name in figures),
        "Slopes of all families; bold where the corrected p is at most 0.05:",
        "\n".join(families_table(result)),
    ]
    page = ROOT / "docs/emergence.md"
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(
        before + BEGIN + "\n" + "\n\n".join(parts) + "\n\n" + END + after, encoding="utf-8"
    )


def print_cost() -> None:
    """Processor time of each model of a tree."""
    os.environ["NPROC"] = "1"
    from bioclip2_jax.analysis import factor_study
    from bioclip2_jax.analysis.study import settings_of
    from configs import scaling

    settings = settings_of(scaling.get_config())
    seed, claims = settings.factors.first_tree + 800, tuple(settings.claims)
    begin = time.process_time()
    tree = factor_study._Tree(settings.factors, seed)
    print(f"start: {time.process_time() - begin:.1f} s")
    first = time.process_time()
    for arm in factor_study.arms(settings.factors, seed):
        begin = time.process_time()
        tree.row(arm, factor_study._asked(claims, arm))
        spent = time.process_time() - begin
        print(f"{factor_study.file_of(Path(), arm).stem}: {spent:.1f} s", flush=True)
    one = time.process_time() - first
    trees = settings.factors.trees
    print(f"{one:.0f} s a tree, {trees * one / 60:.0f} min of one core for {trees} trees")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path(tempfile.gettempdir()))
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    if arguments.cost:
        print_cost()
    else:
        write_page(arguments.out)


if __name__ == "__main__":
    main()
