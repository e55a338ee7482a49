"""What may be added to an update: clipped gradients, averaged weights, skipped steps."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from processes import arguments, losses, parameters, run_here, short_data
from test_step import MODEL, batch_of, mesh_of, step_settings

from bioclip2_jax import train
from bioclip2_jax.data import order, pipeline
from bioclip2_jax.errors import UserError
from bioclip2_jax.models import clip
from bioclip2_jax.training import nonfinite, recipe, sharding
from bioclip2_jax.training.step import init_state, make_train_step
from bioclip2_jax.weights import checkpoint

BATCH = batch_of(0, 16)


@functools.cache
def first_params():
    return jax.jit(lambda: clip.init_params(MODEL, 0))()


@functools.cache
def program(**train):
    """The state before an update as a function of the parameters, and the update."""
    settings, mesh = step_settings(**train), mesh_of(1)
    begin = jax.jit(functools.partial(init_state, settings, MODEL))
    shardings = sharding.tree_shardings(jax.eval_shape(begin, first_params()), mesh)
    return begin, make_train_step(settings, MODEL, mesh, shardings)


def updated(params, **train):
    """The state before an update, the state after it, and its metrics."""
    begin, step = program(**train)
    before = begin(params)
    after, metrics = step(begin(params), sharding.global_batch(mesh_of(1), BATCH))
    return before, after, metrics


def gentle():
    """Parameters with smaller gradients: the smaller the scale, the smaller they are."""
    return first_params() | {"logit_scale": jnp.zeros(())}


@functools.cache
def added():
    """What may be added, in one program: none touches what the others do."""
    norm = float(updated(first_params())[2]["gradient_norm"])
    return {"clip_gradients": norm / 4, "ema": 0.9, "skip_nonfinite": 1}


def test_gradients_are_clipped_as_optax_clips_them():
    _, plain, metrics = updated(first_params())
    norm = float(metrics["gradient_norm"])
    _, clipped, told = updated(first_params(), **added())
    np.testing.assert_allclose(told["gradient_norm"], norm, rtol=1e-6)
    # Adam's first moment after one update is the gradient times 1 - beta1.
    first, expected = (state.opt_state[0].mu for state in (clipped, plain))
    expected, _ = optax.clip_by_global_norm(norm / 4 * 0.1).update(expected, optax.EmptyState())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9), first, expected
    )
    _, whole, told = updated(gentle(), **added())
    assert told["gradient_norm"] < norm / 4
    jax.tree.map(np.testing.assert_array_equal, whole.params, updated(gentle())[1].params)


def test_weights_are_averaged_as_optax_averages_them():
    before, after, _ = updated(gentle(), **added())
    _, plain, _ = updated(gentle())
    jax.tree.map(np.testing.assert_array_equal, after.params, plain.params)
    average = optax.ema(0.9, debias=False)
    _, kept = average.update(after.params, optax.EmaState(jnp.int32(0), before.params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9),
        after.averaged,
        kept.ema,
    )


def test_an_update_that_is_not_finite_changes_nothing_but_the_step():
    text = first_params()["text"]
    nothing = {"token_embedding": jnp.full_like(text["token_embedding"], jnp.nan)}
    before, after, metrics = updated(first_params() | {"text": text | nothing}, **added())
    assert not np.isfinite(metrics["loss"]) and after.step == 1
    jax.tree.map(
        np.testing.assert_array_equal,
        (before.params, before.opt_state),
        (after.params, after.opt_state),
    )
    _, whole, _ = updated(gentle(), **added())
    jax.tree.map(np.testing.assert_array_equal, whole.params, updated(gentle())[1].params)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return short_data(tmp_path_factory.mktemp("short") / "short")


def test_a_run_skips_as_many_as_it_may_and_names_their_records(data, tmp_path, monkeypatch, capfd):
    real = train.make_train_step  # its loss is no number at two steps

    def make(*args):
        step = real(*args)

        def doubtful(state, batch):
            state, metrics = step(state, batch)
            bad = (state.step == 4) | (state.step == 8)
            return state, metrics | {"loss": jnp.where(bad, jnp.nan, metrics["loss"])}

        return jax.jit(doubtful)

    monkeypatch.setattr(train, "make_train_step", make)
    run_here(arguments(tmp_path / "two", data, skip_nonfinite=2))
    told = capfd.readouterr().err
    assert "step 4: the loss is nan" in told and "skipped (2 of 2)" in told
    lines = (tmp_path / "two" / nonfinite.LOG_FILE).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8]
    with pytest.raises(UserError, match="step 8: the loss is nan .* The likely cause"):
        run_here(arguments(tmp_path / "one", data, skip_nonfinite=1))
    settings = recipe.compose(recipe.parse_arguments(arguments(tmp_path, data))[0]).data
    seed, size = settings.seed, settings.batch_size
    corpus = pipeline.open_corpus(settings.dir, "train", seed, size, order=settings.order)
    indices = [index for _, index in order.examples_at(corpus, 3, range(size))]
    expected = [corpus.source[index]["key"] for index in indices]
    assert json.loads(lines[0])["keys"] == {"": expected}


def test_averaged_weights_are_the_model_and_a_resumed_run_keeps_both(data, tmp_path):
    run_here(arguments(tmp_path / "whole", data, ema=0.5))
    run_here(arguments(tmp_path / "plain", data))
    assert losses(tmp_path / "whole") == losses(tmp_path / "plain")  # it learns as ever
    whole, plain = (parameters(tmp_path / name, 12) for name in ("whole", "plain"))
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(np.subtract, whole, plain))))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(checkpoint.step_dir(tmp_path / "cut", 12))
    run_here(arguments(tmp_path / "cut", data))  # stays as it began
    jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path / "cut", 12), whole)


@pytest.mark.parametrize(
    ("changes", "row", "words"),
    [
        ({"warmup_steps": 3}, {}, "the learning rate, 0.0001 here"),
        ({"warmup_steps": 12}, {"learning_rate": 0.01}, "the learning rate, 0.01 here"),
        (
            {"warmup_steps": 12},
            {"logit_scale": 100.0},
            "scale of the logits, 100, at its limit",
        ),
        ({"warmup_steps": 12}, {"unreadable": 5.0}, "Of its records 5 could not be read"),
        ({"warmup_steps": 12}, {}, "look at its records"),
    ],
)
def test_the_likely_cause_is_named(data, tmp_path, changes, row, words):
    settings = recipe.compose(recipe.parse_arguments(arguments(tmp_path, data, **changes))[0])
    usual = {"loss": np.nan, "gradient_norm": 1.0, "learning_rate": 1e-4, "logit_scale": 14.0}
    with pytest.raises(UserError, match=words) as caught:
        nonfinite.Nonfinite(settings, tmp_path).is_skipped(2, usual | {"unreadable": 0.0} | row)
    assert "\n" not in str(caught.value)
