"""Products in 8-bit floats: rounded as they should be, scaled by what earlier steps have seen."""

import dataclasses
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from processes import arguments, losses, parameters, run_here, short_data, state_at
from test_step import MODEL, batch_of, leveled_batch, mesh_of, run, step_settings

from bioclip2_jax.errors import UsageError
from bioclip2_jax.models import clip, fp8, gradients, layers
from bioclip2_jax.models.execution import Execution, run_blocks
from bioclip2_jax.models.kernels import casts, mlp
from bioclip2_jax.training import ranges, sharding
from bioclip2_jax.training import step as steps
from bioclip2_jax.weights import checkpoint

ROOT = Path(__file__).parent.parent
EXPECTED = jnp.array([4.0, 0.5, 2e-5])


def draw(seed: int, *shape: int, dtype=jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def rounded(x: jax.Array, kind: int) -> np.ndarray:
    """In float64, what 8 bits keep of x at the scale of `EXPECTED`."""
    scale, form = fp8.scales(EXPECTED)[kind], (fp8.NARROW, fp8.NARROW, fp8.FAR)[kind]
    return np.asarray(fp8.cast(x, scale, form)).astype(np.float64) / float(scale)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_and_its_gradients_are_those_of_the_rounded_values(dtype):
    x, kernel, dy = draw(0, 3, 8, 32, dtype=dtype), 0.1 * draw(1, 32, 48), 1e-5 * draw(2, 3, 8, 48)
    dy = dy.astype(dtype)
    y, pull = jax.vjp(fp8.matmul, x, kernel, EXPECTED)
    dx, dk, seen = pull(dy)
    assert y.dtype == dx.dtype == dtype and dk.dtype == jnp.float32
    rows, weights, slopes = (rounded(v, kind) for kind, v in enumerate((x, kernel, dy)))
    near = 1e-5 if dtype == jnp.float32 else 1e-2
    for found, exact in (
        (y, rows @ weights),
        (dx, slopes @ weights.T),
        (dk, rows.reshape(-1, 32).T @ slopes.reshape(-1, 48)),
    ):
        np.testing.assert_allclose(
            np.asarray(found, np.float64), exact, rtol=0, atol=near * np.abs(exact).max()
        )
    assert seen.tolist() == [float(abs(v).max()) for v in (x, kernel, dy)]
    plain = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    assert 1e-3 < np.abs(y - plain).max() / np.abs(plain).max() < 0.05  # it is not exact


@pytest.mark.parametrize(("form", "end"), [(fp8.NARROW, 448), (fp8.FAR, 57344)])
def test_what_is_too_large_becomes_the_largest_and_a_nan_stays_one(form, end):
    x = jnp.array([3.0, -1e9, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(
        fp8.cast(x, jnp.float32(2), form).astype(jnp.float32), [6, -end, end, np.nan]
    )


def test_scales_are_powers_of_two_with_room_above_what_was_seen():
    maxima = jnp.abs(draw(0, 50, 3)) * 10.0 ** jnp.arange(-25, 25)[:, None]
    scales = np.asarray(fp8.scales(maxima), np.float64)
    assert (np.log2(scales) % 1 == 0).all()
    ends = np.array([448, 448, 57344])
    inside = (scales > 2.0**-60) & (scales < 2.0**60)
    reached = maxima * scales / ends
    assert inside.mean() > 0.7 and (reached <= 0.5)[inside].all() and (reached > 0.25)[inside].all()


def test_the_largest_of_the_last_steps_counts_and_a_guess_before_there_are_any():
    maxima = fp8.initial_maxima(MODEL)
    assert maxima["image"].shape == (fp8.KEPT_STEPS, MODEL.vision.layers, 2, 3)
    guess = fp8.expected(maxima)["image"]
    assert (guess == guess[0, 0]).all() and (guess > 0).all()
    for value in (5.0, 2.0, *[1.0] * (fp8.KEPT_STEPS - 2)):
        maxima = fp8.remembered(maxima, all_alike(value))
    assert (fp8.expected(maxima)["image"] == 5).all()
    maxima = fp8.remembered(maxima, all_alike(np.nan))
    assert (fp8.expected(maxima)["image"] == 2).all()
    assert (maxima["image"][0] == 1).all()  # as the one before


def guess_of() -> dict:
    return fp8.expected(fp8.initial_maxima(MODEL))


def all_alike(value: float) -> dict:
    return jax.tree.map(lambda x: jnp.full_like(x, value), guess_of())


def test_what_several_passes_see_is_compared_not_added():
    _, pull = jax.vjp(lambda maxima: fp8.shared(maxima, 4), EXPECTED)
    seen = jnp.abs(draw(0, 4, 3))
    np.testing.assert_array_equal(pull(seen)[0], seen.max(0))


def mlp_inputs(dtype) -> tuple:
    x, fc, bias = draw(0, 96, 64, dtype=dtype), 0.1 * draw(1, 64, 256), 0.1 * draw(2, 256)
    maxima = jnp.array([[4.0, 0.5, 2e-5], [4.0, 0.5, 4e-5]])
    return x, fc, bias, 0.1 * draw(3, 256, 64), maxima


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_mlp_of_kernels_rounds_as_plain_jax_does(dtype):
    def plain(x, fc, bias, proj, maxima):
        hidden = fp8.matmul(x, fc, maxima[0]) + bias.astype(x.dtype)
        return fp8.matmul(gradients.exact_gelu(hidden), proj, maxima[1])

    slopes = (1e-5 * draw(4, 96, 64)).astype(dtype)
    results = []
    for function in (functools.partial(mlp.mlp, interpret=True), plain):
        value, pull = jax.vjp(function, *mlp_inputs(dtype))
        results.append([value, *pull(slopes)])
    # GELU is not rounded to 16 bits before it is rounded to 8, which now and then is a step away.
    near = 1e-6 if dtype == jnp.float32 else 4e-2
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        found, expected = (np.asarray(x, np.float64) for x in (found, expected))
        assert np.linalg.norm(found - expected) < near * np.linalg.norm(expected)


@pytest.mark.parametrize(("rows", "width"), [(96, 256), (7, 96)])
def test_casts_come_with_a_turned_copy_and_the_largest(rows, width):
    x, dy, scale = draw(0, rows, width), draw(1, rows, width), jnp.float32(64)
    value, pull = jax.vjp(gradients.exact_gelu, x)
    for found, expected, form in (
        (casts.plain(x, scale, fp8.FAR, interpret=True), x, fp8.FAR),
        (casts.gelu(x, scale, interpret=True), value, fp8.NARROW),
        (casts.gelu_gradient(x, dy, scale, interpret=True), pull(dy)[0], fp8.FAR),
    ):
        narrow, turned, largest, *sums = found
        assert (narrow == fp8.cast(expected, scale, form)).mean() > 0.999
        assert (narrow.T == turned).all()
        np.testing.assert_allclose(largest, abs(expected).max(), rtol=1e-6)
        for total in sums:
            np.testing.assert_allclose(total, expected.sum(0), atol=1e-5)


def blocks_of(width: int) -> layers.Block:
    config = layers.BlockConfig(
        width=width,
        heads=2,
        hidden=4 * width,
        causal=False,
        activation=gradients.exact_gelu,
        stds=layers.InitialStds.text(width, 2),
    )
    return layers.stack_blocks(3, config, nnx.Rngs(0))


@pytest.mark.parametrize(
    "execution",
    [
        Execution(attention="packed", interpret=True),
        Execution(attention="packed", interpret=True, remat="full", block_parts=2),
        Execution(remat="products", remat_share=0.4, block_parts=4),
        Execution(remat="full", scan=False),
    ],
    ids=["packed", "packed-parts", "parts", "unrolled"],
)
def test_blocks_see_the_same_however_they_are_run(execution):
    graph, params = nnx.split(blocks_of(32))
    x = draw(0, 4, 65, 32)
    maxima = jnp.broadcast_to(jnp.array([8.0, 1.0, 8.0]), (3, 2, 3))

    def value(params, x, maxima, execution):
        y = run_blocks(nnx.merge(graph, params), x, execution, maxima)
        return (y * draw(1, *y.shape)).sum()

    slopes = jax.jit(jax.grad(value, argnums=(0, 1, 2)), static_argnums=3)
    *expected, expected_seen = slopes(params, x, maxima, Execution())
    *found, seen = slopes(params, x, maxima, execution)
    np.testing.assert_allclose(seen, expected_seen, rtol=2e-2)
    # A value beside the border of two roundings may fall on either side.
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(ours - theirs) < 2e-2 * np.linalg.norm(theirs)


def seen_in_a_step(devices: int, batch: dict, model: dict | None = None, **train) -> dict:
    """What one update saw, by tower."""
    settings = step_settings({"fp8": "mlp"} | (model or {}), **train)
    mesh = mesh_of(devices)
    params = jax.jit(lambda: clip.init_params(MODEL, 0, replay_projection=True))()

    def loss(maxima):
        key = jax.random.key(0)
        return steps.losses(params, batch, key, maxima, settings=settings, model=MODEL, mesh=mesh)

    return jax.jit(jax.grad(lambda maxima: loss(maxima)[0]))(guess_of())


@pytest.mark.parametrize(
    ("devices", "changes"),
    [(1, {"micro_batches": 2}), (8, {}), (2, {"micro_batches": 4})],
)
def test_the_largest_of_all_devices_and_micro_batches_is_found(devices, changes):
    batch = batch_of(0, 16) | batch_of(1, 16, "replay_")
    whole = seen_in_a_step(1, batch, replay_batch_size=16)
    found = seen_in_a_step(devices, batch, replay_batch_size=16, **changes)
    np.testing.assert_allclose(found["image"][:-1], whole["image"][:-1], rtol=1e-3)
    assert (whole["image"][:-1] > 0).all()
    assert not whole["image"][-1].any()  # the last block multiplies as ever


def test_texts_that_pass_their_tower_twice_are_seen_once_each(monkeypatch):
    deeper = dataclasses.replace(MODEL, text=dataclasses.replace(MODEL.text, layers=2))
    monkeypatch.setattr("test_fp8.MODEL", deeper)
    batch = leveled_batch()
    whole = seen_in_a_step(1, batch, level_weight=1.0)
    plain = seen_in_a_step(1, {k: x for k, x in batch.items() if k != "level_tokens"})
    # Weights are seen twice and are no larger for it; rows may be.
    np.testing.assert_array_equal(whole["text"][:-1, :, 1], plain["text"][:-1, :, 1])
    assert (whole["text"][:-1, :, 0] >= plain["text"][:-1, :, 0]).all()


def test_training_in_8_bits_learns_as_in_full():
    curves = {
        name: [row["loss"] for row in run(step_settings({"fp8": name}, replay_batch_size=8), 1)[1]]
        for name in fp8.FP8
    }
    assert curves["none"] != curves["mlp"]
    np.testing.assert_allclose(curves["mlp"], curves["none"], rtol=0.05)


def test_without_it_state_and_program_are_as_they_were(monkeypatch):
    settings, mesh = step_settings(replay_batch_size=8), mesh_of(1)
    state = jax.eval_shape(lambda: steps.init_state(settings, MODEL))
    assert state.maxima is None

    def program():
        shardings = sharding.tree_shardings(state, mesh)
        step = steps.make_train_step(settings, MODEL, mesh, shardings)
        return str(step.trace(state, batch_of(0, 16) | batch_of(1, 8, "replay_")).jaxpr)

    text = program()
    assert "f8" not in text and "float8" not in text
    eight = step_settings({"fp8": "mlp"}, replay_batch_size=8)
    kept = jax.eval_shape(lambda: steps.init_state(eight, MODEL)).maxima
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) < 10_000


def test_an_update_that_is_left_out_leaves_the_maxima():
    settings, mesh = step_settings({"fp8": "mlp"}, skip_nonfinite=1), mesh_of(1)
    begin = jax.jit(functools.partial(steps.init_state, settings, MODEL))
    shardings = sharding.tree_shardings(jax.eval_shape(begin), mesh)
    step = steps.make_train_step(settings, MODEL, mesh, shardings)
    state, _ = step(begin(), batch_of(0, 16))
    before = jax.tree.map(np.asarray, state.maxima)
    broken = state.params | {"logit_scale": jnp.float32(np.nan)}
    after, _ = step(state._replace(params=broken), batch_of(1, 16))
    jax.tree.map(np.testing.assert_array_equal, after.maxima, before)
    assert before["image"][0, 0].all()


def test_a_run_resumed_from_its_maxima_equals_one_never_stopped(tmp_path):
    data = short_data(tmp_path / "data")
    deeper = "--config.model.name=tiny"
    run_here(arguments(tmp_path / "whole", data, deeper, "--config.model.fp8=mlp"))
    whole = state_at(tmp_path / "whole", 12)
    assert np.asarray(whole["training"]["maxima"]["image"])[:12, :-1].all()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(checkpoint.step_dir(tmp_path / "cut", 12))
    run_here(arguments(tmp_path / "cut", data, deeper))  # stays as it began
    jax.tree.map(np.testing.assert_array_equal, state_at(tmp_path / "cut", 12), whole)
    run_here(arguments(tmp_path / "plain", data, deeper))
    assert losses(tmp_path / "plain") != losses(tmp_path / "whole")
    assert "maxima" not in state_at(tmp_path / "plain", 12)["training"]
    assert parameters(tmp_path / "plain", 12).keys() == parameters(tmp_path / "whole", 12).keys()


@pytest.mark.parametrize(
    ("platform", "kind", "capability"),
    [
        ("gpu", "NVIDIA A100-SXM4-80GB", "8.0"),
        ("gpu", "AMD Instinct MI300X", "gfx942"),
        ("tpu", "TPU v5 lite", ""),
    ],
)
def test_devices_that_do_not_multiply_8_bits_are_refused_in_a_sentence(platform, kind, capability):
    with pytest.raises(UsageError, match=f"config.model.fp8=mlp needs devices .*{kind}") as caught:
        ranges.check_devices(
            "xla", "bfloat16", platform, fp8="mlp", kind=kind, capability=capability
        )
    assert "\n" not in str(caught.value)
    ranges.check_devices("xla", "bfloat16", platform, kind=kind, capability=capability)


@pytest.mark.parametrize(
    ("platform", "kind", "capability"),
    [("gpu", "NVIDIA H100", "9.0"), ("gpu", "NVIDIA L4", "8.9"), ("cpu", "cpu", "")],
)
def test_devices_that_do_or_that_cast_are_taken(platform, kind, capability):
    ranges.check_devices("xla", "float32", platform, fp8="mlp", kind=kind, capability=capability)


@pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda13_plugin"),
    reason='needs a compiler for GPUs: pip install "jax[cuda13]"',
)
def test_compiled_for_a_card_six_products_a_block_are_in_8_bits_and_nothing_spills():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "kernel_bytes.py", "--fp8", "mlp", "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fp8_products"] == 6 * 3  # of two image blocks and one of texts; the last never
    assert found["spilled_bytes"] == found["batch_minor_transposes"] == 0
    assert 5 < found["layer_gb"] < 6.4
