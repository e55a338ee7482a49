"""Comparisons with the PyTorch reference; skipped where torch and open_clip are not installed."""

import jax
import numpy as np
import pytest
import vision_operators  # noqa: F401  (before torchvision)

from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig


@pytest.fixture(scope="session")
def open_clip():
    """The reference implementation."""
    return pytest.importorskip("open_clip")


@pytest.fixture
def random_params():
    """config → parameters none of which is at a special value, as numpy."""

    def make(config: ClipConfig, **options) -> dict:
        rng = np.random.default_rng(0)

        def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
            noise = rng.standard_normal(shape.shape, np.float32)
            name = path[-1].key
            if name in ("scale", "bias"):
                return (name == "scale") + 0.1 * noise
            if name == "logit_scale":
                return np.float32(3.0)
            inputs = np.prod(shape.shape[:3]) if "patch_embed" in str(path) else shape.shape[-2:][0]
            return noise * (0.02 if "embedding" in name else inputs**-0.5)

        abstract = clip.abstract_params(config, **options)
        return jax.tree_util.tree_map_with_path(leaf, abstract)

    return make
