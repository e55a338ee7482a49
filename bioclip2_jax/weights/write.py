"""Writes a model in one of four layouts: complete, or not at all."""

import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.weights import card, checkpoint, layout, transformers
from bioclip2_jax.weights.description import write_description
from bioclip2_jax.weights.open import CONFIG_FILE, MODEL_FILE, WEIGHTS_FILE, Source
from bioclip2_jax.weights.tensors import SAFETENSORS_NAMES, Tensors, import_torch

LAYOUTS = ("orbax", "open_clip", "pt", "transformers")
_HOW_TO_OPEN = {
    "orbax": "train with --config.init={0} --config.model.name=init, or use it as a workdir",
    "open_clip": "open_clip loads it as local-dir:{0}",
    "pt": "open_clip loads it as pretrained={0}",
    "transformers": "transformers loads it with CLIPModel.from_pretrained('{0}')",
}
CARD_FILE = "README.md"
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# What may lie in a folder whose upload to a bucket was interrupted; its seal comes last.
_BEFORE_SEAL = {CARD_FILE, WEIGHTS_FILE, transformers.WEIGHTS_FILE, transformers.PREPROCESSOR_FILE}
_BEFORE_SEAL |= {"tokenizer_config.json", "vocab.json", "merges.txt"}
_ALIGNMENT = 64  # bytes, of every tensor in a `.pt` file, as PyTorch writes it


def write(
    source: Source,
    out: Path,
    to: str,
    *,
    dtype: str = "float32",
    keep_replay_projection: bool = False,
    overwrite: bool = False,
    results: card.Results | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Writes `source` to `out`, a folder or, in layout "pt", a file.

    Args:
      source: what is written.
      out: new, or an empty folder, here or in a bucket; with `overwrite`, one that holds the files
        of this layout, which are replaced.
      to: one of `LAYOUTS`.
      dtype: of the stored weights, a key of `DTYPES`; "orbax" takes float32 alone.
      keep_replay_projection: else it is left out, as open_clip's strict loading expects; "orbax"
        always keeps it.
      overwrite: see `out`; a checkpoint is never replaced.
      results: of `source`, for the model card.
      check: called with what was written before it is moved to `out`; nothing is left if it raises.

    Raises:
      UsageError: `out` is in use, or the dtype or layout does not exist.
      UserError: a value is not finite or too large for `dtype`; or it cannot be written.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if to not in LAYOUTS:
        raise UsageError(f"layout {to!r} is not one of {', '.join(LAYOUTS)}")
    if to == "orbax" and dtype != "float32":
        raise UsageError("a checkpoint of ours holds float32; --dtype is for the other layouts")
    if to == "transformers" and keep_replay_projection:
        raise UsageError("transformers' CLIPModel has no place for the replay projector")
    tensors = source.tensors
    if not keep_replay_projection and to != "orbax":
        tensors = {name: x for name, x in tensors.items() if name != layout.REPLAY}
    seal = {"orbax": MODEL_FILE, "transformers": transformers.CONFIG_FILE}.get(to, CONFIG_FILE)
    _require_free(out, to, seal, overwrite)
    parent = None if files.is_remote(out) else out.absolute().parent
    try:
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=parent) as partial:
            unfinished = Path(partial, out.name)
            if to == "pt":
                write_torch(unfinished, tensors, dtype)
            else:
                unfinished.mkdir()
                texts = _descriptions(source, to, dtype, results)
                _write_weights(unfinished, source, tensors, to, dtype)
                for name, text in texts.items():
                    (unfinished / name).write_text(text, encoding="utf-8")
            if check:
                check(unfinished)
            if parent is None:
                buckets.upload(unfinished, out, last=(seal,))
            elif to == "pt":
                os.replace(unfinished, out)
            else:
                _move_into(unfinished, out, seal)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error})") from error


def how_to_open(to: str, out: Path) -> str:
    """What can be done with what was written."""
    if to == "orbax" or not files.is_remote(out):
        return _HOW_TO_OPEN[to].format(out)
    return "copied to a disk, " + _HOW_TO_OPEN[to].format(out.name)


def usual_layout(source: Source, out: Path) -> str:
    """The layout that is meant where none is named: a checkpoint goes out, all else comes in."""
    if out.suffix == ".pt":
        return "pt"
    return "open_clip" if source.kind == "checkpoint" else "orbax"


def _require_free(out: Path, to: str, seal: str, overwrite: bool) -> None:
    if to == "pt":
        if out.suffix != ".pt":
            raise UsageError(f"{out}: the layout pt is one file; give it a name that ends in .pt")
        if out.exists() and not (overwrite and out.is_file()):
            raise UsageError(f"{out} exists already; name another file")
        return
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        if _is_unfinished(out):
            return
        if to == "orbax" or not (out / seal).is_file():
            raise UsageError(f"{out} holds other files; name a new or empty folder")
        if not overwrite:
            raise UsageError(f"{out} already holds a model; name another folder or add --overwrite")


def _is_unfinished(out: Path) -> bool:
    """Whether a folder in a bucket holds nothing but what an upload put there before its end."""
    return files.is_remote(out) and all(
        name in _BEFORE_SEAL or name.startswith(f"{checkpoint.FOLDER}/")
        for name in buckets.sizes_below(out)
    )


def _descriptions(
    source: Source, to: str, dtype: str, results: card.Results | None
) -> dict[str, str]:
    """File name → text, of all that a folder holds beside the weights."""
    description = json.dumps(write_description(source.config, source.preprocess), indent=2) + "\n"
    if to == "orbax":
        return {MODEL_FILE: description}
    text = card.render(
        source.config,
        source.preprocess,
        workdir=source.path if source.kind == "checkpoint" else None,
        step=source.step,
        library=to,
        results=results,
    )
    if to == "open_clip":
        return {CARD_FILE: text, CONFIG_FILE: description}
    return {CARD_FILE: text} | transformers.write_files(source.config, source.preprocess, dtype)


def _write_weights(folder: Path, source: Source, tensors: Tensors, to: str, dtype: str) -> None:
    if to == "orbax":
        step_dir = checkpoint.step_dir(folder, source.step or 0)
        step_dir.parent.mkdir()
        checkpoint.save_leaves(step_dir, layout.read_leaves(tensors, source.config))
    elif to == "open_clip":
        write_safetensors(folder / WEIGHTS_FILE, tensors, dtype)
    else:
        renamed = transformers.from_open_clip(tensors)
        write_safetensors(folder / transformers.WEIGHTS_FILE, renamed, dtype)


def _move_into(folder: Path, out: Path, seal: str) -> None:
    if not out.exists():
        os.replace(folder, out)
        return
    # Without its config, which comes last, the folder is no model to any reader.
    (out / seal).unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == seal):
        os.replace(path, out / path.name)


def _converted(tensors: Tensors, name: str, dtype: str) -> memoryview:
    """The bytes of one tensor."""
    value = tensors[name].floats()
    with np.errstate(over="ignore"):
        value = np.ascontiguousarray(value.astype(DTYPES[dtype], copy=False))
    if dtype == "float16" and not np.isfinite(value).all():
        raise UserError(f"{name} holds values too large for float16; use bfloat16 or float32")
    return value.reshape(-1).view(np.uint8).data


def write_safetensors(path: Path, tensors: Tensors, dtype: str) -> None:
    """One safetensors file, tensor by tensor in the order of the names.

    Raises:
      UserError: a value is not finite or too large for `dtype`.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {
            "dtype": SAFETENSORS_NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in tensors:
            file.write(_converted(tensors, name, dtype))


def write_torch(path: Path, tensors: Tensors, dtype: str) -> None:
    """A state dict as `torch.save` writes it, without holding it in memory.

    PyTorch writes the frame of the file (an uncompressed ZIP archive) and leaves out the data,
    which is then put in tensor by tensor.

    Raises:
      UserError: PyTorch is not installed; a value is not finite or too large for `dtype`.
    """
    torch = import_torch(
        f"{path.name}: writing", "use another layout, all of which PyTorch reads as safetensors"
    )
    kind = getattr(torch, dtype)
    # Memory that nobody touches is never given out.
    empty = {name: torch.empty(tensor.shape, dtype=kind) for name, tensor in tensors.items()}
    frame_path = path.with_suffix(".frame")
    with torch.serialization.skip_data():
        torch.save(empty, frame_path)
    names = iter(tensors)
    with (
        zipfile.ZipFile(frame_path) as frame,
        path.open("wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        for entry in frame.infolist():
            _, _, inner = entry.filename.partition("/")
            info = zipfile.ZipInfo(f"archive/{inner}")
            if not inner.startswith("data/"):
                archive.writestr(info, frame.read(entry))
                continue
            value = _converted(tensors, next(names), dtype)
            info.file_size = value.nbytes
            head = file.tell() + 30 + len(info.filename) + 4
            gap = -head % _ALIGNMENT
            info.extra = b"FB" + gap.to_bytes(2, "little") + b"Z" * gap
            with archive.open(info, "w") as member:
                member.write(value)
    frame_path.unlink()
