"""`bioclip2 convert`: weights from and to every form that PyTorch users keep them in."""

from pathlib import Path

import click

from bioclip2_jax.cli import options


@click.command()
@click.argument("source", metavar="SRC", type=options.Place())
@click.argument("out", metavar="DST", type=options.PATH)
@click.option(
    "--to",
    type=click.Choice(["orbax", "open_clip", "pt", "transformers"]),
    help="Form of DST.  [default: pt if DST ends in .pt; open_clip for a checkpoint of ours; else"
    " orbax]",
)
@options.dtype("float16", "bfloat16", help="Of the stored weights; orbax holds float32.")
@click.option(
    "--keep-replay-projector",
    is_flag=True,
    help="Keep visual.continual_proj, which open_clip itself does not load.",
)
@click.option("--verify", is_flag=True, help="Compare both sides, and with PyTorch if installed.")
@click.option("--revision", help="Branch, tag or commit of a model on the Hub.")
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    help="Pixels; resizes the position embeddings.  [default: as stored]",
)
@click.option(
    "--model-config",
    type=options.Place(exists=True, dir_okay=False, path_type=Path),
    help="An open_clip_config.json for a bare weight file.",
)
@click.option(
    "--heads",
    type=click.IntRange(min=1),
    help="Attention heads of a bare weight file's image tower.  [default: those of open_clip's"
    " models of its width]",
)
@click.option(
    "--text-heads",
    type=click.IntRange(min=1),
    help="Of its text tower.  [default: the same; with --heads, else one for 64 channels]",
)
@click.option(
    "--projection",
    metavar="NAME",
    help="Read a further visual projection, such as BioCAP's caption_proj, in the place of proj.",
)
def convert(
    source: str,
    out: Path,
    to: str | None,
    dtype: str,
    keep_replay_projector: bool,
    verify: bool,
    revision: str | None,
    image_size: int | None,
    model_config: Path | None,
    heads: int | None,
    text_heads: int | None,
    projection: str | None,
) -> None:
    """Convert the model SRC to DST, which must not exist yet.

    SRC is a training workdir or step folder, a folder of open_clip or of transformers, a
    .safetensors, .pt, .pth or .bin file, here or in gs://, or hf-hub:ORGANISATION/MODEL[@REVISION].

    \b
    Examples:
      bioclip2 convert hf-hub:imageomics/bioclip-2 models/bioclip-2 --verify
      bioclip2 convert epoch_30.pt models/mine
      bioclip2 convert hf-hub:imageomics/biocap models/biocap-captions --projection caption_proj
      bioclip2 convert runs/first models/first --to transformers --dtype bfloat16
      bioclip2 convert runs/first first.pt
    """
    from bioclip2_jax.evaluation.card_rows import results_of
    from bioclip2_jax.weights.open import open_source
    from bioclip2_jax.weights.verify import verify as compare
    from bioclip2_jax.weights.write import how_to_open, usual_layout, write

    model = open_source(
        source,
        revision=revision,
        model_config=model_config,
        image_size=image_size,
        heads=heads,
        text_heads=text_heads,
        projection=projection,
    )
    for note in model.notes:
        click.echo(note, err=True)
    layout = to or usual_layout(model, out)
    lines: list[str] = []

    def check(written: Path) -> None:
        lines.extend(compare(model, written, layout, dtype))

    write(
        model,
        out,
        layout,
        dtype=dtype,
        keep_replay_projection=keep_replay_projector,
        results=None if layout == "pt" else results_of(model),
        check=check if verify else None,
    )
    for line in lines:
        click.echo(line)
    click.echo(f"{out}: {source} as {layout} in {dtype}; {how_to_open(layout, out)}")
