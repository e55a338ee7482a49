"""Matrix products of 8-bit floats, scaled by the largest values of the steps before.

A tensor is multiplied by a power of two that takes what was largest in it lately near the end of
the format, rounded to 8 bits, and divided again (delayed scaling, arXiv 2209.05433): e4m3 for rows
and kernels, e5m2, which reaches further, for gradients. Powers of two round nothing, so the product
is that of the rounded values, whatever computes it: a GPU in its 8-bit units, which XLA finds by
the casts, or a CPU in its own floats.

What is largest now is needed by the next step alone. It comes out of a step as the cotangent of
what went in: the gradient of an argument `maxima` is not a slope but what was seen. Where several
passes take the same, their gradients must not be added but compared: `shared` does.
"""

import functools

import jax
import jax.numpy as jnp

from bioclip2_jax.models.presets import ClipConfig

FP8 = ("none", "mlp")
KEPT_STEPS = 16
ROWS, KERNEL, SLOPES = range(3)  # of a product, the last axis of all maxima
NARROW, FAR = jnp.float8_e4m3fn, jnp.float8_e5m2
_FORMATS = (NARROW, NARROW, FAR)
_GUESS = (448.0, 8.0, 1.0)  # for one step, whose values still lie within the formats' reach
_HEADROOM = 2  # times more than was seen is not cut yet


def initial_maxima(model: ClipConfig) -> dict[str, jax.Array]:
    """What is known before the first step, by tower: [steps, blocks, 2 products, 3] float32 zeros.

    The row of a tower's last block, which stays as it is, remains zero.
    """
    depths = {"image": model.vision.layers, "text": model.text.layers}
    return {name: jnp.zeros((KEPT_STEPS, depth, 2, 3)) for name, depth in depths.items()}


def expected(maxima: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The largest values of the steps kept, [blocks, 2, 3]; a guess where there are none."""

    def of_tower(history: jax.Array) -> jax.Array:
        seen = history.max(0)
        return jnp.where(seen > 0, seen, jnp.asarray(_GUESS))

    return jax.tree.map(of_tower, maxima)


def remembered(maxima: dict[str, jax.Array], seen: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The newest first, without the oldest; what is not finite counts as the one before."""

    def of_tower(history: jax.Array, new: jax.Array) -> jax.Array:
        new = jnp.where(jnp.isfinite(new), new, history[0])
        return jnp.concatenate([new[None], history[:-1]])

    return jax.tree.map(of_tower, maxima, seen)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def shared(maxima: jax.Array, count: int) -> jax.Array:
    """The same for so many passes, [...] → [count, ...]; what they see is compared, not added."""
    return jnp.broadcast_to(maxima, (count, *maxima.shape))


def _shared_forward(maxima: jax.Array, count: int) -> tuple[jax.Array, None]:
    return jnp.broadcast_to(maxima, (count, *maxima.shape)), None


def _shared_backward(count: int, _: None, seen: jax.Array) -> tuple[jax.Array]:
    return (seen.max(0),)


shared.defvjp(_shared_forward, _shared_backward)


def scales(maxima: jax.Array) -> jax.Array:
    """Powers of two for what is expected to be that large, [..., 3] → [..., 3] float32."""
    ends = jnp.asarray([jnp.finfo(form).max for form in _FORMATS], jnp.float32)
    wanted = jnp.clip(ends / (_HEADROOM * maxima), 2.0**-60, 2.0**60)
    # Without its fraction a float is a power of two, to the bit and on every device.
    exponent = jax.lax.bitcast_convert_type(wanted, jnp.int32) & 0x7F800000
    return jax.lax.bitcast_convert_type(exponent, jnp.float32)


def largest(x: jax.Array) -> jax.Array:
    """Its largest magnitude, [] float32."""
    return jnp.abs(x).max().astype(jnp.float32)


def cast(x: jax.Array, scale: jax.Array, form: jax.typing.DTypeLike) -> jax.Array:
    """x * scale in 8 bits; what is too large becomes the largest, a NaN stays one."""
    end = float(jnp.finfo(form).max)
    return jnp.clip(x.astype(jnp.float32) * scale, -end, end).astype(form)


def product(
    a: tuple[jax.Array, jax.Array],
    b: tuple[jax.Array, jax.Array],
    axes: tuple[int, int],
    dtype: jax.typing.DTypeLike,
    out_dtype: jax.typing.DTypeLike | None = None,
    *,
    fast: bool = False,
) -> jax.Array:
    """Of two matrices in 8 bits, each with its scale, over an axis of each.

    GPUs see a product of scaled 8-bit floats in this, and write the result in `out_dtype`.

    Args:
      dtype: of the product where there are no 8-bit units, float32 or bfloat16.
      fast: an H100's units may keep 14 bits of the sums; else they are added up in float32.
    """
    left, right = (x.astype(dtype) * (1 / scale).astype(dtype) for x, scale in (a, b))
    dims = (((axes[0],), (axes[1],)), ((), ()))
    precision = jax.lax.Precision.DEFAULT if fast else jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(
        left, right, dims, precision=precision, preferred_element_type=out_dtype or dtype
    )


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array, maxima: jax.Array) -> jax.Array:
    """x @ kernel, forwards and backwards by products of 8 bits.

    Args:
      x: [..., inputs] float32 or bfloat16.
      kernel: [inputs, outputs], of any dtype.
      maxima: [3] expected of x, the kernel and the result's gradient; its cotangent is what they
        were.

    Returns:
      [..., outputs] in the dtype of x.
    """
    return _matmul_forward(x, kernel, maxima)[0]


def _matmul_forward(x: jax.Array, kernel: jax.Array, maxima: jax.Array) -> tuple:
    scale = scales(maxima)
    rows = cast(x, scale[ROWS], NARROW).reshape(-1, x.shape[-1])
    of_kernel = cast(kernel, scale[KERNEL], NARROW)
    y = product((rows, scale[ROWS]), (of_kernel, scale[KERNEL]), (1, 0), x.dtype, fast=True)
    seen = largest(x), largest(kernel)
    # A kernel is cast again in a moment; rows are kept as they are cast, a byte each.
    return y.reshape(*x.shape[:-1], -1), (rows, kernel, scale, seen)


def _matmul_backward(kept: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    rows, kernel, scale, seen = kept
    slopes = cast(dy, scale[SLOPES], FAR).reshape(-1, dy.shape[-1]), scale[SLOPES]
    of_kernel = cast(kernel, scale[KERNEL], NARROW), scale[KERNEL]
    dx = product(slopes, of_kernel, (1, 1), dy.dtype)
    dk = product((rows, scale[ROWS]), slopes, (0, 0), dy.dtype, jnp.float32)
    return (
        dx.reshape(*dy.shape[:-1], -1),
        dk.astype(kernel.dtype),
        jnp.stack([*seen, largest(dy)]),
    )


matmul.defvjp(_matmul_forward, _matmul_backward)
