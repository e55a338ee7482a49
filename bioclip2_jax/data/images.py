"""Every rule about pixels: which files are pictures, how they are decoded, and the plain view.

Pillow throughout. The random views of training are in `views`.
"""

import functools
import importlib
import io
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # which the original trained with
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_PIXELS = 250_000_000  # larger than any camera's picture; a bomb otherwise
LARGE_PIXELS = 100_000_000  # a picture of more is read at half its sides
MIN_SIDE = 8
TRUNCATED = "truncated: the file ends before the picture does"
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
INTERPOLATIONS, RESIZE_MODES = tuple(_FILTERS), ("shortest", "squash")
# Raster formats alone: for PostScript and its kin Pillow would start other programs.
_FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "AVIF", "PPM"]
# Pictures for which Pillow may lack its plug-in: named among those that cannot be read.
_PLUG_INS = {".avif", ".heic", ".heif", ".hif", ".jxl"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_JPEG_END = b"\xff\xd9"
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
_ON_THEIR_SIDE = {5, 6, 7, 8}
_MEANS = ("RGB", "L", "RGBA", "LA", "CMYK")  # modes of which the mean of pixels is one, in Pillow

Size = tuple[int, int]  # width, height

# A picture is either decoded or refused with a reason; Pillow's remarks about it help nobody.
# (Not `warnings.catch_warnings` at each call, which threads undo for one another.)
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow refuses twice its own limit, which is below ours.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2)


class BadImage(Exception):
    """The bytes are no usable picture; the message is the reason."""


class _CutShort(Exception):
    """A JPEG ends early."""


@dataclass(frozen=True)
class Seen:
    """A decoded picture.

    Attributes:
      image: upright RGB.
      size: that it has in the file, upright.
      notes: what was done that is not usual, such as `TRUNCATED`.
    """

    image: Image.Image
    size: Size
    notes: tuple[str, ...] = ()


@functools.cache
def suffixes() -> frozenset[str]:
    """What the names of pictures end with, in lower case; `decode` goes by the bytes alone."""
    named = Image.registered_extensions().items()
    return frozenset(_PLUG_INS | {suffix for suffix, name in named if name in _FORMATS})


def decode(picture: bytes | Image.Image) -> Image.Image:
    """Decodes any common raster format to an upright RGB picture, see `read`.

    Args:
      picture: an encoded one, or one that `read` has decoded, which stays as it is.

    Raises:
      BadImage: as `read`.
    """
    return picture if isinstance(picture, Image.Image) else read(picture).image


def check(data: bytes) -> None:
    """Whether `decode` will succeed, for half its cost in a JPEG.

    All of the file's code is read as `decode` reads it, but at an eighth of the size.

    Raises:
      BadImage: as `read`.
    """
    read(data, smallest=True)


def read(
    data: bytes,
    *,
    use_truncated: bool = False,
    smallest: bool = False,
    reduction: Callable[[Size], int] | None = None,
) -> Seen:
    """Decodes any common raster format to an upright RGB picture. Safe to call from threads.

    EXIF rotation is applied, transparency laid over white, 16-bit grey scaled to 8 bits (as
    12-bit data, with a note, where its largest value fits into them), CMYK and palettes converted,
    and of an animation the first frame is taken. More than `LARGE_PIXELS` are brought to half their
    sides: by the JPEG's own means, or of other formats for one picture at a time.

    Args:
      data: the file.
      use_truncated: whether a JPEG that ends early is used as far as it goes, with a note.
      smallest: a JPEG is read at an eighth of its size, and not turned.
      reduction: size → by how much a JPEG that needs no turning is to be reduced: 1, 2, 4 or 8.

    Raises:
      BadImage: empty, truncated, of no known format, too large (more than `MAX_PIXELS`) or too
        small (a side below `MIN_SIDE`).
    """
    if not data:
        raise BadImage("the file is empty")
    how = {"smallest": smallest, "reduction": reduction}
    try:
        try:
            return _read(data, **how)
        except _CutShort as error:
            if not use_truncated:
                raise BadImage(f"cannot be decoded ({error})") from error
            return _read(data + _JPEG_END, **how, notes=(TRUNCATED,))
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too many pixels (more than Pillow takes)") from error
    except Image.UnidentifiedImageError as error:
        raise BadImage("not a picture of any known format") from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise BadImage(f"cannot be decoded ({text[:120]})") from error


_one_at_a_time = threading.Lock()  # large pictures that only their decoder can make smaller


def _read(
    data: bytes,
    *,
    smallest: bool,
    reduction: Callable[[Size], int] | None,
    notes: tuple[str, ...] = (),
) -> Seen:
    image = opened(data)
    width, height = size = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"too many pixels ({width} x {height})")
    if min(size) < MIN_SIDE:
        raise BadImage(f"too few pixels ({width} x {height})")
    by = 2 if width * height > LARGE_PIXELS else 1
    if image.format in ("JPEG", "MPO"):
        if smallest:
            by = 8
        elif reduction and image.format == "JPEG" and _orientation(image) == 1:
            by = max(by, reduction(size))
        if by > 1:
            image.draft(image.mode, (width // by, height // by))
    if by > 1 and image.size == size:
        with _one_at_a_time:
            whole = _loaded(image)
            if whole.mode in _MEANS and "transparency" not in whole.info:  # the least memory
                rgb, note = _to_rgb(whole.reduce(by))
            else:
                rgb, note = _to_rgb(whole)
                rgb = rgb.reduce(by)
    else:
        rgb, note = _to_rgb(_loaded(image))
    orientation = 1 if smallest else _orientation(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
        size = (height, width) if orientation in _ON_THEIR_SIDE else size
    return Seen(image=rgb, size=size, notes=(*notes, *filter(None, [note])))


def opened(data: bytes) -> Image.Image:
    """A picture of which only the header was read yet; errors are Pillow's and `BadImage`."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS | {b"mif1", b"msf1"}:
        end = min(int.from_bytes(data[:4], "big"), 256)
        if _HEIF_BRANDS & {data[i : i + 4] for i in range(8, end, 4)}:
            if not _has_heif():
                raise BadImage('HEIC, which needs `pip install "bioclip2-jax[heic]"`')
            return Image.open(io.BytesIO(data), formats=["HEIF"])
    return Image.open(io.BytesIO(data), formats=_formats())


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


@functools.cache
def _has_heif() -> bool:
    """Tells Pillow of HEIC where its plug-in is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except OSError as error:
        if "truncated" in str(error) and image.format in ("JPEG", "MPO"):
            raise _CutShort(str(error)) from error
        raise
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF around a sound picture
        return 1


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """The picture in RGB, and a note of what was supposed of it."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, ""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB"), ""
    return image.convert("RGB"), ""


def _from_grey(image: Image.Image) -> tuple[Image.Image, str]:
    values = np.asarray(image)
    largest = values.max(initial=0)
    if image.mode == "F" or largest > 65535 or values.min(initial=0) < 0:
        raise BadImage(f"pixel mode {image.mode} has no agreed range of values")
    # 32-bit "I" holds 16-bit files of some formats; 65535 is white, but for cameras of 12 bits.
    white, note = 65535, ""
    if 0 < largest <= 4095:
        white, note = 4095, f"12-bit data in 16 bits, by the largest value ({largest})"
    shades = np.round(np.arange(white + 1) / (white / 255)).astype(np.uint8)
    return Image.fromarray(shades[values]).convert("RGB"), note


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
