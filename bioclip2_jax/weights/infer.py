"""Sizes of a bare weight file, which holds tensors alone."""

import dataclasses
import math

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.description import CONFIG_FILE
from bioclip2_jax.weights.settings import mlp_ratio
from bioclip2_jax.weights.tensors import Tensors

# Channels of one head by the width of the tower, in all of open_clip's own configurations of plain
# ViTs (3.3.0); for texts also in our presets.
IMAGE_HEADS = dict.fromkeys((384, 512, 768, 896, 1024), 64) | {
    1280: 80,
    1408: 88,
    1664: 104,
    1792: 112,
}
TEXT_HEADS = dict.fromkeys((256, 384, 512, 640, 768, 1024, 1280), 64) | {
    preset.text.width: preset.text.width // preset.text.heads for preset in PRESETS.values()
}
_USUAL = 64


def infer_config(
    tensors: Tensors, *, heads: int | None = None, text_heads: int | None = None
) -> ClipConfig:
    """Sizes from the shapes of open_clip's tensors.

    The number of heads cannot be seen: where it is not given it is a preset's of the same shapes,
    else that of open_clip's own models of the same width. QuickGELU cannot either: it is taken for
    OpenAI's files, which hold three numbers more.

    Args:
      tensors: under open_clip's names.
      heads: of the image tower. With it, texts of a width that nobody uses have heads of 64
        channels, if that divides the width.
      text_heads: of the text tower.

    Raises:
      UsageError: the heads do not divide their tower's width.
      UserError: these are not the tensors of a plain CLIP ViT, or their heads are unknown.
    """
    try:
        width, _, patch, _ = tensors["visual.conv1.weight"].shape
        grid = math.isqrt(tensors[layout.POSITION].shape[0] - 1)
        hidden = tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
        vocabulary, text_width = tensors["token_embedding.weight"].shape
        context, _ = tensors["positional_embedding"].shape
        _, embed_dim = tensors[layout.PROJECTION].shape
    except KeyError as error:
        raise UserError(f"not a CLIP ViT of open_clip: {error.args[0]} is missing") from error
    except (ValueError, IndexError) as error:
        raise UserError("not a CLIP ViT of open_clip: a tensor has the wrong rank") from error
    if min(width, patch, grid, hidden, vocabulary, text_width, context, embed_dim) < 1:
        raise UserError("not a CLIP ViT of open_clip: a tensor is empty")
    depths = [
        sum(name.startswith(prefix) and name.endswith(".ln_1.bias") for name in tensors)
        for prefix in ("visual.transformer.resblocks.", "transformer.resblocks.")
    ]
    one = ClipConfig(  # with a single head in both towers
        embed_dim=embed_dim,
        vision=VisionConfig(
            image_size=grid * patch,
            patch_size=patch,
            width=width,
            layers=depths[0],
            head_width=width,
            mlp_ratio=mlp_ratio(hidden, width),
        ),
        text=TextConfig(
            width=text_width,
            heads=1,
            layers=depths[1],
            context_length=context,
            vocab_size=vocabulary,
        ),
        quick_gelu="input_resolution" in tensors,
    )
    preset = next((x for x in PRESETS.values() if _like(x, one) == one), None)
    if preset:
        known, known_text = preset.vision.heads, preset.text.heads
    else:
        known = width // IMAGE_HEADS.get(width, width + 1)
        usual = _USUAL if heads and text_width % _USUAL == 0 else text_width + 1
        known_text = text_width // TEXT_HEADS.get(text_width, usual)
    heads = _heads("image", width, heads or known, "--heads")
    text_heads = _heads("text", text_width, text_heads or known_text, "--text-heads")
    return dataclasses.replace(
        one,
        vision=dataclasses.replace(one.vision, head_width=width // heads),
        text=dataclasses.replace(one.text, heads=text_heads),
    )


def _like(preset: ClipConfig, seen: ClipConfig) -> ClipConfig:
    """The preset with what may differ, or cannot be seen, as it was seen."""
    return ClipConfig(
        embed_dim=seen.embed_dim,
        vision=dataclasses.replace(
            preset.vision,
            image_size=seen.vision.image_size,
            head_width=seen.vision.head_width,
        ),
        text=dataclasses.replace(preset.text, heads=seen.text.heads),
        quick_gelu=seen.quick_gelu,
    )


def _heads(tower: str, width: int, heads: int, option: str) -> int:
    if not heads:
        raise UserError(
            f"open_clip has no {tower} tower of width {width}, so the number of its heads is"
            f" unknown; give it with `bioclip2 convert {option} N`, or put the model's"
            f" {CONFIG_FILE} beside the file or name it with --model-config"
        )
    if width % heads:
        raise UsageError(f"{option} {heads} does not divide the {tower} tower's width {width}")
    return heads
