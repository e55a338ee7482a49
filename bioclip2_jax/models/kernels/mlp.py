"""The MLP of a block with its six products in 8 bits, on rows.

The units for 8 bits want both operands contiguous along the axis that is summed over. So what the
gradients of kernels are made of is kept turned, [width, rows].
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bioclip2_jax.models import fp8, layers
from bioclip2_jax.models.fp8 import KERNEL, ROWS, SLOPES
from bioclip2_jax.models.kernels import casts


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def mlp(
    x: jax.Array,
    fc_kernel: jax.Array,
    fc_bias: jax.Array,
    proj_kernel: jax.Array,
    maxima: jax.Array,
    interpret: bool,
) -> jax.Array:
    """GELU(x @ fc_kernel + fc_bias) @ proj_kernel, [rows, width] → the same.

    Args:
      maxima: [2, 3] float32 expected, see `models.fp8`; its gradient is what was seen.
    """
    return _forward(x, fc_kernel, fc_bias, proj_kernel, maxima, interpret)[0]


def _forward(x, fc_kernel, fc_bias, proj_kernel, maxima, interpret):
    of_fc, of_proj = fp8.scales(maxima)
    kernels = [_kernel(k, s) for k, s in ((fc_kernel, of_fc), (proj_kernel, of_proj))]
    rows, turned, of_rows = casts.plain(x, of_fc[ROWS], fp8.NARROW, interpret=interpret)
    hidden = fp8.product((rows, of_fc[ROWS]), kernels[0], (1, 0), x.dtype, fast=True)
    hidden = checkpoint_name(hidden + fc_bias.astype(x.dtype), layers.HIDDEN)
    middle, turned_middle, of_middle = casts.gelu(hidden, of_proj[ROWS], interpret=interpret)
    y = fp8.product((middle, of_proj[ROWS]), kernels[1], (1, 0), x.dtype, fast=True)
    seen = (of_rows, fp8.largest(fc_kernel)), (of_middle, fp8.largest(proj_kernel))
    return y, (turned, hidden, turned_middle, fc_kernel, fc_bias, proj_kernel, maxima, seen)


def _backward(interpret, kept, dy):
    turned, hidden, turned_middle, fc_kernel, fc_bias, proj_kernel, maxima, seen = kept
    of_fc, of_proj = fp8.scales(maxima)
    d, turned_d, of_d = casts.plain(dy, of_proj[SLOPES], fp8.FAR, interpret=interpret)
    dm = fp8.product((d, of_proj[SLOPES]), _kernel(proj_kernel, of_proj), (1, 1), dy.dtype)
    of_proj_kernel = _outer((turned_middle, of_proj[ROWS]), (turned_d, of_proj[SLOPES]), dy.dtype)
    h, turned_h, of_h, sums = casts.gelu_gradient(hidden, dm, of_fc[SLOPES], interpret=interpret)
    dx = fp8.product((h, of_fc[SLOPES]), _kernel(fc_kernel, of_fc), (1, 1), dy.dtype)
    of_fc_kernel = _outer((turned, of_fc[ROWS]), (turned_h, of_fc[SLOPES]), dy.dtype)
    return (
        dx,
        of_fc_kernel.astype(fc_kernel.dtype),
        sums.astype(fc_bias.dtype),
        of_proj_kernel.astype(proj_kernel.dtype),
        jnp.stack([jnp.stack([*seen[0], of_h]), jnp.stack([*seen[1], of_d])]),
    )


mlp.defvjp(_forward, _backward)


def _kernel(kernel: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    return fp8.cast(kernel, scale[KERNEL], fp8.NARROW), scale[KERNEL]


def _outer(a: tuple, b: tuple, dtype: jnp.dtype) -> jax.Array:
    """A kernel's gradient [inputs, outputs] float32, of turned rows and turned slopes."""
    return fp8.product(a, b, (1, 1), dtype, jnp.float32)
