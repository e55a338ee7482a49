"""`bioclip2 evaluate`."""

import click


@click.command()
@click.option("--workdir", type=click.Path(), help="A training run, or a model of ours.")
@click.option("--model", "model_path", help="Any model that `convert` reads.")
@click.option("--features", type=click.Path(), help="Features kept by `bioclip2 embed`.")
@click.option("--data", type=click.Path(), help="Dataset folder, or the folder of a published set.")
@click.option(
    "--tasks",
    default="zero_shot,few_shot",
    show_default=True,
    help="Of zero_shot, few_shot, newt, fishnet, awa2, herbarium19, plantdoc; with commas.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="Folder for the results.  [default for a run: WORKDIR/eval]",
)
@click.option("--split", default="val", show_default=True, help="Images to name.")
@click.option(
    "--labels",
    default="train",
    show_default=True,
    type=click.Choice(["train", "split", "all"]),
    help="The list of names: taxa with training images, with images in --split, or all.",
)
@click.option(
    "--text-kind",
    default="taxon_com",
    show_default=True,
    type=click.Choice(["asis", "sci", "com", "taxon", "sci_com", "taxon_com"]),
    help="Form of the names.",
)
@click.option(
    "--annotations",
    type=click.Path(),
    help="CSV with `filepath` below --data, and `class` or rank columns and `common_name`.",
)
@click.option(
    "--support", type=click.Path(), help="few_shot_K_support.json whose draws are taken again."
)
@click.option(
    "--protocol",
    default="faithful",
    show_default=True,
    type=click.Choice(["faithful", "corrected"]),
    help="Beyond species: as the paper's figures were made, or without the slips in that code.",
)
@click.option("--step", default="latest", show_default=True, help="A step, 'latest' or 'all'.")
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
@click.option(
    "--batch-size",
    default=128,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images encoded at a time.",
)
def evaluate(
    workdir: str | None,
    model_path: str | None,
    features: str | None,
    data: str | None,
    tasks: str,
    out: str | None,
    split: str,
    labels: str,
    text_kind: str,
    annotations: str | None,
    support: str | None,
    protocol: str,
    step: str,
    follow: bool,
    timeout: float | None,
    batch_size: int,
) -> None:
    """Measure a training run (--workdir), any model (--model) or kept features (--features).

    zero_shot names pictures by their names alone, few_shot from one and from five examples; both
    report every rank. The other tasks take the sets of BioCLIP 2's second table as they are
    published, in --data or in a folder of the task's name below it. A run's results go to
    WORKDIR/eval/STEP/, others to --out. It may run beside a training, on devices of its own.

    \b
    Examples:
      bioclip2 evaluate --workdir runs/birds --data data/birds --follow
      bioclip2 evaluate --model hf-hub:imageomics/bioclip-2 --data rare_species \\
        --annotations rare_species/annotations.csv --out results/rare
      bioclip2 evaluate --features features/newt --data newt --tasks newt --out results/newt
    """
    from bioclip2_jax import evaluate as program
    from bioclip2_jax.errors import UsageError

    given = [x for x in (workdir, model_path or features) if x]
    if len(given) != 1:
        raise UsageError(
            "give one of --workdir, --model and --features; --model may go with --features"
        )
    settings = program.Settings(data, split, labels, text_kind, annotations, protocol, support)
    chosen = program.parse_tasks(tasks)
    if support and len([task for task in chosen if task.startswith("few_shot")]) != 1:
        raise UsageError("--support is of one kind of few-shot: give --tasks few_shot_1, or _5")
    if workdir:
        program.run(
            workdir,
            settings,
            chosen,
            out=out,
            step=step,
            follow=follow,
            timeout=timeout,
            batch_size=batch_size,
            say=click.echo,
        )
        return
    if not out:
        raise UsageError("--out is missing: the folder for the results")
    if follow:
        raise UsageError("--follow needs the --workdir of a training")
    program.run_once(
        settings,
        chosen,
        out,
        model_path=model_path,
        features=features,
        batch_size=batch_size,
        say=click.echo,
    )
