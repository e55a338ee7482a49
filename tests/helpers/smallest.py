"""The recipe of the tests' runs: a model that is compiled in seconds and steps in milliseconds."""

from ml_collections import ConfigDict

from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig
from configs import quickstart

PRESETS["smallest"] = ClipConfig(16, VisionConfig(32, 16, 32, 1, 16), TextConfig(16, 2, 1))


def get_config() -> ConfigDict:
    """The quickstart's with that model, and the paper's loss alone."""
    config = quickstart.get_config()
    config.model.name = "smallest"
    config.train.level_weight = 0.0
    return config
