"""BioCLIP 2: ViT-L/14 from LAION-2B weights on TreeOfLife-200M (arXiv 2505.23883).

32 GPUs x (2,816 biological + 320 replay) pairs a step, 30 passes over 214 M images.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The paper's recipe. Set `data.dir`, `data.replay_dir` and `init` (the LAION weights)."""
    config = common.get_config()
    config.model.name = "vit_l14"
    config.data.dir = "data/treeoflife_200m"
    config.data.replay_dir = "data/laion_26m"
    config.data.workers = 8
    config.train.batch_size = 32 * 2816
    config.train.replay_batch_size = 32 * 320
    config.train.steps = 30 * 2376  # ceil(214 M / 90,112) rounded up to 8 loaders, 30 times
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 1875
    config.train.weight_decay = 0.2
    config.train.beta2 = 0.98
    config.train.epsilon = 1e-6
    config.model.block_parts = 16
    config.mesh.fsdp = 8  # the chips of one host; memory a chip then stays the same on any number
    config.train.log_every = 1
    config.train.checkpoint_every = 500
    return config
