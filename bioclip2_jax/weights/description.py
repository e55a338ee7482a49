"""What goes with the weights: sizes and preprocessing, as open_clip writes them down."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from bioclip2_jax import files
from bioclip2_jax.data import images
from bioclip2_jax.errors import UserError, naming
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.weights.settings import (
    HYPERBOLIC,
    channels,
    check_settings,
    positive,
    section,
    side,
)

CONFIG_FILE = "open_clip_config.json"

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
        _check("", description, followed={"model_cfg", "preprocess_cfg"})
        config = from_open_clip(description.get("model_cfg"))
        preprocess = section("preprocess_cfg", description.get("preprocess_cfg") or {})
        return config, _preprocess(preprocess, config)


def write_description(config: ClipConfig, preprocess: Preprocess) -> dict:
    """The object that `read_description` reads and open_clip's `local-dir:` needs."""
    settings = dataclasses.asdict(preprocess) | {"mode": "RGB", "fill_color": 0}
    return {"model_cfg": to_open_clip(config), "preprocess_cfg": settings}


# ---- preprocess_cfg


def _preprocess(settings: Mapping[str, Any], config: ClipConfig) -> Preprocess:
    settings = {name: value for name, value in settings.items() if value is not None}
    followed = {"size", "mean", "std", "resize_mode", "interpolation"}
    # Pictures are never padded, so it does not matter with what.
    _check("preprocess_cfg", settings, followed, fixed={"mode": ("RGB",)}, idle={"fill_color"})
    size = config.vision.image_size
    if side("preprocess_cfg.size", settings.get("size", size)) != size:
        raise UserError(
            f"preprocess_cfg.size {settings['size']} is not vision_cfg.image_size {size}"
        )
    std = settings.get("std", images.CLIP_STD)
    return Preprocess(
        size=size,
        mean=channels("preprocess_cfg.mean", settings.get("mean", images.CLIP_MEAN)),
        std=channels("preprocess_cfg.std", std, above_zero=True),
        resize_mode=_choice("resize_mode", settings, images.RESIZE_MODES),
        interpolation=_choice("interpolation", settings, images.INTERPOLATIONS),
    )


def _choice(name: str, settings: Mapping[str, Any], choices: tuple[str, ...]) -> str:
    value = settings.get(name, choices[0])
    if value not in choices:
        raise UserError(f"preprocess_cfg.{name} {value!r} is not {' or '.join(choices)}")
    return value


# ---- model_cfg

# What a plain CLIP ViT has where open_clip offers a choice; its defaults, which may be spelled out.
_BLOCKS = {
    "block_type": (None, "default"),
    "act_kwargs": (None, {}, {"approximate": "none"}),
    "norm_kwargs": (None, {}, {"eps": 1e-5}),
}
_FIXED = {
    "model_cfg": {"quick_gelu": (None, True, False)},
    "vision_cfg": _BLOCKS | {"pool_type": ("tok",), "pos_embed_type": ("learnable",)},
    "text_cfg": _BLOCKS
    | {
        "pool_type": ("argmax",),
        "proj_type": ("linear",),
        "tokenizer_kwargs": (None, {}, {"clean": "lower"}),
    },
}
# What starts a training, drops patches in it, or belongs to what is switched off. Whether there are
# further projections (of BioCLIP 2, of BioCAP) the weights themselves tell.
_IDLE = {
    "model_cfg": {"init_logit_scale", "nonscalar_logit_scale", "output_dict"},
    "vision_cfg": {"attn_pooler_heads", "attn_pooler_queries", "patch_dropout"}
    | {"timm_drop", "timm_drop_path", "timm_model_pretrained", "timm_pool", "timm_proj"}
    | {"dual_projector", "is_continual"},
    "text_cfg": {"eos_id", "pad_id", "hf_model_pretrained", "hf_pooler_type", "hf_proj_type"},
}


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
    settings = section("model_cfg", model_cfg)
    if settings.get("use_hyperbolic"):
        raise UserError(f"model_cfg.use_hyperbolic is set: {HYPERBOLIC}")
    vision = _tower("vision_cfg", VisionConfig, settings.get("vision_cfg"))
    text = _tower("text_cfg", TextConfig, settings.get("text_cfg"), {"mlp_ratio"})
    followed = {"embed_dim", "vision_cfg", "text_cfg"}
    _check("model_cfg", settings, followed, _FIXED["model_cfg"], _IDLE["model_cfg"])
    embed_dim = positive("model_cfg.embed_dim", settings.get("embed_dim"))
    for what, whole, part in (
        ("vision_cfg.image_size", vision.image_size, vision.patch_size),
        ("vision_cfg.width", vision.width, vision.head_width),
        ("text_cfg.width", text.width, text.heads),
    ):
        if whole % part:
            raise UserError(f"model_cfg.{what} {whole} cannot be divided by {part}")
    if vision.hidden < 1:
        raise UserError(f"model_cfg.vision_cfg.mlp_ratio {vision.mlp_ratio} leaves no MLP")
    ratio = positive(
        "model_cfg.text_cfg.mlp_ratio", settings["text_cfg"].get("mlp_ratio", 4), float
    )
    if int(text.width * ratio) != 4 * text.width:
        raise UserError(f"model_cfg.text_cfg.mlp_ratio is {ratio}; 4.0 can be read")
    quick_gelu = bool(settings.get("quick_gelu"))
    return ClipConfig(embed_dim=embed_dim, vision=vision, text=text, quick_gelu=quick_gelu)


def _tower(name: str, kind: type[Tower], settings: object, more: Collection[str] = ()) -> Tower:
    where = f"model_cfg.{name}"
    tower = section(where, settings)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    _check(where, tower, {*fields, *more}, _FIXED[name], _IDLE[name])
    values = {}
    for field in fields.values():
        default = None if field.default is dataclasses.MISSING else field.default
        value, place = tower.get(field.name, default), f"{where}.{field.name}"
        if field.name in ("image_size", "patch_size"):
            values[field.name] = side(place, value)  # open_clip also takes [height, width]
        else:
            values[field.name] = positive(place, value, float if field.type is float else int)
    return kind(**values)


def _check(
    where: str,
    settings: Mapping[str, Any],
    followed: Collection[str],
    fixed: Mapping[str, Collection[Any]] = MappingProxyType({}),
    idle: Collection[str] = (),
) -> None:
    # Everything else in open_clip is off by default: false or zero is the plain model again.
    said = {name: value for name, value in settings.items() if value or name in fixed}
    check_settings(where, said, followed=followed, fixed=fixed, idle=idle)
