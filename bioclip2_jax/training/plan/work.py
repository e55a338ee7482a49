"""What a program computes, counted from what JAX makes of it before any compiler sees it."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def product_flops(program: core.ClosedJaxpr | core.Jaxpr) -> float:
    """FLOPs of all matrix products, of all devices together, as often as each is computed.

    So what a step computes again for its gradients counts as it is, and not by a rule of thumb: a
    block that keeps nothing does not compute its last product again, whose result nobody needs.
    """
    total = 0.0
    equations: list[Any] = getattr(program, "jaxpr", program).eqns
    for equation in equations:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            left = equation.invars[0].aval.shape
            contracted = math.prod(left[axis] for axis in given["dimension_numbers"][0][0])
            total += 2 * contracted * math.prod(equation.outvars[0].aval.shape)
        times = given["length"] if name == "scan" else 1
        times *= given["mesh"].size if name == "shard_map" else 1
        times *= math.prod(given["grid_mapping"].grid) if name == "pallas_call" else 1
        total += times * sum(map(product_flops, _within(list(given.values()))))
    return total


def _within(values: list[Any]) -> Iterator[core.ClosedJaxpr | core.Jaxpr]:
    for value in values:
        if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
            yield value
        elif isinstance(value, list | tuple):
            yield from _within(list(value))
