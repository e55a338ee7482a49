"""Decoding of good, odd and broken pictures; their resizing for evaluation."""

import io
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from bioclip2_jax.data import images, views


def encode(image: Image.Image, format_: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def photo(width=40, height=30) -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def pixel(image: Image.Image) -> tuple:
    return image.getpixel((image.width // 2, image.height // 2))


ODD = {
    "JPEG": lambda: encode(photo(), "JPEG"),
    "PNG": lambda: encode(photo(), "PNG"),
    "WebP": lambda: encode(photo(), "WEBP"),
    "BMP": lambda: encode(photo(), "BMP"),
    "TIFF": lambda: encode(photo(), "TIFF"),
    "GIF": lambda: encode(photo(), "GIF"),
    "grey": lambda: encode(photo().convert("L"), "PNG"),
    "one bit": lambda: encode(photo().convert("1"), "PNG"),
    "palette": lambda: encode(photo().convert("P"), "PNG"),
    "palette with transparency": lambda: encode(photo().convert("P"), "PNG", transparency=0),
    "alpha": lambda: encode(photo().convert("RGBA"), "PNG"),
    "grey with alpha": lambda: encode(photo().convert("LA"), "PNG"),
    "CMYK JPEG": lambda: encode(photo().convert("CMYK"), "JPEG"),
    "16-bit grey": lambda: encode(Image.fromarray(np.full((30, 40), 40000, np.uint16)), "PNG"),
    "animation": lambda: encode(
        photo(), "GIF", save_all=True, append_images=[photo().convert("L").convert("RGB")]
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_pictures_become_rgb_of_the_same_size(kind):
    image = images.decode(ODD[kind]())
    assert image.mode == "RGB" and image.size == (40, 30)


def test_lossless_pictures_keep_every_pixel():
    np.testing.assert_array_equal(images.decode(ODD["PNG"]()), photo())


def test_sixteen_bit_grey_is_scaled_to_eight():
    assert pixel(images.decode(ODD["16-bit grey"]())) == (156, 156, 156)  # 40000 / 257


@pytest.mark.parametrize(("largest", "white"), [(4095, 4095), (3232, 4095), (4096, 65535)])
def test_twelve_bits_in_sixteen_are_known_by_the_largest_value(largest, white):
    values = np.linspace(0, largest, 1200).reshape(30, 40).astype(np.uint16)
    seen = images.read(encode(Image.fromarray(values), "TIFF"))
    assert pixel(seen.image)[0] == round(int(values[15, 20]) * 255 / white)
    assert bool(seen.notes) == (white == 4095) and all("12-bit" in note for note in seen.notes)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_ends_early_is_used_on_request_and_marked(mode):
    whole = encode(photo(300, 200).convert(mode), "JPEG", quality=95)
    for cut in (1, 2, 100, len(whole) // 3):
        data = whole[:-cut]
        with pytest.raises(images.BadImage, match="truncated"):
            images.read(data)
        seen = images.read(data, use_truncated=True)
        assert seen.notes == (images.TRUNCATED,)
        kept = slice(0, 200 * (len(data) - 2000) // len(whole) - 16)
        same = np.asarray(seen.image)[kept] == np.asarray(images.decode(whole))[kept]
        assert same.mean() > 0.99
    assert images.read(whole, use_truncated=True).notes == ()
    for broken in (whole[:300], encode(photo(300, 300), "PNG")[:-200], b"\xff\xd8"):
        with pytest.raises(images.BadImage):
            images.read(broken, use_truncated=True)


def test_large_pictures_come_at_half_their_sides(monkeypatch):
    monkeypatch.setattr(images, "LARGE_PIXELS", 5000)
    small, large = photo(100, 50), photo(101, 50)
    for kind in ("JPEG", "PNG", "TIFF"):
        assert images.read(encode(small, kind)).image.size == (100, 50)
        seen = images.read(encode(large, kind))
        assert (seen.image.size, seen.size) == ((51, 25), (101, 50))
        wanted = np.asarray(large.reduce(2), float)
        assert np.abs(np.asarray(seen.image, float) - wanted).mean() < 3
    exif = Image.Exif()
    exif[0x0112] = 6
    seen = images.read(encode(large, "JPEG", exif=exif))
    assert (seen.image.size, seen.size) == ((25, 51), (50, 101))
    clear = Image.new("RGBA", (101, 50), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 50, 50))
    seen = images.read(encode(clear, "PNG")).image
    assert seen.getpixel((5, 5)) == (0, 0, 255) and seen.getpixel((40, 5)) == (255, 255, 255)
    palette = images.read(encode(large.convert("P"), "PNG")).image
    wanted = np.asarray(large.convert("P").convert("RGB").reduce(2))
    np.testing.assert_array_equal(palette, wanted)
    grey = images.read(encode(Image.fromarray(np.full((50, 101), 40000, np.uint16)), "PNG")).image
    assert grey.size == (51, 25) and pixel(grey) == (156, 156, 156)
    random = np.random.default_rng(0)
    jitter = {"size": 24, "crop_scale": (0.5, 1.0), "flip": False, "color_jitter": 0.0}
    for decode in ("pillow", "simd", "fast"):
        view = views.training_view(encode(large, "JPEG"), random, **jitter, decode=decode)
        assert view.shape == (24, 24, 3)


def header_of(width: int, height: int) -> bytes:
    """A PNG that claims so many pixels and holds none."""
    data = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_the_limit_is_beyond_any_cameras_picture():
    with pytest.raises(images.BadImage, match="too many pixels"):
        images.decode(header_of(25_000, 10_001))
    with pytest.raises(images.BadImage, match="decoded"):  # not for its size
        images.decode(header_of(21_000, 10_001))


def test_heic_is_read_where_its_extra_is_installed(monkeypatch):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60)
    avif = encode(photo(), "AVIF") if "AVIF" in Image.SAVE else b""

    class Plugin:
        @staticmethod
        def register_heif_opener():
            opened = lambda file, name: Image.new("RGB", (30, 20), "red")  # noqa: E731
            Image.register_open("HEIF", opened, lambda prefix: prefix[4:12] == b"ftypheic")

    for other in (heic, heic.replace(b"ftypheic", b"ftypmif1")):
        images._has_heif.cache_clear()
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(images.BadImage, match=r"HEIC, which needs .pip install .*\[heic\]"):
            images.decode(other)
    images._has_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", Plugin)
    try:
        assert pixel(images.decode(heic)) == (255, 0, 0)
    finally:
        images._has_heif.cache_clear()
        del Image.OPEN["HEIF"]
        Image.ID.remove("HEIF")
    if avif:
        assert images.decode(avif).size == (40, 30)


def test_transparency_lies_over_white():
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert pixel(images.decode(encode(clear, "PNG"))) == (255, 255, 255)
    half = Image.new("RGBA", (20, 20), (255, 0, 0, 128))
    assert pixel(images.decode(encode(half, "PNG")))[1] in (126, 127, 128)


def test_of_an_animation_the_first_frame_is_taken():
    red, blue = (Image.new("RGB", (20, 20), colour) for colour in ("red", "blue"))
    data = encode(red, "GIF", save_all=True, append_images=[blue])
    assert pixel(images.decode(data)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = Image.new("RGB", (32, 24), "white")
    upright.paste("red", (0, 0, 16, 12))  # top left quarter
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    image = images.decode(encode(stored, "PNG", exif=exif))
    assert image.size == (32, 24)
    assert image.getpixel((4, 4)) == (255, 0, 0) and image.getpixel((28, 20)) == (255, 255, 255)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\xff"])
def test_damaged_exif_does_not_spoil_a_sound_picture(exif):
    assert images.decode(encode(photo(), "JPEG", exif=exif)).size == (40, 30)


def test_a_wrong_extension_does_not_matter_only_the_bytes_do():
    np.testing.assert_array_equal(
        images.decode(encode(photo(), "TIFF")), images.decode(encode(photo(), "PNG"))
    )


def test_threads_decode_the_same_pixels():
    data = [make() for make in ODD.values()] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(images.decode, data))
    for image, encoded in zip(found, data, strict=True):
        np.testing.assert_array_equal(image, images.decode(encoded))


def bomb() -> bytes:
    """A PNG whose header claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


BROKEN = {
    "no bytes": (b"", "empty"),
    "text": (b"this is not a picture", "known format"),
    "html error page": (b"<html><body>404 Not Found</body></html>", "known format"),
    "random bytes": (np.random.default_rng(0).bytes(5000), "known format"),
    "truncated JPEG": (encode(photo(300, 300), "JPEG")[:900], "decoded|known format"),
    "truncated PNG": (encode(photo(300, 300), "PNG")[:-200], "decoded"),
    "truncated WebP": (encode(photo(300, 300), "WEBP")[:100], "decoded|known format"),
    "JPEG header alone": (encode(photo(), "JPEG")[:20], "known format|decoded"),
    "flipped bits": (bytes(b ^ 255 for b in encode(photo(), "PNG")), "known format"),
    "decompression bomb": (bomb(), "too many"),
    "a single pixel": (encode(Image.new("RGB", (1, 1)), "PNG"), "too few"),
    "a line": (encode(Image.new("RGB", (500, 3)), "PNG"), "too few"),
    "floating point TIFF": (encode(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "range"),
    # Pillow would hand it to Ghostscript.
    "PostScript": (encode(photo(), "EPS"), "known format"),
    "PDF": (b"%PDF-1.4\n%%EOF", "known format"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_pictures_are_refused_with_a_reason(kind):
    data, reason = BROKEN[kind]
    with pytest.raises(images.BadImage, match=reason):
        images.decode(data)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (33, 97), (16, 16), (500, 17)])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_the_evaluation_view_has_the_asked_size(size, mode):
    view = images.eval_transform(32, mode)(photo(*size))
    assert view.shape == (32, 32, 3) and view.dtype == np.uint8


def test_shortest_crops_the_middle_and_squash_shows_all():
    wide = Image.new("RGB", (96, 32), "white")
    wide.paste("red", (0, 0, 16, 32))
    assert (images.eval_transform(32)(wide) == 255).all()
    assert (images.eval_transform(32, "squash")(wide)[:, :4] == (255, 0, 0)).all()


def test_the_longer_side_is_cut_down_and_the_crop_rounds_to_even():
    image = photo(50, 77)  # 32 * 77 / 50 = 49.28, and (49 - 32) / 2 = 8.5 rounds to 8
    expected = image.resize((32, 49), Image.Resampling.BICUBIC).crop((0, 8, 32, 40))
    np.testing.assert_array_equal(images.eval_transform(32)(image), expected)


@pytest.mark.parametrize("settings", [("stretch", "bicubic"), ("squash", "nearest")])
def test_an_unknown_way_of_resizing_is_named(settings):
    with pytest.raises(ValueError, match="stretch|nearest"):
        images.eval_transform(32, *settings)


def test_a_check_refuses_what_decoding_refuses(shared_photos):
    rng = np.random.default_rng(0)
    files = sorted(shared_photos.glob("*/images/*/*.jpg"))[::500]
    outcomes = []
    for path in files:
        whole = path.read_bytes()
        for _ in range(8):
            data = bytearray(whole)
            for place in rng.integers(2, len(data), rng.integers(0, 4)):
                data[place] = rng.integers(256)
            cut = bytes(data[: rng.integers(len(data) // 2, len(data) + 1)])
            for damaged in (bytes(data), cut):
                said = []
                for look in (images.decode, images.check):
                    try:
                        look(damaged)
                        said.append("")
                    except images.BadImage as error:
                        said.append(str(error))
                assert bool(said[0]) == bool(said[1])
                outcomes.append(bool(said[0]))
    assert 0.2 < np.mean(outcomes) < 0.8
