"""`bioclip2 evaluate`."""

from typing import Any

import click

from bioclip2_jax.cli import options


@click.command()
@click.option("--workdir", type=options.Place(), help="A training run, or a model of ours.")
@click.option("--model", "model_path", type=options.Place(), help="Any model that `convert` reads.")
@click.option("--features", type=options.Place(), help="Features kept by `bioclip2 embed`.")
@click.option(
    "--data", type=options.Place(), help="Dataset folder, or the folder of a published set."
)
@click.option(
    "--tasks",
    default="zero_shot,few_shot",
    help="Of zero_shot, few_shot, newt, fishnet, awa2, herbarium19, plantdoc, retrieval; with"
    " commas.",
)
@click.option(
    "--out",
    type=options.Place(file_okay=False),
    help="Folder for the results.  [default for a run: WORKDIR/eval]",
)
@click.option(
    "--split", help="Images to name.  [default: val of a dataset, everything of other sets]"
)
@click.option(
    "--labels",
    default="train",
    type=click.Choice(["train", "split", "all"]),
    help="The list of names: taxa with training images, with images in --split, or all.",
)
@click.option(
    "--text-kind",
    type=click.Choice(["asis", "sci", "com", "taxon", "sci_com", "taxon_com"]),
    help="Form of the names.  [default: as in the paper, else taxon_com where there are ranks]",
)
@click.option(
    "--templates",
    default="bioclip2",
    type=click.Choice(["bioclip2", "pybioclip"]),
    help="Sentences around a name: the paper's 81, or the 80 that pybioclip takes.",
)
@click.option(
    "--annotations",
    type=options.Place(),
    help="CSV with a file name below --data, and `class` or rank columns and `common_name`, such as"
    " `prepare folder` reads.",
)
@click.option("--class-column", help="Column of the table whose cells are the classes.")
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only such rows of the table; all of several must hold.",
)
@click.option(
    "--support", type=options.Place(), help="few_shot_K_support.json whose draws are taken again."
)
@click.option(
    "--protocol",
    default="v2",
    type=click.Choice(["v1", "v2", "faithful", "corrected"]),
    help="Few-shot and beyond species: as the code that the paper was released with, as that of"
    " 2026 (faithful is another name of it), or as the latter without its slips.",
)
@click.option(
    "--compare-to",
    type=options.Place(),
    metavar="RESULTS",
    help="Folder of earlier results of the same data, such as runs/base/eval/400: says what changed"
    " since, rank by rank.",
)
@click.option(
    "--queries",
    type=options.Place(),
    metavar="TABLE",
    help="Of retrieval: CSV, TSV or Parquet with columns `query`, `file` (or `key`) and `relevant`"
    " (0, 1 or more), maybe `category`.",
)
@click.option(
    "--candidates",
    type=click.Choice(["own", "all"]),
    help="Of retrieval: rank the pictures that the table judged for a query, or all.  [default: own"
    " where some are not relevant]",
)
@options.DECODE
@options.PRIOR
@options.PRIOR_STRENGTH
@click.option("--step", help="Of a run: a number, 'latest' or 'all'.  [default: latest]")
@click.option(
    "--follow",
    is_flag=True,
    help="Evaluate checkpoints as they appear, until the training has finished.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    help="With --follow: stop after so many seconds without a new checkpoint.",
)
@options.batch_size(128, "Images")
def evaluate(
    workdir: str | None,
    model_path: str | None,
    features: str | None,
    tasks: str,
    out: str | None,
    compare_to: str | None,
    step: str | None,
    follow: bool,
    timeout: float | None,
    batch_size: int,
    prior_strength: float | None,
    **settings: Any,
) -> None:
    """Measure a training run (--workdir), any model (--model) or kept features (--features).

    zero_shot names pictures by their names alone, few_shot from one and from five examples; both
    report every rank. --data is a dataset of `prepare`, or a species set as it is published
    (NABirds, Meta-Album, Rare Species, IDLE-OO Camera Traps), or a folder of such sets; any other
    folder goes with --annotations. The other tasks take the sets of BioCLIP 2's second table as
    they are published, in --data or in a folder of the task's name below it. retrieval searches
    pictures by texts and texts by pictures: those of --queries, of INQUIRE-Rerank's Parquet in
    --data, or the captions of a dataset. A run's results go to
    WORKDIR/eval/STEP/, others to --out; with --compare-to a comparison.json lies beside them. It
    may run beside a training, on devices of its own.

    \b
    Examples:
      bioclip2 evaluate --workdir runs/birds --data data/birds --follow
      bioclip2 evaluate --model hf-hub:imageomics/bioclip-2 --data nabirds --out results/nabirds
      bioclip2 evaluate --model runs/birds --data leaves --annotations leaves/metadata.csv \\
        --class-column disease --where species=tuberosum --tasks few_shot_1 --out results/potato
      bioclip2 evaluate --workdir runs/tuned --data data/birds --compare-to runs/birds/eval/9000
      bioclip2 evaluate --features features/newt --data newt --tasks newt --out results/newt
      bioclip2 evaluate --model runs/birds --data INQUIRE-Rerank --tasks retrieval --out results/inq
    """
    from bioclip2_jax.errors import UsageError
    from bioclip2_jax.evaluation.run import run, run_once
    from bioclip2_jax.evaluation.schema import Settings
    from bioclip2_jax.evaluation.tasks import parse_tasks

    if bool(workdir) == bool(model_path or features):
        raise UsageError(
            "give one of --workdir, --model and --features; --model may go with --features"
        )
    if prior_strength is not None:
        if not settings["prior"]:
            raise UsageError("--prior-strength goes with --prior")
        settings["prior_strength"] = prior_strength
    asked = Settings(**settings)
    chosen = parse_tasks(tasks)
    if asked.support and len([task for task in chosen if task.startswith("few_shot")]) != 1:
        raise UsageError("--support is of one kind of few-shot: give --tasks few_shot_1, or _5")
    if "retrieval" not in chosen and (asked.queries or asked.candidates):
        option = "--queries" if asked.queries else "--candidates"
        raise UsageError(f"{option} goes with --tasks retrieval")
    if "zero_shot" not in chosen and (asked.prior or asked.decode != "flat"):
        raise UsageError(f"--{'prior' if asked.prior else 'decode'} goes with --tasks zero_shot")
    if follow and step:
        raise UsageError("--follow takes the checkpoints as they come: leave out --step")
    if timeout is not None and not follow:
        raise UsageError("--timeout goes with --follow")
    how: dict[str, Any] = {"batch_size": batch_size, "say": click.echo, "compare_to": compare_to}
    if workdir:
        how |= {"step": step or "latest", "follow": follow, "timeout": timeout}
        run(workdir, asked, chosen, out=out, **how)
        return
    if not out:
        raise UsageError("--out is missing: the folder for the results")
    if follow or step:
        option = "--follow" if follow else "--step"
        raise UsageError(f"{option} needs the --workdir of a training")
    run_once(asked, chosen, out, model_path=model_path, features=features, **how)
