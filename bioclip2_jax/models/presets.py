"""Model sizes as data, in the terms of open_clip's model configs."""

import dataclasses
from dataclasses import dataclass

from bioclip2_jax.errors import UserError


@dataclass(frozen=True)
class VisionConfig:
    """The image tower: a ViT with a class token.

    Attributes:
      image_size: side of the square input, pixels.
      patch_size: side of a patch, pixels; divides image_size.
      head_width: channels of one attention head; divides width.
      mlp_ratio: hidden width of the MLP over width.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    head_width: int = 64
    mlp_ratio: float = 4.0

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.width // self.head_width


@dataclass(frozen=True)
class TextConfig:
    """The text tower: a causal transformer over CLIP tokens, MLP ratio 4."""

    width: int
    heads: int
    layers: int
    context_length: int = 77
    vocab_size: int = 49408


@dataclass(frozen=True)
class ClipConfig:
    """Two towers and the width of the space they share."""

    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    quick_gelu: bool = False


PRESETS: dict[str, ClipConfig] = {
    "tiny": ClipConfig(128, VisionConfig(64, 8, 128, 4, 32), TextConfig(128, 4, 2)),
    "small": ClipConfig(192, VisionConfig(96, 12, 192, 6, 32), TextConfig(128, 4, 2)),
    "vit_b32": ClipConfig(512, VisionConfig(224, 32, 768, 12), TextConfig(512, 8, 12)),
    "vit_b16": ClipConfig(512, VisionConfig(224, 16, 768, 12), TextConfig(512, 8, 12)),
    "vit_l14": ClipConfig(768, VisionConfig(224, 14, 1024, 24), TextConfig(768, 12, 12)),
    "vit_h14": ClipConfig(1024, VisionConfig(224, 14, 1280, 32, 80), TextConfig(1024, 16, 24)),
}


def to_open_clip(config: ClipConfig) -> dict:
    """The `model_cfg` object of `open_clip_config.json`."""
    vision = dataclasses.asdict(config.vision)
    model = {
        "embed_dim": config.embed_dim,
        "vision_cfg": vision,
        "text_cfg": dataclasses.asdict(config.text),
    }
    return model | ({"quick_gelu": True} if config.quick_gelu else {})


def from_open_clip(model_cfg: dict) -> ClipConfig:
    """Reads a `model_cfg` object; absent settings take open_clip's defaults.

    Raises:
      UserError: a setting that this plain CLIP ViT does not have, or a missing size.
    """
    known = {f.name for f in dataclasses.fields(VisionConfig)}
    known |= {f.name for f in dataclasses.fields(TextConfig)}
    try:
        vision = dict(model_cfg["vision_cfg"])
        text = dict(model_cfg["text_cfg"])
        extra = sorted((vision.keys() | text.keys()) - known)
        extra += sorted(model_cfg.keys() - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"})
        if extra:
            raise UserError(
                f"model_cfg holds {', '.join(extra)}: not a plain CLIP ViT, which alone is read"
            )
        config = ClipConfig(
            model_cfg["embed_dim"],
            VisionConfig(**vision),
            TextConfig(**text),
            bool(model_cfg.get("quick_gelu", False)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"model_cfg is incomplete: {error}") from error
    if config.vision.image_size % config.vision.patch_size:
        raise UserError(
            f"model_cfg: patch_size {config.vision.patch_size} does not divide image_size"
            f" {config.vision.image_size}"
        )
    return config
