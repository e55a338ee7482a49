"""Rows in 8 bits, as they are and turned, with the largest of them."""

import jax
import jax.numpy as jnp

from bioclip2_jax.models import fp8
from bioclip2_jax.models.kernels import gelu as gelu_kernels


def plain(
    x: jax.Array, scale: jax.Array, form: jax.typing.DTypeLike, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[rows, width] → x * scale in 8 bits, the same turned [width, rows], the largest of x."""
    del interpret
    narrow = fp8.cast(x, scale, form)
    return narrow, narrow.T, fp8.largest(x)


def gelu(
    x: jax.Array, scale: jax.Array, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same of GELU(x)."""
    return plain(gelu_kernels.forward(x, interpret=interpret), scale, fp8.NARROW)


def gelu_gradient(
    x: jax.Array, dy: jax.Array, scale: jax.Array, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The same of the gradient of x, and its sums over rows [width] float32."""
    dx, sums = gelu_kernels.backward(x, dy, interpret=interpret)
    return *plain(dx, scale, fp8.FAR), sums
