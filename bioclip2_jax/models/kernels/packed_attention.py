"""Attention of 2ⁿ + 1 tokens on packed queries, keys and values: a ViT's patches and class token.

Matrix products have 2ⁿ tokens and no tile for a single one: the class token, first of all, comes
in tiles of 16 of which one row counts. Queries, keys and values are read from, and their gradients
written to, the columns of one array [batch, tokens, 3 * heads * dim]: no slices, no concatenation,
and the sums over tokens that the projection's bias needs come with them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from bioclip2_jax.models.kernels.primitives import F32, LOG2E, dot, exp2, index, launch

_CLASS = 16  # rows of the class token's tile in the forward pass; matrix units take no fewer
_REST = 32  # places for statistics of the class token and what comes with it


class Tiles(NamedTuple):
    """How a kernel is cut: tokens at a time, and its launch. The fastest on an H100 at 257 tokens.

    Attributes:
      block: queries of a turn of the loop.
      wide: the same where the class token's key is looked at.
    """

    block: int
    wide: int
    warps: int
    stages: int


FORWARD = Tiles(block=64, wide=64, warps=4, stages=1)
BACKWARD = Tiles(block=32, wide=64, warps=8, stages=1)


def supports(tokens: int, dim: int) -> bool:
    """Whether the kernels take this many tokens, and heads this wide."""
    return tokens - 1 in (64, 128, 256) and dim in (16, 32, 64)


def _forward_kernel(q_ref, k_ref, v_ref, o_ref, lse_ref, *, n, tiles, scale, interpret):
    """All queries of one head; its keys and values stay on the chip."""
    factor = scale * LOG2E
    k, v = k_ref[pl.ds(1, n), :], v_ref[pl.ds(1, n), :]
    class_k, class_v = k_ref[pl.ds(0, _CLASS), :], v_ref[pl.ds(0, _CLASS), :]

    def tile(first, block):
        q = q_ref[pl.ds(first, block), :]
        s, class_s = dot(q, k, trans_b=True), dot(q, class_k, trans_b=True)
        class_s = jnp.where(index(class_s.shape, 1) == 0, class_s, -jnp.inf)
        top = jnp.maximum(jnp.max(s, axis=1), jnp.max(class_s, axis=1)) * factor
        p = exp2(s, factor, top[:, None], interpret)
        class_p = exp2(class_s, factor, top[:, None], interpret)
        total = jnp.sum(p, axis=1) + jnp.sum(class_p, axis=1)
        o = dot(p.astype(v.dtype), v) + dot(class_p.astype(v.dtype), class_v)
        return (o * (1 / total)[:, None]).astype(o_ref.dtype), top + jnp.log2(total)

    def patches(i, _):
        o, lse = tile(1 + i * tiles.block, tiles.block)
        o_ref[pl.ds(1 + i * tiles.block, tiles.block), :] = o
        lse_ref[pl.ds(i * tiles.block, tiles.block)] = lse

    jax.lax.fori_loop(0, n // tiles.block, patches, None)
    o, lse = tile(0, _CLASS)
    plgpu.store(o_ref.at[pl.ds(0, _CLASS), :], o, mask=index(o.shape) == 0)
    # Infinite behind the class token, so that shares of what is not there are zero.
    lse_ref[pl.ds(n + _CLASS, _CLASS)] = jnp.full((_CLASS,), jnp.inf, F32)
    lse_ref[pl.ds(n, _CLASS)] = jnp.where(index(lse.shape) == 0, lse, jnp.inf)


def _backward_kernel(
    q_ref, k_ref, v_ref, o_ref, do_ref, lse_ref, d_ref, sum_ref, delta_ref, ds_ref,
    *, n, tiles, scale, interpret
):  # fmt: skip
    """All gradients of one head.

    First the class token as a key, by vector operations, with what the rest needs of every query:
    the sum of out * dout, and the gradient of its score of the class token. Then patches as keys,
    all at once: their keys and values stay on the chip, their gradients in registers, while
    queries pass by, at last the class token as the first of a tile.
    """
    factor, dtype, dim = scale * LOG2E, d_ref.dtype, q_ref.shape[1]
    width, head = d_ref.shape[1] // 3, pl.program_id(0)
    columns = [pl.ds(part * width + head * dim, dim) for part in range(3)]

    def class_key():
        return k_ref[0, :].astype(F32)[None]

    def look_at_class(first, count, own):
        rows = pl.ds(first, count)
        q, do, o = (ref[rows, :].astype(F32) for ref in (q_ref, do_ref, o_ref))
        delta = jnp.sum(do * o, axis=1)
        p = exp2(jnp.sum(q * class_key(), axis=1), factor, lse_ref[own], interpret)
        ds = p * (jnp.sum(do * v_ref[0, :].astype(F32)[None], axis=1) - delta)
        delta_ref[own], ds_ref[own] = delta, ds
        return ds[:, None] * q, p[:, None] * do

    def turn(i, so_far):
        first = i * tiles.wide
        more = look_at_class(1 + first, tiles.wide, pl.ds(first, tiles.wide))
        return so_far[0] + more[0], so_far[1] + more[1]

    zero = jnp.zeros((tiles.wide, dim), F32)
    patches = jax.lax.fori_loop(0, n // tiles.wide, turn, (zero, zero))
    itself = look_at_class(0, _REST, pl.ds(n, _REST))
    for part, x, own, factor_ in zip((1, 2), patches, itself, (scale, 1), strict=True):
        total = (jnp.sum(x, axis=0) + jnp.sum(own, axis=0)) * factor_
        d_ref[0, columns[part]] = total.astype(dtype)
        sum_ref[part, :] = total
    if not interpret:
        plgpu.debug_barrier()  # the statistics were written by other threads

    k, v = k_ref[pl.ds(1, n), :], v_ref[pl.ds(1, n), :]

    def pass_by(i, so_far):
        dk, dv, dq_sum = so_far
        are_patches = (i < n // tiles.block).astype(jnp.int32)
        rows = pl.ds((1 + i * tiles.block) * are_patches, tiles.block)
        own = pl.ds(i * tiles.block, tiles.block)
        q, do = q_ref[rows, :], do_ref[rows, :]
        p = exp2(dot(k, q, trans_b=True), factor, lse_ref[own][None], interpret)
        ds = (p * (dot(v, do, trans_b=True) - delta_ref[own][None])).astype(dtype)
        dv, dk = dv + dot(p.astype(dtype), do), dk + dot(ds, q)
        dq = (dot(k, ds, trans_a=True).T + ds_ref[own][:, None] * class_key()) * scale
        mask = index(dq.shape) < 1 + tiles.block * are_patches
        plgpu.store(d_ref.at[rows, columns[0]], dq.astype(dtype), mask=mask)
        return dk, dv, dq_sum + jnp.where(mask, dq, 0)

    zero, queries = jnp.zeros((n, dim), F32), jnp.zeros((tiles.block, dim), F32)
    turns = n // tiles.block + 1
    dk, dv, dq_sum = jax.lax.fori_loop(0, turns, pass_by, (zero, zero, queries))
    sum_ref[0, :] = jnp.sum(dq_sum, axis=0)
    for part, x in ((1, dk * scale), (2, dv)):
        d_ref[pl.ds(1, n), columns[part]] = x.astype(dtype)
        sum_ref[part, :] += jnp.sum(x, axis=0)


def forward(
    qkv: jax.Array, heads: int, tiles: Tiles = FORWARD, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Attention, and the logarithms (base 2) of its sums.

    Args:
      qkv: [batch, tokens, 3 * heads * dim], see `supports`.

    Returns:
      [batch, tokens, heads * dim], and [batch, heads, tokens + 31] float32 with the class token's
      behind the patches'; what follows is infinite.
    """
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    column, statistic, options = _call(tokens, width // heads, heads, batch, tiles, interpret)
    return pl.pallas_call(
        _kernel(_forward_kernel, tokens, width // heads, tiles, interpret),
        in_specs=column,
        out_specs=[column[0], statistic],
        out_shape=[
            jax.ShapeDtypeStruct((batch, tokens, width), qkv.dtype),
            jax.ShapeDtypeStruct((batch, heads, tokens - 1 + _REST), F32),
        ],
        name="packed_attention_forward",
        **options,
    )(qkv, qkv, qkv)


def backward(
    qkv: jax.Array,
    out: jax.Array,
    lse: jax.Array,
    dout: jax.Array,
    heads: int,
    tiles: Tiles = BACKWARD,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gradient of `qkv`, and its sums over batch and tokens [3 * heads * dim] in float32."""
    batch, tokens, width = out.shape
    dim = width // heads
    column, statistic, options = _call(tokens, dim, heads, batch, tiles, interpret)
    own = jax.ShapeDtypeStruct(lse.shape, F32)
    d, sums, *_ = pl.pallas_call(
        _kernel(_backward_kernel, tokens, dim, tiles, interpret),
        in_specs=[*column, column[0], column[0], statistic],
        out_specs=[
            pl.BlockSpec((None, tokens, 3 * width), lambda h, b: (b, 0, 0)),
            pl.BlockSpec((None, 3, dim), lambda h, b: (b, 0, h)),
            statistic,
            statistic,
        ],
        out_shape=[
            jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
            jax.ShapeDtypeStruct((batch, 3, width), F32),
            own,
            own,
        ],
        name="packed_attention_backward",
        **options,
    )(qkv, qkv, qkv, out, dout, lse)
    return d, sums.sum(0).reshape(-1)


def _kernel(kernel, tokens: int, dim: int, tiles: Tiles, interpret: bool):
    return functools.partial(
        kernel, n=tokens - 1, tiles=tiles, scale=dim**-0.5, interpret=interpret
    )


def _call(tokens: int, dim: int, heads: int, batch: int, tiles: Tiles, interpret: bool) -> tuple:
    """Where queries, keys and values lie; where statistics do; and how a kernel is started."""

    def columns(first: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, tokens, dim), lambda h, b: (b, 0, first + h))

    statistic = pl.BlockSpec((None, None, tokens - 1 + _REST), lambda h, b: (b, h, 0))
    launched = launch(tiles.warps, tiles.stages)
    options = {"grid": (heads, batch), "compiler_params": launched, "interpret": interpret}
    return [columns(part * heads) for part in range(3)], statistic, options


def reference(qkv: jax.Array, heads: int) -> jax.Array:
    """The same in plain JAX; softmax in float32, any number of tokens."""
    batch, tokens, columns = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, -1), 2, 0)
    return jax.nn.dot_product_attention(q, k, v).reshape(batch, tokens, columns // 3)
