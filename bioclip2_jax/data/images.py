"""Every rule about pixels: decoding, resizing, cropping, random changes. Pillow throughout."""

import functools
import io
import math
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # which the original trained with
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_PIXELS = 150_000_000  # larger than any camera's picture; a bomb otherwise
MIN_SIDE = 8
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Raster formats alone: for PostScript and its kin Pillow would start other programs.
_FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "AVIF", "PPM"]
# Pictures for which Pillow may lack its plug-in: named among those that cannot be read.
_PLUG_INS = {".avif", ".heic", ".heif", ".hif", ".jxl"}
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

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
    return _decoded(data, smallest=False)


def check(data: bytes) -> None:
    """Whether `decode` will succeed, for half its cost in a JPEG.

    All of the file's code is read as `decode` reads it, but at an eighth of the size.

    Raises:
      BadImage: as `decode`.
    """
    _decoded(data, smallest=True)


def _decoded(data: bytes, *, smallest: bool) -> Image.Image:
    if not data:
        raise BadImage("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"too many pixels ({image.width} x {image.height})")
        if min(image.size) < MIN_SIDE:
            raise BadImage(f"too few pixels ({image.width} x {image.height})")
        if smallest:
            image.draft(image.mode, (1, 1))  # means something to JPEG alone
        image.load()
        turn = None if smallest else _UPRIGHT.get(_orientation(image))
        return _to_rgb(image if turn is None else image.transpose(turn))
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
    if resize_mode not in ("shortest", "squash"):
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


def random_resized_crop(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random part of the picture, resized bicubically (torchvision's RandomResizedCrop).

    Args:
      image: RGB.
      size: side of the result, pixels.
      scale: range of the part's area, relative to the picture's.
      ratio: range of width / height, drawn log-uniformly.

    Returns:
      [size, size, 3] uint8.
    """
    width, height = image.size
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
    box = (left, top, left + w, top + h)
    return np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC))


def augment(
    image: Image.Image,
    rng: np.random.Generator,
    size: int,
    crop_scale: tuple[float, float],
    flip: bool,
    color_jitter: float,
) -> np.ndarray:
    """A random training view; the paper's has `crop_scale` (0.9, 1.0) and nothing else.

    Args:
      image: RGB.
      rng: source of all randomness.
      size: side of the result, pixels.
      crop_scale: see `random_resized_crop`.
      flip: mirror every second picture left to right.
      color_jitter: largest relative change of brightness, contrast and saturation.

    Returns:
      [size, size, 3] uint8.
    """
    pixels = random_resized_crop(image, size, rng, crop_scale)
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
