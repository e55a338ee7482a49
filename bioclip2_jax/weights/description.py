"""What goes with the weights: sizes and preprocessing, as open_clip writes them down."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bioclip2_jax.data import images
from bioclip2_jax.errors import UserError
from bioclip2_jax.models.presets import ClipConfig, from_open_clip, to_open_clip


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the model's input; the fields of open_clip's `preprocess_cfg`."""

    size: int
    mean: tuple[float, ...] = images.CLIP_MEAN
    std: tuple[float, ...] = images.CLIP_STD
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"


def read_json(path: Path) -> dict:
    """Reads a JSON object.

    Raises:
      UserError: unreadable, or another kind of JSON.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object")
    return found


def read_description(path: Path) -> tuple[ClipConfig, Preprocess]:
    """Reads an `open_clip_config.json` (our `model.json` has the same form).

    Raises:
      UserError: unreadable, not a plain CLIP ViT, or a setting that we cannot follow.
    """
    description = read_json(path)
    try:
        config = from_open_clip(description.get("model_cfg"))
        return config, _preprocess(description.get("preprocess_cfg") or {}, config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _preprocess(given: Mapping, config: ClipConfig) -> Preprocess:
    size = config.vision.image_size
    if given.get("size", size) not in (size, [size, size]):
        raise UserError(f"preprocess_cfg.size {given['size']} is not vision_cfg.image_size {size}")
    for name, known in (
        ("resize_mode", ("shortest", "squash")),
        ("interpolation", ("bicubic", "bilinear")),
    ):
        if given.get(name, known[0]) not in known:
            raise UserError(f"preprocess_cfg.{name} {given[name]!r} is not {' or '.join(known)}")
    return Preprocess(
        size,
        _channels("mean", given.get("mean") or images.CLIP_MEAN),
        _channels("std", given.get("std") or images.CLIP_STD),
        given.get("resize_mode", "shortest"),
        given.get("interpolation", "bicubic"),
    )


def _channels(name: str, value: object) -> tuple[float, ...]:
    values = [value] * 3 if isinstance(value, int | float) else value
    try:
        red, green, blue = (float(one) for one in values)
    except (TypeError, ValueError) as error:
        raise UserError(f"preprocess_cfg.{name} {value!r} is not three numbers") from error
    return red, green, blue


def write_description(config: ClipConfig, preprocess: Preprocess) -> dict:
    """The object that `read_description` reads and open_clip's `local-dir:` needs."""
    given = {
        "size": preprocess.size,
        "mode": "RGB",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize_mode,
        "fill_color": 0,
    }
    return {"model_cfg": to_open_clip(config), "preprocess_cfg": given}
