"""The README.md of an exported model, with the sections of Imageomics' model cards."""

import json
import math
from pathlib import Path

import jax

from bioclip2_jax.errors import UserError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.text.taxonomy import RANKS
from bioclip2_jax.weights.description import Preprocess

_TRAINED = """\
A CLIP model of organisms, trained with bioclip2_jax: pictures against captions that hold their
place in the tree of life, after BioCLIP 2."""
_CONVERTED = """\
A CLIP model whose weights bioclip2_jax converted; where they come from, whoever publishes it has to
add here."""
_GET_STARTED = {
    "open_clip": """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH")
tokenizer = open_clip.get_tokenizer("local-dir:PATH")""",
    "transformers": """from transformers import CLIPModel, CLIPProcessor

model = CLIPModel.from_pretrained("PATH")
processor = CLIPProcessor.from_pretrained("PATH")""",
}


def render(
    config: ClipConfig,
    preprocess: Preprocess,
    workdir: Path | None = None,
    step: int | None = None,
    library: str = "open_clip",
) -> str:
    """The card's Markdown; figures come from the config and evaluations found in `workdir`.

    Args:
      config: sizes.
      preprocess: how pictures become its input.
      workdir: of the training run, if it is known.
      step: the checkpoint of that run.
      library: "open_clip" or "transformers", whose files lie beside the card.

    Raises:
      UserError: the run's config or evaluation is damaged.
    """
    vision, text = config.vision, config.text
    resize = {"shortest": "shortest side, then the centre", "squash": "both sides"}
    leaves = jax.tree.leaves(clip.abstract_params(config))
    millions = sum(math.prod(leaf.shape) for leaf in leaves) / 1e6
    return f"""---
license: unknown
language:
- en
library_name: {library}
pipeline_tag: zero-shot-image-classification
tags:
- biology
- CV
- images
- clip
- species-classification
- taxonomy
- zero-shot-image-classification
---

# Model Card

{_TRAINED if workdir and (workdir / "config.json").is_file() else _CONVERTED}

## Model Details

- Model type: ViT image tower and causal text transformer, {millions:,.1f} million parameters,
  {config.embed_dim} dimensions in common, \
{"QuickGELU" if config.quick_gelu else "GELU"} activation.
- Licence: state one before publishing. It follows from the training pictures and from the weights
  that training started from.

| | image tower | text tower |
|---|---|---|
| width | {vision.width} | {text.width} |
| layers | {vision.layers} | {text.layers} |
| heads | {vision.heads} | {text.heads} |
| input | {vision.image_size} x {vision.image_size} pixels, patches of {vision.patch_size} | \
{text.context_length} tokens |

Pictures are scaled to {preprocess.size} pixels ({resize[preprocess.resize_mode]}, \
{preprocess.interpolation}) and normalised with mean
{_numbers(preprocess.mean)} and standard deviation {_numbers(preprocess.std)}.

## Uses

Direct use: naming organisms in pictures from a list of taxa without examples (zero-shot), or from
a few examples each (few-shot), and features for other biological questions. Out of scope: decisions
about safety, such as whether a plant can be eaten, and any use of a name that nobody checks.

## Bias, Risks, and Limitations

- It always answers with a name from the given list, also for an organism that is not on it.
- Taxa, places and life stages with few training pictures are recognised less well; pictures of
  nature are far from evenly spread over the tree of life.
- Precise positions of rare species in a picture's metadata are a risk to them; strip them.

## How to Get Started with the Model

```python
{_GET_STARTED.get(library, _GET_STARTED["open_clip"])}
```

or without PyTorch:

```python
import bioclip2_jax

model = bioclip2_jax.load("PATH")
features = model.encode_text(bioclip2_jax.tokenize(["a photo of Panthera leo."]))
```

## Training Details

{_training(workdir, step)}

## Evaluation

{_evaluation(workdir, step)}

## Citation

```bibtex
@article{{gu2025bioclip2,
  title = {{{{BioCLIP 2}}: Emergent Properties from Scaling Hierarchical Contrastive Learning}},
  author = {{Gu, Jianyang and Stevens, Samuel and Campolongo, Elizabeth G. and Thompson, Matthew J.
    and Zhang, Net and Wu, Jiaman and Kopanev, Andrei and Mai, Zheda and White, Alexander E. and
    Balhoff, James and Dahdul, Wasila M. and Rubenstein, Daniel and Lapp, Hilmar and
    Berger-Wolf, Tanya and Chao, Wei-Lun and Su, Yu}},
  journal = {{arXiv preprint arXiv:2505.23883}},
  year = {{2025}}
}}
```

## Acknowledgements

The method is that of BioCLIP 2 (Imageomics Institute); the file format is that of OpenCLIP.
"""


def _training(workdir: Path | None, step: int | None) -> str:
    path = workdir / "config.json" if workdir else None
    if path is None or not path.is_file():
        return "Not recorded."
    settings = _read(path)
    try:
        train = settings["train"]
        total = f"{train['steps']:,}"
        rows = {
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
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _evaluation(workdir: Path | None, step: int | None) -> str:
    path = workdir / "eval" / str(step) / "zero_shot.json" if workdir else None
    if path is None or not path.is_file():
        return "Not evaluated."
    result = _read(path)
    try:
        ranks = [(rank, result["ranks"][rank]) for rank in RANKS]
        head = f"Zero-shot over {result['num_classes']:,} taxa, {result['num_images']:,} images.\n"
        rows = [
            f"| {rank} | {_percent(r['top1'])} | {_percent(r['chance'])} |" for rank, r in ranks
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a result of the evaluation ({error})") from error
    table = ["| rank | top-1 | chance |", "|---|---|---|", *rows]
    return "\n".join([head, *table, *_few_shot(path.parent)])


def _few_shot(folder: Path) -> list[str]:
    rows = []
    # By number: the lists of support pictures lie beside the results.
    for path in sorted(folder.glob("few_shot_[0-9].json")):
        result = _read(path)
        try:
            mean, std = _percent(result["top1"]), _percent(result["std"])
            rows.append(f"| {result['k']} | {mean} | {std} | {result['num_classes']:,} |")
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: not a result of the evaluation ({error})") from error
    head = ["| pictures a taxon | top-1 | standard deviation | taxa |", "|---|---|---|---|"]
    return ["", "SimpleShot, from a few pictures of each taxon:", "", *head, *rows] if rows else []


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
