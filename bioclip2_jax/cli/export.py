"""`bioclip2 export`: a training run's checkpoint as files for PyTorch."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--workdir", required=True, type=click.Path(), help="Training run or model to export."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--step", type=int, help="Checkpoint step.  [default: the newest]")
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Of the stored weights.",
)
@click.option("--overwrite", is_flag=True, help="Replace a model at --out.")
def export(workdir: str, out: Path, step: int | None, dtype: str, overwrite: bool) -> None:
    """Write open_clip_config.json, open_clip_model.safetensors and a model card.

    The result loads with open_clip.create_model_and_transforms('local-dir:OUT') and with
    bioclip2_jax.load('OUT'). The projection for replay images is left out, as open_clip expects.
    For other forms, and to compare both sides, see `bioclip2 convert`.

    \b
    Example:
      bioclip2 export --workdir runs/quickstart --out runs/quickstart/export
    """
    from bioclip2_jax.weights import checkpoint
    from bioclip2_jax.weights import open as sources
    from bioclip2_jax.weights import write as writers

    where = workdir if step is None else checkpoint.step_dir(workdir, step)
    source = sources.open_source(where)
    writers.write(source, out, "open_clip", dtype=dtype, overwrite=overwrite)
    origin = workdir if source.step is None else f"step {source.step} of {workdir}"
    click.echo(f"{out}: {origin} in {dtype}; {writers.HOW_TO_OPEN['open_clip'].format(out)}")
