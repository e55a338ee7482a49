"""One update: what the two losses touch, and that the mesh does not matter."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bioclip2_jax.losses import contrastive_loss
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.text.tokenizer import tokenize
from bioclip2_jax.training import sharding, step
from bioclip2_jax.training.recipe import compose
from bioclip2_jax.training.step import init_state, losses, make_train_step, train_flops_per_step
from configs import quickstart

MODEL = ClipConfig(
    embed_dim=16,
    vision=VisionConfig(image_size=16, patch_size=8, width=32, layers=2, head_width=16),
    text=TextConfig(width=32, heads=2, layers=1),
)


def step_settings(model=None, **train):
    config = quickstart.get_config()
    config.train.update(dict(batch_size=16, steps=20, warmup_steps=4, level_weight=0.0) | train)
    config.model.update(model or {})
    return compose(config).step


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


@functools.cache
def initial_params():
    return jax.jit(lambda: clip.init_params(MODEL, 0, replay_projection=True))()


@functools.cache
def gradient(settings, mesh):
    """Loss and gradients as a function of the parameters and a batch."""

    def loss(params, batch):
        key = jax.random.key(0)
        return losses(params, batch, key, settings=settings, model=MODEL, mesh=mesh)[0]

    return jax.jit(jax.value_and_grad(loss))


def gradients(settings, batch, mesh=None):
    return gradient(settings, mesh or mesh_of(1))(initial_params(), batch)


def test_total_loss_is_the_sum_of_the_two_losses_computed_separately():
    settings = step_settings(replay_batch_size=8)
    batch = batch_of(0, 16) | batch_of(1, 8, "replay_")
    total, _ = gradients(settings, batch)

    @functools.partial(jax.jit, static_argnames="replay")
    def separate(params, images, tokens, *, replay):
        model = clip.bind(MODEL, params)
        pixels = clip.normalize_images(images, settings.mean, settings.std)
        image_features = model.project_image(model.image_trunk(pixels), replay=replay)
        scale = jnp.exp(model.logit_scale[...])
        return contrastive_loss(image_features, model.encode_text(tokens), scale)

    expected = sum(
        separate(
            initial_params(),
            batch[f"{prefix}images"],
            batch[f"{prefix}tokens"],
            replay=bool(prefix),
        )
        for prefix in ("", "replay_")
    )
    np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "projection", "other"),
    [
        ("replay_images", "projection", "replay_projection"),
        ("images", "replay_projection", "projection"),
    ],
)
def test_each_projection_learns_from_its_own_images_only(changed, projection, other):
    settings = step_settings(replay_batch_size=8)
    batch = batch_of(0, 16) | batch_of(1, 8, "replay_")
    _, before = gradients(settings, batch)
    moved = batch | {changed: 255 - batch[changed]}
    _, after = gradients(settings, moved)
    np.testing.assert_array_equal(before["image"][projection], after["image"][projection])
    assert not np.array_equal(before["image"][other], after["image"][other])


def leveled_batch(ranks: int = 1) -> dict:
    """A batch with a few lineages a rank, of which some pairs have weight 0, and replay."""
    batch = batch_of(0, 16) | batch_of(1, 8, "replay_")
    batch["weights"][[3, 9]] = 0
    numbers = np.random.default_rng(2).integers(0, 3, (16, ranks))
    texts = tokenize([f"a photo of lineage {n}." for n in numbers.ravel()])[:, :16]
    return batch | {"level_tokens": texts.reshape(16, ranks, 16)}


@pytest.mark.parametrize("ranks", [1, 6])
def test_the_level_loss_is_that_of_the_same_pictures_against_the_distinct_texts(ranks):
    draw = {"level_draw": ()} if ranks == 6 else {}
    batch, settings = leveled_batch(ranks), step_settings(replay_batch_size=8, **draw)
    plain, _ = gradients(settings, {k: v for k, v in batch.items() if k != "level_tokens"})
    total, _ = gradients(step_settings(replay_batch_size=8, level_weight=0.3, **draw), batch)

    @jax.jit
    def separate(params):
        model = clip.bind(MODEL, params)
        pixels = clip.normalize_images(batch["images"], settings.mean, settings.std)
        images = model.project_image(model.image_trunk(pixels))
        scale = jnp.exp(model.logit_scale[...])
        found = []
        for tokens in batch["level_tokens"].swapaxes(0, 1):
            ids = np.unique(tokens, axis=0, return_inverse=True)[1].ravel()
            texts = model.encode_text(tokens)
            found.append(contrastive_loss(images, texts, scale, batch["weights"], text_ids=ids))
        return sum(found) / ranks

    np.testing.assert_allclose(total - plain, 0.3 * separate(initial_params()), rtol=1e-4)


@pytest.mark.parametrize(
    ("devices", "micro_batches", "dtype"),
    [(1, 1, "float32"), (8, 2, "float32"), (1, 1, "bfloat16")],
)
def test_each_distinct_level_text_need_be_encoded_only_once(devices, micro_batches, dtype):
    batch, train = leveled_batch(6), {"level_weight": 0.5, "level_draw": ()}
    train |= {"replay_batch_size": 16, "distinct_captions": True}
    batch = {k: np.concatenate([x] * 2) if "replay" in k else x for k, x in batch.items()}
    model = {"dtype": dtype}
    loss, expected = gradients(step_settings(model, **train), batch)
    mesh = mesh_of(1) if devices == 1 else sharding.make_mesh(2, 2, 2, jax.devices())
    settings = step_settings(model, micro_batches=micro_batches, **train)
    few = dataclasses.replace(settings, level_texts=4)
    assert few.level_rows(16) == 8 < settings.level_rows(16) == 96
    found_loss, found = gradients(few, batch, mesh)
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(found_loss, loss, rtol=tolerance / 5)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("by", [step._MULTIPLIERS, (0, 0x85EBCA6B), (0x01000193, 0)])
def test_equal_texts_have_one_number_also_where_one_of_two_hashes_fails(by, monkeypatch):
    monkeypatch.setattr(step, "_MULTIPLIERS", by)  # by 0 all texts have one hash
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.integers(49408, size=7000), rng.integers(3, size=7000)], axis=1)
    tokens = np.concatenate([tokens, tokens[::7]]).astype(np.int32)
    _, expected = np.unique(tokens, axis=0, return_inverse=True)
    found = np.asarray(step._text_ids(jnp.asarray(tokens)))
    pairs = np.unique(np.stack([found, expected.ravel()]), axis=1)
    assert pairs.shape[1] == expected.max() + 1 == found.max() + 1 == len(np.unique(found))
    assert found.min() == 0


def test_level_texts_are_counted_among_the_work():
    def flops(**train):
        return train_flops_per_step(step_settings(**train), MODEL, 16, level_length=8)

    one = flops(level_weight=0.5) - flops()
    assert flops(level_weight=0.5, level_draw=()) - flops() == pytest.approx(6 * one)
    few = dataclasses.replace(step_settings(level_weight=0.5), level_texts=3)
    assert train_flops_per_step(few, MODEL, 16, level_length=8) - flops() == pytest.approx(one / 2)


@functools.cache
def program(settings, mesh):
    """What makes the first state, and the update."""
    abstract = jax.eval_shape(lambda: init_state(settings, MODEL))
    shardings = sharding.tree_shardings(abstract, mesh)
    begin = jax.jit(lambda: init_state(settings, MODEL), out_shardings=shardings)
    return begin, make_train_step(settings, MODEL, mesh, shardings)


def run(settings, devices, steps=20):
    mesh = mesh_of(devices)
    begin, step = program(settings, mesh)
    state = begin()
    whole = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    rows = []
    for number in range(steps):
        batch = batch_of(number, 16) | batch_of(100 + number, 8, "replay_")
        state, metrics = step(state, jax.device_put(batch, whole))
        rows.append({name: float(value) for name, value in metrics.items()})
    return state, rows


def test_one_two_and_eight_devices_give_the_same_losses():
    settings = step_settings(replay_batch_size=8)
    curves = [[row["loss"] for row in run(settings, devices)[1]] for devices in (1, 2, 8)]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("micro_batches", "block_parts", "remat"), [(2, 1, "none"), (4, 1, "full"), (1, 2, "full")]
)
def test_micro_batches_and_block_parts_change_no_gradient(micro_batches, block_parts, remat):
    batch = batch_of(0, 16) | batch_of(1, 8, "replay_")
    batch["weights"][3] = 0
    mesh = sharding.make_mesh(-1, 2, devices=jax.devices()[:2])
    train = {"replay_batch_size": 8, "patch_keep": 0.5}
    loss, expected = gradients(step_settings(**train), batch, mesh)
    model = {"remat": remat, "block_parts": block_parts, "scan": remat == "full"}
    settings = step_settings(model, micro_batches=micro_batches, **train)
    found_loss, found = gradients(settings, batch, mesh)
    np.testing.assert_allclose(found_loss, loss, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_logit_scale_never_leaves_its_range():
    settings = step_settings(learning_rate=2.0, weight_decay=0.0, steps=4, replay_batch_size=8)
    state, rows = run(settings, 1, steps=4)
    assert all(1.0 <= row["logit_scale"] <= 100.001 for row in rows)
    assert 0 <= float(state.params["logit_scale"]) <= np.log(100) + 1e-6


def test_patch_dropout_is_a_function_of_the_step_and_shortens_the_work():
    settings = step_settings(patch_keep=0.5, replay_batch_size=8)
    first, again = run(settings, 1, steps=3)[1], run(settings, 1, steps=3)[1]
    assert first == again
    assert first != run(step_settings(replay_batch_size=8), 1, steps=3)[1]
    assert train_flops_per_step(settings, MODEL, 16) < train_flops_per_step(
        step_settings(replay_batch_size=8), MODEL, 16
    )


def test_model_flops_of_vit_l14_match_the_published_figure():
    from bioclip2_jax.models.presets import PRESETS

    settings = step_settings(batch_size=1)
    flops = train_flops_per_step(settings, PRESETS["vit_l14"], 77) / 3
    assert flops == pytest.approx((155 + 13) * 1e9, rel=0.06)  # published: 155 image, 13 label
