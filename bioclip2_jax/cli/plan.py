"""`bioclip2 plan`: memory and speed of a recipe on accelerators that need not be here."""

import os
import sys

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
)
@click.option("--topology", required=True, metavar="NAME", help="Kind and layout of the chips.")
@click.option("--text-length", default=77, help="Tokens of the captions.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option("--as-it-is", is_flag=True, help="Try no other settings.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="--config=FILE")
def plan(
    topology: str, text_length: int, as_json: bool, as_it_is: bool, arguments: tuple[str, ...]
) -> None:
    """Compile the train step of a recipe for a TPU slice or GPUs and find the fastest that fits.

    \b
    --config=FILE          a recipe, for example configs/bioclip2_vitl14.py
    --config.KEY=VALUE     replaces one setting of the recipe
    --topology NAME        v5e:16x16, v6e:8x16, v5p:4x4x8, gpu:h100x8, ... or gpu (this host's)

    The chips need not be here, their compiler does: pip install libtpu, or "jax[cuda13]". One
    compilation takes a minute or more. Up to seven further settings are compiled (what blocks keep
    for their gradients, parts, micro-batches, sharding), and the fastest that fits is recommended
    where it is faster; --as-it-is leaves that out. Exit code 0: the recipe fits as it is; 1: it
    does not.

    \b
    Example:
      bioclip2 plan --config=configs/bioclip2_vitl14.py --topology v5e:16x16
    """
    if topology != "gpu":
        # Before JAX looks for devices: no TPU is to be opened, nor asked for on the network.
        os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
        os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # only its compiler is used
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    from bioclip2_jax.errors import UsageError
    from bioclip2_jax.training import recipe
    from bioclip2_jax.training.plan import report
    from bioclip2_jax.training.plan.search import COMPILATIONS, search, target_of
    from bioclip2_jax.training.start import model_sizes
    from bioclip2_jax.training.xla_flags import set_flags

    if not 1 <= text_length <= 77:
        raise UsageError(f"--text-length {text_length}: captions have 1 to 77 tokens")
    settings = recipe.compose(recipe.parse_recipe(arguments))
    set_flags(settings.step.execution.attention)
    model = model_sizes(settings)
    target = target_of(topology, settings.mesh.slices)
    first, recommended = search(
        settings,
        model,
        target,
        lambda line: print(line, file=sys.stderr),
        text_length,
        compilations=1 if as_it_is else COMPILATIONS,
    )
    facts = report.report(settings, model, target, first, recommended, text_length)
    print(report.to_json(facts) if as_json else report.as_text(facts))
    sys.exit(0 if first.fits else 1)
