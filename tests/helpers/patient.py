"""The slow run, where a process that has compiled waits for another that is not as fast."""

from helpers.slowly import get_config

from bioclip2_jax.training import watchdog

__all__ = ["get_config"]


class Watchdog(watchdog.Watchdog):
    def __init__(self, minutes: float):
        super().__init__(minutes)
        self._limit = 300.0  # until the first step


watchdog.Watchdog = Watchdog
