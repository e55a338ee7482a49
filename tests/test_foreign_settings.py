"""Every key of a foreign file is followed, refused, or known to change nothing."""

import json

import pytest
from kept_models import export_open_clip, read, save_run
from test_convert_forms import CONFIG, PREPROCESS, random_params, succeed

from bioclip2_jax.errors import UserError
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights import transformers
from bioclip2_jax.weights.description import (
    CONFIG_FILE,
    Preprocess,
    from_open_clip,
    read_description,
    to_open_clip,
    write_description,
)

GONE = object()


def edited(settings: dict, changes: dict) -> dict:
    """`a.b` → value, or `GONE`."""
    settings = json.loads(json.dumps(settings))
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        node = settings
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is GONE:
            del node[leaf]
        else:
            node[leaf] = value
    return settings


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """transformers' files: name → object."""
    folder = tmp_path_factory.mktemp("good")
    export_open_clip(random_params(CONFIG), CONFIG, PREPROCESS, folder / "open_clip")
    succeed(folder / "open_clip", folder / "hf", "--to", "transformers")
    names = (transformers.CONFIG_FILE, transformers.PREPROCESSOR_FILE)
    return {name: json.loads((folder / "hf" / name).read_text()) for name in names}


@pytest.fixture
def read_changed(good, tmp_path):
    """(file, changes) → what is then read."""

    def read_changed(file: str, changes: dict) -> tuple:
        for name, settings in good.items():
            text = json.dumps(edited(settings, changes if name == file else {}))
            (tmp_path / name).write_text(text)
        return transformers.read_config(tmp_path)

    return read_changed


# ---- transformers' config.json


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rotary": True}, "holds rotary: not known"),
        ({"vision_config.window_size": 7}, "vision_config holds window_size"),
        ({"text_config.is_causal": False}, "text_config holds is_causal"),
        ({"quantization_config": {"bits": 4}}, "holds quantization_config"),
        ({"auto_map": {"AutoModel": "mine.Model"}}, "holds auto_map"),
        ({"architectures": ["CLIPVisionModel"]}, "architectures is"),
        ({"vision_config.hidden_act": "gelu_new"}, "vision_config.hidden_act is 'gelu_new'"),
        ({"vision_config.hidden_act": "quick_gelu"}, "hidden_act is gelu and quick_gelu"),
        ({"text_config.layer_norm_eps": 1e-6}, "text_config.layer_norm_eps is 1e-06"),
        ({"vision_config.num_channels": 4}, "num_channels is 4"),
        ({"vision_config.model_type": "siglip_vision_model"}, "vision_config.model_type"),
        ({"vision_config.pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"vision_config.num_attention_heads": 5}, "48 cannot be divided into 5 heads"),
        ({"vision_config.num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"vision_config.num_attention_heads": -3}, "num_attention_heads is -3"),
        ({"text_config.num_attention_heads": True}, "num_attention_heads is True"),
        ({"text_config.num_hidden_layers": 2.0}, "num_hidden_layers is 2.0"),
        ({"text_config.num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
        ({"vision_config.hidden_size": None}, "hidden_size is missing"),
        ({"vision_config.image_size": [24, 30]}, "image_size is .24, 30."),
        ({"projection_dim": 0}, "projection_dim is 0"),
        ({"vision_config": [1]}, "vision_config is missing or not an object"),
        ({"text_config.eos_token_id": 58}, "eos_token_id is 58"),
        ({"text_config.eos_token_id": [59]}, "eos_token_id is"),
        ({"text_config.eos_token_id": GONE}, "eos_token_id is 49407"),
        ({"vision_config_dict.window_size": 7}, "vision_config_dict holds window_size"),
    ],
)
def test_what_config_json_says_and_cannot_be_followed_is_refused(read_changed, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        read_changed(transformers.CONFIG_FILE, changes)
    assert transformers.CONFIG_FILE in str(caught.value) and "\n" not in str(caught.value)


def test_what_changes_nothing_in_config_json_is_passed_over(read_changed):
    idle = {"_name_or_path": "x", "transformers_version": "4.9", "torch_dtype": "float16"}
    tower = idle | {"attention_dropout": 0.1, "id2label": {"0": "A"}, "projection_dim": 3}
    changes = idle | {"logit_scale_init_value": 1.0, "initializer_factor": 2.0}
    changes |= {f"{where}_config.{k}": v for where in ("text", "vision") for k, v in tower.items()}
    changes |= {"vision_config.eos_token_id": 7, "vision_config.strange": None}
    assert read_changed(transformers.CONFIG_FILE, changes) == (CONFIG, PREPROCESS)
    for mark in (2, 59):  # both are the largest id of sixty
        changes = {"text_config.eos_token_id": mark}
        assert read_changed(transformers.CONFIG_FILE, changes)[0] == CONFIG


def test_a_tower_that_is_said_twice_is_what_its_dict_says(read_changed, good):
    # The dict counts whole: what it leaves out is a default again, not what stands beside it.
    told = good[transformers.CONFIG_FILE]["vision_config"]
    config, _ = read_changed(
        transformers.CONFIG_FILE,
        {
            "vision_config": {"hidden_size": 64, "num_attention_heads": 4, "patch_size": 3},
            "vision_config_dict": {k: v for k, v in told.items() if k != "num_hidden_layers"},
        },
    )
    assert config.vision.layers == 12 and config.vision.width == CONFIG.vision.width
    assert config.vision.heads == CONFIG.vision.heads and config.vision.patch_size == 6


# ---- transformers' preprocessor_config.json

SQUARE = {"height": 24, "width": 24}
SHORTEST = {"size": {"shortest_edge": 24}, "do_center_crop": True}


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        (SHORTEST, "shortest"),
        ({"size": 24, "crop_size": 24, "do_center_crop": True}, "shortest"),  # old files
        (SHORTEST | {"do_center_crop": GONE}, "shortest"),  # the default
        ({"do_center_crop": True}, "squash"),  # the crop is all of it
        ({"crop_size": GONE}, "squash"),
    ],
)
def test_both_ways_to_a_square_are_told_apart(read_changed, changes, mode):
    assert read_changed(transformers.PREPROCESSOR_FILE, changes)[1].resize_mode == mode


def test_pictures_that_are_not_normalised_have_mean_0_and_deviation_1(read_changed):
    _, found = read_changed(transformers.PREPROCESSOR_FILE, {"do_normalize": False})
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (SHORTEST | {"size": {"shortest_edge": 32}}, "resizes to .* and crops to"),
        (SHORTEST | {"crop_size": {"height": 20, "width": 20}}, "crops to"),
        (SHORTEST | {"do_center_crop": False}, "crops nothing"),
        ({"size": {"height": 24, "width": 30}}, "resizes to"),
        ({"size": {"height": 32, "width": 32}}, "for a model of 24 pixels"),
        (SHORTEST | {"size": GONE}, "'shortest_edge': 224"),
        ({"do_center_crop": True, "crop_size": GONE}, "crops to .*224"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.0078"),
        ({"rescale_factor": "a"}, "rescale_factor is 'a'"),
        ({"do_rescale": False}, "do_rescale is False"),
        ({"do_resize": False}, "do_resize is False"),
        ({"do_pad": True}, "do_pad is True"),
        ({"do_normalize": "no"}, "do_normalize is 'no'"),
        ({"image_processor_type": "ViTImageProcessor"}, "image_processor_type"),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, "feature_extractor_type"),
        ({"crop_pct": 0.875}, "holds crop_pct"),
        ({"resample": 0}, "resample 0 is neither"),
        ({"image_std": [0.2, 0.2, 0]}, "above zero"),
        ({"image_mean": [0.2, float("nan"), 0]}, "finite"),
    ],
)
def test_what_the_preprocessor_says_and_cannot_be_followed_is_refused(read_changed, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        read_changed(transformers.PREPROCESSOR_FILE, changes)
    assert transformers.PREPROCESSOR_FILE in str(caught.value)


def test_the_image_processor_inside_a_processor_counts_before_the_one_alone(
    read_changed, good, tmp_path
):
    inside = edited(good[transformers.PREPROCESSOR_FILE], {"image_mean": [0.7, 0.8, 0.9]})
    both = {"processor_class": "CLIPProcessor", "image_processor": inside}
    (tmp_path / transformers.PROCESSOR_FILE).write_text(json.dumps(both))
    assert read_changed("", {})[1].mean == (0.7, 0.8, 0.9)
    both["image_processor"]["do_resize"] = False
    (tmp_path / transformers.PROCESSOR_FILE).write_text(json.dumps(both))
    with pytest.raises(UserError, match=f"{transformers.PROCESSOR_FILE}: do_resize"):
        read_changed("", {})


# ---- open_clip_config.json and our model.json

PLAIN = {
    "model_cfg.init_logit_scale": 4.6,
    "model_cfg.custom_text": False,
    "model_cfg.vision_cfg.pool_type": "tok",
    "model_cfg.vision_cfg.pos_embed_type": "learnable",
    "model_cfg.vision_cfg.patch_dropout": 0.5,
    "model_cfg.vision_cfg.attn_pooler_heads": 8,
    "model_cfg.vision_cfg.norm_kwargs": {"eps": 1e-5},
    "model_cfg.vision_cfg.patch_size": [8, 8],
    "model_cfg.text_cfg.pool_type": "argmax",
    "model_cfg.text_cfg.proj_type": "linear",
    "model_cfg.text_cfg.proj_bias": False,
    "model_cfg.text_cfg.mlp_ratio": 4.0,
    "model_cfg.text_cfg.eos_id": 2,
    "model_cfg.text_cfg.tokenizer_kwargs": {"clean": "lower"},
    "preprocess_cfg.resize_mode": None,
    "preprocess_cfg.size": None,
    "preprocess_cfg.fill_color": 7,
}


@pytest.fixture
def read_open_clip(tmp_path):
    """Changes → what is then read."""

    def read_open_clip(changes: dict) -> tuple:
        description = write_description(PRESETS["tiny"], Preprocess(64))
        (tmp_path / CONFIG_FILE).write_text(json.dumps(edited(description, changes)))
        return read_description(tmp_path / CONFIG_FILE)

    return read_open_clip


def test_an_open_clip_config_that_spells_out_the_defaults_is_plain_clip(read_open_clip):
    assert read_open_clip(PLAIN) == (PRESETS["tiny"], Preprocess(64))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": 3}, "holds tokens"),
        ({"model_cfg.sigmoid": True}, "model_cfg holds sigmoid"),
        ({"model_cfg.init_logit_bias": -10}, "holds init_logit_bias"),
        ({"model_cfg.quick_gelu": "false"}, "quick_gelu is 'false'"),
        ({"model_cfg.vision_cfg.pool_type": "avg"}, "pool_type is 'avg'; 'tok' can be read"),
        ({"model_cfg.vision_cfg.pos_embed_type": "rope"}, "pos_embed_type"),
        ({"model_cfg.vision_cfg.norm_kwargs": {"eps": 1e-6}}, "norm_kwargs"),
        ({"model_cfg.vision_cfg.act_kwargs": {"approximate": "tanh"}}, "act_kwargs"),
        ({"model_cfg.vision_cfg.registers": 4}, "vision_cfg holds registers"),
        ({"model_cfg.vision_cfg.mlp_ratio": 0.001}, "leaves no MLP"),
        ({"model_cfg.vision_cfg.mlp_ratio": float("inf")}, "mlp_ratio is inf"),
        ({"model_cfg.text_cfg.pool_type": "last"}, "text_cfg.pool_type"),
        ({"model_cfg.text_cfg.pool_type": None}, "text_cfg.pool_type is None"),
        ({"model_cfg.text_cfg.proj_type": "none"}, "proj_type"),
        ({"model_cfg.text_cfg.mlp_ratio": 2.0}, "text_cfg.mlp_ratio is 2.0"),
        ({"model_cfg.text_cfg.tokenizer_kwargs": {"clean": "whitespace"}}, "tokenizer_kwargs"),
        ({"preprocess_cfg.mode": "L"}, "preprocess_cfg.mode is 'L'"),
        ({"preprocess_cfg.crop_pct": 0.9}, "preprocess_cfg holds crop_pct"),
        ({"preprocess_cfg.size": [64, 96]}, "preprocess_cfg.size"),
        ({"preprocess_cfg": [1]}, "preprocess_cfg is missing or not an object"),
        ({"preprocess_cfg.std": 0}, "above zero"),
    ],
)
def test_what_an_open_clip_config_says_and_cannot_be_followed_is_refused(
    read_open_clip, changes, words
):
    with pytest.raises(UserError, match=words) as caught:
        read_open_clip(changes)
    assert CONFIG_FILE in str(caught.value) and "\n" not in str(caught.value)


def test_a_models_ratio_is_cut_as_open_clip_cuts_it():
    model = to_open_clip(PRESETS["tiny"])
    model["vision_cfg"] |= {"width": 1408, "head_width": 88, "mlp_ratio": 4.3637}
    assert from_open_clip(model).vision.hidden == 6144


def test_our_own_model_json_is_held_to_the_same(tmp_path):
    save_run(tmp_path, {3: random_params(CONFIG)}, CONFIG, PREPROCESS)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(edited(json.loads(path.read_text()), {"rope": True})))
    with pytest.raises(UserError, match=r"model\.json: holds rope"):
        read(tmp_path)
