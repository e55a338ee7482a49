"""The model of the scaling study (`bioclip2 analyze scaling`): small, and many times a day."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Data folders, `init` and the workdir are set by the study, for each of its runs."""
    config = common.get_config()
    config.model.name = "tiny"
    config.model.dtype = "float32"  # CPUs have no fast bfloat16
    config.model.scan = False
    config.model.remat = "none"
    # As when the published figures were made.
    config.data.decode, config.data.order = "pillow", 1
    config.train.batch_size = 128
    config.train.replay_batch_size = 32  # in the runs with replay
    config.train.steps = 160
    config.train.patch_keep = 0.5  # half the work, a little accuracy
    config.train.learning_rate = 5e-4
    config.train.warmup_steps = 30
    config.train.checkpoint_every = 1000  # the last step alone
    return config
