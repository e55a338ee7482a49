"""How stacked blocks are run: rematerialised, in parts, gathered, in the shapes that GPUs want."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from bioclip2_jax.models import layers

_INPUT, _MIXED = "block_input", "attention_output"
_POLICIES = jax.checkpoint_policies
# What a block keeps for the backward pass, beside what it was given; the rest is computed again.
REMAT = {
    "none": _POLICIES.everything_saveable,
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "attention": _POLICIES.save_only_these_names(_MIXED),
    "full": _POLICIES.nothing_saveable,
    "offload": _POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),  # even a block's input waits in the host's memory
}
ATTENTION = ("xla", "cudnn")


def _unchanged(x: jax.Array) -> jax.Array:
    return x


@dataclass(frozen=True)
class Execution:
    """How blocks are run; the result is the same up to rounding.

    Attributes:
      dtype: of the towers' computation, whatever that of the parameters.
      scan: one compiled body for all blocks. Compiles fast; a CPU runs faster without.
      remat: a key of `REMAT`.
      block_parts: each block takes its batch in equal parts one after the other, the largest number
        of them up to this, and so needs a part of the memory at no extra work. Only with "full" or
        "offload".
      attention: one of `ATTENTION`; "cudnn" needs an NVIDIA GPU and bfloat16, and its gradients
        differ in the last bits from run to run.
      gather: this device's share of a weight [inputs, outputs] → the whole, see `sharding.gather`;
        models know no more of devices.
    """

    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    block_parts: int = 1
    attention: str = "xla"
    gather: Callable[[jax.Array], jax.Array] = _unchanged


DEFAULT_EXECUTION = Execution()


def run_blocks(blocks: layers.Block, x: jax.Array, execution: Execution) -> jax.Array:
    """Passes `x` [batch, tokens, width] through stacked blocks.

    Kernels that are split over devices are gathered for one block at a time, in the compute dtype.
    """
    graph, params = nnx.split(blocks)
    parts = max(n for n in range(1, execution.block_parts + 1) if len(x) % n == 0)
    batch, tokens, width = x.shape
    padding = 0
    if execution.attention == "cudnn":
        # JAX takes an odd number of tokens to cuDNN only where no gradient is asked for, and
        # XLA finds worse layouts on GPUs for three axes than for two.
        padding = tokens % 2
        x = jnp.pad(x, ((0, 0), (0, padding), (0, 0))).reshape(-1, width)

    def attend(qkv: jax.Array, heads: int, causal: bool) -> jax.Array:
        mixed = layers.attend(
            qkv.reshape(-1, tokens + padding, qkv.shape[-1]),
            heads,
            causal,
            padding=padding,
            implementation=execution.attention,
        )
        return checkpoint_name(mixed.reshape(*qkv.shape[:-1], width), _MIXED)

    def whole(parameter: jax.Array) -> jax.Array:
        if parameter.ndim != 2:
            return parameter
        # Moved in the compute dtype, but gradients of several parts are added up in full.
        return execution.gather(parameter.astype(x.dtype)).astype(parameter.dtype)

    def body(x: jax.Array, layer: nnx.State) -> tuple[jax.Array, None]:
        x = checkpoint_name(x, _INPUT)
        layer = jax.tree.map(whole, layer)

        def block(x: jax.Array) -> jax.Array:
            return nnx.merge(graph, layer)(x, attend)

        if parts == 1:
            return block(x), None
        # The outer checkpoint forgets the gathered weights, this one the part's intermediates.
        one = jax.checkpoint(block, prevent_cse=False)
        return jax.lax.map(one, x.reshape(parts, -1, *x.shape[1:])).reshape(x.shape), None

    if execution.remat != "none":
        # Without a loop the compiler would find the second computation and merge it with the first.
        body = jax.checkpoint(body, policy=REMAT[execution.remat], prevent_cse=not execution.scan)
    x = jax.lax.scan(body, x, params, unroll=not execution.scan)[0]
    return x.reshape(batch, tokens + padding, width)[:, :tokens]
