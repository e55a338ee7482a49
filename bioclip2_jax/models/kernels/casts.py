"""Rows in 8 bits, as they are and turned, with the largest of them: read once, written twice.

XLA would make of a cast, its turned copy and the largest value a pass each over what GELU wrote in
16 bits, which together take what the products gain.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from bioclip2_jax.models import fp8
from bioclip2_jax.models.kernels import gelu as gelu_kernels
from bioclip2_jax.models.kernels.primitives import F32, divisor, launch, power_of_two


class Tile(NamedTuple):
    """What a program takes at a time, of how many programs below each other, and its launch.

    32 rows are 32 bytes of the turned copy, the least that memory writes at once.
    """

    rows: int = 32
    columns: int = 128
    programs: int = 1056
    warps: int = 8
    stages: int = 1


TILE = Tile()


def plain(
    x: jax.Array,
    scale: jax.Array,
    form: jax.typing.DTypeLike,
    tile: Tile = TILE,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[rows, width] → x * scale in 8 bits, the same turned [width, rows], the largest of x."""
    narrow, turned, top = _run(_same, (x,), scale, form, tile, interpret, name="plain")
    return narrow, turned, top.max()


def gelu(
    x: jax.Array, scale: jax.Array, tile: Tile = TILE, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same of GELU(x), in e4m3."""
    narrow, turned, top = _run(_gelu, (x,), scale, fp8.NARROW, tile, interpret, name="gelu")
    return narrow, turned, top.max()


def gelu_gradient(
    x: jax.Array, dy: jax.Array, scale: jax.Array, tile: Tile = TILE, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The same of the gradient of x, in e5m2, and its sums over rows [width] float32."""
    narrow, turned, top, sums = _run(
        _gradient, (x, dy), scale, fp8.FAR, tile, interpret, name="gelu_gradient", summed=True
    )
    return narrow, turned, top.max(), sums.sum(0)


def _same(x, interpret):
    del interpret
    return x


_gelu, _gradient = gelu_kernels.value, gelu_kernels.gradient


def _kernel(scale_ref, *refs, function, form, inputs, block, steps, interpret):
    given, (narrow_ref, turned_ref, top_ref, *sum_refs) = refs[:inputs], refs[inputs:]
    program, scale, end = pl.program_id(1), scale_ref[0], float(jnp.finfo(form).max)

    def turn(i, kept):
        rows = pl.ds((program * steps + i) * block, block)
        value = function(*(ref[rows, :].astype(F32) for ref in given), interpret)
        narrow = jnp.clip(value * scale, -end, end).astype(form)
        narrow_ref[rows, :], turned_ref[:, rows] = narrow, narrow.T
        top, *total = kept
        return jnp.maximum(top, jnp.abs(value)), *(t + value for t in total)

    # Whole tiles until the end: sums and maxima over rows take threads that talk to each other.
    zero = jnp.zeros((block, narrow_ref.shape[1]), F32)
    top, *total = jax.lax.fori_loop(0, steps, turn, (zero,) * (1 + len(sum_refs)))
    top_ref[program, :] = jnp.max(top, axis=0)
    for sum_ref, part in zip(sum_refs, total, strict=True):
        sum_ref[program, :] = jnp.sum(part, axis=0)


def _run(
    function: Callable,
    given: tuple[jax.Array, ...],
    scale: jax.Array,
    form: jax.typing.DTypeLike,
    tile: Tile,
    interpret: bool,
    *,
    name: str,
    summed: bool = False,
) -> list[jax.Array]:
    """[rows, width] in 8 bits, turned, and of groups of rows the largest and, if asked, the sum."""
    length, width = given[0].shape
    rows, columns = min(tile.rows, power_of_two(length)), min(tile.columns, power_of_two(width))
    count = divisor(length // rows, tile.programs)
    whole = pl.BlockSpec((length, columns), lambda j, i: (0, j))
    group = pl.BlockSpec((count, columns), lambda j, i: (0, j))
    of_group = jax.ShapeDtypeStruct((count, width), F32)
    return pl.pallas_call(
        functools.partial(
            _kernel,
            function=function,
            form=form,
            inputs=len(given),
            block=rows,
            steps=length // rows // count,
            interpret=interpret,
        ),
        grid=(width // columns, count),
        in_specs=[pl.BlockSpec((1,), lambda j, i: (0,)), *[whole] * len(given)],
        out_specs=[
            whole,
            pl.BlockSpec((columns, length), lambda j, i: (j, 0)),
            *[group] * (1 + summed),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((length, width), form),
            jax.ShapeDtypeStruct((width, length), form),
            *[of_group] * (1 + summed),
        ],
        compiler_params=launch(tile.warps, tile.stages),
        interpret=interpret,
        name=f"fp8_{name}",
    )(scale.reshape(1), *given)
