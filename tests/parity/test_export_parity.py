"""open_clip loads what we export, strictly, and sees pictures and words as we do."""

import json

import numpy as np
import pytest
from kept_models import export_open_clip
from PIL import Image
from safetensors.numpy import load_file

import bioclip2_jax
from bioclip2_jax.data import images
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.prepare.simulated.individuals import draw_individuals, photograph
from bioclip2_jax.prepare.simulated.tree import grow_tree
from bioclip2_jax.weights.description import Preprocess, to_open_clip
from bioclip2_jax.weights.open import CONFIG_FILE, WEIGHTS_FILE

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

CONFIG = PRESETS["tiny"]
TEXTS = ["a photo of Pica pica.", "a bad photo of Plantae Tracheophyta.", "Größe &amp; 'ʻōhiʻa", ""]


def pictures() -> list[Image.Image]:
    """The quickstart's kind, and hard edges: wide, tall, square and smaller than the input."""
    rng = np.random.default_rng(0)
    individuals = draw_individuals(0, grow_tree(0, 64), 8000)["val"][::100]
    found = [images.decode(photograph(0, one, 64)["image"]) for one in individuals]
    for width, height in ((200, 120), (90, 170), (64, 64), (40, 50)):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
        found.append(coarse.resize((width, height), Image.Resampling.NEAREST))
    return found


@pytest.fixture(
    params=[
        Preprocess(64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Preprocess(64, resize_mode="squash", interpolation="bilinear"),
    ],
    ids=["shortest", "squash"],
)
def exported(request, tmp_path, random_params):
    params = random_params(CONFIG, replay_projection=True)
    export_open_clip(params, CONFIG, request.param, tmp_path / "model")
    return tmp_path / "model"


def test_open_clip_embeds_pictures_and_texts_as_we_do(exported):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{exported}")
    ours = bioclip2_jax.load(exported)
    settings = ours.preprocess
    view = images.eval_transform(settings.size, settings.resize_mode, settings.interpolation)
    pixels = torch.stack([preprocess(picture) for picture in pictures()])
    tokens = bioclip2_jax.tokenize(TEXTS)
    np.testing.assert_array_equal(tokens, tokenizer(TEXTS).numpy())
    with torch.no_grad():
        their_images = model.eval().encode_image(pixels, normalize=True).numpy()
        their_texts = model.encode_text(tokenizer(TEXTS), normalize=True).numpy()
        scale = model.logit_scale.exp().item()
    from_floats = ours.encode_image(pixels.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(from_floats, their_images, rtol=0, atol=1e-5)
    from_bytes = ours.encode_image(np.stack([view(picture) for picture in pictures()]))
    np.testing.assert_allclose(from_bytes, their_images, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.encode_text(tokens), their_texts, rtol=0, atol=1e-5)
    assert ours.logit_scale == pytest.approx(scale, rel=1e-6)


def test_open_clip_would_write_the_same_tensors(exported):
    model, *_ = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    ours = load_file(exported / WEIGHTS_FILE)
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_what_open_clip_saves_is_opened_here(tmp_path):
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**to_open_clip(CONFIG)).eval()
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / WEIGHTS_FILE)
    description = {"model_cfg": to_open_clip(CONFIG)}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(description))
    pixels = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    with torch.no_grad():
        theirs = model.encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), True)
    ours = bioclip2_jax.load(tmp_path).encode_image(pixels)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_open_clip_loads_half_precision_exports(tmp_path, random_params, dtype, tolerance):
    params = random_params(CONFIG)
    settings = Preprocess(64)
    export_open_clip(params, CONFIG, settings, tmp_path / "half", dtype=dtype)
    export_open_clip(params, CONFIG, settings, tmp_path / "whole")
    model, *_ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'half'}")
    pixels = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    with torch.no_grad():
        theirs = model.eval().encode_image(torch.from_numpy(pixels).permute(0, 3, 1, 2), True)
    for name, atol in (("half", 1e-5), ("whole", tolerance)):
        ours = bioclip2_jax.load(tmp_path / name).encode_image(pixels)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=atol)
