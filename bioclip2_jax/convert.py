"""Between our parameters and open_clip's files: one table of names, read in both directions."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bioclip2_jax import images, model_card
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig, from_open_clip, to_open_clip

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
CARD_FILE = "README.md"
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

# (ours, open_clip's, axes of ours in the order of open_clip's; None: as it is)
_IMAGE = (
    ("image/class_embedding", "visual.class_embedding", None),
    ("image/position_embedding", "visual.positional_embedding", None),
    ("image/projection", "visual.proj", None),
    ("image/patch_embed/kernel", "visual.conv1.weight", (3, 2, 0, 1)),
    ("image/ln_pre/scale", "visual.ln_pre.weight", None),
    ("image/ln_pre/bias", "visual.ln_pre.bias", None),
    ("image/ln_post/scale", "visual.ln_post.weight", None),
    ("image/ln_post/bias", "visual.ln_post.bias", None),
)
_TEXT = (
    ("text/position_embedding", "positional_embedding", None),
    ("text/token_embedding", "token_embedding.weight", None),
    ("text/projection", "text_projection", None),
    ("text/ln_final/scale", "ln_final.weight", None),
    ("text/ln_final/bias", "ln_final.bias", None),
    ("logit_scale", "logit_scale", None),
)
_BLOCK = (
    ("ln_1/scale", "ln_1.weight", None),
    ("ln_1/bias", "ln_1.bias", None),
    ("attention/qkv/kernel", "attn.in_proj_weight", (1, 0)),
    ("attention/qkv/bias", "attn.in_proj_bias", None),
    ("attention/out/kernel", "attn.out_proj.weight", (1, 0)),
    ("attention/out/bias", "attn.out_proj.bias", None),
    ("ln_2/scale", "ln_2.weight", None),
    ("ln_2/bias", "ln_2.bias", None),
    ("mlp/fc/kernel", "mlp.c_fc.weight", (1, 0)),
    ("mlp/fc/bias", "mlp.c_fc.bias", None),
    ("mlp/proj/kernel", "mlp.c_proj.weight", (1, 0)),
    ("mlp/proj/bias", "mlp.c_proj.bias", None),
)


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the model's input; the fields of open_clip's `preprocess_cfg`."""

    size: int
    mean: tuple[float, ...] = images.CLIP_MEAN
    std: tuple[float, ...] = images.CLIP_STD
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"


def read_description(path: Path) -> tuple[ClipConfig, Preprocess]:
    """Reads an `open_clip_config.json` (our `model.json` has the same form).

    Raises:
      UserError: unreadable, not a plain CLIP ViT, or a setting that we cannot follow.
    """
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    try:
        if not isinstance(description, dict):
            raise UserError("not a JSON object")
        config = from_open_clip(description.get("model_cfg"))
        return config, _preprocess(description.get("preprocess_cfg") or {}, config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _preprocess(given: Mapping, config: ClipConfig) -> Preprocess:
    size = config.vision.image_size
    if given.get("size", size) not in (size, [size, size]):
        raise UserError(f"preprocess_cfg.size {given['size']} is not vision_cfg.image_size {size}")
    for name, known in (
        ("resize_mode", ("shortest", "squash")),
        ("interpolation", ("bicubic", "bilinear")),
    ):
        if given.get(name, known[0]) not in known:
            raise UserError(f"preprocess_cfg.{name} {given[name]!r} is not {' or '.join(known)}")
    return Preprocess(
        size,
        _channels("mean", given.get("mean") or images.CLIP_MEAN),
        _channels("std", given.get("std") or images.CLIP_STD),
        given.get("resize_mode", "shortest"),
        given.get("interpolation", "bicubic"),
    )


def _channels(name: str, value: object) -> tuple[float, ...]:
    values = [value] * 3 if isinstance(value, int | float) else value
    try:
        red, green, blue = (float(one) for one in values)
    except (TypeError, ValueError) as error:
        raise UserError(f"preprocess_cfg.{name} {value!r} is not three numbers") from error
    return red, green, blue


def write_description(config: ClipConfig, preprocess: Preprocess) -> dict:
    """The object that `read_description` reads and open_clip's `local-dir:` needs."""
    given = {
        "size": preprocess.size,
        "mode": "RGB",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize_mode,
        "fill_color": 0,
    }
    return {"model_cfg": to_open_clip(config), "preprocess_cfg": given}


def to_state_dict(params: Mapping, config: ClipConfig) -> dict[str, np.ndarray]:
    """Our parameters under open_clip's names and layouts, float32; the replay projection is left.

    Linear weights become [out, in], the patch convolution [out, 3, p, p]; stacked blocks are
    taken apart.
    """
    flat = {name: np.asarray(leaf, np.float32) for name, leaf in flatten(params).items()}
    tensors = {}
    for ours, theirs, axes in (*_IMAGE, *_TEXT):
        tensors[theirs] = _moved(flat[ours], axes)
    for prefix, stack, layers in _stacks(config):
        for ours, theirs, axes in _BLOCK:
            for layer in range(layers):
                name = f"{prefix}.{layer}.{theirs}"
                tensors[name] = _moved(flat[f"{stack}/{ours}"][layer], axes)
    return tensors


def from_state_dict(tensors: Mapping[str, np.ndarray], config: ClipConfig) -> dict:
    """Our float32 parameters from open_clip's tensors; the inverse of `to_state_dict`.

    `visual.continual_proj`, the original's replay projection, becomes `replay_projection`.

    Raises:
      UserError: keys are missing, unknown or misshapen; all of them are listed.
    """
    table = [*_IMAGE, *_TEXT]
    if "visual.continual_proj" in tensors:
        table.append(("image/replay_projection", "visual.continual_proj", None))
    abstract = clip.abstract_params(config, replay_projection="visual.continual_proj" in tensors)
    shapes = {name: leaf.shape for name, leaf in flatten(abstract).items()}
    flat, problems, used = {}, [], set()

    def take(ours: str, theirs: str, axes: tuple | None, shape: tuple) -> np.ndarray:
        used.add(theirs)
        if theirs not in tensors:
            problems.append(f"{theirs} is missing")
            return np.zeros(shape, np.float32)
        value = np.asarray(tensors[theirs]).astype(np.float32, copy=False)
        wanted = shape if axes is None else tuple(shape[axis] for axis in axes)
        # logit_scale is stored as [] or [1].
        if value.size == 1 and shape == ():
            value = value.reshape(())
        if value.shape != wanted:
            problems.append(f"{theirs} is {list(value.shape)}, expected {list(wanted)}")
            return np.zeros(shape, np.float32)
        return _moved(value, None if axes is None else tuple(np.argsort(axes)))

    for ours, theirs, axes in table:
        flat[ours] = take(ours, theirs, axes, shapes[ours])
    for prefix, stack, layers in _stacks(config):
        for ours, theirs, axes in _BLOCK:
            name = f"{stack}/{ours}"
            parts = [
                take(name, f"{prefix}.{layer}.{theirs}", axes, shapes[name][1:])
                for layer in range(layers)
            ]
            flat[name] = np.stack(parts)
    problems += [f"{name} is not known" for name in sorted(tensors.keys() - used)]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError(f"the weights do not fit: {'; '.join(problems[:10])}{more}")
    return _unflatten(flat)


def export_open_clip(
    params: Mapping,
    config: ClipConfig,
    preprocess: Preprocess,
    out_dir: Path,
    *,
    dtype: str = "float32",
    overwrite: bool = False,
    card: str | None = None,
) -> None:
    """Writes a directory that open_clip loads as `local-dir:PATH`, with a model card.

    Args:
      params: nested dict, see `models/clip.py`; a replay projection is left out.
      config: sizes.
      preprocess: how pictures are made its input.
      out_dir: new or empty; with `overwrite`, one that holds a model, whose three files are
        replaced.
      dtype: of the stored weights, a key of `DTYPES`.
      overwrite: see `out_dir`.
      card: text of README.md; None for one without training details.

    Raises:
      UsageError: `out_dir` is in use, or an unknown dtype.
      UserError: it cannot be written.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if out_dir.exists() and not out_dir.is_dir():
        raise UsageError(f"--out {out_dir} is a file; name a new or empty folder")
    if out_dir.is_dir() and any(out_dir.iterdir()):
        if not (out_dir / WEIGHTS_FILE).is_file():
            raise UsageError(f"--out {out_dir} holds other files; name a new or empty folder")
        if not overwrite:
            raise UsageError(f"--out {out_dir} already holds a model; add --overwrite")
    tensors = {
        name: np.ascontiguousarray(value.astype(DTYPES[dtype], copy=False))
        for name, value in to_state_dict(params, config).items()
    }
    texts = {
        CARD_FILE: card or model_card.render(config),
        CONFIG_FILE: json.dumps(write_description(config, preprocess), indent=2) + "\n",
    }
    try:
        parent = out_dir.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=parent) as partial:
            for name, text in texts.items():
                Path(partial, name).write_text(text, encoding="utf-8")
            weights = Path(partial, WEIGHTS_FILE)
            save_file(tensors, weights, metadata={"format": "pt"})
            # safetensors makes files that only their owner may read.
            weights.chmod(Path(partial, CONFIG_FILE).stat().st_mode)
            out_dir.mkdir(exist_ok=True)
            # Without its config, which comes last, the folder is no model to any reader.
            (out_dir / CONFIG_FILE).unlink(missing_ok=True)
            for name in (WEIGHTS_FILE, CARD_FILE, CONFIG_FILE):
                os.replace(Path(partial, name), out_dir / name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"--out {out_dir}: cannot be written ({error})") from error


def read_open_clip(folder: Path) -> tuple[ClipConfig, dict, Preprocess]:
    """Reads a directory with `open_clip_config.json` and `open_clip_model.safetensors`.

    Raises:
      UserError: a file is missing or damaged, or the weights do not fit the config.
    """
    config, preprocess = read_description(folder / CONFIG_FILE)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise UserError(f"{weights}: no such file; weights in PyTorch's .bin or .pt are not read")
    try:
        with safe_open(weights, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{weights}: damaged or incomplete ({error}); copy it again") from error
    try:
        return config, from_state_dict(tensors, config), preprocess
    except UserError as error:
        raise UserError(f"{weights}: {error}") from error


def _stacks(config: ClipConfig) -> tuple[tuple[str, str, int], ...]:
    return (
        ("visual.transformer.resblocks", "image/blocks", config.vision.layers),
        ("transformer.resblocks", "text/blocks", config.text.layers),
    )


def _moved(value: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    value = np.asarray(value)
    return value if axes is None else np.ascontiguousarray(value.transpose(axes))


def flatten(tree: Mapping) -> dict:
    """Nested dict → flat dict with `a/b/c` names."""
    leaves = jax.tree_util.tree_leaves_with_path(dict(tree))
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def _unflatten(flat: Mapping) -> dict:
    tree: dict = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
