"""Attention of up to 128 tokens on packed queries, keys and values: captions, small pictures.

One program has all of a head, forwards and backwards: its scores are one tile. As in
`packed_attention`, arrays are [batch, tokens, 3 * heads * dim] and gradients come with their sums.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from bioclip2_jax.models.kernels.primitives import F32, LOG2E, dot, exp2, index, launch, leading


def supports(tokens: int, dim: int) -> bool:
    """Whether the kernels take this many tokens, and heads this wide."""
    return tokens <= 128 and dim in (16, 32, 64)


def _side(tokens: int) -> int:
    return 64 if tokens <= 64 else 128


def _load(ref, side, tokens):
    mask = index((side, ref.shape[1])) < tokens
    return plgpu.load(ref.at[leading(side), :], mask=mask, other=0)


def _scores(q, k, tokens, causal):
    s = dot(q, k, trans_b=True)
    row, column = index(s.shape, 0), index(s.shape, 1)
    return jnp.where((column <= row) if causal else (column < tokens), s, -jnp.inf)


def _forward_kernel(q_ref, k_ref, v_ref, o_ref, lse_ref, *, tokens, causal, scale, interpret):
    side, factor = lse_ref.shape[0], scale * LOG2E
    q, k, v = (_load(ref, side, tokens) for ref in (q_ref, k_ref, v_ref))
    s = _scores(q, k, tokens, causal)
    top = jnp.max(s, axis=1) * factor
    p = exp2(s, factor, top[:, None], interpret)
    total = jnp.sum(p, axis=1)
    o = (dot(p.astype(v.dtype), v) * (1 / total)[:, None]).astype(o_ref.dtype)
    plgpu.store(o_ref.at[leading(side), :], o, mask=index(o.shape) < tokens)
    lse_ref[:] = top + jnp.log2(total)


def _backward_kernel(
    q_ref, k_ref, v_ref, o_ref, do_ref, lse_ref, d_ref, sum_ref,
    *, tokens, causal, scale, interpret
):  # fmt: skip
    side, dim, factor = lse_ref.shape[0], q_ref.shape[1], scale * LOG2E
    width, head = d_ref.shape[1] // 3, pl.program_id(0)
    q, k, v, do = (_load(ref, side, tokens) for ref in (q_ref, k_ref, v_ref, do_ref))
    delta = jnp.sum(do.astype(F32) * _load(o_ref, side, tokens).astype(F32), axis=1)
    s = _scores(q, k, tokens, causal)
    p = exp2(s, factor, lse_ref[:][:, None], interpret)
    ds = (p * (dot(do, v, trans_b=True) - delta[:, None])).astype(q.dtype)
    p = p.astype(q.dtype)
    gradients = dot(ds, k) * scale, dot(ds, q, trans_a=True) * scale, dot(p, do, trans_a=True)
    for part, x in enumerate(gradients):
        columns = pl.ds(part * width + head * dim, dim)
        mask = index(x.shape) < tokens
        plgpu.store(d_ref.at[leading(side), columns], x.astype(d_ref.dtype), mask=mask)
        sum_ref[part, :] = jnp.sum(x, axis=0)  # rows behind the last token are zero


def forward(
    qkv: jax.Array, heads: int, causal: bool, warps: int = 4, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Attention, and the logarithms (base 2) of its sums.

    Args:
      qkv: [batch, tokens, 3 * heads * dim], see `supports`.
      causal: whether a token looks at itself and those before it alone.

    Returns:
      [batch, tokens, heads * dim], and [batch, heads, 64 or 128] float32.
    """
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    column = [_columns(part * heads, tokens, width // heads) for part in range(3)]
    side = _side(tokens)
    return pl.pallas_call(
        _kernel(_forward_kernel, tokens, width // heads, causal, interpret),
        grid=(heads, batch),
        in_specs=column,
        out_specs=[column[0], pl.BlockSpec((None, None, side), lambda h, b: (b, h, 0))],
        out_shape=[
            jax.ShapeDtypeStruct((batch, tokens, width), qkv.dtype),
            jax.ShapeDtypeStruct((batch, heads, side), F32),
        ],
        compiler_params=launch(warps, 1),
        interpret=interpret,
        name="short_attention_forward",
    )(qkv, qkv, qkv)


def backward(
    qkv: jax.Array,
    out: jax.Array,
    lse: jax.Array,
    dout: jax.Array,
    heads: int,
    causal: bool,
    warps: int = 4,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gradient of `qkv`, and its sums over batch and tokens [3 * heads * dim] in float32."""
    batch, tokens, width = out.shape
    column = [_columns(part * heads, tokens, width // heads) for part in range(3)]
    d, sums = pl.pallas_call(
        _kernel(_backward_kernel, tokens, width // heads, causal, interpret),
        grid=(heads, batch),
        in_specs=[
            *column,
            column[0],
            column[0],
            pl.BlockSpec((None, None, lse.shape[2]), lambda h, b: (b, h, 0)),
        ],
        out_specs=[
            pl.BlockSpec((None, tokens, 3 * width), lambda h, b: (b, 0, 0)),
            pl.BlockSpec((None, 3, width // heads), lambda h, b: (b, 0, h)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
            jax.ShapeDtypeStruct((batch, 3, width), F32),
        ],
        compiler_params=launch(warps if lse.shape[2] == 64 else 2 * warps, 1),
        interpret=interpret,
        name="short_attention_backward",
    )(qkv, qkv, qkv, out, dout, lse)
    return d, sums.sum(0).reshape(-1)


def _columns(first: int, tokens: int, dim: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, tokens, dim), lambda h, b: (b, 0, first + h))


def _kernel(kernel, tokens: int, dim: int, causal: bool, interpret: bool):
    return functools.partial(
        kernel, tokens=tokens, causal=causal, scale=dim**-0.5, interpret=interpret
    )


def reference(qkv: jax.Array, heads: int, causal: bool) -> jax.Array:
    """The same in plain JAX; softmax in float32, any number of tokens."""
    batch, tokens, columns = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, -1), 2, 0)
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
    return mixed.reshape(batch, tokens, columns // 3)
