"""BioCLIP 2 in JAX: contrastive image-text training on the tree of life.

`load` opens a trained model, `tokenize` turns texts into CLIP token ids. Both are imported on
first use so that `import bioclip2_jax` and `bioclip2 --help` stay fast.
"""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bioclip2_jax.text.tokenizer import tokenize
    from bioclip2_jax.weights.load import load

__version__ = "0.2.0"
__all__ = ["__version__", "load", "tokenize"]

STARTED = time.perf_counter()  # of the process, as nearly as we know

_LAZY = {"load": "bioclip2_jax.weights.load", "tokenize": "bioclip2_jax.text.tokenizer"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'bioclip2_jax' has no attribute {name!r}")
