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

_CLASS = 16  # rows of the tile with the class token; the least that a matrix unit takes


class Tiles(NamedTuple):
    """How a kernel is cut: tokens of a program's own, tokens of a turn of its loop, and its launch.

    The defaults below were the fastest on an H100 at 257 tokens.
    """

    block: int = 64
    inner: int = 64
    warps: int = 4
    stages: int = 1


FORWARD, QUERIES, KEYS = Tiles(), Tiles(inner=32, stages=3), Tiles(inner=32, stages=3)


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
    lse_ref[pl.ds(n, _CLASS)] = jnp.where(index(lse.shape) == 0, lse, jnp.inf)


def _store_tile(tile, n, block, store):
    """Makes and stores what is this program's: a tile of patches, or the class token.

    `tile(first, block, own)` gives gradients of `block` tokens from the `first` on, whose
    statistics lie at `own`; `store` takes them one by one, with their sums over tokens.
    """
    number = pl.program_id(0)  # not to be asked for within a condition

    @pl.when(number < n // block)
    def _():
        first = 1 + number * block
        for part, x in enumerate(tile(first, block, pl.ds(number * block, block))):
            store(part, number, pl.ds(first, block), x, None, jnp.sum(x, axis=0))

    @pl.when(number == n // block)
    def _():
        for part, x in enumerate(tile(0, _CLASS, pl.ds(n, _CLASS))):
            mask = index(x.shape) == 0
            total = jnp.sum(jnp.where(mask, x, 0), axis=0)
            store(part, number, pl.ds(0, _CLASS), x, mask, total)


def _query_kernel(
    q_ref, k_ref, v_ref, o_ref, do_ref, lse_ref, d_ref, delta_ref, sum_ref,
    *, n, tiles, scale, interpret
):  # fmt: skip
    """Gradient of one tile of queries, and the sums of out * dout, which the other kernel needs."""
    factor = scale * LOG2E

    def tile(first, block, own):
        rows = pl.ds(first, block)
        q, do, lse = q_ref[rows, :], do_ref[rows, :], lse_ref[own]
        delta = jnp.sum(do.astype(F32) * o_ref[rows, :].astype(F32), axis=1)
        delta_ref[own] = delta

        def add(dq, keys, seen=None):
            k, v = k_ref[keys, :], v_ref[keys, :]
            s = dot(q, k, trans_b=True)
            if seen:
                s = jnp.where(index(s.shape, 1) < seen, s, -jnp.inf)
            p = exp2(s, factor, lse[:, None], interpret)
            ds = p * (dot(do, v, trans_b=True) - delta[:, None])
            return dq + dot(ds.astype(k.dtype), k)

        dq = add(jnp.zeros(q.shape, F32), pl.ds(0, _CLASS), 1)
        turn = lambda j, dq: add(dq, pl.ds(1 + j * tiles.inner, tiles.inner))  # noqa: E731
        return [jax.lax.fori_loop(0, n // tiles.inner, turn, dq) * scale]

    def store(_, number, rows, x, mask, total):
        plgpu.store(d_ref.at[rows, :], x.astype(d_ref.dtype), mask=mask)
        sum_ref[number, :] = total

    _store_tile(tile, n, tiles.block, store)


def _key_kernel(
    q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref, _, d_ref, sum_ref,
    *, n, tiles, scale, interpret
):  # fmt: skip
    """Gradients of one tile of keys and values."""
    factor = scale * LOG2E
    dim = q_ref.shape[1]
    width, head = d_ref.shape[1] // 3, pl.program_id(1)

    def tile(first, block, _):
        rows = pl.ds(first, block)
        k, v = k_ref[rows, :], v_ref[rows, :]

        def add(so_far, queries, own):
            dk, dv = so_far
            q, do = q_ref[queries, :], do_ref[queries, :]
            # Infinite in the rows behind the class token: their share of every key is zero.
            p = exp2(dot(k, q, trans_b=True), factor, lse_ref[own][None, :], interpret)
            ds = p * (dot(v, do, trans_b=True) - delta_ref[own][None, :])
            return dk + dot(ds.astype(k.dtype), q), dv + dot(p.astype(k.dtype), do)

        def turn(j, so_far):
            first = j * tiles.inner
            return add(so_far, pl.ds(1 + first, tiles.inner), pl.ds(first, tiles.inner))

        zero = jnp.zeros(k.shape, F32)
        so_far = add((zero, zero), pl.ds(0, _CLASS), pl.ds(n, _CLASS))
        dk, dv = jax.lax.fori_loop(0, n // tiles.inner, turn, so_far)
        return dk * scale, dv

    def store(part, number, rows, x, mask, total):
        columns = pl.ds((part + 1) * width + head * dim, dim)
        plgpu.store(d_ref.at[rows, columns], x.astype(d_ref.dtype), mask=mask)
        sum_ref[part, number, :] = total

    _store_tile(tile, n, tiles.block, store)


def forward(
    qkv: jax.Array, heads: int, tiles: Tiles = FORWARD, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Attention, and the logarithms (base 2) of its sums.

    Args:
      qkv: [batch, tokens, 3 * heads * dim], see `supports`.

    Returns:
      [batch, tokens, heads * dim], and [batch, heads, tokens + 15] float32 with the class token's
      behind the patches'; what follows is infinite.
    """
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    n, dim = tokens - 1, width // heads
    column = [_columns(part * heads, tokens, dim) for part in range(3)]
    out = [
        jax.ShapeDtypeStruct((batch, tokens, width), qkv.dtype),
        jax.ShapeDtypeStruct((batch, heads, n + _CLASS), F32),
    ]
    kernel = functools.partial(
        _forward_kernel, n=n, tiles=_fitted(tiles, n), scale=dim**-0.5, interpret=interpret
    )
    return pl.pallas_call(
        kernel,
        grid=(1, heads, batch),
        in_specs=column,
        out_specs=[column[0], pl.BlockSpec((None, None, n + _CLASS), lambda i, h, b: (b, h, 0))],
        out_shape=out,
        compiler_params=launch(tiles.warps, tiles.stages),
        interpret=interpret,
        name="packed_attention_forward",
    )(qkv, qkv, qkv)


def backward(
    qkv: jax.Array,
    out: jax.Array,
    lse: jax.Array,
    dout: jax.Array,
    heads: int,
    queries: Tiles = QUERIES,
    keys: Tiles = KEYS,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gradient of `qkv`, and its sums over batch and tokens [3 * heads * dim] in float32."""
    batch, tokens, width = out.shape
    n, dim = tokens - 1, width // heads
    column = [_columns(part * heads, tokens, dim) for part in range(3)]
    own = column[0]
    statistic = pl.BlockSpec((None, None, n + _CLASS), lambda i, h, b: (b, h, 0))

    def call(kernel, tiles, name, inputs, specs, out_specs, out_shapes, parts, aliases):
        tiles = _fitted(tiles, n)
        count = n // tiles.block + 1
        sums = pl.BlockSpec((None, *parts, count, dim), lambda i, h, b: (b, *parts_at, 0, h))
        parts_at = (0,) * len(parts)
        return pl.pallas_call(
            functools.partial(kernel, n=n, tiles=tiles, scale=dim**-0.5, interpret=interpret),
            grid=(count, heads, batch),
            in_specs=specs,
            out_specs=[*out_specs, sums],
            out_shape=[*out_shapes, jax.ShapeDtypeStruct((batch, *parts, count, width), F32)],
            input_output_aliases=aliases,
            compiler_params=launch(tiles.warps, tiles.stages),
            interpret=interpret,
            name=f"packed_attention_{name}",
        )(*inputs)

    gradient = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    d, delta, of_queries = call(
        _query_kernel, queries, "queries", (qkv, qkv, qkv, out, dout, lse),
        [*column, own, own, statistic], [own, statistic],
        [gradient, jax.ShapeDtypeStruct(lse.shape, F32)], (), {},
    )  # fmt: skip
    whole = pl.BlockSpec((None, tokens, 3 * width), lambda i, h, b: (b, 0, 0))
    d, of_keys = call(
        _key_kernel, keys, "keys", (qkv, qkv, qkv, dout, lse, delta, d),
        [*column, own, statistic, statistic, whole], [whole], [gradient], (2,), {6: 0},
    )  # fmt: skip
    return d, jnp.concatenate([of_queries.sum((0, 1)), of_keys.sum((0, 2)).reshape(-1)])


def _columns(first: int, tokens: int, dim: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, tokens, dim), lambda i, h, b: (b, 0, first + h))


def _fitted(tiles: Tiles, n: int) -> Tiles:
    return tiles._replace(block=min(tiles.block, n), inner=min(tiles.inner, n))


def reference(qkv: jax.Array, heads: int) -> jax.Array:
    """The same in plain JAX; softmax in float32, any number of tokens."""
    batch, tokens, columns = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, -1), 2, 0)
    return jax.nn.dot_product_attention(q, k, v).reshape(batch, tokens, columns // 3)
