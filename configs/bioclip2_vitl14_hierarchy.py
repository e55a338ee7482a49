"""BioCLIP 2's recipe with the level loss: every rank answers by its own names.

Added to the paper's loss, not in its place; `bioclip2_vitl14.py` is the paper's own.
"""

from ml_collections import ConfigDict

from configs import bioclip2_vitl14


def get_config() -> ConfigDict:
    """Set `data.dir`, `data.replay_dir` and `init`, as there."""
    config = bioclip2_vitl14.get_config()
    config.train.level_weight = 0.15
    return config
