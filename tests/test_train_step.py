"""One update: what the two losses touch, and that the mesh does not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bioclip2_jax.losses import contrastive_loss
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.text.tokenizer import tokenize
from bioclip2_jax.training import sharding
from bioclip2_jax.training import step as train_step
from configs import quickstart

MODEL = ClipConfig(
    embed_dim=16,
    vision=VisionConfig(image_size=16, patch_size=8, width=32, layers=2, head_width=16),
    text=TextConfig(width=32, heads=2, layers=1),
)


def recipe(**train):
    config = quickstart.get_config()
    config.train.update(dict(batch_size=16, steps=20, warmup_steps=4) | train)
    return config


def batch_of(seed: int, size: int, prefix: str = "") -> dict:
    rng = np.random.default_rng(seed)
    texts = [f"a photo of species {n}." for n in rng.integers(0, 1000, size)]
    return {
        f"{prefix}images": rng.integers(0, 256, (size, 16, 16, 3), np.uint8),
        f"{prefix}tokens": tokenize(texts)[:, :16],
        f"{prefix}weights": np.ones(size, np.float32),
    }


def mesh_of(devices: int):
    return sharding.make_mesh(-1, 2 if devices == 8 else 1, devices=jax.devices()[:devices])


def gradients(config, batch, part):
    params = clip.init_params(MODEL, 0, replay_projection=True)

    def loss(params):
        total, metrics = train_step.losses(
            MODEL, params, config, batch, jax.random.key(0), mesh_of(1)
        )
        return total if part == "loss" else metrics[part]

    return jax.jit(jax.value_and_grad(loss))(params)


def test_total_loss_is_the_sum_of_the_two_losses_computed_separately():
    config = recipe(replay_batch_size=8)
    batch = batch_of(0, 16) | batch_of(1, 8, "replay_")
    total, _ = gradients(config, batch, "loss")
    model = clip.bind(MODEL, clip.init_params(MODEL, 0, replay_projection=True))
    expected = 0.0
    for prefix in ("", "replay_"):
        pixels = clip.normalize_images(batch[prefix + "images"], config.data.mean, config.data.std)
        image_features = model.project_image(model.image_trunk(pixels), replay=bool(prefix))
        text_features = model.encode_text(batch[prefix + "tokens"])
        scale = jnp.exp(model.logit_scale[...])
        expected += contrastive_loss(image_features, text_features, scale)
    np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "projection", "other"),
    [
        ("replay_images", "projection", "replay_projection"),
        ("images", "replay_projection", "projection"),
    ],
)
def test_each_projection_learns_from_its_own_images_only(changed, projection, other):
    config = recipe(replay_batch_size=8)
    batch = batch_of(0, 16) | batch_of(1, 8, "replay_")
    _, before = gradients(config, batch, "loss")
    moved = batch | {changed: 255 - batch[changed]}
    _, after = gradients(config, moved, "loss")
    np.testing.assert_array_equal(before["image"][projection], after["image"][projection])
    assert not np.array_equal(before["image"][other], after["image"][other])


def run(config, devices, steps=20):
    mesh = mesh_of(devices)
    abstract = jax.eval_shape(lambda: train_step.init_state(config, MODEL))
    shardings = train_step.state_shardings(abstract, mesh)
    state = jax.jit(lambda: train_step.init_state(config, MODEL), out_shardings=shardings)()
    step = train_step.make_train_step(config, MODEL, mesh, shardings)
    whole = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    rows = []
    for number in range(steps):
        batch = batch_of(number, 16) | batch_of(100 + number, 8, "replay_")
        state, metrics = step(state, jax.device_put(batch, whole))
        rows.append({name: float(value) for name, value in metrics.items()})
    return state, rows


def test_one_two_and_eight_devices_give_the_same_losses():
    config = recipe(replay_batch_size=8)
    curves = [[row["loss"] for row in run(config, devices)[1]] for devices in (1, 2, 8)]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-5)


@pytest.mark.parametrize("settings", [(2, 1, "none"), (4, 1, "full"), (1, 2, "full")], ids=str)
def test_micro_batches_and_block_parts_change_no_gradient(settings):
    batch = batch_of(0, 16) | batch_of(1, 8, "replay_")
    batch["weights"][3] = 0
    micro_batches, block_parts, remat = settings

    def gradient(config):
        mesh = sharding.make_mesh(-1, 2, devices=jax.devices()[:2])
        params = clip.init_params(MODEL, 0, replay_projection=True)

        def loss(params):
            key = jax.random.key(0)
            return train_step.losses(MODEL, params, config, batch, key, mesh)[0]

        return jax.jit(jax.value_and_grad(loss))(params)

    config = recipe(replay_batch_size=8, patch_keep=0.5)
    loss, expected = gradient(config)
    config.train.micro_batches = micro_batches
    config.model.update({"remat": remat, "block_parts": block_parts, "scan": remat == "full"})
    found_loss, found = gradient(config)
    np.testing.assert_allclose(found_loss, loss, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_logit_scale_never_leaves_its_range():
    config = recipe(learning_rate=2.0, weight_decay=0.0, steps=4, replay_batch_size=8)
    state, rows = run(config, 1, steps=4)
    assert all(1.0 <= row["logit_scale"] <= 100.001 for row in rows)
    assert 0 <= float(state.params["logit_scale"]) <= np.log(100) + 1e-6


def test_patch_dropout_is_a_function_of_the_step_and_shortens_the_work():
    config = recipe(patch_keep=0.5, replay_batch_size=8)
    first, again = run(config, 1, steps=3)[1], run(config, 1, steps=3)[1]
    assert first == again
    assert first != run(recipe(replay_batch_size=8), 1, steps=3)[1]
    assert train_step.train_flops_per_step(config, MODEL, 16) < train_step.train_flops_per_step(
        recipe(replay_batch_size=8), MODEL, 16
    )


def test_model_flops_of_vit_l14_match_the_published_figure():
    from bioclip2_jax.models.presets import PRESETS

    config = recipe(batch_size=1)
    flops = train_step.train_flops_per_step(config, PRESETS["vit_l14"], 77) / 3
    assert flops == pytest.approx((155 + 13) * 1e9, rel=0.06)  # published: 155 image, 13 label
