"""The least value of a function of one number."""

from collections.abc import Callable
from typing import cast

from scipy.optimize import OptimizeResult, minimize_scalar


def between(
    loss: Callable[[float], float], low: float, high: float, tolerance: float
) -> tuple[float, float]:
    """Brent's method between two bounds, which it never tries themselves.

    Returns:
      Where it is, to `tolerance`, and the value there.
    """
    options = {"xatol": tolerance}
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options=options)
    found = cast(OptimizeResult, found)
    return float(found.x), float(found.fun)
