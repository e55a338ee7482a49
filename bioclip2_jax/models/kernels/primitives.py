"""What several kernels share."""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

F32 = jnp.float32
LOG2E = math.log2(math.e)


def dot(a: jax.Array, b: jax.Array, trans_a: bool = False, trans_b: bool = False) -> jax.Array:
    """A product in float32 of two tiles; Triton must be told to keep float32's digits."""
    dims = (((0 if trans_a else 1,), (1 if trans_b else 0,)), ((), ()))
    precision = jax.lax.Precision.HIGHEST if a.dtype == F32 else None
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=F32)


def assembly(code: str, *args: jax.Array) -> jax.Array:
    """Float32 arrays of one shape through PTX, element by element: `$0` of `$1`, `$2` ...

    For what Triton compiles to several instructions where the GPU has one: products are not fused
    with sums, and functions take care of the smallest numbers.
    """
    return plgpu.elementwise_inline_asm(
        "{" + code + "}",
        args=args,
        constraints=",".join(["=f"] + ["f"] * len(args)),
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, F32)],
    )[0]


def exp2(x: jax.Array, factor: float, shift: jax.Array, interpret: bool) -> jax.Array:
    """2 ** (x * factor - shift), of which the smallest results become zero."""
    if interpret:
        return jnp.exp2(x * factor - shift)
    factors, shifts = jnp.full(x.shape, factor, F32), jnp.broadcast_to(-shift, x.shape)
    code = ".reg .f32 t; fma.rn.f32 t, $1, $2, $3; ex2.approx.ftz.f32 $0, t;"
    return assembly(code, x, factors, shifts)


def index(shape: tuple[int, ...], axis: int = 0) -> jax.Array:
    """Where each element lies along an axis."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def leading(size: int) -> slice | pl.Slice:
    """As many elements from the first on, also where there are fewer, which a mask must say.

    JAX checks a slice against the shape where it knows the start; so it is not told.
    """
    return pl.ds(pl.program_id(0) * 0, size)


def power_of_two(number: int) -> int:
    """The largest power of two that divides it."""
    return number & -number


def divisor(number: int, most: int) -> int:
    """The largest divisor up to `most`."""
    return max(d for d in range(1, most + 1) if number % d == 0)


def launch(warps: int, stages: int) -> plgpu.CompilerParams:
    """How many warps a program has, and how many turns of its loops are loaded ahead."""
    return plgpu.CompilerParams(num_warps=warps, num_stages=stages)
