"""Model sizes as data, in the terms of open_clip's model configs."""

from dataclasses import dataclass


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

    @property
    def hidden(self) -> int:
        """Width of the MLP, cut to a whole number as open_clip cuts it."""
        return int(self.width * self.mlp_ratio)


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
