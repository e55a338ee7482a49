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
    --report wandb         also sends the metrics to Weights & Biases

    configs/common.py lists every setting. The same command again resumes from the newest
    checkpoint in --workdir. SIGTERM or Ctrl-C saves and stops.

    On TPU pods and under srun the processes of a run find each other. Elsewhere start the
    same command once for every process, with one --workdir that all see, on a file system or in
    a bucket, and

    \b
    --coordinator HOST:PORT   where process 0 can be reached; any free port
    --num-processes N         how many there are
    --process-id I            which of them this is: 0 ... N - 1

    \b
    Example:
      bioclip2 train --config=configs/quickstart.py --workdir=runs/first
      bioclip2 train --config=configs/quickstart.py --workdir=runs/both \\
        --coordinator node1:9876 --num-processes 2 --process-id 0
    """
    from bioclip2_jax.train import main

    main(arguments)
