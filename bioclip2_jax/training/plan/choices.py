"""The settings that a plan may change, and what each takes and costs before any is compiled."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.training import sharding
from bioclip2_jax.training.recipe import Settings
from bioclip2_jax.training.step import init_state

_MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_PARTS = (16, 32, 64, 128)
# More devices than these leave shares too thin for the chips' memory layout.
_FSDP = (16, 64)
_SHARES = [n / 100 for n in range(1, 101)]


@dataclass(frozen=True)
class Choice:
    """Values of the config keys `model.remat`, `model.remat_share` and so on."""

    remat: str
    remat_share: float
    block_parts: int
    micro_batches: int
    fsdp: int

    @classmethod
    def of(cls, settings: Settings, fsdp: int) -> "Choice":
        """What a recipe has; `fsdp` with -1 resolved."""
        execution = settings.step.execution
        return cls(
            remat=execution.remat,
            remat_share=execution.remat_share,
            block_parts=execution.block_parts,
            micro_batches=settings.step.micro_batches,
            fsdp=fsdp,
        )

    def applied(self, settings: Settings) -> Settings:
        """The recipe with these."""
        execution = replace(
            settings.step.execution,
            remat=self.remat,
            remat_share=self.remat_share,
            block_parts=self.block_parts,
        )
        step = replace(settings.step, micro_batches=self.micro_batches, execution=execution)
        mesh = replace(settings.mesh, data=-1, fsdp=self.fsdp)
        return replace(settings, mesh=mesh, step=step)


@dataclass(frozen=True)
class _Tower:
    tokens: int
    width: int
    hidden: int
    heads: int
    depth: int

    def kept_channels(self, remat: str) -> int:
        """Numbers of a token that a block keeps beside its input."""
        width, hidden = self.width, self.hidden
        products = {"qkv": 3 * width, "hidden": hidden, "products": 4 * width + hidden}
        if remat == "none":  # LayerNorms, activations and attention's weights in float32 as well
            return 7 * width + 2 * hidden + 4 * self.heads * self.tokens
        return products.get(remat, width if remat == "attention" else 0)

    def kept(self, choice: Choice) -> float:
        """Numbers of one sequence that are kept for the way back, and those in use in a block."""
        blocks = self.keeping(choice)
        blocks += choice.block_parts > 1  # the parts of one block, before they are put together
        channels = self.depth * self.width + blocks * self.kept_channels(choice.remat)
        return self.tokens * (channels + self.kept_channels("none") / choice.block_parts)

    def keeping(self, choice: Choice) -> int:
        """Blocks that keep more than their input; the last one is computed for one token."""
        return round(choice.remat_share * (self.depth - 1))

    def forward(self) -> float:
        """FLOPs of one sequence."""
        weights = self.width * (4 * self.width + 2 * self.hidden)
        return self.depth * self.tokens * (2 * weights + 4 * self.tokens * self.width)

    def again(self, choice: Choice) -> float:
        """FLOPs of one sequence that are computed a second time for what is not kept."""
        if choice.remat == "none":
            return 0
        # A block's last product is needed by nobody on the way back.
        whole = self.forward() / self.depth / self.tokens - 2 * self.width * self.hidden
        inputs = self.tokens if choice.remat == "attention" else self.width
        kept = self.keeping(choice) * 2 * inputs * self.kept_channels(choice.remat)
        return self.tokens * ((self.depth - 1) * whole - kept)


class Costs:
    """What choices take and cost, for one recipe on so many chips."""

    def __init__(self, settings: Settings, model: ClipConfig, chips: int, text_length: int):
        vision, text, step = model.vision, model.text, settings.step
        patches = (vision.image_size // vision.patch_size) ** 2
        seen = 1 + max(1, round(step.patch_keep * patches))
        hidden = int(vision.mlp_ratio * vision.width)
        pairs = (step.batch_size + step.replay_batch_size) / chips
        texts = pairs + step.levels * step.batch_size / chips
        self._towers = (  # with the sequences of a chip
            (_Tower(seen, vision.width, hidden, vision.heads, vision.layers), pairs),
            (_Tower(text_length, text.width, 4 * text.width, text.heads, text.layers), texts),
        )
        state = jax.eval_shape(lambda: init_state(step, model))
        self._state = functools.cache(lambda fsdp: held(state, fsdp) + held(state.params, fsdp))
        self._width = jnp.dtype(step.execution.dtype).itemsize

    def known_bytes(self, choice: Choice) -> float:
        """On one chip: of the state, its gradients and the blocks; all but the rest."""
        numbers = sum(rows * tower.kept(choice) for tower, rows in self._towers)
        return self._state(choice.fsdp) + self._width * numbers / choice.micro_batches

    def flops(self, choice: Choice) -> float:
        """Of one chip; what every choice computes alike may be missing."""
        passes = 3 + (choice.micro_batches > 1)
        return sum(
            rows * (passes * tower.forward() + tower.again(choice)) for tower, rows in self._towers
        )


def held(tree: Any, fsdp: int) -> float:
    """Bytes on one chip of arrays by their names: some are split, the others are on all chips."""
    shardings = sharding.tree_shardings(tree, AbstractMesh((1, 1, fsdp), sharding.AXES))
    sizes = jax.tree.map(
        lambda leaf, where: math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def choices(settings: Settings, model: ClipConfig, own: Choice, chips: int) -> Iterator[Choice]:
    """All that may be tried instead of a recipe's `own`."""
    step = settings.step
    depths = model.vision.layers - 1, model.text.layers - 1
    # Of shares that come to the same number of blocks in both towers, the last.
    shares = {tuple(round(share * depth) for depth in depths): share for share in _SHARES}
    keeping = [("full", 1.0), ("none", 1.0)]
    keeping += itertools.product(("qkv", "hidden", "products"), shares.values())
    sizes = [size // chips for size in (step.batch_size, step.replay_batch_size)]
    parts = {own.block_parts, *(n for n in _PARTS if n > own.block_parts)}
    fsdp = {own.fsdp, *(math.gcd(chips // settings.mesh.slices, size) for size in _FSDP)}
    for (remat, share), part, micro, split in itertools.product(
        keeping, sorted(parts), _MICRO_BATCHES, sorted(fsdp)
    ):
        if any(size % micro for size in sizes):
            continue  # the rows of a device cannot be split further
        yield Choice(remat, share, 1 if remat == "none" else part, micro, split)
