"""Decoding of good, odd and broken pictures; resizing and random views."""

import io
import struct
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from bioclip2_jax.data import images, views
from bioclip2_jax.errors import UsageError


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


def test_random_crops_are_a_function_of_the_generator():
    image = photo(120, 110)
    shown = [
        views.random_resized_crop(image, 24, np.random.default_rng(seed)) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(shown[0], shown[1])
    assert not np.array_equal(shown[0], shown[2])


def test_a_crop_of_a_very_narrow_picture_still_works():
    view = views.random_resized_crop(photo(900, 9), 24, np.random.default_rng(0))
    assert view.shape == (24, 24, 3)


def test_the_papers_augmentation_is_the_random_crop_alone():
    image = photo(200, 120)
    plain = views.random_resized_crop(image, 24, np.random.default_rng(5), (0.9, 1.0))
    view = views.augment(image, np.random.default_rng(5), 24, (0.9, 1.0), False, 0.0)
    np.testing.assert_array_equal(plain, view)


def test_flips_mirror_half_of_the_pictures_and_jitter_changes_colours():
    image = photo(64, 64)
    plain = views.augment(image, np.random.default_rng(0), 64, (1.0, 1.0), False, 0.0)
    mirrored = 0
    for seed in range(200):
        view = views.augment(image, np.random.default_rng(seed), 64, (1.0, 1.0), True, 0.0)
        again = views.augment(image, np.random.default_rng(seed), 64, (1.0, 1.0), False, 0.0)
        mirrored += np.array_equal(view, again[:, ::-1])
    assert 70 < mirrored < 130
    jittered = views.augment(image, np.random.default_rng(0), 64, (1.0, 1.0), False, 0.4)
    assert jittered.dtype == np.uint8 and not np.array_equal(plain, jittered)


def training_views(picture: bytes, seed=0, size=224, **changes) -> dict[str, np.ndarray]:
    """What training shows of a picture, by each way of reading it."""
    settings = {"size": size, "crop_scale": (0.9, 1.0), "flip": False, "color_jitter": 0.0}
    return {
        decode: views.training_view(
            picture, np.random.default_rng(seed), decode=decode, **settings | changes
        )
        for decode in ("pillow", "simd", "fast")
    }


def difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.abs(left.astype(int) - right)


def rough(width: int, height: int, seed=0) -> Image.Image:
    """Coarse colours under fine noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(height // 16, 2), max(width // 16, 2), 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), np.float32)
    pixels = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def close(left: np.ndarray, right: np.ndarray) -> bool:
    return difference(left, right).mean() <= 0.3 and difference(left, right).max() <= 16


SHAPES = [(500, 375), (300, 500), (512, 512), (1100, 700), (99, 119), (60, 240), (224, 224)]


def test_the_reference_is_pillow_to_the_bit():
    picture = rough(300, 260)
    shown = training_views(encode(picture, "PNG"))["pillow"]
    plain = views.random_resized_crop(picture, 224, np.random.default_rng(0))
    np.testing.assert_array_equal(shown, plain)


@pytest.mark.parametrize("shape", SHAPES)
def test_simd_shows_what_pillow_shows(shape):
    for seed in range(3):
        shown = training_views(encode(rough(*shape, seed), "PNG"), seed)
        assert close(shown["pillow"], shown["simd"])
        np.testing.assert_array_equal(shown["simd"], shown["fast"])  # of JPEGs alone is less read


def test_simd_shows_what_pillow_shows_of_photographs(shared_photos):
    for number, path in enumerate(sorted(shared_photos.glob("*/images/*/*.jpg"))[::20]):
        shown = training_views(path.read_bytes(), number)
        assert close(shown["pillow"], shown["simd"]), path


@pytest.mark.parametrize("name", ["none", "sse4_1", "avx2", "neon"])
def test_simd_gives_the_same_bits_on_every_processor(name):
    pictures = [encode(rough(*shape), "JPEG") for shape in (*SHAPES, (1025, 771))]
    usual = [training_views(picture, flip=True) for picture in pictures]
    resizer = views._resizer()
    kept = resizer.cpu_extensions
    try:
        resizer.cpu_extensions = type(kept)[name]
        if resizer.cpu_extensions.name != name:
            pytest.skip("not of this processor")
        for picture, before in zip(pictures, usual, strict=True):
            for decode, shown in training_views(picture, flip=True).items():
                np.testing.assert_array_equal(shown, before[decode])
    except ValueError:
        pytest.skip("not of this processor")
    finally:
        resizer.cpu_extensions = kept


def test_fast_reads_a_large_jpeg_at_a_half_and_shows_the_same_part(monkeypatch):
    read = []
    to_rgb = images._to_rgb
    monkeypatch.setattr(images, "_to_rgb", lambda image: read.append(image.size) or to_rgb(image))
    shown = training_views(encode(rough(1025, 771), "JPEG", quality=95))
    assert read == [(1025, 771), (1025, 771), (513, 386)]
    assert not np.array_equal(shown["simd"], shown["fast"])
    assert difference(shown["simd"], shown["fast"]).mean() < 2
    # Elsewhere by a pixel of the half picture, it would be much further off.
    moved = np.roll(shown["simd"], 1, axis=1)
    assert difference(moved, shown["fast"])[:, 1:].mean() > 3


def test_fast_reads_all_of_what_would_become_too_small_or_has_to_be_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    small, turned = rough(600, 500), encode(rough(1025, 771), "JPEG", exif=exif)
    for picture, crop_scale in (
        (encode(small, "JPEG"), (0.9, 1.0)),
        (turned, (0.9, 1.0)),
        (encode(rough(1025, 771), "JPEG"), (0.1, 1.0)),
    ):
        shown = training_views(picture, crop_scale=crop_scale)
        np.testing.assert_array_equal(shown["simd"], shown["fast"])


def test_views_are_the_same_from_many_threads():
    pictures = [encode(rough(300, 200 + n), "JPEG") for n in range(20)]
    alone = [training_views(picture)["simd"] for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: training_views(picture)["simd"], pictures))
    np.testing.assert_array_equal(alone, together)


def test_a_machine_without_the_resizer_is_told_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    monkeypatch.setattr(views, "_of_thread", threading.local())
    with pytest.raises(UsageError, match="pip install cykooz-resizer.*decode=pillow"):
        views.check_decoding("simd")
    views.check_decoding("pillow")


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
