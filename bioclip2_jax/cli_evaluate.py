"""`bioclip2 evaluate`."""

import click


@click.command()
@click.option(
    "--workdir",
    required=True,
    type=click.Path(),
    help="Training run, or a model by `convert --to orbax`.",
)
@click.option("--data", required=True, type=click.Path(), help="Dataset folder to evaluate on.")
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
    workdir: str,
    data: str,
    split: str,
    labels: str,
    text_kind: str,
    step: str,
    follow: bool,
    timeout: float | None,
    batch_size: int,
) -> None:
    """Measure checkpoints: zero-shot and few-shot accuracy at every rank.

    Results go to WORKDIR/eval/STEP/. Runs beside a training (on devices of its own) or after it.

    \b
    Examples:
      bioclip2 evaluate --workdir runs/first --data data/birds
      bioclip2 evaluate --workdir runs/first --data data/birds --follow
    """
    from bioclip2_jax.evaluate import Settings, run

    run(
        workdir,
        Settings(data, split, labels, text_kind),
        step=step,
        follow=follow,
        timeout=timeout,
        batch_size=batch_size,
        say=click.echo,
    )
