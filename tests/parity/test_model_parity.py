"""The same weights give the same features here and in open_clip."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kept_models import params_of, state_dict

from bioclip2_jax.losses import contrastive_loss
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS, ClipConfig
from bioclip2_jax.text.tokenizer import tokenize
from bioclip2_jax.weights.description import to_open_clip

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

TEXTS = [
    "a photo of Animalia Chordata Aves Passeriformes Corvidae Pica pica.",
    "a photo of Poa annua with common name annual meadow grass.",
    "a photo of " + "Tinca tinca " * 60,  # cut to the context length
]


def two_layers(config: ClipConfig) -> ClipConfig:
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, layers=2),
        text=dataclasses.replace(config.text, layers=2),
    )


CONFIGS = {
    "tiny": PRESETS["tiny"],
    "small": PRESETS["small"],
    "tiny with QuickGELU": dataclasses.replace(PRESETS["tiny"], quick_gelu=True),
    "vit_b32": two_layers(PRESETS["vit_b32"]),
    "vit_l14": two_layers(PRESETS["vit_l14"]),
    "vit_h14": two_layers(PRESETS["vit_h14"]),
}


def reference(config: ClipConfig, params: dict | None = None):
    """open_clip's model with these parameters, or with its own random ones."""
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**to_open_clip(config)).eval()
    if params is not None:
        tensors = state_dict(params, config)
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
        model.load_state_dict(tensors, strict=True)
    return model


def their_features(model, images: np.ndarray, tokens: np.ndarray) -> list[np.ndarray]:
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        image = model.encode_image(pixels, normalize=True)
        text = model.encode_text(torch.from_numpy(tokens).long(), normalize=True)
    return [image.numpy(), text.numpy()]


def our_features(config: ClipConfig, params: dict, images, tokens) -> list[np.ndarray]:
    @jax.jit
    def encode(params):
        model = clip.bind(config, params)
        return model.encode_image(images), model.encode_text(tokens)

    return [np.asarray(features) for features in encode(params)]


def random_images(config: ClipConfig, count: int = 3) -> np.ndarray:
    size = config.vision.image_size
    return np.random.default_rng(1).standard_normal((count, size, size, 3), np.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_features_agree_with_open_clip(name, random_params):
    config = CONFIGS[name]
    params = random_params(config)
    model = reference(config, params)
    images, tokens = random_images(config), tokenize(TEXTS)
    theirs = their_features(model, images, tokens)
    for ours, expected in zip(our_features(config, params, images, tokens), theirs, strict=True):
        assert np.abs(ours[0] - ours[1]).max() > 0.01  # inputs tell apart
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


def test_weights_that_open_clip_drew_are_read_and_agree():
    config = PRESETS["tiny"]
    model = reference(config)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    params = params_of(tensors, config)
    images, tokens = random_images(config), tokenize(TEXTS)
    theirs = their_features(model, images, tokens)
    for ours, expected in zip(our_features(config, params, images, tokens), theirs, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


def test_our_random_weights_are_spread_like_theirs():
    config = PRESETS["tiny"]
    theirs = {name: value.numpy() for name, value in reference(config).state_dict().items()}
    ours = state_dict(jax.jit(lambda: clip.init_params(config, 0))(), config)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        # Theirs leave small random biases in the MLP; ours start at zero.
        if value.ndim >= 2:
            assert np.std(value) == pytest.approx(np.std(theirs[name]), rel=0.05), name
        elif "bias" not in name and value.size > 1 and ".ln_" not in name:
            assert np.std(value) == pytest.approx(np.std(theirs[name]), rel=0.4), name


def test_gradients_agree_with_open_clip(random_params):
    config = PRESETS["tiny"]
    params = random_params(config)
    model = reference(config, params)
    images, tokens = random_images(config), tokenize(TEXTS)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    image, text, scale = model(pixels, torch.from_numpy(tokens).long())
    logits = scale * image @ text.T
    labels = torch.arange(len(TEXTS))
    cross_entropy = torch.nn.functional.cross_entropy
    ((cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2).backward()
    theirs = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}

    @jax.jit
    @jax.grad
    def gradient(params):
        bound = clip.bind(config, params)
        scale = jnp.exp(bound.logit_scale[...])
        features = bound.encode_image(images), bound.encode_text(tokens)
        return contrastive_loss(*features, scale)

    for name, ours in state_dict(gradient(params), config).items():
        largest = np.abs(theirs[name]).max()
        np.testing.assert_allclose(ours, theirs[name], rtol=0, atol=2e-4 * largest, err_msg=name)
