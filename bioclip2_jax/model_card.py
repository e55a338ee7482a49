"""The README.md of an exported model, in the form of Imageomics' model cards."""

import json
from pathlib import Path

from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.taxonomy import RANKS


def render(
    config: ClipConfig, size: int, workdir: Path | None = None, step: int | None = None
) -> str:
    """The card's Markdown; figures are taken from the evaluations found in `workdir`."""
    vision, text = config.vision, config.text
    return f"""---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
tags:
- biology
- CV
- images
- clip
- species-classification
- taxonomy
---

# Model card

A CLIP model of organisms, trained with bioclip2_jax: pictures against captions that hold their
taxonomic lineage, after BioCLIP 2 (arXiv 2505.23883).

## Model details

| | image tower | text tower |
|---|---|---|
| width | {vision.width} | {text.width} |
| layers | {vision.layers} | {text.layers} |
| heads | {vision.heads} | {text.heads} |
| input | {size} x {size} pixels, patches of {vision.patch_size} | {text.context_length} tokens |

Joint space: {config.embed_dim} dimensions. Activation: \
{"QuickGELU" if config.quick_gelu else "GELU (exact)"}.

## Uses

Zero-shot and few-shot classification of organisms, and image features. Not for decisions about
safety, such as whether a plant can be eaten.

## How to get started

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH")
tokenizer = open_clip.get_tokenizer("local-dir:PATH")
```

or without PyTorch:

```python
import bioclip2_jax

model = bioclip2_jax.load("PATH")
features = model.encode_text(bioclip2_jax.tokenize(["a photo of Panthera leo."]))
```

## Training details

{_training(workdir, step)}

## Evaluation

{_evaluation(workdir, step)}

## Citation

Gu et al., BioCLIP 2: Emergent Properties from Scaling Hierarchical Contrastive Learning,
arXiv 2505.23883.
"""


def _training(workdir: Path | None, step: int | None) -> str:
    path = workdir / "config.json" if workdir else None
    if path is None or not path.is_file():
        return "Not recorded."
    settings = json.loads(path.read_text(encoding="utf-8"))
    train = settings["train"]
    rows = {
        "step": f"{step:,} of {train['steps']:,}" if step is not None else f"{train['steps']:,}",
        "pairs a step": f"{train['batch_size']:,} and {train['replay_batch_size']:,} of replay",
        "peak learning rate": train["learning_rate"],
        "weight decay": train["weight_decay"],
        "computed in": settings["model"]["dtype"],
        "seed": settings["seed"],
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _evaluation(workdir: Path | None, step: int | None) -> str:
    path = workdir / "eval" / str(step) / "zero_shot.json" if workdir else None
    if path is None or not path.is_file():
        return "Not evaluated."
    result = json.loads(path.read_text(encoding="utf-8"))
    head = f"Zero-shot over {result['num_classes']:,} taxa, {result['num_images']:,} images.\n\n"
    head += "| rank | top-1 |\n|---|---|\n"
    rows = [f"| {rank} | {100 * result['ranks'][rank]['top1']:.1f} % |" for rank in RANKS]
    return head + "\n".join(rows)
