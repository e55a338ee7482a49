"""What foreign files say means to us what it means to open_clip and transformers themselves."""

import dataclasses
import json

import numpy as np
import pytest
from kept_models import export_open_clip, read, state_dict
from PIL import Image

from bioclip2_jax.data import images
from bioclip2_jax.errors import UserError
from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.weights import transformers as ours
from bioclip2_jax.weights.description import Preprocess, from_open_clip, to_open_clip
from bioclip2_jax.weights.infer import IMAGE_HEADS, TEXT_HEADS, infer_config
from bioclip2_jax.weights.open import CONFIG_FILE, WEIGHTS_FILE, open_source
from bioclip2_jax.weights.verify import verify
from bioclip2_jax.weights.write import write

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
measures = pytest.importorskip("measures")

TINY = PRESETS["tiny"]


def plain_models() -> dict[str, dict]:
    """open_clip's configurations of plain ViTs beside CLIP's own text tower."""
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    return {
        name: config
        for name, config in configs.items()
        if "timm_model_name" not in config["vision_cfg"]
        and isinstance(config["vision_cfg"]["layers"], int)
    }


def test_the_table_of_heads_is_that_of_all_of_open_clips_configurations():
    found, found_text = {}, {}
    for name, config in plain_models().items():
        vision, text = config["vision_cfg"], config["text_cfg"]
        assert found.setdefault(vision["width"], vision.get("head_width", 64)) == vision.get(
            "head_width", 64
        ), name
        if "hf_model_name" not in text:
            channels = text["width"] // text["heads"]
            assert found_text.setdefault(text["width"], channels) == channels, name
    assert found == IMAGE_HEADS
    assert found_text.items() <= TEXT_HEADS.items()


@pytest.mark.parametrize("name", ["ViT-H-16", "ViT-g-14", "ViT-bigG-14", "ViT-e-14"])
def test_large_models_are_inferred_as_open_clip_builds_them(name):
    sizes = open_clip.get_model_config(name)
    for tower in ("vision_cfg", "text_cfg"):
        sizes[tower]["layers"] = 1
    with torch.device("meta"):
        model = open_clip.model.CLIP(**sizes)
    config = infer_config(model.state_dict() | {"no": torch.zeros(1)})
    visual, text = (t.transformer.resblocks[0].attn.num_heads for t in (model.visual, model))
    assert (config.vision.heads, config.text.heads) == (visual, text)
    with torch.device("meta"):
        again = open_clip.model.CLIP(**to_open_clip(config))
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in again.state_dict().items()}


def test_spelled_out_defaults_and_an_mlp_that_is_cut_agree_with_open_clip(tmp_path):
    # 104 * (120 / 104) is a little less than 120.
    config = ClipConfig(16, VisionConfig(16, 8, 104, 1, 52, 1.16), TextConfig(64, 2, 1, 9, 77))
    spelled = to_open_clip(config) | {"init_logit_scale": 3.0}
    spelled["vision_cfg"] |= {"pool_type": "tok", "pos_embed_type": "learnable"}
    spelled["vision_cfg"] |= {"norm_kwargs": {"eps": 1e-5}, "act_kwargs": {}, "patch_dropout": 0.5}
    spelled["text_cfg"] |= {"pool_type": "argmax", "proj_type": "linear", "mlp_ratio": 4.0}
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**spelled).eval()
    assert model.visual.transformer.resblocks[0].mlp.c_fc.out_features == 120
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": spelled}))
    measures.save_file(model.state_dict(), tmp_path / WEIGHTS_FILE)
    pixels, tokens = measures.inputs(config)
    with torch.no_grad():
        expected = model.encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2)), True).numpy()
    # With its config, and bare: then the ratio is made up, and written for open_clip to read.
    found, params, _ = read(tmp_path)
    assert found == config
    image, *_ = measures.our_features(found, params, pixels, tokens)
    np.testing.assert_allclose(image, expected, rtol=0, atol=2e-5)
    bare = tmp_path / "bare"
    bare.mkdir()
    (tmp_path / WEIGHTS_FILE).rename(bare / WEIGHTS_FILE)
    source = open_source(bare / WEIGHTS_FILE, heads=2, text_heads=2)
    write(source, tmp_path / "out", "open_clip")
    again, *_ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    with torch.no_grad():
        features = again.eval().encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2)), True)
    np.testing.assert_array_equal(features.numpy(), expected)


@pytest.mark.parametrize("projection", [None, "caption_proj"])
def test_biocaps_projections_are_those_of_its_own_forward_pass(projection, tmp_path, random_params):
    tensors = state_dict(random_params(TINY), TINY)
    rng = np.random.default_rng(1)
    tensors["visual.caption_proj"] = rng.standard_normal((128, 128), np.float32)
    tensors["logit_scale_caption"] = np.float32(2.0)
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}, tmp_path / "cap.pt")
    source = open_source(tmp_path / "cap.pt", projection=projection)
    write(source, tmp_path / "out", "open_clip")
    table = verify(source, tmp_path / "out", "open_clip", "float32")
    assert sum("in open_clip" in line for line in table) == 2  # what was read, and what was written
    model, *_ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    pixels = torch.from_numpy(rng.standard_normal((2, 3, 64, 64), np.float32))
    with torch.no_grad():
        found = model.eval().encode_image(pixels).numpy()
        # As BioCAP does: one trunk, and a product with each of the two projections.
        model.visual.proj = None
        pooled = model.visual(pixels).numpy()
    name = f"visual.{projection or 'proj'}"
    np.testing.assert_allclose(found, pooled @ tensors[name], rtol=0, atol=1e-4)
    assert model.logit_scale.item() == (2.0 if projection else 3.0)


# ---- transformers


@pytest.fixture
def hf(tmp_path, random_params):
    """A folder of transformers that we wrote."""
    pytest.importorskip("transformers")
    export_open_clip(random_params(TINY), TINY, Preprocess(64), tmp_path / "theirs")
    write(open_source(tmp_path / "theirs"), tmp_path / "hf", "transformers")
    return tmp_path / "hf"


def change(path, **changes):
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: x for name, x in settings.items() if x is not ...}))


def test_a_tower_said_twice_is_the_one_that_transformers_takes(hf):
    from transformers import CLIPConfig

    path = hf / ours.CONFIG_FILE
    told = json.loads(path.read_text())["vision_config"]
    twice = {name: x for name, x in told.items() if name != "num_hidden_layers"}
    wrong = told | {"hidden_size": 64, "num_attention_heads": 2, "image_size": 128}
    change(path, vision_config_dict=twice, vision_config=wrong)
    found, theirs = ours.read_config(hf)[0].vision, CLIPConfig.from_pretrained(hf).vision_config
    assert (found.width, found.layers, found.heads, found.image_size) == (
        theirs.hidden_size,
        theirs.num_hidden_layers,
        theirs.num_attention_heads,
        theirs.image_size,
    )
    assert found.layers == 12


@pytest.mark.parametrize("mark", [2, 49407])
def test_texts_are_read_where_transformers_reads_them(hf, mark):
    from transformers import CLIPModel

    path = hf / ours.CONFIG_FILE
    change(path, text_config=json.loads(path.read_text())["text_config"] | {"eos_token_id": mark})
    config, params, _ = read(hf)
    pixels, tokens = measures.inputs(config)
    _, text, _ = measures.our_features(config, params, pixels, tokens)
    with torch.no_grad():
        out = CLIPModel.from_pretrained(hf).eval()(
            input_ids=torch.from_numpy(tokens).long(),
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2)),
        )
    np.testing.assert_allclose(text, out.text_embeds.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": 64, "crop_size": 64},
        {"size": {"height": 64, "width": 64}},
        {"size": {"height": 64, "width": 64}, "do_center_crop": False, "crop_size": ...},
        {"do_normalize": False, "do_convert_rgb": ...},
        {"resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3},
    ],
)
def test_every_preprocessing_that_is_read_gives_the_pixels_of_transformers(hf, changes):
    from transformers import CLIPImageProcessor

    change(hf / ours.PREPROCESSOR_FILE, **changes)
    preprocess = ours.read_config(hf)[1]
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8))
    picture = coarse.resize((150, 100), Image.Resampling.BICUBIC)
    processor = CLIPImageProcessor.from_pretrained(hf)
    theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"])[0]
    view = images.eval_transform(64, preprocess.resize_mode, preprocess.interpolation)(picture)
    found = (np.asarray(view) / 255 - preprocess.mean) / preprocess.std
    # About three of 255 grey levels: transformers' resizing is torch's.
    difference = np.abs(found - theirs.transpose(1, 2, 0)) * preprocess.std
    assert difference.max() < 3.5 / 255 and difference.mean() < 0.5 / 255


def test_a_vocabulary_larger_than_clips_is_written_so_that_both_read_the_largest_id(
    tmp_path, random_params
):
    text = dataclasses.replace(TINY.text, vocab_size=49500)
    config = dataclasses.replace(TINY, text=text)
    export_open_clip(random_params(config), config, Preprocess(64), tmp_path / "theirs")
    write(open_source(tmp_path / "theirs"), tmp_path / "hf", "transformers")
    assert read(tmp_path / "hf")[0] == config
    written = json.loads((tmp_path / "hf" / ours.CONFIG_FILE).read_text())
    assert written["text_config"]["eos_token_id"] == 2


def test_every_plain_configuration_of_open_clip_is_read_or_refused_for_a_reason():
    refused = {}
    for name, config in plain_models().items():
        try:
            from_open_clip(config)
        except UserError as error:
            refused[name] = str(error)
    # Another text tower, another pooling, layer scale, CoCa: none of them is a plain CLIP.
    reasons = ("hf_model_name", "pool_type", "ls_init_value", "output_tokens")
    assert all(any(word in said for word in reasons) for said in refused.values()), refused
    assert {"ViT-H-14", "ViT-g-14", "ViT-bigG-14", "ViT-e-14"}.isdisjoint(refused)
