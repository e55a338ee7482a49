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
      UserError: a setting that a plain CLIP ViT does not have, or a size that is missing or wrong.
    """
    if not isinstance(model_cfg, dict):
        raise UserError("model_cfg is missing or not an object")
    towers = {}
    for name, kind in (("vision_cfg", VisionConfig), ("text_cfg", TextConfig)):
        given = model_cfg.get(name)
        if not isinstance(given, dict):
            raise UserError(f"model_cfg.{name} is missing or not an object")
        towers[name] = _tower(f"model_cfg.{name}", kind, given)
    rest = {"embed_dim", "quick_gelu", *towers}
    _refuse_extra("model_cfg", {key: model_cfg[key] for key in model_cfg.keys() - rest})
    vision, text = towers["vision_cfg"], towers["text_cfg"]
    embed_dim = _positive("model_cfg.embed_dim", model_cfg.get("embed_dim"))
    for what, whole, part in (
        ("vision_cfg.image_size", vision.image_size, vision.patch_size),
        ("vision_cfg.width", vision.width, vision.head_width),
        ("text_cfg.width", text.width, text.heads),
    ):
        if whole % part:
            raise UserError(f"model_cfg.{what} {whole} cannot be divided by {part}")
    return ClipConfig(embed_dim, vision, text, bool(model_cfg.get("quick_gelu")))


def _tower(where: str, kind: type, given: dict) -> VisionConfig | TextConfig:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    _refuse_extra(where, {key: given[key] for key in given.keys() - fields.keys()})
    values = {}
    for name, field in fields.items():
        value = given.get(name, field.default)
        if name == "image_size" and isinstance(value, list) and len(set(value)) == 1:
            value = value[0]  # open_clip also takes [height, width]
        values[name] = _positive(f"{where}.{name}", value, float if name == "mlp_ratio" else int)
    return kind(**values)


def _positive(where: str, value: object, kind: type = int) -> int | float:
    if value is None or value is dataclasses.MISSING:
        raise UserError(f"{where} is missing")
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or value <= 0:
        raise UserError(f"{where} is {value!r}, not a positive number")
    return value


def _refuse_extra(where: str, extra: dict) -> None:
    # What is null, false or zero is switched off, and so the plain model again.
    names = sorted(name for name, value in extra.items() if value)
    if names:
        raise UserError(f"{where} holds {', '.join(names)}: not a plain CLIP ViT, all that is read")
