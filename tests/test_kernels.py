"""The GPU's kernels, interpreted: the same values and gradients as plain JAX."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bioclip2_jax.models import clip, gradients, layers
from bioclip2_jax.models.execution import Execution, run_blocks
from bioclip2_jax.models.kernels import block as block_kernels
from bioclip2_jax.models.kernels import (
    embedding,
    gelu,
    layer_norm,
    packed_attention,
    short_attention,
)
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig

ROOT = Path(__file__).parent.parent
PACKED = Execution(attention="packed", interpret=True)
# 16 patches would be too few for the packed kernel: 8 x 8 and the class token are 65 tokens.
CONFIG = ClipConfig(
    embed_dim=24,
    vision=VisionConfig(image_size=32, patch_size=4, width=32, layers=3, head_width=16),
    text=TextConfig(width=32, heads=2, layers=2, context_length=12, vocab_size=50),
)


def draw(seed: int, *shape: int, dtype=jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def distance(found: jax.Array, expected: jax.Array) -> float:
    """The largest difference over the largest value."""
    expected = expected.astype(jnp.float32)
    return float(jnp.abs(found.astype(jnp.float32) - expected).max() / jnp.abs(expected).max())


def results(function, slopes: jax.Array, *inputs: jax.Array) -> list[jax.Array]:
    """The value and all gradients."""
    value, pull = jax.vjp(function, *inputs)
    return [value, *pull(slopes)]


ATTENTIONS = [
    (packed_attention, 65, 16, {}),
    (packed_attention, 65, 64, {}),
    (packed_attention, 129, 32, {}),
    (short_attention, 5, 16, {"causal": True}),
    (short_attention, 48, 64, {"causal": True}),
    (short_attention, 77, 32, {"causal": True}),
    (short_attention, 50, 64, {"causal": False}),
]


def attention_results(module, options, qkv, dout, heads) -> list[jax.Array]:
    out, lse = module.forward(qkv, heads, **options, interpret=True)
    return [out, *module.backward(qkv, out, lse, dout, heads, **options, interpret=True)]


def attention_reference(module, options, qkv, dout, heads) -> list[jax.Array]:
    attend = functools.partial(module.reference, heads=heads, **options)
    out, slopes = results(attend, dout, qkv)
    return [out, slopes, slopes.astype(jnp.float32).sum((0, 1))]


@pytest.mark.parametrize(("module", "tokens", "dim", "options"), ATTENTIONS)
def test_attention_and_its_gradients_are_those_of_plain_jax(module, tokens, dim, options):
    assert module.supports(tokens, dim)
    qkv, dout = draw(0, 2, tokens, 6 * dim), draw(1, 2, tokens, 2 * dim)
    found = attention_results(module, options, qkv, dout, 2)
    expected = attention_reference(module, options, qkv, dout, 2)
    assert max(map(distance, found, expected)) < 2e-6


@pytest.mark.parametrize(("module", "tokens", "dim", "options"), ATTENTIONS)
def test_attention_in_bfloat16_is_as_close_to_the_truth_as_plain_jax(module, tokens, dim, options):
    qkv = draw(0, 2, tokens, 6 * dim, dtype=jnp.bfloat16)
    dout = draw(1, 2, tokens, 2 * dim, dtype=jnp.bfloat16)
    wide = qkv.astype(jnp.float32), dout.astype(jnp.float32)
    truth = attention_reference(module, options, *wide, 2)
    found = attention_results(module, options, qkv, dout, 2)
    plain = attention_reference(module, options, qkv, dout, 2)
    assert found[0].dtype == found[1].dtype == jnp.bfloat16 and found[2].dtype == jnp.float32
    for ours, theirs, exact in zip(found, plain, truth, strict=True):
        assert distance(ours, exact) < max(1.25 * distance(theirs, exact), 5e-3)


def test_a_caption_does_not_look_ahead():
    qkv = draw(0, 1, 12, 3 * 32)
    later = qkv.at[:, 7:].set(0)
    one, other = (
        short_attention.forward(x, 2, causal=True, interpret=True)[0] for x in (qkv, later)
    )
    np.testing.assert_array_equal(one[:, :7], other[:, :7])
    assert not np.allclose(one[:, 7:], other[:, 7:])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(12, 128), (8, 96), (7, 64)])
def test_a_layer_norm_reads_once_and_adds_the_residuals_gradient(rows, width, dtype):
    x = (3 * draw(0, rows, width) + 1).astype(dtype)
    dy, dr = draw(1, rows, width, dtype=dtype), draw(2, rows, width, dtype=dtype)
    scale, bias = 1 + draw(3, width), draw(4, width)
    value, of_x, of_scale, of_bias = results(gradients.layer_norm, dy, x, scale, bias)
    with_residual = (of_x.astype(jnp.float32) + dr.astype(jnp.float32)).astype(dtype)
    y, *statistics = layer_norm.forward(x, scale, bias, interpret=True)
    plain = layer_norm.backward(x, dy, None, scale, *statistics, interpret=True)
    split = layer_norm.backward(x, dy, dr, scale, *statistics, interpret=True)
    near = 1e-6 if dtype == jnp.float32 else 8e-3
    pairs = [(y, value), (plain[0], of_x), (split[0], with_residual)]
    pairs += [(split[1][2], with_residual.astype(jnp.float32).sum(0))]
    assert max(distance(*pair) for pair in pairs) < near
    for sums in (plain[1], split[1]):
        assert max(distance(sums[0], of_scale), distance(sums[1], of_bias)) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_is_exact_and_its_gradient_comes_with_sums(dtype):
    x = jnp.linspace(-9, 9, 24 * 96).reshape(24, 96).astype(dtype)
    dy = draw(1, 24, 96, dtype=dtype)
    value, slopes = results(gradients.exact_gelu, dy, x)
    dx, sums = gelu.backward(x, dy, interpret=True)
    near = 1e-6 if dtype == jnp.float32 else 4e-3
    assert distance(gelu.forward(x, interpret=True), value) < near
    assert distance(dx, slopes) < near
    wide = results(gradients.exact_gelu, dy.astype(jnp.float32), x.astype(jnp.float32))[1]
    assert distance(sums, wide.sum(0)) < 1e-6


def test_an_embeddings_gradient_adds_each_numbers_rows():
    numbers = np.random.default_rng(0).integers(0, 20, 200)
    numbers[:90] = 3  # more than are added at a time
    numbers, dy = jnp.asarray(numbers, jnp.int32), draw(1, 200, 96)
    expected = jnp.zeros((50, 96)).at[numbers].add(dy)
    assert distance(embedding.backward(numbers, dy, 50, interpret=True), expected) < 1e-6


def slopes_of(execution: Execution, config: ClipConfig = CONFIG):
    params = jax.jit(lambda: clip.init_params(config, 0))()
    images = draw(1, 4, 32, 32, 3)
    tokens = np.array([[48, 7, 9, 49, 0, 0, 0, 0], [48, 1, 2, 3, 4, 5, 6, 49]] * 2, np.int32)

    def loss(params):
        model = clip.bind(config, params, execution)
        return (model.encode_image(images) @ model.encode_text(tokens).T)[0].sum()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def expected():
    return slopes_of(Execution())


@pytest.mark.parametrize(
    "execution",
    [
        PACKED,
        Execution(attention="packed", interpret=True, remat="full", block_parts=2),
        Execution(attention="packed", interpret=True, remat="products", scan=False),
    ],
    ids=lambda execution: execution.remat,
)
def test_a_model_of_kernels_has_the_gradients_of_a_plain_one(expected, execution):
    value, slopes = slopes_of(execution)
    assert abs(value - expected[0]) < 1e-5
    for found, plain in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_a_model_with_the_quick_activation_keeps_it():
    config = ClipConfig(CONFIG.embed_dim, CONFIG.vision, CONFIG.text, quick_gelu=True)
    value, _ = slopes_of(PACKED, config)
    np.testing.assert_allclose(value, slopes_of(Execution(), config)[0], rtol=1e-5)


def blocks_of(width: int, heads: int) -> layers.Block:
    stds = layers.InitialStds.text(width, 2)
    activation = gradients.exact_gelu
    config = layers.BlockConfig(
        width=width, heads=heads, hidden=64, causal=False, activation=activation, stds=stds
    )
    return layers.stack_blocks(2, config, nnx.Rngs(0))


def test_where_the_kernels_do_not_fit_cudnn_attends(monkeypatch):
    seen, attend = [], jax.nn.dot_product_attention

    def on_a_cpu(query, key, value, *, implementation, **options):
        seen.append((implementation, query.shape[1]))
        return attend(query, key, value, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_a_cpu)
    for width, tokens in ((48, 7), (32, 133)):
        blocks, x = blocks_of(width, 2), draw(0, 2, tokens, width)
        assert not block_kernels.supports(blocks, tokens)
        plain = run_blocks(blocks, x, Execution())
        seen.clear()
        np.testing.assert_allclose(run_blocks(blocks, x, PACKED), plain, atol=1e-5)
        assert set(seen) == {("cudnn", tokens + tokens % 2)}


@pytest.mark.parametrize(
    ("platform", "dtype", "attention"),
    [("gpu", "bfloat16", "packed"), ("cpu", "bfloat16", "xla"), ("gpu", "float32", "xla")],
)
def test_devices_without_the_kernels_attend_plainly(platform, dtype, attention):
    wish = Execution(dtype=dtype, attention="packed")
    assert wish.on(platform).attention == attention
    assert Execution(attention="cudnn").on(platform).attention == "cudnn"


@pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda13_plugin"),
    reason='needs a compiler for GPUs: pip install "jax[cuda13]"',
)
def test_compiled_for_a_card_kernels_spill_nothing_and_little_is_moved():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "kernel_bytes.py", "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["spilled_bytes"] == 0
    assert found["batch_minor_transposes"] == 0
    assert 4 < found["layer_gb"] < 5.6
