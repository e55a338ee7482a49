"""GELU with the error function, and its gradient with the sums that the bias before it needs.

Elementwise kernels on a GPU wait for memory, unless they compute too much: an error function by
the usual rational polynomial does. This one (Abramowitz and Stegun 7.1.26, |error| < 1.5e-7) shares
its exponential with the gradient's, and takes 17 instructions.
"""

import functools
import math
import struct

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from bioclip2_jax.models.kernels.primitives import (
    F32,
    LOG2E,
    assembly,
    divisor,
    launch,
    power_of_two,
)

_SLOPE = 0.3275911 * math.sqrt(0.5)
_DENSITY = math.sqrt(0.5 / math.pi)
_POLYNOMIAL = [  # half of the published coefficients, highest power first
    0.5 * a for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
]


def _constant(value: float) -> str:
    """A number as PTX writes it."""
    return "0f" + struct.pack(">f", value).hex()


# Φ($1) of the normal distribution into `w` and exp(-$1² / 2) into `e`.
_CDF = f"""
    .reg .f32 t, w, e, u; .reg .pred p;
    abs.f32 t, $1; fma.rn.f32 t, t, {_constant(_SLOPE)}, {_constant(1)}; rcp.approx.ftz.f32 t, t;
    mul.f32 e, $1, $1; mul.f32 e, e, {_constant(-0.5 * LOG2E)}; ex2.approx.ftz.f32 e, e;
    mov.f32 w, {_constant(_POLYNOMIAL[0])};
    {" ".join(f"fma.rn.f32 w, w, t, {_constant(a)};" for a in _POLYNOMIAL[1:])}
    mul.f32 w, w, t; mul.f32 w, w, e; sub.f32 u, {_constant(1)}, w;
    setp.ge.f32 p, $1, {_constant(0)}; selp.f32 w, u, w, p;
"""


def _cdf(x):
    """The same in JAX, for kernels that are interpreted."""
    t = 1 / (1 + _SLOPE * jnp.abs(x))
    e = jnp.exp2(x * x * (-0.5 * LOG2E))
    tail = functools.reduce(lambda so_far, a: so_far * t + a, _POLYNOMIAL) * t * e
    return jnp.where(x >= 0, 1 - tail, tail), e


def value(x: jax.Array, interpret: bool) -> jax.Array:
    """GELU of float32 in a kernel."""
    return x * _cdf(x)[0] if interpret else assembly(_CDF + "mul.f32 $0, $1, w;", x)


def gradient(x: jax.Array, dy: jax.Array, interpret: bool) -> jax.Array:
    """Of x, of float32 in a kernel."""
    if interpret:
        cdf, e = _cdf(x)
        return dy * (cdf + x * e * _DENSITY)
    code = f"mul.f32 e, e, {_constant(_DENSITY)}; fma.rn.f32 w, $1, e, w; mul.f32 $0, $2, w;"
    return assembly(_CDF + code, x, dy)


def _forward_kernel(x_ref, y_ref, *, interpret):
    y_ref[:] = value(x_ref[:].astype(F32), interpret).astype(y_ref.dtype)


def _backward_kernel(x_ref, dy_ref, dx_ref, sum_ref, *, block, steps, interpret):
    program = pl.program_id(1)

    def turn(i, total):
        rows = pl.ds((program * steps + i) * block, block)
        x, dy = x_ref[rows, :].astype(F32), dy_ref[rows, :].astype(F32)
        dx = gradient(x, dy, interpret)
        dx_ref[rows, :] = dx.astype(dx_ref.dtype)
        return total + jnp.sum(dx, axis=0)

    zero = jnp.zeros((x_ref.shape[1],), F32)
    sum_ref[program, :] = jax.lax.fori_loop(0, steps, turn, zero)


def forward(x: jax.Array, size: int = 2048, warps: int = 4, interpret: bool = False) -> jax.Array:
    """x Φ(x), computed in float32; any shape."""
    size = min(size, power_of_two(x.size))
    block = pl.BlockSpec((size,), lambda i: (i,))
    return pl.pallas_call(
        functools.partial(_forward_kernel, interpret=interpret),
        grid=(x.size // size,),
        in_specs=[block],
        out_specs=block,
        out_shape=jax.ShapeDtypeStruct((x.size,), x.dtype),
        compiler_params=launch(warps, 1),
        interpret=interpret,
        name="gelu_forward",
    )(x.reshape(-1)).reshape(x.shape)


def backward(
    x: jax.Array,
    dy: jax.Array,
    rows: int = 8,
    columns: int = 512,
    warps: int = 4,
    programs: int = 1056,
    stages: int = 2,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gradient of x [rows, width], and its sums over rows [width] in float32."""
    length, width = x.shape
    rows, columns = min(rows, power_of_two(length)), min(columns, power_of_two(width))
    count = divisor(length // rows, programs)
    whole = pl.BlockSpec((length, columns), lambda j, i: (0, j))
    dx, sums = pl.pallas_call(
        functools.partial(
            _backward_kernel, block=rows, steps=length // rows // count, interpret=interpret
        ),
        grid=(width // columns, count),
        in_specs=[whole, whole],
        out_specs=[whole, pl.BlockSpec((count, columns), lambda j, i: (0, j))],
        out_shape=[
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            jax.ShapeDtypeStruct((count, width), F32),
        ],
        compiler_params=launch(warps, stages),
        interpret=interpret,
        name="gelu_backward",
    )(x, dy)
    return dx, sums.sum(0)
