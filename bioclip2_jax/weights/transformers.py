"""The layout of transformers' `CLIPModel`: `config.json`, other names, q, k and v apart."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from bioclip2_jax.errors import UserError, naming
from bioclip2_jax.files import read_json_object
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.text import tokenizer
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.description import Preprocess, channels
from bioclip2_jax.weights.tensors import Tensor, Tensors

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# open_clip's name → transformers' name; a projection is stored turned there.
_SINGLE = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # (sic)
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
_TURNED = ("visual.proj", "text_projection")
_BLOCK = {
    "ln_1": ["layer_norm1"],
    "attn.in_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.out_proj": ["self_attn.out_proj"],
    "ln_2": ["layer_norm2"],
    "mlp.c_fc": ["mlp.fc1"],
    "mlp.c_proj": ["mlp.fc2"],
}
_STACKS = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
}
_OF_BLOCK = re.compile(r"(.+)\.(\d+)\.(.+)[._](weight|bias)")
# Numbers 0, 1, 2 ... that older versions stored.
_BUFFERS = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")
_ACTIVATIONS = {"gelu": False, "quick_gelu": True}
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


def _names(ours: str) -> list[str]:
    """open_clip's name → transformers' names: one, or those of q, k and v."""
    if ours in _SINGLE:
        return [_SINGLE[ours]]
    ((stack, layer, module, part),) = _OF_BLOCK.findall(ours)
    return [f"{_STACKS[stack]}.{layer}.{theirs}.{part}" for theirs in _BLOCK[module]]


def as_open_clip(tensors: Tensors, config: ClipConfig) -> Tensors:
    """A `CLIPModel`'s tensors under open_clip's names; what has no such name keeps its own."""
    left = {name: tensor for name, tensor in tensors.items() if name not in _BUFFERS}
    named = {}
    for ours in (name for leaf in layout.leaves(config) for name in leaf.theirs):
        theirs = _names(ours)
        if left.keys() >= set(theirs):  # else `layout.check` names what is missing
            parts = [left.pop(name) for name in theirs]
            if len({part.shape for part in parts}) > 1:
                raise UserError(f"{', '.join(theirs)} are of different shapes")
            whole = parts[0] if len(parts) == 1 else _joined(parts)
            named[ours] = _turned(whole) if ours in _TURNED else whole
    return named | left


def from_open_clip(tensors: Tensors) -> Tensors:
    """open_clip's tensors under the names of `CLIPModel`; the inverse of `as_open_clip`."""
    named = {}
    for ours, tensor in tensors.items():
        theirs, whole = _names(ours), _turned(tensor) if ours in _TURNED else tensor
        for number, name in enumerate(theirs):
            named[name] = whole if len(theirs) == 1 else _cut(whole, number, len(theirs))
    return named


def _joined(parts: list[Tensor]) -> Tensor:
    rows, rest = parts[0].shape[:1], parts[0].shape[1:]
    return Tensor(
        shape=(*(len(parts) * n for n in rows), *rest),
        dtype=parts[0].dtype,
        read=lambda: np.concatenate([part.read() for part in parts]),
    )


def _cut(whole: Tensor, number: int, parts: int) -> Tensor:
    rows, *rest = whole.shape
    return Tensor(
        shape=(rows // parts, *rest),
        dtype=whole.dtype,
        read=lambda: np.split(whole.read(), parts)[number],
    )


def _turned(tensor: Tensor) -> Tensor:
    return Tensor(
        shape=tensor.shape[::-1],
        dtype=tensor.dtype,
        read=lambda: np.ascontiguousarray(tensor.read().T),
    )


# ---- config.json


def read_config(folder: Path) -> tuple[ClipConfig, Preprocess]:
    """Reads `config.json` and, if there, `preprocessor_config.json`.

    Raises:
      UserError: unreadable, or not a CLIP with two plain ViT towers.
    """
    path = folder / CONFIG_FILE
    settings = read_json_object(path)
    with naming(path):
        try:
            config = _config(settings)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"a setting is missing or of the wrong kind ({error})") from error
    path = folder / PREPROCESSOR_FILE
    size = config.vision.image_size
    return config, _preprocess(path, size) if path.is_file() else Preprocess(size)


def _config(settings: dict[str, Any]) -> ClipConfig:
    if settings.get("model_type") != "clip":
        raise UserError(f"model_type {settings.get('model_type')!r} is not 'clip'")
    # What the file leaves out has the value of transformers' own default, that of ViT-B/32.
    vision: dict[str, Any] = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
    } | (settings.get("vision_config") or {})
    text: dict[str, Any] = {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
    } | (settings.get("text_config") or {})
    for tower in (vision, text):
        if tower.get("layer_norm_eps", 1e-5) != 1e-5:
            raise UserError(f"layer_norm_eps {tower['layer_norm_eps']} is not 1e-05")
        if tower["hidden_size"] % tower["num_attention_heads"]:
            raise UserError("hidden_size cannot be divided by num_attention_heads")
    if text["intermediate_size"] != 4 * text["hidden_size"]:
        raise UserError("text_config.intermediate_size is not four times its hidden_size")
    if vision["image_size"] % vision["patch_size"]:
        raise UserError("vision_config.image_size cannot be divided by its patch_size")
    activations = {tower.get("hidden_act", "quick_gelu") for tower in (vision, text)}
    if len(activations) > 1 or not activations <= _ACTIVATIONS.keys():
        raise UserError(f"hidden_act {', '.join(sorted(activations))}: gelu or quick_gelu is read")
    return ClipConfig(
        embed_dim=int(settings.get("projection_dim", 512)),
        vision=VisionConfig(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            width=vision["hidden_size"],
            layers=vision["num_hidden_layers"],
            head_width=vision["hidden_size"] // vision["num_attention_heads"],
            mlp_ratio=vision["intermediate_size"] / vision["hidden_size"],
        ),
        text=TextConfig(
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            layers=text["num_hidden_layers"],
            context_length=text["max_position_embeddings"],
            vocab_size=text["vocab_size"],
        ),
        quick_gelu=_ACTIVATIONS[activations.pop()],
    )


def _preprocess(path: Path, size: int) -> Preprocess:
    settings, default = read_json_object(path), Preprocess(size)
    filters = {number: name for name, number in _RESAMPLE.items()}
    resample = settings.get("resample", _RESAMPLE["bicubic"])
    if resample not in filters:
        raise UserError(f"{path}: resample {resample!r} is neither 2 (bilinear) nor 3 (bicubic)")
    return Preprocess(
        size=size,
        mean=channels(f"{path}: image_mean", settings.get("image_mean") or default.mean),
        std=channels(f"{path}: image_std", settings.get("image_std") or default.std),
        resize_mode="shortest" if settings.get("do_center_crop", True) else "squash",
        interpolation=filters[resample],
    )


def _tower(
    kind: str, config: ClipConfig, sizes: VisionConfig | TextConfig, mlp_ratio: float
) -> dict[str, Any]:
    """What both towers say of themselves."""
    return {
        "model_type": f"clip_{kind}_model",
        "hidden_size": sizes.width,
        "intermediate_size": int(mlp_ratio * sizes.width),
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "projection_dim": config.embed_dim,
        "hidden_act": "quick_gelu" if config.quick_gelu else "gelu",
        "layer_norm_eps": 1e-5,
    }


def write_files(config: ClipConfig, preprocess: Preprocess, dtype: str) -> dict[str, str]:
    """File name → text, of all that a folder holds beside the weights and the model card."""
    vision, text, size = config.vision, config.text, preprocess.size
    squash = preprocess.resize_mode == "squash"
    whole_vocabulary = text.vocab_size > tokenizer.END
    model = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": dtype,
        "projection_dim": config.embed_dim,
        "vision_config": {
            **_tower("vision", config, vision, vision.mlp_ratio),
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        "text_config": {
            **_tower("text", config, text, 4.0),
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            "bos_token_id": tokenizer.START if whole_vocabulary else 0,
            # 2 has a meaning of its own there: pool at the largest id, as CLIP does.
            "eos_token_id": tokenizer.END if whole_vocabulary else 2,
            "pad_token_id": 0,
        },
    }
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size} if squash else {"shortest_edge": size},
        "resample": _RESAMPLE[preprocess.interpolation],
        "do_center_crop": not squash,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    files = {
        CONFIG_FILE: model,
        PREPROCESSOR_FILE: preprocessor,
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": _BOS,
            "eos_token": _EOS,
            "unk_token": _EOS,
            "pad_token": "!",  # id 0, as in training
            "model_max_length": text.context_length,
        },
    }
    vocabulary, merges = tokenizer.tables()
    files["vocab.json"] = vocabulary | {_BOS: tokenizer.START, _EOS: tokenizer.END}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    texts = {name: json.dumps(value, indent=2) + "\n" for name, value in files.items()}
    return texts | {"merges.txt": "\n".join(lines) + "\n"}
