"""Comparisons with the PyTorch reference; skipped where torch and open_clip are not installed."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig


def declare_vision_operators() -> None:
    """Lets torchvision be imported when its compiled half does not load.

    Its wheel is built for CUDA, so beside a CPU build of torch the operators it wants to describe
    are unknown. Nothing here calls them; to be declared is enough.
    """
    import torch

    folder = Path(importlib.util.find_spec("torchvision").origin).parent
    try:
        for library in folder.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        text = (folder / "_meta_registrations.py").read_text(encoding="utf-8")
        names = re.findall(
            r'(?:register_meta\(|register_fake\(|impl\()"(?:torchvision::)?(\w+)"', text
        )
        declare_vision_operators.library = torch.library.Library("torchvision", "DEF")
        for name in sorted(set(names)):
            declare_vision_operators.library.define(f"{name}(Tensor input) -> Tensor")


if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
    declare_vision_operators()


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
