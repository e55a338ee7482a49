"""A tiny model on the simulated tree of life: minutes on two CPU cores."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """See the module's docstring; sized in `launch/quickstart.sh`."""
    config = common.get_config()
    config.model.name = "tiny"
    config.model.dtype = "float32"  # CPUs have no fast bfloat16
    config.model.scan = False
    config.model.remat = "none"
    # As when the published figures were made.
    config.data.decode, config.data.order = "pillow", 1
    config.data.dir = "runs/quickstart/data"
    config.train.steps = 400
    config.train.batch_size = 128
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 50
    config.train.checkpoint_every = 200
    config.train.level_weight = 0.5  # every rank answers by its own name
    return config
