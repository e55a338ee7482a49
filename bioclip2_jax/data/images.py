"""Every rule about pixels: decoding, resizing, cropping, random changes.

Pillow throughout, but for training, which may resize with SIMD instructions (`training_view`).
"""

import functools
import io
import math
import threading
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from PIL import Image

from bioclip2_jax.errors import UsageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # which the original trained with
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_PIXELS = 150_000_000  # larger than any camera's picture; a bomb otherwise
MIN_SIDE = 8
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
INTERPOLATIONS, RESIZE_MODES = tuple(_FILTERS), ("shortest", "squash")
# Raster formats alone: for PostScript and its kin Pillow would start other programs.
_FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "AVIF", "PPM"]
# Pictures for which Pillow may lack its plug-in: named among those that cannot be read.
_PLUG_INS = {".avif", ".heic", ".heif", ".hif", ".jxl"}
_EXIF_ORIENTATION = 0x0112
_SPARE = 1.5  # "fast": how much larger than the view what is decoded of it is at least
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Decoding = Literal["pillow", "simd", "fast"]  # how pictures are read for training
Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom
Resize = Callable[[Image.Image, Box, int], np.ndarray]

# A picture is either decoded or refused with a reason; Pillow's remarks about it help nobody.
# (Not `warnings.catch_warnings` at each call, which threads undo for one another.)
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImage(Exception):
    """The bytes are no usable picture; the message is the reason."""


@functools.cache
def suffixes() -> frozenset[str]:
    """What the names of pictures end with, in lower case; `decode` goes by the bytes alone."""
    named = Image.registered_extensions().items()
    return frozenset(_PLUG_INS | {suffix for suffix, name in named if name in _FORMATS})


def decode(data: bytes) -> Image.Image:
    """Decodes any common raster format to an upright RGB picture.

    EXIF rotation is applied, transparency laid over white, 16-bit grey scaled to 8 bits, CMYK and
    palettes converted, and of an animation the first frame is taken. Safe to call from threads.

    Raises:
      BadImage: empty, truncated, of no known format, too large (more than `MAX_PIXELS`) or too
        small (a side below `MIN_SIDE`).
    """
    return _decoded(data)[0]


def check(data: bytes) -> None:
    """Whether `decode` will succeed, for half its cost in a JPEG.

    All of the file's code is read as `decode` reads it, but at an eighth of the size.

    Raises:
      BadImage: as `decode`.
    """
    _decoded(data, smallest=True)


def _decoded(
    data: bytes, *, smallest: bool = False, reduction: Callable[[Size], int] | None = None
) -> tuple[Image.Image, Size]:
    """The picture, and the size that it has in the file, upright.

    A JPEG that needs no turning is read at 1 / `reduction(size)` of its size; at an eighth, and not
    turned, if `smallest`.
    """
    if not data:
        raise BadImage("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"too many pixels ({image.width} x {image.height})")
        if min(image.size) < MIN_SIDE:
            raise BadImage(f"too few pixels ({image.width} x {image.height})")
        size = image.size
        if smallest:
            image.draft(image.mode, (1, 1))  # means something to JPEG alone
        elif reduction and image.format == "JPEG" and _orientation(image) == 1:
            by = reduction(size)
            image.draft(image.mode, (size[0] // by, size[1] // by))
        image.load()
        turn = None if smallest else _UPRIGHT.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
            size = image.size
        return _to_rgb(image), size
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too many pixels (more than Pillow takes)") from error
    except Image.UnidentifiedImageError as error:
        raise BadImage("not a picture of any known format") from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise BadImage(f"cannot be decoded ({text[:120]})") from error


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF around a sound picture
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        if image.mode == "F" or values.max(initial=0) > 65535 or values.min(initial=0) < 0:
            raise BadImage(f"pixel mode {image.mode} has no agreed range of values")
        # 32-bit "I" holds 16-bit files of some formats; 65535 is white.
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def eval_transform(
    size: int, resize_mode: str = "shortest", interpolation: str = "bicubic"
) -> Callable[[Image.Image], np.ndarray]:
    """The deterministic view for evaluation, pixel for pixel open_clip's.

    Args:
      size: side of the result, pixels.
      resize_mode: "shortest" scales the shorter side to `size` and crops the centre; "squash"
        scales both sides to `size`.
      interpolation: "bicubic" or "bilinear", both antialiased.

    Returns:
      A function from a picture to [size, size, 3] uint8. As in open_clip, a mode other than RGB is
      resized as it is and converted then; `decode` makes RGB before.

    Raises:
      ValueError: an unknown mode or interpolation.
    """
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode {resize_mode!r} is neither 'shortest' nor 'squash'")
    if interpolation not in _FILTERS:
        raise ValueError(f"interpolation {interpolation!r} is neither of {', '.join(_FILTERS)}")
    filter_ = _FILTERS[interpolation]

    def shortest(image: Image.Image) -> np.ndarray:
        width, height = image.size
        # The longer side is cut down to an integer, as torchvision's Resize does.
        if width <= height:
            new = (size, max(int(size * height / width), size))
        else:
            new = (max(int(size * width / height), size), size)
        if new != image.size:
            image = image.resize(new, filter_)
        left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
        return np.asarray(image.crop((left, top, left + size, top + size)).convert("RGB"))

    def squash(image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((size, size), filter_).convert("RGB"))

    return shortest if resize_mode == "shortest" else squash


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
      BadImage: as `decode`.
    """
    resize = resize_by_pillow if decode == "pillow" else resize_by_simd
    reduction = functools.partial(_reduction, least=_SPARE * size, share=crop_scale[0])
    image, full = _decoded(data, reduction=reduction if decode == "fast" else None)
    return augment(image, rng, size, crop_scale, flip, color_jitter, resize=resize, full=full)


def _reduction(size: Size, *, least: float, share: float) -> int:
    """By how much a picture may be reduced, so that any random part keeps sides of `least`."""
    # The narrowest part: of the least area, three quarters as wide as high.
    side = min(*size, math.sqrt(size[0] * size[1] * share * 3 / 4))
    return next((by for by in (8, 4, 2) if side / by >= least), 1)
