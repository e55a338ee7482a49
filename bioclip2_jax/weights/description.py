"""What goes with the weights: sizes and preprocessing, as open_clip writes them down."""

import dataclasses
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bioclip2_jax import files
from bioclip2_jax.data import images
from bioclip2_jax.errors import UserError, naming
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig

Tower = TypeVar("Tower", VisionConfig, TextConfig)


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the model's input; the fields of open_clip's `preprocess_cfg`."""

    size: int
    mean: tuple[float, ...] = images.CLIP_MEAN
    std: tuple[float, ...] = images.CLIP_STD
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"


def read_description(path: Path) -> tuple[ClipConfig, Preprocess]:
    """Reads an `open_clip_config.json` (our `model.json` has the same form).

    Raises:
      UserError: unreadable, not a plain CLIP ViT, or a setting that we cannot follow.
    """
    description = files.read_json_object(path)
    with naming(path):
        config = from_open_clip(description.get("model_cfg"))
        return config, _preprocess(description.get("preprocess_cfg") or {}, config)


def write_description(config: ClipConfig, preprocess: Preprocess) -> dict:
    """The object that `read_description` reads and open_clip's `local-dir:` needs."""
    settings = dataclasses.asdict(preprocess) | {"mode": "RGB", "fill_color": 0}
    return {"model_cfg": to_open_clip(config), "preprocess_cfg": settings}


# ---- preprocess_cfg


def _preprocess(settings: Mapping[str, Any], config: ClipConfig) -> Preprocess:
    size = config.vision.image_size
    if settings.get("size", size) not in (size, [size, size]):
        raise UserError(
            f"preprocess_cfg.size {settings['size']} is not vision_cfg.image_size {size}"
        )
    return Preprocess(
        size=size,
        mean=channels("preprocess_cfg.mean", settings.get("mean") or images.CLIP_MEAN),
        std=channels("preprocess_cfg.std", settings.get("std") or images.CLIP_STD),
        resize_mode=_choice("resize_mode", settings, ("shortest", "squash")),
        interpolation=_choice("interpolation", settings, ("bicubic", "bilinear")),
    )


def _choice(name: str, settings: Mapping[str, Any], choices: tuple[str, str]) -> str:
    value = settings.get(name, choices[0])
    if value not in choices:
        raise UserError(f"preprocess_cfg.{name} {value!r} is not {' or '.join(choices)}")
    return value


def channels(where: str, value: Any) -> tuple[float, ...]:
    """A number for each channel, or one for all; `where` it stands, for messages."""
    values = [value] * 3 if isinstance(value, int | float) else value
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} {value!r} is not three numbers") from error
    return red, green, blue


# ---- model_cfg


def to_open_clip(config: ClipConfig) -> dict:
    """The `model_cfg` object of `open_clip_config.json`."""
    model = {
        "embed_dim": config.embed_dim,
        "vision_cfg": dataclasses.asdict(config.vision),
        "text_cfg": dataclasses.asdict(config.text),
    }
    return model | ({"quick_gelu": True} if config.quick_gelu else {})


def from_open_clip(model_cfg: object) -> ClipConfig:
    """Reads a `model_cfg` object; absent settings take open_clip's defaults.

    Raises:
      UserError: a setting that a plain CLIP ViT does not have, or a size that is missing or wrong.
    """
    if not isinstance(model_cfg, dict):
        raise UserError("model_cfg is missing or not an object")
    vision = _tower("model_cfg.vision_cfg", VisionConfig, model_cfg.get("vision_cfg"))
    text = _tower("model_cfg.text_cfg", TextConfig, model_cfg.get("text_cfg"))
    _refuse_extra("model_cfg", model_cfg, {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"})
    embed_dim = _positive("model_cfg.embed_dim", model_cfg.get("embed_dim"))
    for what, whole, part in (
        ("vision_cfg.image_size", vision.image_size, vision.patch_size),
        ("vision_cfg.width", vision.width, vision.head_width),
        ("text_cfg.width", text.width, text.heads),
    ):
        if whole % part:
            raise UserError(f"model_cfg.{what} {whole} cannot be divided by {part}")
    quick_gelu = bool(model_cfg.get("quick_gelu"))
    return ClipConfig(embed_dim=embed_dim, vision=vision, text=text, quick_gelu=quick_gelu)


def _tower(where: str, kind: type[Tower], settings: object) -> Tower:
    if not isinstance(settings, dict):
        raise UserError(f"{where} is missing or not an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    _refuse_extra(where, settings, fields.keys())
    values = {}
    for name, field in fields.items():
        value = settings.get(name, field.default)
        if name == "image_size" and isinstance(value, list) and len(set(value)) == 1:
            value = value[0]  # open_clip also takes [height, width]
        values[name] = _positive(f"{where}.{name}", value, float if name == "mlp_ratio" else int)
    return kind(**values)


def _positive(where: str, value: Any, kind: type = int) -> Any:
    if value is None or value is dataclasses.MISSING:
        raise UserError(f"{where} is missing")
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or value <= 0:
        raise UserError(f"{where} is {value!r}, not a positive number")
    return value


def _refuse_extra(where: str, settings: Mapping[str, Any], known: Container[str]) -> None:
    # What is null, false or zero is switched off, and so the plain model again.
    names = sorted(name for name, value in settings.items() if value and name not in known)
    if names:
        raise UserError(f"{where} holds {', '.join(names)}: not a plain CLIP ViT, all that is read")
