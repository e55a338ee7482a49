"""Views of pictures for training: a random part of one, resized, mirrored, its colours changed.

By Pillow, or with SIMD instructions where that was asked for (`training_view`).
"""

import functools
import math
import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from PIL import Image

from bioclip2_jax.data import images
from bioclip2_jax.data.images import Size
from bioclip2_jax.errors import UsageError

_SPARE = 1.5  # "fast": how much larger than the view what is decoded of it is at least

Decoding = Literal["pillow", "simd", "fast"]  # how pictures are read for training
Box = tuple[float, float, float, float]  # left, top, right, bottom
Resize = Callable[[Image.Image, Box, int], np.ndarray]


def resize_by_pillow(image: Image.Image, box: Box, size: int) -> np.ndarray:
    """The part `box` of an RGB picture, resized bicubically to [size, size, 3] uint8."""
    return np.asarray(image.crop(_whole(box)).resize((size, size), Image.Resampling.BICUBIC))


def resize_by_simd(image: Image.Image, box: Box, size: int) -> np.ndarray:
    """The same by `cykooz-resizer`, whose sums are of whole numbers, so equal on every processor.

    Each direction by itself, in the order in which Pillow 13 takes them: what a first pass makes
    brighter than white is cut off before the second.

    Args:
      box: need not be of whole pixels.
    """
    import cykooz_resizer as simd

    left, top, right, bottom = _whole(box)
    part = image.crop((left, top, right, bottom))  # so that nothing around it is seen
    width, height = part.size
    across, down = (box[0] - left, box[2] - box[0]), (box[1] - top, box[3] - box[1])
    if height > size and height - size > 2 * (width - size):
        between = Image.new("RGB", (width, size))
        crops = (0, down[0], width, down[1]), (across[0], 0, across[1], size)
    else:
        between = Image.new("RGB", (size, height))
        crops = (across[0], 0, across[1], height), (0, down[0], size, down[1])
    view = Image.new("RGB", (size, size))
    resizer = _resizer()
    for old, new, crop in ((part, between, crops[0]), (between, view, crops[1])):
        options = simd.ResizeOptions(
            simd.ResizeAlg.convolution(simd.FilterType.catmull_rom),
            crop_box=simd.CropBox(*crop),
        )
        resizer.resize_pil(old, new, options)
    return np.asarray(view)


def check_decoding(decoding: Decoding) -> None:
    """Refuses a way of reading pictures that this machine lacks.

    Raises:
      UsageError: says how to get it.
    """
    if decoding == "pillow":
        return
    try:
        _resizer()
    except ImportError as error:
        raise UsageError(
            f"config.data.decode={decoding!r} needs cykooz-resizer, which is not installed here:"
            " `pip install cykooz-resizer` (Linux on Arm has to build it, with Rust), or begin the"
            " run with --config.data.decode=pillow"
        ) from error


def _whole(box: Box) -> tuple[int, int, int, int]:
    """The pixels that a box touches."""
    return math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])


_of_thread = threading.local()  # a resizer serves one thread at a time


def _resizer() -> Any:
    if not hasattr(_of_thread, "resizer"):
        import cykooz_resizer

        _of_thread.resizer = cykooz_resizer.Resizer()
    return _of_thread.resizer


def random_resized_crop(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    *,
    resize: Resize = resize_by_pillow,
    full: Size | None = None,
) -> np.ndarray:
    """A random part of the picture, resized bicubically (torchvision's RandomResizedCrop).

    Args:
      image: RGB.
      size: side of the result, pixels.
      scale: range of the part's area, relative to the picture's.
      ratio: range of width / height, drawn log-uniformly.
      resize: of the part, to `size`.
      full: the picture's size, where `image` is it at a half, quarter or eighth, rounded up.

    Returns:
      [size, size, 3] uint8.
    """
    width, height = full or image.size
    by = round(width / image.width)
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            break
    else:
        # No luck with a narrow picture: its largest centred part within the ratios.
        w = min(width, max(1, round(height * ratio[1])))
        h = min(height, max(1, round(width / ratio[0])))
        left, top = (width - w) // 2, (height - h) // 2
    return resize(image, (left / by, top / by, (left + w) / by, (top + h) / by), size)


def augment(
    image: Image.Image,
    rng: np.random.Generator,
    size: int,
    crop_scale: tuple[float, float],
    flip: bool,
    color_jitter: float,
    *,
    resize: Resize = resize_by_pillow,
    full: Size | None = None,
) -> np.ndarray:
    """A random training view; the paper's has `crop_scale` (0.9, 1.0) and nothing else.

    Args:
      image: RGB.
      rng: source of all randomness.
      size: side of the result, pixels.
      crop_scale: see `random_resized_crop`.
      flip: mirror every second picture left to right.
      color_jitter: largest relative change of brightness, contrast and saturation.
      resize, full: see `random_resized_crop`.

    Returns:
      [size, size, 3] uint8.
    """
    pixels = random_resized_crop(image, size, rng, crop_scale, resize=resize, full=full)
    if flip and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if not color_jitter:
        return pixels
    brightness, contrast, saturation = 1 + color_jitter * rng.uniform(-1, 1, 3)
    values = pixels.astype(np.float32) * np.float32(brightness)
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    values = grey[..., None] + np.float32(saturation) * (values - grey[..., None])
    values = grey.mean() + np.float32(contrast) * (values - grey.mean())
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def training_view(
    data: bytes,
    rng: np.random.Generator,
    *,
    size: int,
    crop_scale: tuple[float, float],
    flip: bool,
    color_jitter: float,
    decode: Decoding,
) -> np.ndarray:
    """Decodes a picture and shows a random part of it, see `augment`.

    Args:
      decode: "pillow", the reference. "simd", resized by `resize_by_simd`: on 5,702 photographs at
        64, 96 and 224 pixels 0.003 of 255 away on average and 2 at most. "fast", which also decodes
        JPEGs at a half, quarter or eighth where 1.5 times `size` is left of any part: where that
        halved them, 0.6 away on average, 2.1 in the worst photograph, 34 in the worst pixel.

    Returns:
      [size, size, 3] uint8.

    Raises:
      BadImage: as `images.decode`.
    """
    resize = resize_by_pillow if decode == "pillow" else resize_by_simd
    reduction = functools.partial(_reduction, least=_SPARE * size, share=crop_scale[0])
    seen = images.read(data, reduction=reduction if decode == "fast" else None)
    return augment(
        seen.image, rng, size, crop_scale, flip, color_jitter, resize=resize, full=seen.size
    )


def _reduction(size: Size, *, least: float, share: float) -> int:
    """By how much a picture may be reduced, so that any random part keeps sides of `least`."""
    # The narrowest part: of the least area, three quarters as wide as high.
    side = min(*size, math.sqrt(size[0] * size[1] * share * 3 / 4))
    return next((by for by in (8, 4, 2) if side / by >= least), 1)
