"""Named tensors that are read one at a time, so that no model has to fit into memory twice."""

import importlib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from bioclip2_jax.errors import UserError, reason

_SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MAPPED_BYTES = 512 * 2**20  # a mapped file counts as our memory until it is closed


@dataclass(frozen=True)
class Tensors:
    """A state dict whose values are read when they are asked for.

    Attributes:
      shapes: name → shape, of every tensor.
      dtypes: name → "float32", "float16", "bfloat16", or the name of one that is not taken.
      read: name → array in the stored dtype; a `UserError` names a file that is damaged.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    read: Callable[[str], np.ndarray]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Tensors":
        """Arrays that are in memory already."""
        return cls(
            {name: tuple(value.shape) for name, value in arrays.items()},
            {name: str(value.dtype) for name, value in arrays.items()},
            lambda name: np.asarray(arrays[name]),
        )

    def rename(self, new_name: Callable[[str], str]) -> "Tensors":
        """The same tensors under other names."""
        old = {new_name(name): name for name in self.shapes}
        return Tensors(
            {new: self.shapes[name] for new, name in old.items()},
            {new: self.dtypes[name] for new, name in old.items()},
            lambda new: self.read(old[new]),
        )

    def replace(
        self, name: str, shape: tuple[int, ...], read: Callable[[], np.ndarray]
    ) -> "Tensors":
        """The same with one tensor of another shape and content, float32."""
        return Tensors(
            {**self.shapes, name: shape},
            {**self.dtypes, name: "float32"},
            lambda asked: read() if asked == name else self.read(asked),
        )


def open_safetensors(*paths: Path) -> Tensors:
    """The tensors of one safetensors file, or of the several that a large model is cut into.

    Raises:
      UserError: a file is missing, damaged or incomplete.
    """
    shapes, dtypes, home = {}, {}, {}
    for path in paths:
        with _safetensors(path) as file:
            for name in file.keys():  # noqa: SIM118 (no dict)
                part = file.get_slice(name)
                stored = part.get_dtype()
                shapes[name] = tuple(part.get_shape())
                dtypes[name] = _SAFETENSORS_DTYPES.get(stored, stored)
                home[name] = path

    def read(name: str) -> np.ndarray:
        with _safetensors(home[name]) as file:
            return file.get_tensor(name)

    return Tensors(shapes, dtypes, read)


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
    shapes = {name: tuple(value.shape) for name, value in state_dict.items()}
    dtypes = {name: str(value.dtype).removeprefix("torch.") for name, value in state_dict.items()}
    mapped, count = {"now": state_dict}, 0

    def read(name: str) -> np.ndarray:
        nonlocal count
        count += int(np.prod(shapes[name])) * 4
        if count > _MAPPED_BYTES and zipfile.is_zipfile(path):
            mapped.clear()  # closes the old map before the new one is made
            mapped["now"], count = _load_state_dict(path), 0
        value = mapped["now"][name].contiguous()
        if dtypes[name] == "bfloat16":  # numpy knows it from ml_dtypes alone
            torch = import_torch(f"{path}: reading", "start from a .safetensors file")
            return value.view(torch.uint16).numpy().view(ml_dtypes.bfloat16).copy()
        return value.numpy().copy()

    return Tensors(shapes, dtypes, read)


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
