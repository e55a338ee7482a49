"""BioCLIP (the first): ViT-B/16 from OpenAI weights on TreeOfLife-10M, no replay.

8 GPUs, 32,768 pairs a step, 100 passes over 10.4 M images.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe of the first BioCLIP. Set `data.dir` and `init` (the OpenAI weights)."""
    config = common.get_config()
    config.model.name = "vit_b16"
    config.data.dir = "data/treeoflife_10m"
    config.data.workers = 8
    config.train.batch_size = 32_768
    config.train.steps = 100 * 320
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 1000
    config.train.weight_decay = 0.2
    return config
