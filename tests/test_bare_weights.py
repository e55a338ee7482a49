"""Files of tensors alone: heads that cannot be seen, and projections beside the usual one."""

import dataclasses
import json
import struct

import jax
import numpy as np
import pytest
from kept_models import export_open_clip, read, state_dict
from safetensors.numpy import load_file, save_file
from test_convert_forms import CONFIG, PREPROCESS, call, random_params, succeed

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.infer import infer_config
from bioclip2_jax.weights.open import CONFIG_FILE, WEIGHTS_FILE, open_source
from bioclip2_jax.weights.settings import mlp_ratio
from bioclip2_jax.weights.tensors import Tensor

B16 = PRESETS["vit_b16"]
# Models of open_clip in two layers: name → (sizes, heads of both towers).
LARGE = {
    "H/16": (VisionConfig(224, 16, 1280, 2, 80), TextConfig(1024, 16, 2), (16, 16)),
    "g/14": (VisionConfig(224, 14, 1408, 2, 88, 4.3637), TextConfig(1024, 16, 2), (16, 16)),
    "bigG/14": (VisionConfig(224, 14, 1664, 2, 104, 4.9231), TextConfig(1280, 20, 2), (16, 20)),
    "e/14": (VisionConfig(224, 14, 1792, 2, 112, 8.5715), TextConfig(1280, 20, 2), (16, 20)),
    "B/16-plus": (VisionConfig(240, 16, 896, 2), TextConfig(640, 10, 2), (14, 10)),
}


def shapes_of(config: ClipConfig, replay: bool = False) -> dict[str, Tensor]:
    return {
        name: Tensor(leaf.their_shape, "float32", None)
        for leaf in layout.leaves(config, replay)
        for name in leaf.theirs
    }


@pytest.mark.parametrize("name", LARGE)
def test_heads_are_those_of_open_clips_models_of_this_width(name):
    vision, text, heads = LARGE[name]
    config = infer_config(shapes_of(ClipConfig(768, vision, text)))
    assert (config.vision.heads, config.text.heads) == heads
    # A ratio is not stored: any that cuts to the same width will do.
    assert config.vision.hidden == vision.hidden
    same = dataclasses.replace(config.vision, mlp_ratio=vision.mlp_ratio)
    assert (same, config.text) == (vision, text)
    layout.check(shapes_of(ClipConfig(768, vision, text)), config)


def test_a_width_without_a_known_model_takes_the_heads_that_are_given(tmp_path):
    config = dataclasses.replace(CONFIG, vision=dataclasses.replace(CONFIG.vision, width=128))
    tensors = shapes_of(config)
    with pytest.raises(UserError, match="image tower of width 128.*--heads N.*--model-config"):
        infer_config(tensors)
    with pytest.raises(UserError, match="text tower of width 32.*--text-heads N"):
        infer_config(tensors, heads=8)
    with pytest.raises(UsageError, match="--heads 5 does not divide .* width 128"):
        infer_config(tensors, heads=5)
    assert infer_config(tensors, heads=8, text_heads=2) == config
    # Given heads count also where a preset would have others.
    tiny = infer_config(shapes_of(PRESETS["tiny"]), heads=2)
    assert (tiny.vision.heads, tiny.text) == (2, PRESETS["tiny"].text)


def test_heads_on_the_command_line_are_for_files_that_do_not_tell_them(tmp_path):
    path = tmp_path / "bare.safetensors"
    save_file(state_dict(random_params(CONFIG), CONFIG), path)
    heads = ("--heads", 3, "--text-heads", 2)
    output = succeed(path, tmp_path / "out", "--to", "open_clip", *heads)
    assert "3 and 2 heads" in output and read(tmp_path / "out")[0] == CONFIG
    for source in (tmp_path / "out", tmp_path):
        result = call(source, tmp_path / "x", *heads)
        assert isinstance(result.exception, UsageError) and "--heads" in str(result.exception)
    result = call(tmp_path / "out" / WEIGHTS_FILE, tmp_path / "x", *heads)
    assert isinstance(result.exception, UsageError) and "tells the heads" in str(result.exception)


def test_every_hidden_width_has_a_ratio_that_open_clip_cuts_to_it():
    for width in (72, 104, 1408, 1664, 1792):
        for hidden in (*range(width, 4 * width, 7), 120, 6144, 8192, 15360):
            assert int(width * mlp_ratio(hidden, width)) == hidden
    vision = VisionConfig(16, 8, 104, 1, 52, mlp_ratio(120, 104))
    config = ClipConfig(8, vision, TextConfig(64, 1, 1, 8, 20))
    assert vision.hidden == 120  # 104 * (120 / 104) is a little less
    assert infer_config(shapes_of(config), heads=2) == config


# ---- Files of the family


def write_shapes(path, tensors: dict[str, Tensor], dtype: str, size: int) -> None:
    """A safetensors file of zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + int(np.prod(tensor.shape)) * size
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def test_bioclip_2_5_is_read_with_and_without_its_config(tmp_path):
    tensors = shapes_of(PRESETS["vit_h14"], replay=True)  # as its training saves it
    write_shapes(tmp_path / WEIGHTS_FILE, tensors, "BF16", 2)
    assert open_source(tmp_path / WEIGHTS_FILE).config == PRESETS["vit_h14"]
    sizes = {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14}
    text = {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24}
    model = {"embed_dim": 1024, "vision_cfg": sizes | {"is_continual": True}, "text_cfg": text}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": model}))
    source = open_source(tmp_path)
    assert source.config == PRESETS["vit_h14"] and layout.REPLAY in source.tensors


def test_biocap_is_read_with_its_projection_for_taxa_and_what_is_left_out_is_said(tmp_path):
    tensors = shapes_of(B16) | {
        "visual.caption_proj": Tensor((768, 512), "float32", None),
        "logit_scale_caption": Tensor((), "float32", None),
    }
    write_shapes(tmp_path / "epoch_50.safetensors", tensors, "F32", 4)
    source = open_source(tmp_path / "epoch_50.safetensors")
    assert source.config == B16 and "left out: logit_scale_caption" in source.notes[0]
    assert "visual.caption_proj; --projection NAME" in source.notes[0]


@pytest.fixture
def biocap(tmp_path):
    """A folder as BioCAP's, in small; and its tensors."""
    params = random_params(CONFIG)
    export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "biocap")
    tensors = state_dict(params, CONFIG)
    tensors["visual.caption_proj"] = tensors["visual.proj"] + 1
    tensors["logit_scale_caption"] = np.array(1.5, "f4")
    save_file(tensors, tmp_path / "biocap" / WEIGHTS_FILE)
    path = tmp_path / "biocap" / CONFIG_FILE
    description = json.loads(path.read_text())
    description["model_cfg"]["vision_cfg"]["dual_projector"] = True
    path.write_text(json.dumps(description))
    return tmp_path / "biocap", tensors


def test_a_further_projection_is_taken_by_name_with_its_temperature(biocap, tmp_path):
    folder, tensors = biocap
    options = ("--to", "open_clip", "--projection")
    output = succeed(folder, tmp_path / "out", *options, "caption_proj", "--verify")
    assert "in the place of visual.proj" in output and "0 differ" in output
    found = load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert found.keys() == tensors.keys() - {"visual.caption_proj", "logit_scale_caption"}
    np.testing.assert_array_equal(found["visual.proj"], tensors["visual.caption_proj"])
    assert found["logit_scale"] == np.float32(1.5)
    np.testing.assert_array_equal(found["text_projection"], tensors["text_projection"])
    succeed(folder, tmp_path / "long", *options, "visual.caption_proj")
    assert (tmp_path / "long" / WEIGHTS_FILE).read_bytes() == (
        tmp_path / "out" / WEIGHTS_FILE
    ).read_bytes()


def test_a_projection_that_is_not_there_is_answered_with_those_that_are(biocap, tmp_path):
    folder, _ = biocap
    for name in ("trait_proj", "conv1.weight"):
        result = call(folder, tmp_path / "x", "--projection", name)
        assert isinstance(result.exception, UserError)
        assert "but visual.caption_proj, visual.proj" in str(result.exception)
    succeed(folder, tmp_path / "hf", "--to", "transformers")
    result = call(tmp_path / "hf", tmp_path / "x", "--projection", "caption_proj")
    assert isinstance(result.exception, UsageError)


def test_the_replay_projection_can_be_taken_too_and_keeps_the_one_temperature(tmp_path):
    params = random_params(CONFIG, replay_projection=True)
    options = {"keep_replay_projection": True}
    export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "both", **options)
    found = layout.read_params(
        open_source(tmp_path / "both", projection="continual_proj").tensors, CONFIG
    )
    image = {k: v for k, v in params["image"].items() if k != "replay_projection"}
    image["projection"] = params["image"]["replay_projection"]
    jax.tree.map(np.testing.assert_array_equal, found, params | {"image": image})


def test_a_tensor_that_only_looks_like_a_projection_is_refused(biocap, tmp_path):
    folder, tensors = biocap
    save_file(tensors | {"visual.trait_proj": np.zeros((48, 4), np.float32)}, folder / WEIGHTS_FILE)
    with pytest.raises(UserError, match=r"visual\.trait_proj is not known"):
        open_source(folder)


# ---- BioCLIP-HC


def test_a_euclidean_bioclip_hc_is_a_clip_and_a_hyperbolic_one_is_refused_with_the_reason(tmp_path):
    """Both as their training code makes them: open_clip's CLIP, and the same with three numbers."""
    params = random_params(CONFIG)
    export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "hc")
    path = tmp_path / "hc" / CONFIG_FILE
    description = json.loads(path.read_text())

    def write(**more: bool) -> None:
        path.write_text(json.dumps(description | {"model_cfg": description["model_cfg"] | more}))

    write(use_hyperbolic=False)
    jax.tree.map(np.testing.assert_array_equal, read(tmp_path / "hc")[1], params)
    write(use_hyperbolic=True)
    refused = call(tmp_path / "hc", tmp_path / "x").exception
    assert isinstance(refused, UserError)
    said = f"{path}: model_cfg.use_hyperbolic is set: a hyperbolic model"
    assert str(refused).startswith(said) and "hf-hub:imageomics/bioclip-hc-euclidean" in str(
        refused
    )
    # Without its config, or with one that says nothing of it.
    numbers = {name: np.float32(-3) for name in ("curv", "visual_alpha", "textual_alpha")}
    save_file(
        state_dict(params, CONFIG) | {k: np.asarray(v) for k, v in numbers.items()},
        path.parent / WEIGHTS_FILE,
    )
    write()
    for source in (path.parent, path.parent / WEIGHTS_FILE):
        refused = call(source, tmp_path / "x").exception
        assert isinstance(refused, UserError) and not (tmp_path / "x").exists()
        assert "holds curv, textual_alpha, visual_alpha: a hyperbolic model" in str(refused)


def test_a_training_checkpoint_of_bioclip_hc_is_read(tmp_path):
    """`epoch_N.pt` of several GPUs: the state dict beside the optimizer's, its names prefixed."""
    torch = pytest.importorskip("torch")
    params = random_params(CONFIG)
    tensors = {f"module.{k}": torch.tensor(v) for k, v in state_dict(params, CONFIG).items()}
    torch.save(
        {"epoch": 80, "name": "hc", "state_dict": tensors, "optimizer": {}},
        tmp_path / "epoch_80.pt",
    )
    found = layout.read_params(
        open_source(tmp_path / "epoch_80.pt", heads=3, text_heads=2).tensors, CONFIG
    )
    jax.tree.map(np.testing.assert_array_equal, found, params)
