"""LayerNorm of rows whose backward pass reads once.

Mean and inverse deviation are kept, 8 bytes a row. The gradient of the stream that goes on beside
the norm is added in the same kernel, and sums over rows come with it: for scale and bias, and for
a bias that was added to the rows before.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from bioclip2_jax.models.kernels.primitives import (
    F32,
    divisor,
    index,
    launch,
    leading,
    power_of_two,
)

EPSILON = 1e-5
_ROWS = 4  # at a time


def _block(ref, rows):
    """Whether each place of a block is a column of the array, and the mean over those."""
    width = ref.shape[1]
    lanes = 1 << (width - 1).bit_length()
    mask = index((rows, lanes), 1) < width
    load = plgpu.load if lanes == width else functools.partial(plgpu.load, mask=mask, other=0)

    def mean(x):
        return jnp.sum(jnp.where(mask, x, 0) if lanes != width else x, axis=1) * (1 / width)

    return lanes, mask, load, mean


def _forward_kernel(x_ref, scale_ref, bias_ref, y_ref, mean_ref, inverse_ref, *, block):
    lanes, mask, load, mean = _block(x_ref, block)
    rows, columns = pl.ds(pl.program_id(0) * block, block), leading(lanes)
    x = load(x_ref.at[rows, columns]).astype(F32)
    shift = mean(x)
    centred = x - shift[:, None]
    inverse = jax.lax.rsqrt(mean(centred * centred) + EPSILON)
    scale, bias = (_vector(ref, lanes) for ref in (scale_ref, bias_ref))
    y = (centred * inverse[:, None] * scale[None] + bias[None]).astype(y_ref.dtype)
    plgpu.store(y_ref.at[rows, columns], y, mask=mask)
    mean_ref[rows], inverse_ref[rows] = shift, inverse


def _backward_kernel(
    x_ref, scale_ref, mean_ref, inverse_ref, *slope_refs, dx_ref, sum_ref, block, steps
):
    program = pl.program_id(0)
    lanes, mask, load, mean = _block(x_ref, block)
    columns, scale = leading(lanes), _vector(scale_ref, lanes)

    def turn(i, sums):
        rows = pl.ds((program * steps + i) * block, block)
        x, dy, *dr = (load(r.at[rows, columns]).astype(F32) for r in (x_ref, *slope_refs))
        inverse = inverse_ref[rows][:, None]
        normal = (x - mean_ref[rows][:, None]) * inverse
        scaled = dy * scale[None]
        along = mean(scaled * normal)[:, None]
        dx = sum(dr, (scaled - mean(scaled)[:, None] - normal * along) * inverse)
        plgpu.store(dx_ref.at[rows, columns], dx.astype(dx_ref.dtype), mask=mask)
        parts = dy * normal, dy, dx
        return tuple(total + jnp.sum(part, axis=0) for total, part in zip(sums, parts, strict=True))

    zero = jnp.zeros((lanes,), F32)
    for part, total in enumerate(jax.lax.fori_loop(0, steps, turn, (zero, zero, zero))):
        where = sum_ref.at[program, pl.ds(part, 1), columns]
        plgpu.store(where, total[None], mask=index((1, lanes), 1) < x_ref.shape[1])


def _vector(ref, lanes):
    mask = index((lanes,)) < ref.shape[0]
    return plgpu.load(ref.at[leading(lanes)], mask=mask, other=0).astype(F32)


def forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, warps: int = 4, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[rows, width] → the same, and the rows' means and inverse deviations [rows] float32."""
    block = min(_ROWS, power_of_two(len(x)))
    statistic = jax.ShapeDtypeStruct(x.shape[:1], F32)
    return pl.pallas_call(
        functools.partial(_forward_kernel, block=block),
        grid=(len(x) // block,),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype), statistic, statistic],
        compiler_params=launch(warps, 1),
        interpret=interpret,
        name="layer_norm_forward",
    )(x, scale, bias)


def backward(
    x: jax.Array,
    dy: jax.Array,
    dr: jax.Array | None,
    scale: jax.Array,
    mean: jax.Array,
    inverse: jax.Array,
    warps: int = 4,
    programs: int = 1056,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gradient of x from those of LN(x) and, if any, of x beside it; and sums [3, width] float32.

    The sums over rows are the gradients of scale and bias, and that of x itself.
    """
    block = min(_ROWS, power_of_two(len(x)))
    count = divisor(len(x) // block, programs)
    slopes = [dy] if dr is None else [dy, dr]

    def kernel(*refs):
        *inputs, dx_ref, sum_ref = refs
        steps = len(x) // block // count
        _backward_kernel(*inputs, dx_ref=dx_ref, sum_ref=sum_ref, block=block, steps=steps)

    dx, sums = pl.pallas_call(
        kernel,
        grid=(count,),
        out_shape=[
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            jax.ShapeDtypeStruct((count, 3, x.shape[1]), F32),
        ],
        compiler_params=launch(warps, 2),
        interpret=interpret,
        name="layer_norm_backward",
    )(x, scale, mean, inverse, *slopes)
    return dx, sums.sum(0)
