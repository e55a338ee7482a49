"""The scaling study: do species align with how they live, and do variants within them turn aside?

The paper trained on 1 M to 214 M pictures, from the weights of a general CLIP model. Here species,
pictures and steps grow together in a world of factors (`factors`), in trees enough for a test, and
at the two ends of the scale in pictures (`picture_world`). What is claimed is settled in the
recipe; `hypotheses` answers it. Every model's row is kept as a file: started again, the study goes
on, and gives the same numbers.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from ml_collections import ConfigDict

from bioclip2_jax import files
from bioclip2_jax.analysis import factor_study, hypotheses, picture_world
from bioclip2_jax.analysis.factor_study import Kept, TreeTask
from bioclip2_jax.analysis.study_tables import tables
from bioclip2_jax.errors import UsageError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.experiments import (
    FIRST,
    LEVEL,
    Claim,
    FactorStudy,
    Hypothesis,
    PictureStudy,
    Scaling,
    ScalingSettings,
)
from bioclip2_jax.report.figures.scaling import claim_figures
from bioclip2_jax.workers.tasks import Runner
from bioclip2_jax.workers.tasks import run as run_tasks

SHUFFLED_STUDIES = 100


def run(
    config: ConfigDict,
    out: str | Path,
    processes: int | None = None,
    say: Callable[[str], None] = print,
) -> Scaling:
    """Trains and measures all models, and answers the claims.

    Args:
      config: `configs/scaling.py`: the study, and the recipe of the models of pictures.
      out: folder for rows, pictures, runs and results.
      processes: that share the trees of factors; None: one a core.
      say: receives a line a tree, a model of pictures and a claim.

    Returns:
      What `scaling.json` holds.

    Raises:
      UsageError: sizes that cannot be, or `out` holds a study with other settings.
    """
    out, settings = Path(out), settings_of(config)
    _claim(out, settings)
    study, folder = settings.factors, out / "rows"
    folder.mkdir(exist_ok=True)
    trees = range(study.first_tree, study.first_tree + study.trees)
    tasks = [
        TreeTask(study=study, claims=tuple(settings.claims), seed=seed, folder=str(folder))
        for seed in trees
    ]
    runner = Runner(processes=processes or os.cpu_count() or 1)
    kept: list[Kept] = []
    for number, tree in enumerate(run_tasks(factor_study.run_tree, tasks, runner), start=1):
        kept += tree
        say(f"tree {tree[0].row.seed}, {number} of {len(trees)}: {len(tree)} models")
    kept.sort(key=lambda one: one.row.seed)  # as they came, within a tree
    rows = [one.row for one in kept]
    if settings.pictures.seeds:
        recipe = config.copy_and_resolve_references()
        with recipe.unlocked():  # the command line gives a locked one
            del recipe.study
        rows += picture_world.run(recipe, settings.pictures, out, say)

    answers = hypotheses.answer(settings.claims, rows)
    whole = None
    if study.shuffles:
        answers, whole = shuffled_controls(answers, settings.claims, kept)
    result = Scaling(settings=settings, rows=rows, hypotheses=answers, shuffled_null=whole)
    for answer in answers:
        if answer.family == FIRST:
            say(one_line(answer))
    schema.write(out / "scaling.json", result)
    files.write_csv(out / "scaling.csv", map(vars, rows), list(vars(rows[0])))
    files.write_text(out / "scaling.md", tables(result))
    for name, figure in claim_figures(result):
        files.write_text(out / f"scaling_{name}.svg", figure)
    return result


def settings_of(config: ConfigDict) -> ScalingSettings:
    """The study of a recipe.

    Raises:
      UsageError: it has none, or sizes that cannot be.
    """
    whole = json.loads(config.to_json())
    study = whole.pop("study", None)
    if not study:
        raise UsageError("the recipe has no study; name configs/scaling.py or one like it")
    try:
        settings = ScalingSettings(
            factors=msgspec.convert(study["factors"], FactorStudy),
            pictures=msgspec.convert(study["pictures"], PictureStudy),
            claims=msgspec.convert(study["claims"], list[Claim]),
            config=whole,
        )
    except (KeyError, msgspec.ValidationError) as error:
        raise UsageError(f"the recipe's study: {error}; see configs/scaling.py") from error
    _check_sizes(settings)
    return settings


def _check_sizes(settings: ScalingSettings) -> None:
    pool = math.prod(settings.factors.branches) - settings.factors.unseen
    for world in ("factors", "pictures"):
        sizes = getattr(settings, world)
        for name in hypotheses.GROWING:
            values = getattr(sizes, name)
            if len(values) < 2 or list(values) != sorted(set(values)) or values[0] < 1:
                raise UsageError(
                    f"config.study.{world}.{name}={values}: two ascending numbers or more"
                )
            if len(values) != len(sizes.images):
                raise UsageError(f"config.study.{world}: as many {name} as images are needed")
        if any(few < many for few, many in zip(sizes.images, sizes.species, strict=True)):
            raise UsageError(f"config.study.{world}.images={sizes.images}: one a species at least")
    factors = settings.factors
    if factors.species[-1] > pool:
        raise UsageError(
            f"config.study.factors.species={factors.species}: the tree has {pool} to train on"
        )
    if factors.trees < 1 or not 0 <= factors.alone < len(factors.images):
        raise UsageError("config.study.factors: trees from 1, alone from 0 to the last scale")
    if factors.images[factors.alone] < factors.species[-1]:
        raise UsageError("config.study.factors.alone: fewer pictures there than species may be")


def shuffled_controls(
    answers: Sequence[Hypothesis], claims: Sequence[Claim], kept: Sequence[Kept]
) -> tuple[list[Hypothesis], int]:
    """How often claims come out null where traits or variants are permuted.

    In each of `SHUFFLED_STUDIES` every tree has one of its permutations, drawn for itself and the
    same at all scales. The claims of the first family are then answered as the true ones are.

    Returns:
      The answers with `shuffled_null` and `shuffled_null_plain`, and of how many studies no claim
      was found.
    """
    first = [claim for claim in claims if claim.family == FIRST]
    shuffled = [one for one in kept if one.shuffled]
    draws = {one.row.seed: len(one.shuffled) for one in shuffled}
    plain = dict.fromkeys((claim.name for claim in first), 0)
    corrected, silent = dict(plain), 0
    rng = np.random.default_rng(0)
    for _ in range(SHUFFLED_STUDIES):
        drawn = {seed: int(rng.integers(count)) for seed, count in draws.items()}
        rows = [
            dataclasses.replace(one.row, **one.shuffled[drawn[one.row.seed]]) for one in shuffled
        ]
        found = hypotheses.answer(first, rows)
        for one in found:
            plain[one.name] += one.p > LEVEL
            corrected[one.name] += one.p_corrected > LEVEL
        silent += all(one.p_corrected > LEVEL for one in found)
    told = [
        dataclasses.replace(
            answer, shuffled_null=corrected[answer.name], shuffled_null_plain=plain[answer.name]
        )
        if answer.family == FIRST
        else answer
        for answer in answers
    ]
    return told, silent


def one_line(answer: Hypothesis) -> str:
    """An answer, as it is printed."""
    span = "" if answer.interval is None else " [{:+.4f}, {:+.4f}]".format(*answer.interval)
    slope = "unknown" if answer.slope is None else f"{answer.slope:+.4f}"
    return (
        f"{answer.verdict}: {answer.claim}: {slope}{span} a doubling,"
        f" corrected p {answer.p_corrected:.4f}, {len(answer.trees)} trees"
    )


def _claim(out: Path, settings: ScalingSettings) -> None:
    path = out / "settings.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        schema.write(path, settings)
    elif schema.read(path, ScalingSettings) != settings:
        raise UsageError(f"--out {out} holds a study with other settings; name another folder")
