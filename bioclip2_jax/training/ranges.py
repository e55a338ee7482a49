"""What the settings of a recipe may be: what cannot be meant is refused before the first step."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bioclip2_jax.data import images
from bioclip2_jax.errors import UsageError
from bioclip2_jax.models.execution import ATTENTION, REMAT
from bioclip2_jax.models.fp8 import FP8
from bioclip2_jax.text.captions import LEVELS
from bioclip2_jax.training.optim import SCHEDULES

# Intervals as in mathematics: an end beside a round bracket is outside.
_RANGES = {
    "seed": "[0, 4294967295]",
    "model.block_parts": "[1, inf)",
    "model.remat_share": "[0, 1]",
    "data.mean": "(-inf, inf)",
    "data.std": "(0, inf)",
    "data.crop_scale": "(0, 1]",
    "data.color_jitter": "[0, 1]",
    "data.max_unreadable": "[0, 1]",
    "data.workers": "[0, inf)",
    "data.threads": "[1, inf)",
    "data.prefetch": "[1, inf)",
    "train.steps": "[1, inf)",
    "train.batch_size": "[1, inf)",
    "train.replay_batch_size": "[0, inf)",
    "train.learning_rate": "[0, inf)",
    "train.warmup_steps": "[0, inf)",
    "train.cooldown_steps": "[0, inf)",
    "train.weight_decay": "[0, inf)",
    "train.beta1": "[0, 1)",
    "train.beta2": "[0, 1)",
    "train.epsilon": "(0, inf)",
    "train.clip_gradients": "[0, inf)",
    "train.skip_nonfinite": "[0, inf)",
    "train.ema": "[0, 1)",
    "train.micro_batches": "[1, inf)",
    "train.loss_tile": "[1, inf)",
    "train.level_weight": "[0, inf)",
    "train.level_draw": "[0, inf)",
    "train.patch_keep": "(0, 1]",
    "train.log_every": "[1, inf)",
    "train.checkpoint_every": "[1, inf)",
    "train.keep_checkpoints": "[1, inf)",
    "train.stuck_minutes": "(0, inf)",
    "train.profile": "[1, inf)",
}
_CHOICES: dict[str, Sequence[str]] = {
    "model.dtype": ("float32", "bfloat16"),
    "model.param_dtype": ("float32", "bfloat16"),
    "model.remat": tuple(REMAT),
    "model.attention": ATTENTION,
    "model.fp8": FP8,
    "data.resize_mode": images.RESIZE_MODES,
    "data.interpolation": images.INTERPOLATIONS,
    "train.schedule": SCHEDULES,
    "train.momentum_dtype": ("float32", "bfloat16"),
}
_LENGTHS = {"data.mean": 3, "data.std": 3, "data.crop_scale": 2}


def check(recipe: Mapping[str, Any]) -> None:
    """Refuses a recipe that no run can have meant.

    Args:
      recipe: flat, "train.batch_size" → 64; of the right types.

    Raises:
      UsageError: names the key, its value and what it may be.
    """
    for key, length in _LENGTHS.items():
        if len(recipe[key]) != length:
            raise UsageError(f"config.{key}={recipe[key]!r} must be {length} numbers")
    for key, interval in _RANGES.items():
        value = recipe[key]
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(_lies_in(number, interval) for number in numbers):
            raise UsageError(f"config.{key}={value!r} must be {_in_words(interval)}")
    for key, choices in _CHOICES.items():
        if recipe[key] not in choices:
            raise UsageError(f"config.{key}={recipe[key]!r} is not one of {', '.join(choices)}")
    _check_pairs(recipe)


def check_devices(
    attention: str,
    dtype: str,
    platform: str,
    *,
    fp8: str = "none",
    kind: str = "",
    capability: str = "",
) -> None:
    """Refuses kernels and units that these devices do not have.

    Args:
      attention, dtype, fp8: of `config.model`.
      platform: of JAX's devices.
      kind: of them, as JAX calls it.
      capability: of NVIDIA's GPUs, such as "9.0".

    Raises:
      UsageError: "cudnn" anywhere but on an NVIDIA GPU in bfloat16; "mlp" on a GPU or TPU that
        does not multiply in 8-bit floats. CPUs compute the same by casts.
    """
    if fp8 != "none" and not _has_fp8(platform, kind, capability):
        raise UsageError(
            f"config.model.fp8={fp8} needs devices that multiply 8-bit floats, NVIDIA GPUs of"
            f" compute capability 8.9 or more (H100: 9.0); {kind or platform}"
            + (f" has {capability}" if capability else " does not")
            + ": take none"
        )
    if attention == "cudnn" and not (platform in ("gpu", "cuda") and dtype == "bfloat16"):
        raise UsageError(
            "config.model.attention=cudnn needs an NVIDIA GPU and config.model.dtype=bfloat16; for"
            f" {platform} and {dtype} take xla"
        )


def _has_fp8(platform: str, kind: str, capability: str) -> bool:
    if platform in ("gpu", "cuda"):
        numbers = re.fullmatch(r"(\d+)\.(\d+)", capability)  # AMD's are names
        return bool(numbers) and (int(numbers[1]), int(numbers[2])) >= (8, 9)
    return platform == "cpu" or kind.startswith(("TPU7", "TPU v7"))


def check_warmup(steps: int, warmup: int) -> None:
    """Refuses a warm-up that outlasts its run.

    Raises:
      UsageError: names both.
    """
    if warmup > steps:
        raise UsageError(
            f"config.train.warmup_steps={warmup} is longer than the run, config.train.steps={steps}"
        )


def _check_pairs(recipe: Mapping[str, Any]) -> None:
    """What two settings say of each other."""
    low, high = recipe["data.crop_scale"]
    if low > high:
        raise UsageError(f"config.data.crop_scale={(low, high)}: the smaller share comes first")
    if recipe["train.schedule"] == "trapezoid" and not recipe["train.cooldown_steps"]:
        raise UsageError(
            "config.train.schedule=trapezoid needs config.train.cooldown_steps, for example a fifth"
            " of config.train.steps"
        )
    if recipe["model.block_parts"] > 1 and recipe["model.remat"] == "none":
        raise UsageError(
            "config.model.block_parts above 1 needs config.model.remat=full, or another but none"
        )
    profile, steps = recipe["train.profile"], recipe["train.steps"]
    if profile and not (len(profile) == 2 and profile[0] <= steps):
        raise UsageError(
            f"config.train.profile={profile} must be (first step, how many), within"
            f" config.train.steps={steps}"
        )
    draw = recipe["train.level_draw"]
    if draw and not (len(draw) == len(LEVELS) and any(draw)):
        raise UsageError(
            f"config.train.level_draw={draw}: say how often each of {', '.join(LEVELS)} is drawn,"
            " or () for all of them at every step"
        )


def _lies_in(number: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    return above and below  # neither for what is no number


def _in_words(interval: str) -> str:
    low, high = interval[1:-1].split(", ")
    if math.isfinite(float(high)):
        return f"in {interval}"
    if not math.isfinite(float(low)):
        return "finite"
    return f"at least {low}" if interval[0] == "[" else f"above {low}"
