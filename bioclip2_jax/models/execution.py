"""How stacked blocks are run: rematerialised, in parts, gathered, in the shapes that GPUs want."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from bioclip2_jax.models import fp8, layers
from bioclip2_jax.models.kernels import block as block_kernels
from bioclip2_jax.models.kernels import embedding

_INPUT = "block_input"
_POLICIES = jax.checkpoint_policies
# What a block keeps for the backward pass, beside what it was given; the rest is computed again.
REMAT = {
    "none": _POLICIES.everything_saveable,
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "products": _POLICIES.save_only_these_names(layers.QKV, layers.MIDDLE, layers.HIDDEN),
    "hidden": _POLICIES.save_only_these_names(layers.HIDDEN),
    "qkv": _POLICIES.save_only_these_names(layers.QKV),
    "attention": _POLICIES.save_only_these_names(layers.MIXED),
    "full": _POLICIES.nothing_saveable,
    "offload": _POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),  # even a block's input waits in the host's memory
}
ATTENTION = ("xla", "cudnn", "packed")


def _unchanged(x: jax.Array) -> jax.Array:
    return x


@dataclass(frozen=True)
class Execution:
    """How blocks are run; the result is the same up to rounding.

    Attributes:
      dtype: of the towers' computation, whatever that of the parameters.
      scan: one compiled body for all blocks. Compiles fast; a CPU runs faster without.
      remat: a key of `REMAT`.
      remat_share: of the blocks of a tower, the last ones, that keep what `remat` says; the others
        keep nothing. The nearest whole number.
      block_parts: each block takes its batch in equal parts one after the other, the largest number
        of them up to this, and so needs a part of the memory at no extra work. Not with "none".
      attention: one of `ATTENTION`; "cudnn" needs an NVIDIA GPU and bfloat16, and its gradients
        differ in the last bits from run to run. "packed" needs the same, takes the project's own
        kernels for whole blocks, which give the same bits each time, and cuDNN's attention where
        they do not fit. "heads" is for CPUs that encode, see `to_encode`.
      fp8: one of `fp8.FP8`; "mlp": products of the MLPs in 8 bits, but of a tower's last block's,
        wherever `maxima` come along.
      interpret: those kernels are computed by JAX, slowly, on any device.
      gather: this device's share of a weight [inputs, outputs] → the whole, see `sharding.gather`;
        models know no more of devices.
    """

    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    remat_share: float = 1.0
    block_parts: int = 1
    attention: str = "xla"
    fp8: str = "none"
    interpret: bool = False
    gather: Callable[[jax.Array], jax.Array] = _unchanged

    def on(self, platform: str) -> "Execution":
        """The same for devices of a kind; where kernels do not run, "packed" becomes "xla"."""
        able = platform in ("gpu", "cuda") and self.dtype == "bfloat16"
        plain = self.attention == "packed" and not able
        return dataclasses.replace(self, attention="xla") if plain else self

    @property
    def product(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """How a block multiplies rows with its kernels."""
        return layers.wide_product if self.attention == "heads" else jnp.matmul


DEFAULT_EXECUTION = Execution()


def to_encode(dtype: str, platform: str) -> Execution:
    """How devices of a kind encode fastest, where no gradient is asked for."""
    if platform == "cpu":
        return Execution(dtype, attention="heads")
    return Execution(dtype, attention="packed").on(platform)


def look_up(table: jax.Array, numbers: jax.Array, execution: Execution) -> jax.Array:
    """`table[numbers]` in the compute dtype: [vocabulary, width], int32 [...] → [..., width]."""
    if execution.attention == "packed":
        return embedding.lookup(table, numbers, execution.dtype, execution.interpret)
    return table[numbers].astype(execution.dtype)


def norm(layer: layers.LayerNorm, x: jax.Array, execution: Execution) -> jax.Array:
    """`layer(x)` of all tokens, [batch, tokens, width]."""
    if execution.attention != "packed":
        return layer(x)
    rows, parameters = x.reshape(-1, x.shape[-1]), (layer.scale[...], layer.bias[...])
    return block_kernels.norm(rows, *parameters, execution.interpret).reshape(x.shape)  # pyright: ignore[reportAttributeAccessIssue]


def pool(
    blocks: layers.Block,
    x: jax.Array,
    place: jax.Array | None,
    execution: Execution,
    maxima: jax.Array | None = None,
) -> jax.Array:
    """One token of each sequence after all blocks: [batch, tokens, width] → [batch, width].

    The last block is computed for that token alone; nothing else of it is ever looked at.

    Args:
      place: [batch] int32, where that token is; None: it is the first.
      maxima: see `run_blocks`; the last block needs none.
    """
    graph, params = nnx.split(blocks)
    before = jax.tree.map(lambda leaf: leaf[:-1], params)
    last = jax.tree.map(lambda leaf: leaf[-1], params)
    others = None if maxima is None else maxima[:-1]
    x = run_blocks(nnx.merge(graph, before), x, execution, others)

    policy = REMAT[execution.remat]

    def body(x: jax.Array) -> jax.Array:
        x = checkpoint_name(x, _INPUT)
        layer = nnx.merge(graph, _gathered(last, x.dtype, execution))

        def block(x: jax.Array, place: jax.Array | None) -> jax.Array:
            return layer.pooled(x, place, functools.partial(norm, execution=execution))

        return _in_parts(block, _parts(len(x), execution), policy, x, place)

    if execution.remat != "none":
        body = jax.checkpoint(body, policy=policy)
    return body(x)


def run_blocks(
    blocks: layers.Block, x: jax.Array, execution: Execution, maxima: jax.Array | None = None
) -> jax.Array:
    """Passes `x` [batch, tokens, width] through stacked blocks.

    Kernels that are split over devices are gathered for one block at a time, in the compute dtype.
    With `maxima` [blocks, 2, 3] their MLPs multiply in 8 bits, see `models.fp8`.
    """
    graph, params = nnx.split(blocks)
    batch, tokens, width = x.shape
    parts = _parts(batch, execution)
    padding = 0
    kernels = execution.attention == "packed" and block_kernels.supports(blocks, tokens)
    implementation = "cudnn" if execution.attention == "packed" else execution.attention
    if kernels:
        x = x.reshape(-1, width)
    elif implementation == "cudnn":
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
            implementation=implementation,
        )
        return checkpoint_name(mixed.reshape(*qkv.shape[:-1], width), layers.MIXED)

    def body(carry: tuple, given: tuple, remat: str) -> tuple[tuple, None]:
        (x, before), (layer, maxima) = carry, given
        x = checkpoint_name(x, _INPUT)
        layer = _gathered(layer, x.dtype, execution)

        def block(x: jax.Array, maxima: jax.Array | None) -> jax.Array:
            one = nnx.merge(graph, layer)
            maxima = None if maxima is None else maxima[0]
            if kernels:
                return block_kernels.run(one, x, before, tokens, maxima, execution.interpret)
            return one(x, attend, maxima)

        if maxima is not None:
            maxima = fp8.shared(maxima, parts)
        x = _in_parts(block, parts, REMAT[remat], x, maxima)  # pyright: ignore[reportArgumentType]
        return (x, block_kernels.last_bias(nnx.merge(graph, layer)) if kernels else None), None

    before = jnp.zeros(width) if kernels else None
    for remat, group in _by_remat((params, maxima), execution):
        one = functools.partial(body, remat=remat)
        if remat != "none":
            # Without a loop the compiler would find the second computation and merge it with the
            # first.
            one = jax.checkpoint(one, policy=REMAT[remat], prevent_cse=not execution.scan)
        (x, before), _ = jax.lax.scan(one, (x, before), group, unroll=not execution.scan)
    if before is not None:
        x = x + before.astype(x.dtype)
    return x.reshape(batch, tokens + padding, width)[:, :tokens]


def _gathered(layer: nnx.State, dtype: jnp.dtype, execution: Execution) -> nnx.State:
    """One block's parameters, whole."""

    def whole(parameter: jax.Array) -> jax.Array:
        if parameter.ndim != 2:
            return parameter
        # Moved in the compute dtype, but gradients of several parts are added up in full.
        return execution.gather(parameter.astype(dtype)).astype(parameter.dtype)

    return jax.tree.map(whole, layer)


def _parts(batch: int, execution: Execution) -> int:
    return max(n for n in range(1, execution.block_parts + 1) if batch % n == 0)


def _by_remat(params: tuple, execution: Execution) -> list[tuple[str, tuple]]:
    """What blocks get, in order: those that keep nothing, those that keep by `execution.remat`."""
    depth = len(jax.tree.leaves(params)[0])
    first = depth - round(execution.remat_share * depth)
    if first in (0, depth):
        return [("full" if first else execution.remat, params)]

    def cut(start: int, stop: int) -> tuple:
        return jax.tree.map(lambda leaf: leaf[start:stop], params)

    return [("full", cut(0, first)), (execution.remat, cut(first, depth))]


def _in_parts(
    block: Callable, parts: int, policy: Callable, *inputs: jax.Array | None
) -> jax.Array:
    if parts == 1:
        return block(*inputs)
    # The outer checkpoint forgets the gathered weights, this one the part's intermediates.
    one = jax.checkpoint(block, policy=policy, prevent_cse=False)
    inputs = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), inputs)
    done = jax.lax.map(lambda part: one(*part), inputs)
    return done.reshape(-1, *done.shape[2:])
