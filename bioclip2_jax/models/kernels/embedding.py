"""The gradient of looking rows up in a table, added in a fixed order.

XLA's scatter adds by atomic operations, whose order and so whose last bits change from run to run.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from bioclip2_jax.models.kernels.primitives import F32, index, launch, power_of_two

_ROWS = 64  # at a time


def _kernel(number_ref, place_ref, dy_ref, _, d_ref):
    """Adds the rows of one number, if this place is the first of its kind among the sorted."""
    first = pl.program_id(1)
    length, width = dy_ref.shape
    number = number_ref[first]
    before = number_ref[jnp.maximum(first - 1, 0)]
    columns = index((1, width), 1)

    def turn(so_far):
        start, total, _ = so_far
        places = start + index((_ROWS,))
        inside = places < length
        same = plgpu.load(number_ref.at[jnp.minimum(places, length - 1)]) == number
        same = same & inside
        rows = plgpu.load(place_ref.at[jnp.minimum(places, length - 1)])
        where = dy_ref.at[
            jnp.broadcast_to(rows[:, None], (_ROWS, width)),
            jnp.broadcast_to(columns, (_ROWS, width)),
        ]
        mask = jnp.broadcast_to(same[:, None], (_ROWS, width))
        dy = plgpu.load(where, mask=mask, other=0).astype(F32)
        more = jnp.sum(same.astype(jnp.int32)) == _ROWS
        return start + _ROWS, total + jnp.sum(dy, axis=0), more

    @pl.when((first == 0) | (before != number))
    def _():
        zero = jnp.zeros((width,), F32)
        d_ref[number, :] = jax.lax.while_loop(lambda x: x[2], turn, (first, zero, True))[1]


def backward(
    tokens: jax.Array, dy: jax.Array, vocabulary: int, warps: int = 8, interpret: bool = False
) -> jax.Array:
    """The gradient [vocabulary, width] float32 of `table` in `table[tokens]`.

    Args:
      tokens: [rows] int32.
      dy: [rows, width], the gradients of what was looked up.
    """
    tokens, (length, width) = jnp.asarray(tokens), dy.shape
    columns = min(256, power_of_two(width))
    order = jnp.argsort(tokens, stable=True).astype(jnp.int32)
    everything = pl.BlockSpec((length,), lambda j, i: (0,))
    part = pl.BlockSpec((vocabulary, columns), lambda j, i: (0, j))
    return pl.pallas_call(
        _kernel,
        grid=(width // columns, length),
        in_specs=[
            everything,
            everything,
            pl.BlockSpec((length, columns), lambda j, i: (0, j)),
            part,
        ],
        out_specs=part,
        out_shape=jax.ShapeDtypeStruct((vocabulary, width), F32),
        input_output_aliases={3: 0},
        compiler_params=launch(warps, 1),
        interpret=interpret,
        name="embedding_backward",
    )(tokens[order], order, dy, jnp.zeros((vocabulary, width), F32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def lookup(table: jax.Array, tokens: jax.Array, dtype: str, interpret: bool) -> jax.Array:
    """`table[tokens]` in `dtype`, with that gradient; [vocabulary, width], any shape of tokens."""
    return table[tokens].astype(dtype)


def _lookup_forward(table, tokens, dtype, interpret):
    return lookup(table, tokens, dtype, interpret), (table, tokens)


def _lookup_backward(_, interpret, kept, dy):
    table, tokens = kept
    rows = dy.reshape(-1, dy.shape[-1])
    d = backward(tokens.reshape(-1), rows, len(table), interpret=interpret)
    return d.astype(table.dtype), None


lookup.defvjp(_lookup_forward, _lookup_backward)
