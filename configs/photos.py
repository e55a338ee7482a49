"""A small model from scratch on a few thousand photographs: about an hour on two CPU cores.

So little data needs what the paper's recipe does without: wide crops, mirror images, changes of
colour, and half of the patches hidden (which also halves the work).
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Set `data.dir` to a folder made by `bioclip2 prepare folder`."""
    config = common.get_config()
    config.model.name = "small"
    config.model.dtype = "float32"  # CPUs have no fast bfloat16
    config.model.scan = False
    config.model.remat = "none"
    # As when the published figures were made.
    config.data.decode, config.data.order = "pillow", 1
    config.data.dir = "data/photos"
    config.data.crop_scale = (0.3, 1.0)
    config.data.flip = True
    config.data.color_jitter = 0.3
    config.train.batch_size = 128
    config.train.steps = 3500
    config.train.patch_keep = 0.5
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 175
    config.train.level_weight = 0.15  # every rank answers by its own name
    config.train.checkpoint_every = 500
    return config
