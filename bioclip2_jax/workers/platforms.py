"""Which accelerators JAX looks for. Imports nothing heavy: it is asked before JAX is."""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

# What people and launchers set where there is a TPU, wherever its device may be.
_SAYS_TPU = ("JAX_FORCE_TPU_INIT", "TPU_LIBRARY_PATH", "TPU_NAME", "COLAB_TPU_ADDR")


def has_tpu() -> bool:
    """Whether a TPU's device is on this machine and its library is installed."""
    chips = (*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*"))
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def settle() -> None:
    """Says that there is nothing but the CPU where JAX would find that out with complaints.

    With libtpu installed and no TPU, JAX loads it in vain, and it writes a screenful on standard
    error. Only where neither a device nor the environment speaks of a TPU, and no other plug-in
    could bring another accelerator, is the answer known before; then it is given in the way that
    JAX documents, which processes started from here inherit.
    """
    if os.environ.get("JAX_PLATFORMS") or any(name in os.environ for name in _SAYS_TPU):
        return
    if not importlib.util.find_spec("libtpu") or has_tpu():
        return
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if plugins or importlib.util.find_spec("jax_plugins"):
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if jax := sys.modules.get("jax"):
        jax.config.update("jax_platforms", "cpu")
