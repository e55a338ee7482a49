"""Our evaluation view and our resizing of position embeddings against open_clip's own."""

import numpy as np
import pytest
from PIL import Image

from bioclip2_jax.data import images

pytest.importorskip("torch")
pytest.importorskip("open_clip")
measures = pytest.importorskip("measures")

SIZES = [(333, 500), (500, 333), (257, 256), (97, 33), (64, 64), (30, 45), (65, 1000)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_every_pixel_is_the_same(open_clip, size, interpolation, resize_mode):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    reference = open_clip.transform.image_transform(
        64, False, (0, 0, 0), (1, 1, 1), resize_mode=resize_mode, interpolation=interpolation
    )
    expected = (reference(image).numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)
    found = images.eval_transform(64, resize_mode, interpolation)(image)
    np.testing.assert_array_equal(found, expected)


def test_pictures_of_all_sizes_and_modes_are_seen_alike():
    largest, mean = measures.pixel_differences(500)
    assert largest <= 1 and mean <= 0.05


@pytest.mark.parametrize(("old", "new"), [(7, 14), (16, 24), (14, 7), (16, 17), (24, 16), (8, 8)])
def test_position_embeddings_are_resized_alike(old, new):
    assert measures.resize_difference(old, new) <= 1e-5
