"""Lets torchvision be imported beside a CPU build of torch; import this first.

Its wheel is built for CUDA, so the operators that it wants to describe are unknown there. Nothing
here calls them; to be declared is enough.
"""

import importlib.util
import re
from pathlib import Path


def declare() -> None:
    """Declares torchvision's operators if its compiled half does not load."""
    import torch

    folder = Path(importlib.util.find_spec("torchvision").origin).parent
    try:
        for library in folder.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        text = (folder / "_meta_registrations.py").read_text(encoding="utf-8")
        names = re.findall(
            r'(?:register_meta\(|register_fake\(|impl\()"(?:torchvision::)?(\w+)"', text
        )
        declare.library = torch.library.Library("torchvision", "DEF")
        for name in sorted(set(names)):
            declare.library.define(f"{name}(Tensor input) -> Tensor")


if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
    declare()
