"""The layout of transformers' `CLIPModel`: `config.json`, other names, q, k and v apart."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from bioclip2_jax.data import images
from bioclip2_jax.errors import UserError, naming
from bioclip2_jax.files import read_json_object
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.text import tokenizer
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.settings import (
    channels,
    check_settings,
    mlp_ratio,
    positive,
    section,
    side,
)
from bioclip2_jax.weights.tensors import Tensor, Tensors

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
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
_LARGEST = 2  # as the end mark it has a meaning of its own: the largest id, as in CLIP
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


# ---- config.json and preprocessor_config.json

# What these files say beside the model: where it came from, how its training began, how texts would
# be generated, how results are handed over. Dropout is over when a model is used.
_IDLE = frozenset(
    "_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path"
    " add_cross_attention attention_dropout attn_implementation bad_words_ids"
    " begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size"
    " decoder_start_token_id diversity_penalty do_sample dropout dtype early_stopping"
    " encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task"
    " forced_bos_token_id forced_eos_token_id id2label initializer_factor initializer_range"
    " is_decoder is_encoder_decoder label2id length_penalty logit_scale_init_value max_length"
    " min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences"
    " output_attentions output_hidden_states output_scores pad_token_id prefix problem_type"
    " remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id"
    " suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder"
    " tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript"
    " transformers_version typical_p use_bfloat16 use_cache".split()
)
_IDLE_OF_PROCESSOR = frozenset(
    "_valid_processor_keys data_format device disable_grouping do_convert_rgb input_data_format"
    " processor_class return_tensors transformers_version use_fast".split()
)
# What a file leaves out has the value of transformers' own default, that of ViT-B/32.
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
}
_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "eos_token_id": tokenizer.END,
}
_ACTIVATION = {"hidden_act": tuple(_ACTIVATIONS)}
_FIXED = {"layer_norm_eps": (1e-5,), "pruned_heads": (None, {})} | _ACTIVATION
_FIXED_VISION = _FIXED | {"num_channels": (3,), "model_type": ("clip_vision_model",)}
_FIXED_TEXT = _FIXED | {"model_type": ("clip_text_model",)}
_FIXED_MODEL = {"model_type": ("clip",), "architectures": (None, [], ["CLIPModel"])}
_PROCESSORS = tuple(
    f"CLIP{x}" for x in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil")
)
_FIXED_PROCESSOR = {
    "image_processor_type": (None, *_PROCESSORS, "CLIPFeatureExtractor"),
    "feature_extractor_type": (None, *_PROCESSORS, "CLIPFeatureExtractor"),
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True, False),
    "do_center_crop": (True, False),
    "do_pad": (None, False),
    "default_to_square": (None, False),
}


def read_config(folder: Path) -> tuple[ClipConfig, Preprocess]:
    """Reads `config.json` and what is there of `processor_config.json`, `preprocessor_config.json`.

    Raises:
      UserError: unreadable, not a CLIP with two plain ViT towers, or a setting that we cannot
        follow.
    """
    path = folder / CONFIG_FILE
    with naming(path):
        config = _config(read_json_object(path))
    size = config.vision.image_size
    # As transformers looks for it: newer versions keep it inside the processor of both kinds.
    whole, alone = folder / PROCESSOR_FILE, folder / PREPROCESSOR_FILE
    if whole.is_file() and "image_processor" in (both := read_json_object(whole)):
        with naming(whole):
            return config, _preprocess(section("image_processor", both["image_processor"]), size)
    if alone.is_file():
        with naming(alone):
            return config, _preprocess(read_json_object(alone), size)
    return config, Preprocess(size)


def _config(settings: dict[str, Any]) -> ClipConfig:
    if "model_type" not in settings:
        raise UserError("model_type is missing")
    sections = {f"{kind}_config{end}" for kind in ("vision", "text") for end in ("", "_dict")}
    followed = {"projection_dim", *sections}
    check_settings("", settings, followed=followed, fixed=_FIXED_MODEL, idle=_IDLE)
    vision = _settings_of("vision_config", settings, _VISION, _FIXED_VISION)
    text = _settings_of("text_config", settings, _TEXT, _FIXED_TEXT)
    activations = {tower["hidden_act"] for tower in (vision, text)}
    if len(activations) > 1:
        raise UserError(f"hidden_act is {' and '.join(sorted(activations))}: one for both is read")
    image_size, patch_size = (
        side(f"vision_config.{name}", vision[name]) for name in ("image_size", "patch_size")
    )
    if image_size % patch_size:
        raise UserError("vision_config.image_size cannot be divided by its patch_size")
    width, hidden, layers, heads = _sizes("vision_config", vision)
    text_width, text_hidden, text_layers, text_heads = _sizes("text_config", text)
    if text_hidden != 4 * text_width:
        raise UserError("text_config.intermediate_size is not four times its hidden_size")
    context, vocabulary = (
        positive(f"text_config.{name}", text[name])
        for name in ("max_position_embeddings", "vocab_size")
    )
    if text["eos_token_id"] not in (_LARGEST, vocabulary - 1):
        raise UserError(
            f"text_config.eos_token_id is {text['eos_token_id']!r}; texts are read at the largest"
            f" id, for which {vocabulary - 1} or {_LARGEST}, transformers' mark for it, can stand"
        )
    return ClipConfig(
        embed_dim=positive("projection_dim", settings.get("projection_dim", 512)),
        vision=VisionConfig(
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            layers=layers,
            head_width=width // heads,
            mlp_ratio=mlp_ratio(hidden, width),
        ),
        text=TextConfig(
            width=text_width,
            heads=text_heads,
            layers=text_layers,
            context_length=context,
            vocab_size=vocabulary,
        ),
        quick_gelu=_ACTIVATIONS[activations.pop()],
    )


def _settings_of(
    where: str,
    settings: dict[str, Any],
    defaults: dict[str, Any],
    fixed: dict[str, Any],
) -> dict[str, Any]:
    """One tower's, with defaults; old files say them twice, and `..._dict` is what counts."""
    for name in (f"{where}_dict", where):
        if settings.get(name) is not None:
            tower = section(name, settings[name])
            # Of a tower alone; the whole model's is what counts. Pictures have no end mark.
            idle = {*_IDLE, "projection_dim", "architectures", "eos_token_id"}
            check_settings(name, tower, followed=defaults, fixed=fixed, idle=idle)
            return defaults | tower
    return defaults


def _sizes(where: str, tower: dict[str, Any]) -> tuple[int, int, int, int]:
    """Width, hidden width, layers, heads."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    width, hidden, layers, heads = (positive(f"{where}.{name}", tower[name]) for name in names)
    if width % heads:
        raise UserError(f"{where}.hidden_size {width} cannot be divided into {heads} heads")
    return width, hidden, layers, heads


def _preprocess(settings: dict[str, Any], size: int) -> Preprocess:
    followed = {"size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor"}
    check_settings("", settings, followed=followed, fixed=_FIXED_PROCESSOR, idle=_IDLE_OF_PROCESSOR)
    given = {name: value for name, value in settings.items() if value is not None}
    filters = {number: name for name, number in _RESAMPLE.items()}
    resample = given.get("resample", _RESAMPLE["bicubic"])
    if resample not in filters:
        raise UserError(f"resample {resample!r} is neither 2 (bilinear) nor 3 (bicubic)")
    factor = given.get("rescale_factor", 1 / 255)
    if not isinstance(factor, int | float) or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise UserError(f"rescale_factor is {factor!r}; 1/255 can be read")
    mean = channels("image_mean", given.get("image_mean", images.CLIP_MEAN))
    std = channels("image_std", given.get("image_std", images.CLIP_STD), above_zero=True)
    if not settings.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Preprocess(
        size=size,
        mean=mean,
        std=std,
        resize_mode=_resize_mode(given, size),
        interpolation=filters[resample],
    )


def _resize_mode(settings: dict[str, Any], size: int) -> str:
    crops = settings.get("do_center_crop", True)
    resized = settings.get("size", {"shortest_edge": 224})
    cropped = settings.get("crop_size", {"height": 224, "width": 224})
    square = {"height": size, "width": size}
    to_size = cropped in (size, square)  # old files have the number alone
    if resized == square and (to_size or not crops):
        return "squash"
    if resized in (size, {"shortest_edge": size}) and to_size and crops:
        return "shortest"
    what = f"crops to {cropped}" if crops else "crops nothing"
    raise UserError(
        f"resizes to {resized} and {what}; for a model of {size} pixels can be read: the shorter"
        f" side to {size} and the middle of it, or all of it squashed to {size} x {size}"
    )


def _tower(
    kind: str, config: ClipConfig, sizes: VisionConfig | TextConfig, hidden: int
) -> dict[str, Any]:
    """What both towers say of themselves."""
    return {
        "model_type": f"clip_{kind}_model",
        "hidden_size": sizes.width,
        "intermediate_size": hidden,
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
    clips_own = text.vocab_size == tokenizer.END + 1
    model = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": dtype,
        "projection_dim": config.embed_dim,
        "vision_config": {
            **_tower("vision", config, vision, vision.hidden),
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        "text_config": {
            **_tower("text", config, text, 4 * text.width),
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            "bos_token_id": tokenizer.START if clips_own else 0,
            "eos_token_id": tokenizer.END if clips_own else _LARGEST,
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
