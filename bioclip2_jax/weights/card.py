"""The README.md of an exported model, with the sections of Imageomics' model cards."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jinja2

from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.text.taxonomy import RANKS
from bioclip2_jax.weights.description import Preprocess


@dataclass(frozen=True)
class AtRank:
    """Shares at one rank; None where no taxon of it is known."""

    top1: float | None
    chance: float | None


@dataclass(frozen=True)
class ZeroShot:
    """What the card says of naming without examples; `ranks`: rank → shares."""

    num_classes: int
    num_images: int
    ranks: Mapping[str, AtRank]


@dataclass(frozen=True)
class FewShot:
    """And of naming with `k` examples of each taxon: mean and deviation over the draws."""

    k: int
    top1: float | None
    std: float | None
    num_classes: int


@dataclass(frozen=True)
class Results:
    """How well a model does."""

    zero_shot: ZeroShot
    few_shot: Sequence[FewShot] = ()


def render(
    config: ClipConfig,
    preprocess: Preprocess,
    *,
    workdir: Path | None = None,
    step: int | None = None,
    library: str = "open_clip",
    results: Results | None = None,
) -> str:
    """The card's Markdown.

    Args:
      config: sizes.
      preprocess: how pictures become its input.
      workdir: of the training run, if it is known.
      step: the checkpoint of that run.
      library: "open_clip" or "transformers", whose files lie beside the card.
      results: of this checkpoint, if it was evaluated.

    Raises:
      UserError: the run's config is damaged.
    """
    leaves = jax.tree.leaves(clip.abstract_params(config))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.j2").render(
        config=config,
        preprocess=preprocess,
        library=library,
        millions=sum(math.prod(leaf.shape) for leaf in leaves) / 1e6,
        training=_training(workdir / "config.json", step) if workdir else {},
        results=results,
        ranks=RANKS,
    )


def _training(path: Path, step: int | None) -> dict[str, Any]:
    """What the settings of a run say; nothing where they were not kept."""
    if not path.is_file():
        return {}
    settings = files.read_json_object(path)
    try:
        train = settings["train"]
        total = f"{train['steps']:,}"
        return {
            "step": total if step is None else f"{step:,} of {total}",
            "pairs a step": f"{train['batch_size']:,} and {train['replay_batch_size']:,} of replay",
            "peak learning rate": train["learning_rate"],
            "weight decay": train["weight_decay"],
            "precision": f"computed in {settings['model']['dtype']}, parameters in float32",
            "starting weights": "random" if not settings["init"] else Path(settings["init"]).name,
            "seed": settings["seed"],
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not the config of a training run ({error})") from error
