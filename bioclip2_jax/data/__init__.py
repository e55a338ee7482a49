"""What is read: pictures, tables, records, datasets, and the batches made of them."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "sources":  # what version 0.1.0 called it, in its documentation too
        return importlib.import_module("bioclip2_jax.data.dataset")
    raise AttributeError(f"module 'bioclip2_jax.data' has no attribute {name!r}")
