"""Sizes of a model in open_clip's form: read, written, refused where it is no plain CLIP ViT."""

import pytest

from bioclip2_jax.errors import UserError
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights.description import from_open_clip, to_open_clip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_way_through_open_clips_form(name):
    assert from_open_clip(to_open_clip(PRESETS[name])) == PRESETS[name]


def test_a_config_with_open_clips_defaults_and_switched_off_options_is_read():
    sparse = {
        "embed_dim": 768,
        "vision_cfg": {
            "image_size": [224, 224],
            "layers": 24,
            "width": 1024,
            "patch_size": 14,
            "ls_init_value": None,
        },
        "text_cfg": {"width": 768, "heads": 12, "layers": 12, "no_causal_mask": False},
        "custom_text": False,
    }
    assert from_open_clip(sparse) == PRESETS["vit_l14"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision_cfg": None}, "vision_cfg is missing"),
        ({"embed_dim": None}, "embed_dim is missing"),
        ({"embed_dim": "768"}, "embed_dim is '768'"),
        ({"vision_cfg": {"layers": 2, "width": 64, "patch_size": 8}}, "image_size is missing"),
        ({"text_cfg": {"width": 64, "heads": 3, "layers": 1}}, "cannot be divided by 3"),
        ({"text_cfg": {"width": 64, "heads": 2, "layers": -1}}, "layers is -1"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "text_cfg holds hf_model_name"),
        ({"multimodal_cfg": {"width": 8}}, "model_cfg holds multimodal_cfg"),
    ],
)
def test_a_config_of_another_kind_of_model_is_refused_with_the_setting_at_fault(change, words):
    with pytest.raises(UserError, match=words):
        from_open_clip(to_open_clip(PRESETS["tiny"]) | change)
