"""Named tensors that are read one at a time, so that no model has to fit into memory twice."""

import importlib
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bioclip2_jax.errors import UserError, reason

SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_DTYPES = {name: dtype for dtype, name in SAFETENSORS_NAMES.items()}
_MAPPED_BYTES = 512 * 2**20  # a mapped file counts as our memory until it is closed


@dataclass(frozen=True)
class Tensor:
    """One value of a state dict, read when it is asked for.

    Attributes:
      shape: of the array.
      dtype: "float32", "float16", "bfloat16", or the name of one that is not taken.
      read: the array, in that dtype or a wider one; a `UserError` names a file that is damaged.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    def floats(self) -> np.ndarray:
        """The array in float32."""
        return self.read().astype(np.float32, copy=False)


Tensors = Mapping[str, Tensor]  # a state dict


def open_safetensors(*paths: Path) -> Tensors:
    """The tensors of one safetensors file, or of the several that a large model is cut into.

    Raises:
      UserError: a file is missing, damaged or incomplete.
    """

    def read(path: Path, name: str) -> np.ndarray:
        with _safetensors(path) as file:
            return file.get_tensor(name)

    tensors = {}
    for path in paths:
        with _safetensors(path) as file:
            for name in file.keys():  # noqa: SIM118 (no dict)
                part = file.get_slice(name)
                stored = str(part.get_dtype())
                dtype = _DTYPES.get(stored, stored)
                tensors[name] = Tensor(tuple(part.get_shape()), dtype, partial(read, path, name))
    return tensors


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged or incomplete ({error}); copy it again") from error


def open_torch(path: Path) -> Tensors:
    """The state dict of a `.pt`, `.pth` or `.bin` file, read by PyTorch with `weights_only`.

    Takes a bare state dict and a training checkpoint that holds one under `state_dict`; the prefix
    `module.` of distributed training is dropped.

    Raises:
      UserError: PyTorch is not installed; the file is damaged or holds anything but tensors, in
        which case none of its code was run.
    """
    state_dict = _load_state_dict(path)
    # Stride tricks can claim any size; a true tensor is no larger than its file.
    size = path.stat().st_size
    for name, value in state_dict.items():
        if value.numel() * value.element_size() > size:
            raise UserError(f"{path}: {name} claims more bytes than the file holds; copy it again")
    mapped, count = {"now": state_dict}, 0

    def read(name: str) -> np.ndarray:
        nonlocal count
        count += math.prod(tensors[name].shape) * 4
        if count > _MAPPED_BYTES and zipfile.is_zipfile(path):
            mapped.clear()  # closes the old map before the new one is made
            mapped["now"], count = _load_state_dict(path), 0
        value = mapped["now"][name].contiguous()
        if tensors[name].dtype == "bfloat16":
            return value.float().numpy()  # which numpy does not know of itself
        return value.numpy().copy()

    tensors = {
        name: Tensor(
            tuple(value.shape), str(value.dtype).removeprefix("torch."), partial(read, name)
        )
        for name, value in state_dict.items()
    }
    return tensors


def _load_state_dict(path: Path) -> dict:
    torch = import_torch(f"{path}: reading", "start from a .safetensors file")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        archive = zipfile.is_zipfile(path)
        if archive and any(x.endswith("/constants.pkl") for x in zipfile.ZipFile(path).namelist()):
            raise UserError(
                f"{path}: a TorchScript archive, which holds code; save its state_dict alone"
            )
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds Python objects beside tensors, which are not loaded because they could"
            " run code; save its state_dict alone"
        ) from error
    except Exception as error:
        raise UserError(
            f"{path}: damaged or incomplete ({reason(error)}); copy it again"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not loaded:
        raise UserError(f"{path}: holds no state dict")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: {name!r} is no tensor; save the model's state_dict alone")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise UserError(f"{path}: {name} is no plain dense tensor")
    if all(name.startswith("module.") for name in loaded):
        loaded = {name.removeprefix("module."): value for name, value in loaded.items()}
    return loaded


def import_torch(what: str, instead: str) -> Any:
    """PyTorch, which only its own format takes.

    Args:
      what: "FILE: reading" or "FILE: writing".
      instead: what else can be done.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"{what} PyTorch's own format takes PyTorch; install it with pip install torch, or"
            f" {instead}"
        ) from error
