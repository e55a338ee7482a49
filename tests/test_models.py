"""The network: what each part may depend on, and that ways to run it agree."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bioclip2_jax.data.images import CLIP_MEAN, CLIP_STD
from bioclip2_jax.models import clip, gradients, layers
from bioclip2_jax.models.execution import Execution, run_blocks, to_encode
from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig

CONFIG = ClipConfig(
    embed_dim=24,
    vision=VisionConfig(image_size=24, patch_size=8, width=32, layers=3, head_width=16),
    text=TextConfig(width=16, heads=2, layers=2, context_length=12, vocab_size=50),
)
IMAGES = np.random.default_rng(0).normal(size=(5, 24, 24, 3)).astype(np.float32)
# 49 is the end-of-text token, the largest id.
TOKENS = np.array([[48, 7, 9, 49, 0, 0, 0, 0], [48, 1, 2, 3, 4, 5, 6, 49]], np.int32)


image_features = jax.jit(lambda params, images: clip.bind(CONFIG, params).encode_image(images))
text_features = jax.jit(lambda params, tokens: clip.bind(CONFIG, params).encode_text(tokens))
trunk = jax.jit(lambda params, *inputs: clip.bind(CONFIG, params).image_trunk(*inputs))


@functools.partial(jax.jit, static_argnums=(0, 1))
def random_params(seed: int, config: ClipConfig = CONFIG) -> dict:
    return clip.init_params(config, seed, replay_projection=True)


@pytest.fixture(scope="module")
def params():
    return random_params(0)


def count(config: ClipConfig, **options) -> int:
    leaves = jax.tree.leaves(clip.abstract_params(config, **options))
    return sum(math.prod(leaf.shape) for leaf in leaves)


@pytest.mark.parametrize(
    ("name", "total", "replay"),
    [("vit_l14", 427_616_513, 786_432), ("vit_h14", 986_109_441, 1_310_720)],
)
def test_parameter_counts_are_those_of_the_published_models(name, total, replay):
    assert count(PRESETS[name]) == total
    assert count(PRESETS[name], replay_projection=True) == total + replay


def test_parameter_names_and_shapes_are_the_documented_ones(params):
    block = {
        **{f"{norm}/{part}": (3, 32) for norm in ("ln_1", "ln_2") for part in ("scale", "bias")},
        "attention/qkv/kernel": (3, 32, 96),
        "attention/qkv/bias": (3, 96),
        "attention/out/kernel": (3, 32, 32),
        "attention/out/bias": (3, 32),
        "mlp/fc/kernel": (3, 32, 128),
        "mlp/fc/bias": (3, 128),
        "mlp/proj/kernel": (3, 128, 32),
        "mlp/proj/bias": (3, 32),
    }
    image = {
        "patch_embed/kernel": (8, 8, 3, 32),
        "class_embedding": (32,),
        "position_embedding": (10, 32),
        "projection": (32, 24),
        "replay_projection": (32, 24),
        **{f"{norm}/{part}": (32,) for norm in ("ln_pre", "ln_post") for part in ("scale", "bias")},
        **{f"blocks/{name}": shape for name, shape in block.items()},
    }
    leaves = jax.tree_util.tree_leaves_with_path(params["image"])
    assert {"/".join(k.key for k in path): leaf.shape for path, leaf in leaves} == image
    assert params["text"]["token_embedding"].shape == (50, 16)
    assert params["text"]["position_embedding"].shape == (12, 16)
    assert params["text"]["projection"].shape == (16, 24)
    assert params["logit_scale"].shape == ()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_random_weights_depend_on_the_seed_alone_and_differ_between_layers(params):
    again = random_params(0)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, again))
    other = random_params(1)
    kernel = params["image"]["blocks"]["mlp"]["fc"]["kernel"]
    assert not np.array_equal(kernel, other["image"]["blocks"]["mlp"]["fc"]["kernel"])
    assert not np.array_equal(kernel[0], kernel[1])


def test_random_weights_are_spread_as_in_open_clip():
    params = random_params(0, PRESETS["tiny"])
    image, text = params["image"], params["text"]
    # (tensor, standard deviation) with width 128, hidden 512, 2 text layers, patches of 8.
    for tensor, std in (
        (image["class_embedding"], 128**-0.5),
        (image["position_embedding"], 128**-0.5),
        (image["projection"], 128**-0.5),
        (image["patch_embed"]["kernel"], (3 * 192) ** -0.5),
        (image["blocks"]["attention"]["qkv"]["kernel"], 256**-0.5),
        (image["blocks"]["attention"]["out"]["kernel"], (3 * 128) ** -0.5),
        (image["blocks"]["mlp"]["fc"]["kernel"], (3 * 128) ** -0.5),
        (image["blocks"]["mlp"]["proj"]["kernel"], (3 * 512) ** -0.5),
        (text["token_embedding"], 0.02),
        (text["position_embedding"], 0.01),
        (text["projection"], 128**-0.5),
        (text["blocks"]["attention"]["qkv"]["kernel"], 128**-0.5),
        (text["blocks"]["attention"]["out"]["kernel"], 128**-0.5 * 4**-0.5),
        (text["blocks"]["mlp"]["fc"]["kernel"], 256**-0.5),
        (text["blocks"]["mlp"]["proj"]["kernel"], 128**-0.5 * 4**-0.5),
    ):
        tolerance = 5 / math.sqrt(2 * tensor.size)  # five standard errors
        assert np.std(tensor) == pytest.approx(std, rel=tolerance)
    assert params["logit_scale"] == pytest.approx(math.log(1 / 0.07))


def test_the_replay_projection_starts_as_a_copy_and_is_optional(params):
    image = params["image"]
    np.testing.assert_array_equal(image["projection"], image["replay_projection"])
    assert "replay_projection" not in clip.abstract_params(CONFIG)["image"]


def test_features_are_float32_of_length_one(params):
    for features in (image_features(params, IMAGES), text_features(params, TOKENS)):
        assert features.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, rtol=1e-6)


def test_the_replay_projection_is_used_only_when_asked_for(params):
    changed = {**params, "image": {**params["image"]}}
    changed["image"]["replay_projection"] = -params["image"]["projection"]
    model, pooled = clip.bind(CONFIG, changed), trunk(params, IMAGES)
    biology = model.project_image(pooled)
    np.testing.assert_allclose(biology, image_features(params, IMAGES), atol=1e-6)
    np.testing.assert_array_equal(model.project_image(pooled, replay=True), -biology)


def gradient(params, execution):
    def loss(params):
        model = clip.bind(CONFIG, params, execution)
        image, text = model.encode_image(IMAGES[:4]), model.encode_text(TOKENS)
        return (image @ text.T).sum() * jnp.exp(model.logit_scale[...])

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def expected_gradient(params):
    return gradient(params, Execution())


@pytest.mark.parametrize(
    "execution",
    [
        Execution(scan=False),
        *(Execution(remat=name) for name in ("dots", "attention", "full")),
        Execution(remat="products", remat_share=0.5, block_parts=2),
        Execution(remat="qkv", block_parts=4),
        Execution(remat="hidden", scan=False),
        Execution(remat="full", scan=False),
        Execution(remat="full", block_parts=5),
    ],
    ids=lambda execution: f"{execution.remat}-{execution.scan}-{execution.block_parts}",
)
def test_unrolled_and_rematerialised_blocks_learn_the_same(params, expected_gradient, execution):
    found = gradient(params, execution)

    def assert_close(one, other):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, np.abs(one).max()))

    jax.tree.map(assert_close, expected_gradient, found)


def test_every_parameter_but_the_replay_projection_gets_a_gradient(expected_gradient):
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected_gradient[1]):
        name = "/".join(key.key for key in path)
        assert bool(jnp.any(leaf != 0)) == (name != "image/replay_projection"), name


def test_bfloat16_is_close_to_float32(params):
    half = jax.jit(lambda p: clip.bind(CONFIG, p, Execution("bfloat16")).encode_image(IMAGES))
    exact, rough = image_features(params, IMAGES), half(params)
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(exact - rough).max() < 0.05


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_order_in_which_cpus_encode_changes_nothing(params, dtype):
    def features(execution):
        model = clip.bind(CONFIG, params, execution)
        return model.encode_image(IMAGES), model.encode_text(TOKENS)

    plain, fast = features(Execution(dtype)), features(to_encode(dtype, "cpu"))
    tolerance = 1e-6 if dtype == "float32" else 0.02
    for one, other in zip(plain, fast, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)
    assert to_encode(dtype, "tpu") == Execution(dtype)


def test_an_image_does_not_depend_on_its_batch(params):
    alone = image_features(params, IMAGES[2:3])
    np.testing.assert_allclose(image_features(params, IMAGES)[2:3], alone, atol=1e-6)


def test_patches_are_read_row_by_row(params):
    embed = clip.bind(CONFIG, params).image.patch_embed
    image = np.zeros((1, 24, 24, 3), np.float32)
    image[0, 8:16, 16:24] = np.random.default_rng(1).normal(size=(8, 8, 3))  # row 1, column 2
    patches = embed(image)
    assert np.flatnonzero(np.abs(patches[0]).sum(axis=-1)).tolist() == [5]
    kernel = params["image"]["patch_embed"]["kernel"]
    expected = np.einsum("hwc,hwcd->d", image[0, 8:16, 16:24], kernel)
    np.testing.assert_allclose(patches[0, 5], expected, atol=1e-5)


def test_keeping_all_patches_in_any_order_changes_nothing(params):
    order = np.tile(np.random.default_rng(2).permutation(9), (5, 1)).astype(np.int32)
    np.testing.assert_allclose(trunk(params, IMAGES, order), trunk(params, IMAGES), atol=1e-5)


def test_dropped_patches_are_not_looked_at(params):
    kept = np.tile(np.array([0, 4], np.int32), (5, 1))
    expected = trunk(params, IMAGES, kept)
    other = IMAGES.copy()
    other[:, 16:] = 0  # patches 6, 7 and 8
    np.testing.assert_array_equal(trunk(params, other, kept), expected)
    other[:, 8:16, 8:16] = 0  # patch 4
    assert not np.allclose(trunk(params, other, kept), expected, atol=1e-3)


def test_text_is_read_up_to_its_end_and_no_further(params):
    features = text_features(params, TOKENS)
    longer = np.pad(TOKENS, ((0, 0), (0, 4)))
    np.testing.assert_allclose(text_features(params, longer), features, atol=1e-6)
    np.testing.assert_allclose(text_features(params, TOKENS[:1, :4]), features[:1], atol=1e-6)
    after = TOKENS.copy()
    after[0, 5:] = (11, 49, 12)  # the first end-of-text counts
    np.testing.assert_allclose(text_features(params, after), features, atol=1e-6)
    before = TOKENS.copy()
    before[0, 1] = 8
    assert not np.allclose(text_features(params, before)[0], features[0], atol=1e-4)


def test_a_layer_norm_of_bfloat16_is_computed_in_float32():
    norm = layers.LayerNorm(64)
    x = 1000 + jax.random.normal(jax.random.key(0), (4, 64), jnp.float32)
    x = x.astype(jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    assert norm(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(norm(x), np.float64), expected, rtol=1e-2, atol=1e-2)


def slopes(function, weights, *arguments):
    def total(*arguments):
        return (weights * function(*arguments)).sum()

    return jax.jit(jax.grad(total, tuple(range(len(arguments)))))(*arguments)


@pytest.mark.parametrize("offset", [0, 1000])
def test_a_layer_norm_has_the_gradients_that_jax_derives_in_double_precision(offset):
    x, weights = jax.random.normal(jax.random.key(0), (2, 3, 5, 64))
    scale, bias = 1 + jax.random.normal(jax.random.key(1), (2, 64))
    x = x + offset

    def ours(x, scale, bias):
        norm = layers.LayerNorm(64)
        norm.scale[...], norm.bias[...] = scale, bias
        return norm(x)

    def plain(x, scale, bias):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias

    with jax.enable_x64(True):
        wide = [np.asarray(v, np.float64) for v in (weights, x, scale, bias)]
        expected = slopes(plain, *wide)
    for one, other in zip(slopes(ours, weights, x, scale, bias), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 if offset == 0 else 1e-3)


def test_gradients_have_the_type_of_what_they_change():
    scale = jnp.ones(8, jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (4, 8), jnp.bfloat16)
    found = slopes(gradients.layer_norm, 1.0, x, scale, scale)
    assert {one.dtype for one in found} == {jnp.dtype(jnp.bfloat16)}


def test_gelu_has_the_gradient_that_jax_derives():
    x, weights = jax.random.normal(jax.random.key(0), (2, 500)) * 3
    expected = slopes(functools.partial(jax.nn.gelu, approximate=False), weights, x)
    found = slopes(gradients.exact_gelu, weights, x)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_an_odd_number_of_tokens_is_padded_for_cudnn_and_padding_changes_nothing(
    causal, monkeypatch
):
    seen, attend = [], jax.nn.dot_product_attention

    def on_a_cpu(query, key, value, *, implementation, **options):
        seen.append((implementation, query.shape[1]))
        return attend(query, key, value, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_a_cpu)
    config = layers.BlockConfig(
        width=32,
        heads=2,
        hidden=64,
        causal=causal,
        activation=gradients.exact_gelu,
        stds=layers.InitialStds.text(32, 2),
    )
    blocks = layers.stack_blocks(2, config, nnx.Rngs(0))
    x, weights = jax.random.normal(jax.random.key(0), (2, 4, 7, 32))

    def slopes(execution):
        def total(blocks, x):
            return (weights * run_blocks(blocks, x, execution)).sum()

        return nnx.jit(nnx.value_and_grad(total, argnums=(0, 1)))(blocks, x)

    expected = slopes(Execution())
    for execution in (
        Execution(attention="cudnn"),
        Execution(attention="cudnn", remat="full", block_parts=2),
    ):
        seen.clear()
        found = slopes(execution)
        assert set(seen) == {("cudnn", 8)}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), expected, found)


def test_gelu_is_exact_unless_the_config_asks_for_the_quick_one(params):
    x = np.linspace(-4, 4, 41)
    exact = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x]
    np.testing.assert_allclose(gradients.exact_gelu(jnp.asarray(x)), exact, atol=1e-6)
    np.testing.assert_allclose(
        layers.quick_gelu(jnp.asarray(x)), x / (1 + np.exp(-1.702 * x)), atol=1e-6
    )
    other = dataclasses.replace(CONFIG, quick_gelu=True)
    quick = jax.jit(lambda p: clip.bind(other, p).encode_image(IMAGES))(params)
    assert not np.allclose(quick, image_features(params, IMAGES), atol=1e-5)


def test_pixels_are_normalised_per_channel():
    pixels = np.random.default_rng(3).integers(0, 256, (2, 3, 4, 3), np.uint8)
    expected = (pixels / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    found = clip.normalize_images(pixels, CLIP_MEAN, CLIP_STD)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_zero_vector_is_not_divided_by_its_length():
    np.testing.assert_array_equal(clip.l2_normalize(jnp.zeros((1, 3))), np.zeros((1, 3)))
