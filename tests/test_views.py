"""Random views of pictures for training: crops, flips, colours, and how fast they are read."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from test_images import encode, photo

from bioclip2_jax.data import images, views
from bioclip2_jax.errors import UsageError


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
