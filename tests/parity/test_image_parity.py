"""Our evaluation view against open_clip's own transform."""

import numpy as np
import pytest
from PIL import Image

from bioclip2_jax import images

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
