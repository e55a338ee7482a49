"""`bioclip2 train`: the same program as `python -m bioclip2_jax.train`."""

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    add_help_option=True,
)
@click.argument(
    "arguments", nargs=-1, type=click.UNPROCESSED, metavar="--config=FILE --workdir=DIR"
)
def train(arguments: tuple[str, ...]) -> None:
    """Train a model, or go on with a run that was interrupted.

    \b
    --config=FILE          a recipe, for example configs/quickstart.py
    --workdir=DIR          folder of the run: checkpoints, metrics, settings
    --config.KEY=VALUE     replaces one setting of the recipe, for example
                           --config.train.steps=2000 --config.data.dir=data/birds

    configs/common.py lists every setting. The same command again resumes from the newest
    checkpoint in --workdir.

    \b
    Example:
      bioclip2 train --config=configs/quickstart.py --workdir=runs/first
    """
    from bioclip2_jax.train import main

    main(arguments)
