"""`bioclip2 export`: a training run's checkpoint as files for PyTorch."""

from pathlib import Path

import click

from bioclip2_jax.cli import options


@click.command()
@click.option(
    "--workdir", required=True, type=options.Place(), help="Training run or model to export."
)
@options.OUT
@click.option("--step", type=int, help="Checkpoint step.  [default: the newest]")
@options.dtype("float16", "bfloat16", help="Of the stored weights.")
@options.overwrite("model")
def export(workdir: str, out: Path, step: int | None, dtype: str, overwrite: bool) -> None:
    """Write open_clip_config.json, open_clip_model.safetensors and a model card.

    The result loads with open_clip.create_model_and_transforms('local-dir:OUT') and with
    bioclip2_jax.load('OUT'). The projection for replay images is left out, as open_clip expects.
    For other forms, and to compare both sides, see `bioclip2 convert`.

    \b
    Example:
      bioclip2 export --workdir runs/quickstart --out runs/quickstart/export
    """
    from bioclip2_jax.evaluation.card_rows import results_of
    from bioclip2_jax.weights.checkpoint import step_dir
    from bioclip2_jax.weights.open import open_source
    from bioclip2_jax.weights.write import how_to_open, write

    source = open_source(workdir if step is None else step_dir(workdir, step))
    write(source, out, "open_clip", dtype=dtype, overwrite=overwrite, results=results_of(source))
    origin = workdir if source.step is None else f"step {source.step} of {workdir}"
    click.echo(f"{out}: {origin} in {dtype}; {how_to_open('open_clip', out)}")
