"""`bioclip2 export`: a checkpoint as a directory that PyTorch's open_clip loads."""

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

    \b
    Example:
      bioclip2 export --workdir runs/quickstart --out runs/quickstart/export
    """
    from bioclip2_jax import checkpoint, convert, model_card
    from bioclip2_jax.loading import load

    model = load(workdir if step is None else checkpoint.step_dir(workdir, step))
    convert.export_open_clip(
        model.params,
        model.config,
        model.preprocess,
        out,
        dtype=dtype,
        overwrite=overwrite,
        card=model_card.render(model.config, Path(workdir), model.step),
    )
    source = workdir if model.step is None else f"step {model.step} of {workdir}"
    click.echo(f"{out}: {source} in {dtype}; open_clip loads it as local-dir:{out}")
