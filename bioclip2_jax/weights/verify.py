"""Proof that a conversion is exact: checksums of every tensor, and the features of both sides."""

import dataclasses
import hashlib
import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.description import to_open_clip
from bioclip2_jax.weights.load import Model
from bioclip2_jax.weights.open import Source, open_files, open_source
from bioclip2_jax.weights.write import DTYPES

# Largest allowed difference of L2-normalised features; of logits, which are up to 100 times them.
_TOLERANCES = {"float32": 2e-5, "float16": 5e-3, "bfloat16": 5e-2}
_PICTURES, _TEXTS = 4, 6


class Features(NamedTuple):
    """What one implementation makes of the same input.

    Attributes:
      image: [pictures, dim] float32, L2-normalised.
      text: [texts, dim] float32, L2-normalised.
      logits: [pictures, texts] float32.
    """

    image: np.ndarray
    text: np.ndarray
    logits: np.ndarray


def verify(source: Source, out: Path, to: str, dtype: str) -> list[str]:
    """Compares what was written with what was read; the lines of a table.

    Args:
      source: what was converted.
      out: the folder or file that was written.
      to: its layout, one of `write.LAYOUTS`.
      dtype: of its weights.

    Raises:
      UserError: a tensor or a feature differs; the message holds the table.
    """
    if to == "pt":  # a bare file does not tell its number of heads
        written = dataclasses.replace(
            source,
            tensors=open_files(out),
            kind="weights",
            path=out,
            resized=False,
            projection=None,
        )
        layout.check(written.tensors, written.config)
    else:
        written = open_source(out)
    lines = _compare_tensors(source, written, dtype)
    differing = sum(line.endswith("DIFFERS") for line in lines)
    lines.append(f"{len(lines)} tensors, {differing} differ")
    more, largest = _compare_features(source, written)
    lines += ["", *more]
    limits = _TOLERANCES[dtype] * np.array([1, 1, 100])
    if differing or not (largest <= limits).all():
        raise UserError("\n".join([*lines, "the two sides differ; nothing was written"]))
    return lines


def _compare_tensors(source: Source, written: Source, dtype: str) -> list[str]:
    lines = []
    for name, tensor in written.tensors.items():
        rounded = source.tensors[name].floats().astype(DTYPES[dtype]).astype(np.float32)
        before, after = (
            hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()[:16]
            for value in (rounded, tensor.floats())
        )
        size = " x ".join(map(str, tensor.shape)) or "scalar"
        verdict = "same" if before == after else f"{after} DIFFERS"
        lines.append(f"{name:<58} {size:<18} {before} {verdict}")
    return lines


def _compare_features(source: Source, written: Source) -> tuple[list[str], np.ndarray]:
    pixels, tokens = _inputs(source.config)
    reference = _ours(source, pixels, tokens)
    sides, missing = {"written, in bioclip2_jax": _ours(written, pixels, tokens)}, []
    for what, side in (("read", source), ("written", written)):
        if side.kind == "checkpoint" or side.resized:
            continue  # only we can read it so
        peer = "transformers" if side.kind == "transformers" else "open_clip"
        try:
            torch = importlib.import_module("torch")
            module = importlib.import_module(peer)
        except Exception as error:  # a peer that is half installed raises nearly anything
            missing.append(f"without {peer}, which cannot be imported ({reason(error)})")
            continue
        run = _in_transformers if peer == "transformers" else _in_open_clip
        try:
            pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            with torch.no_grad():
                features = run(module, side, pictures, torch.from_numpy(tokens).long())
            sides[f"{what}, in {peer} {module.__version__}"] = features
        except Exception as error:
            raise UserError(
                f"{peer} cannot use the model {what} ({reason(error)}); nothing was written"
            ) from error
    largest = np.zeros(3)
    lines = [f"{'largest difference from the model read':<44} image    text     logits"]
    for name, features in sides.items():
        rows = [np.abs(x - y).max() for x, y in zip(features, reference, strict=True)]
        largest = np.maximum(largest, rows)
        lines.append(f"  {name:<42} " + " ".join(f"{row:<8.1e}" for row in rows))
    return lines + sorted(set(missing)), largest


def _inputs(config: ClipConfig) -> tuple[np.ndarray, np.ndarray]:
    """Noise pictures [n, size, size, 3] and token rows of all lengths [m, context]."""
    rng = np.random.default_rng(0)
    size, text = config.vision.image_size, config.text
    tokens = np.zeros((_TEXTS, text.context_length), np.int32)
    for row, length in zip(tokens, np.linspace(1, text.context_length - 1, _TEXTS), strict=True):
        row[: int(length)] = rng.integers(1, text.vocab_size - 1, int(length))
        row[int(length)] = text.vocab_size - 1  # the end mark has the largest id
    return rng.standard_normal((_PICTURES, size, size, 3), np.float32), tokens


def _ours(source: Source, pixels: np.ndarray, tokens: np.ndarray) -> Features:
    params = layout.read_params(source.tensors, source.config)
    model = Model(config=source.config, params=params, preprocess=source.preprocess)
    image, text = np.asarray(model.encode_image(pixels)), np.asarray(model.encode_text(tokens))
    return Features(image=image, text=text, logits=model.logit_scale * image @ text.T)


def _in_transformers(module: Any, side: Source, pictures: Any, tokens: Any) -> Features:
    """`pictures` are float32 [n, 3, size, size], here and below."""
    model = module.CLIPModel.from_pretrained(side.path, dtype=pictures.dtype).eval()
    out = model(pixel_values=pictures, input_ids=tokens)
    return Features(
        image=out.image_embeds.numpy(),
        text=out.text_embeds.numpy(),
        logits=out.logits_per_image.numpy(),
    )


def _in_open_clip(module: Any, side: Source, pictures: Any, tokens: Any) -> Features:
    model = module.model.CLIP(**to_open_clip(side.config))
    weights = module.factory.load_state_dict(str(side.path), device="cpu", weights_only=True)
    weights = layout.take_projection(weights, side.projection)
    for name in (layout.REPLAY, *layout.OPENAI_NUMBERS):
        weights.pop(name, None)
    model.load_state_dict(weights, strict=True)
    image, text, scale = model.eval()(pictures, tokens)
    logits = scale * image @ text.T
    return Features(image=image.numpy(), text=text.numpy(), logits=logits.numpy())
