"""Our towers against open_clip's on the same random weights, in float32."""

import dataclasses

import numpy as np
import pytest

from bioclip2_jax import convert
from bioclip2_jax.images import eval_transform
from bioclip2_jax.loading import load
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS, ClipConfig
from bioclip2_jax.text.tokenizer import tokenize

TEXTS = ["a photo of Panthera leo.", "x", "a photo of Animalia Chordata Aves " + "very " * 90]


def shallow(name: str, layers: int = 2) -> ClipConfig:
    config = PRESETS[name]
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, layers=layers),
        text=dataclasses.replace(config.text, layers=layers),
    )


@pytest.mark.parametrize("name", ["tiny", "small", "vit_b32", "vit_l14", "vit_h14"])
def test_an_export_loads_strictly_in_open_clip_and_gives_our_features(open_clip, tmp_path, name):
    import torch

    config = shallow(name)
    size = config.vision.image_size
    params = clip.init_params(config, 1, replay_projection=True)
    preprocess = convert.Preprocess(size)
    convert.export_open_clip(params, config, preprocess, tmp_path / "m")
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'm'}")
    ours = load(tmp_path / "m")
    theirs.eval()

    pictures = np.random.default_rng(0).normal(size=(3, size, size, 3)).astype(np.float32)
    tokens = tokenize(TEXTS)
    with torch.no_grad():
        their_images = theirs.encode_image(
            torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()), normalize=True
        ).numpy()
        their_texts = theirs.encode_text(
            torch.from_numpy(tokens.astype(np.int64)), normalize=True
        ).numpy()
    np.testing.assert_allclose(ours.encode_image(pictures), their_images, atol=2e-5)
    np.testing.assert_allclose(ours.encode_text(tokens), their_texts, atol=2e-5)
    assert ours.logit_scale == pytest.approx(float(theirs.logit_scale.exp()), rel=1e-6)
    weights = theirs.state_dict()
    exported = convert.to_state_dict(params, config)
    assert weights.keys() == exported.keys()
    for key, value in exported.items():
        np.testing.assert_array_equal(weights[key].numpy(), value)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_evaluation_view_equals_open_clips(open_clip, mode, interpolation):
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    rng = np.random.default_rng(0)
    settings = PreprocessCfg(
        size=48, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation, resize_mode=mode
    )
    theirs = image_transform_v2(settings, is_train=False)
    ours = eval_transform(48, mode, interpolation)
    for width, height in [(64, 64), (301, 77), (77, 301), (48, 48), (20, 33), (49, 48), (640, 480)]:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        expected = theirs(image).numpy().transpose(1, 2, 0) * 255
        np.testing.assert_allclose(ours(image), expected, atol=1e-3)
