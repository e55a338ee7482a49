"""How fast a device multiplies: what the other figures of a card are measured by."""

import statistics
import time

import jax
import jax.numpy as jnp


def product_rate(toy: bool) -> float:
    """FLOP/s of one large bfloat16 matrix product (float32 and small for a toy)."""
    size, dtype = (256, jnp.float32) if toy else (8192, jnp.bfloat16)
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    multiply = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(multiply(a, b))
    rates = []
    for _ in range(5):
        before = time.perf_counter()
        jax.block_until_ready([multiply(a, b) for _ in range(10)])
        rates.append(10 * 2 * size**3 / (time.perf_counter() - before))
    return statistics.median(rates)
