"""Every setting there is, at its default. A recipe calls `get_config` and edits what differs."""

from ml_collections import ConfigDict

from bioclip2_jax.data.images import IMAGENET_MEAN, IMAGENET_STD


def get_config() -> ConfigDict:
    """The defaults: the paper's optimizer, loss and image handling at a neutral size."""
    config = ConfigDict()
    config.seed = 42
    config.init = ""  # starting weights: any model that `bioclip2 convert` reads, or a workdir
    config.compile_cache = "compile_cache"  # folder of compiled steps, in the workdir; "": none

    config.model = ConfigDict()
    config.model.name = "vit_b16"  # a key of models.presets.PRESETS, or "init": as config.init
    config.model.dtype = "bfloat16"  # compute
    config.model.param_dtype = "float32"  # parameters and Adam; "bfloat16" is what the original did
    config.model.scan = True  # one compiled body for all blocks; False is faster on CPUs
    config.model.remat = "full"  # a key of models.execution.REMAT: "none" to "full", or "offload"
    config.model.remat_share = 1.0  # of a tower's blocks; the others keep nothing, as by "full"
    config.model.block_parts = 1  # a block takes a batch in up to so many parts: less memory
    config.model.attention = "xla"  # or "packed": NVIDIA, bfloat16, fastest; "cudnn": bits vary
    config.model.fp8 = "none"  # or "mlp": products of the MLPs in 8 bits, on GPUs from an H100 on

    config.data = ConfigDict()
    config.data.dir = ""  # folder written by `bioclip2 prepare`
    config.data.replay_dir = ""  # the same for general images; empty: no replay
    config.data.split = "train"
    config.data.captions = "given"  # by the source, where it has its own; or "cleaned", ours
    config.data.mean = IMAGENET_MEAN  # which the original trained with
    config.data.std = IMAGENET_STD
    config.data.resize_mode = "shortest"  # evaluation: "shortest" (then centre crop) or "squash"
    config.data.interpolation = "bicubic"  # evaluation
    config.data.crop_scale = (0.9, 1.0)  # area of RandomResizedCrop
    config.data.flip = False
    config.data.color_jitter = 0.0  # largest relative change of brightness, contrast, saturation
    config.data.decode = "simd"  # or "pillow", the reference; "fast": JPEGs at less than full size
    config.data.order = 2  # shuffled by seed, stream and epoch; 1: as in 0.2, whose runs keep it
    config.data.max_unreadable = 0.01  # of the last 10,000 records; with more the run ends
    config.data.workers = 0  # processes that read and decode; 0: threads of the training itself
    config.data.threads = 4  # of each worker, or of the training where there are none
    config.data.prefetch = 2  # batches made ahead; the next one comes from memory

    config.train = ConfigDict()
    config.train.steps = 10_000
    config.train.batch_size = 4096  # images a step, over all devices
    config.train.replay_batch_size = 0  # replay images a step, over all devices
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 1000
    config.train.schedule = "cosine"  # after the warm-up; or "linear", "constant", "trapezoid"
    config.train.cooldown_steps = 0  # at the end of a trapezoid
    config.train.clip_gradients = 0.0  # largest norm of all gradients together; 0: any
    config.train.skip_nonfinite = 0  # updates that may be left out as their loss is not finite
    config.train.ema = 0.0  # decay of a running mean of the weights, which is then the model
    config.train.weight_decay = 0.2
    config.train.beta1 = 0.9
    config.train.beta2 = 0.98
    config.train.epsilon = 1e-6
    config.train.momentum_dtype = "float32"  # Adam's first moment; "bfloat16" saves memory
    config.train.micro_batches = 1  # parts of a batch that pass the towers in turn; exact negatives
    config.train.loss_tile = 8192  # columns of the similarity matrix that exist at a time
    config.train.distinct_captions = False  # equal captions of a batch are one text
    config.train.level_weight = 0.0  # of a second loss, on lineages that stop above species
    config.train.level_draw = (1.0,) * 6  # how often at kingdom ... genus; (): at all in each step
    config.train.patch_keep = 1.0  # share of image patches seen in training (FLIP)
    config.train.log_every = 10
    config.train.checkpoint_every = 1000
    config.train.keep_checkpoints = 3
    config.train.stuck_minutes = 10.0  # without a step, or 20 median steps if longer: exit code 4
    config.train.profile = ()  # (first step, how many): a trace of them in WORKDIR/profile

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices that split the batch alone; -1: all that are left
    config.mesh.fsdp = 1  # devices that also split parameters and optimizer state
    config.mesh.slices = 1  # groups of devices with a fast network of their own
    return config
