"""The same run with steps that take a while, so that a signal or a kill meets it on any machine."""

import time

from helpers.smallest import get_config

from bioclip2_jax.training import sharding

__all__ = ["get_config"]
SECONDS = 0.2
_global_batch = sharding.global_batch


def global_batch(*arguments):
    time.sleep(SECONDS)
    return _global_batch(*arguments)


sharding.global_batch = global_batch
