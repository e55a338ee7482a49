"""Functions whose gradients are written by hand, since derived ones would keep more for later."""

import math

import jax
import jax.numpy as jnp

LAYER_NORM_EPSILON = 1e-5


@jax.custom_vjp
def exact_gelu(x: jax.Array) -> jax.Array:
    """x Φ(x), GELU with the error function, not its tanh approximation; computed in float32."""
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _exact_gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return exact_gelu(x), x


def _exact_gelu_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * math.sqrt(0.5 / math.pi)
    slope = _normal_cdf(wide) + wide * density
    return ((cotangent.astype(jnp.float32) * slope).astype(x.dtype),)


# Kept for the backward pass: the input alone. Derived by JAX, it would be four arrays.
exact_gelu.defvjp(_exact_gelu_forward, _exact_gelu_backward)


@jax.custom_vjp
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """LayerNorm over the last axis [..., width]; statistics and scaling in float32, eps 1e-5."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
    return (centred * inverse * scale + bias).astype(x.dtype)


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple:
    return layer_norm(x, scale, bias), (x, scale)


def _layer_norm_backward(kept: tuple, cotangent: jax.Array) -> tuple:
    x, scale = kept
    wide = x.astype(jnp.float32)
    # Both statistics in one reading of x; shifted, since the difference of squares loses digits.
    near = wide - wide[..., :1]
    shift = near.mean(-1)
    inverse = jax.lax.rsqrt((near * near).mean(-1) - shift * shift + LAYER_NORM_EPSILON)
    mean = wide[..., 0] + shift
    # Without this, XLA computes them anew for each of the three results.
    mean, inverse = jax.lax.optimization_barrier((mean, inverse))
    normal = (wide - mean[..., None]) * inverse[..., None]
    slope = cotangent.astype(jnp.float32)
    scaled = slope * scale
    along = (scaled * normal).mean(-1, keepdims=True)
    gradient = (scaled - scaled.mean(-1, keepdims=True) - normal * along) * inverse[..., None]
    rows = tuple(range(x.ndim - 1))
    sums = [part.sum(rows).astype(scale.dtype) for part in (slope * normal, slope)]
    return gradient.astype(x.dtype), *sums


# Kept for the backward pass: the input alone.
layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
