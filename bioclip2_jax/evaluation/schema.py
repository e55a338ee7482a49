"""Every result file as a dataclass: what is written is what is read, drawn and compared."""

from typing import Any, TypeVar

import msgspec
import numpy as np
from etils import epath

from bioclip2_jax import files
from bioclip2_jax.errors import UserError, reason

T = TypeVar("T")


def write(path: epath.PathLike, result: Any) -> None:
    """Writes a dataclass as JSON, whole or not at all; what is not a number becomes null."""
    text = msgspec.json.encode(result, enc_hook=_plain)
    files.write_bytes(path, msgspec.json.format(text, indent=1) + b"\n")


def _plain(value: Any) -> Any:
    """NumPy's numbers and texts as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def read(path: epath.PathLike, kind: type[T]) -> T:
    """Reads such a file; keys that `kind` does not know are passed over.

    Raises:
      UserError: missing, not JSON, or another kind of result; names the file and the key.
    """
    try:
        return msgspec.json.decode(files.read_text(path), type=kind)
    except msgspec.DecodeError as error:
        raise UserError(
            f"{path}: not a result of this version of bioclip2 ({reason(error)}); make it again, or"
            " take it out of the folder"
        ) from error
