"""Schedule and weight decay follow the original's recipe."""

import jax
import numpy as np
import optax
import pytest

from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.training import optim, recipe
from configs import common


def settings(**changes):
    config = common.get_config()
    config.train.update(changes)
    return recipe.compose(config).step.optimizer


def test_learning_rate_rises_linearly_from_the_first_step_and_ends_at_zero():
    schedule = optim.learning_rate(settings(steps=100, warmup_steps=10, learning_rate=1e-3))
    np.testing.assert_allclose(schedule(0), 1e-4, rtol=1e-6)
    np.testing.assert_allclose(schedule(9), 1e-3, rtol=1e-6)
    np.testing.assert_allclose(schedule(10), 1e-3, rtol=1e-6)
    np.testing.assert_allclose(schedule(55), 5e-4, rtol=1e-5)
    np.testing.assert_allclose(schedule(100), 0, atol=1e-10)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_the_schedules_are_those_of_optax_behind_open_clips_warm_up(name):
    steps, warmup, cooldown, peak = 100, 10, 20, 1e-3
    changes = {"schedule": name, "cooldown_steps": cooldown, "learning_rate": peak}
    schedule = optim.learning_rate(settings(steps=steps, warmup_steps=warmup, **changes))
    left = steps - warmup
    falling = optax.linear_schedule(peak, 0, cooldown, left - cooldown)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, left),
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0, left),
        "trapezoid": falling,
    }[name]
    rise = [peak * (step + 1) / warmup for step in range(warmup)]
    expected = rise + [float(after(step)) for step in range(left + 1)]
    found = [float(schedule(step)) for step in range(steps + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-10)


def test_weight_decay_touches_matrices_and_embeddings_only():
    params = clip.abstract_params(PRESETS["tiny"], replay_projection=True)
    mask = optim.decay_mask(params)
    for path, decayed in jax.tree_util.tree_leaves_with_path(mask):
        name = path[-1].key
        assert decayed == (name not in {"bias", "scale", "class_embedding", "logit_scale"}), name
    assert mask["text"]["token_embedding"] and mask["image"]["replay_projection"]


def test_one_update_equals_adamw_written_out():
    chosen = settings(steps=10, warmup_steps=1, learning_rate=0.1, weight_decay=0.5)
    weight = np.array([[1.0, -2.0]], np.float32)
    params = {"kernel": weight, "bias": np.array([3.0], np.float32)}
    gradients = {
        "kernel": np.array([[0.3, -0.1]], np.float32),
        "bias": np.array([2.0], np.float32),
    }
    update = optim.optimizer(chosen)
    updates, _ = update.update(gradients, update.init(params), params)
    new = optax.apply_updates(params, updates)
    step = gradients["kernel"] / (np.abs(gradients["kernel"]) + chosen.epsilon)
    np.testing.assert_allclose(new["kernel"], weight - 0.1 * (step + 0.5 * weight), rtol=1e-5)
    np.testing.assert_allclose(new["bias"], [2.9], rtol=1e-5)
