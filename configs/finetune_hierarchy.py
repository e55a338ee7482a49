"""Ranks for a model that knows species: a few hundred steps from converted weights.

A low learning rate and the paper's loss beside the level loss are to keep what it knows; whether
they did, rank by rank, says `bioclip2 evaluate --compare-to` with the results of the weights it
began with. A larger `level_weight` gives more to the ranks and takes it from rare species.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Set `init` to the weights, of any size, and `data.dir` to pictures of what they know."""
    config = common.get_config()
    config.init = "weights/bioclip-2"
    config.model.name = "init"
    config.model.block_parts = 16
    config.data.dir = "data/birds"
    config.train.steps = 300
    config.train.batch_size = 1024
    config.train.learning_rate = 1e-5
    config.train.warmup_steps = 30
    config.train.level_weight = 0.15
    config.train.checkpoint_every = 100
    return config
