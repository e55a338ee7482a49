"""Saving, listing and reading checkpoints, and what happens when they are damaged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bioclip2_jax import checkpoint
from bioclip2_jax.errors import UserError


def small_params(value: float = 1.0) -> dict:
    return {"text": {"kernel": jnp.full((4, 6), value)}, "logit_scale": jnp.float32(value)}


def write(workdir, steps, keep=9):
    writer = checkpoint.Writer(workdir, keep)
    for step in steps:
        writer.save(step, small_params(step), {"step": jnp.int32(step)})
    writer.close()


def abstract(tree):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    write(tmp_path, [1, 2, 3, 10], keep=2)
    assert checkpoint.steps(tmp_path) == [3, 10]
    assert checkpoint.latest_step(tmp_path) == 10


def test_a_folder_without_checkpoints_has_no_step(tmp_path):
    assert checkpoint.latest_step(tmp_path / "nowhere") is None


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    write(tmp_path, [1])
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.steps(tmp_path) == [1]


def test_state_returns_as_it_was(tmp_path):
    write(tmp_path, [5])
    training = {"step": jnp.int32(0)}
    params, rest = checkpoint.restore(tmp_path, 5, abstract(small_params()), abstract(training))
    np.testing.assert_array_equal(params["text"]["kernel"], np.full((4, 6), 5.0))
    assert rest["step"] == 5


def test_parameters_are_readable_alone_as_numpy(tmp_path):
    write(tmp_path, [5])
    params = checkpoint.restore_params(checkpoint.step_dir(tmp_path, 5))
    assert isinstance(params["text"]["kernel"], np.ndarray)
    assert params["logit_scale"] == 5.0


def test_another_model_is_refused_with_every_tensor_that_differs(tmp_path):
    write(tmp_path, [5])
    other = {"text": {"kernel": jnp.zeros((4, 7))}, "extra": jnp.zeros(3)}
    with pytest.raises(UserError) as caught:
        checkpoint.restore(tmp_path, 5, abstract(other), abstract({"step": jnp.int32(0)}))
    for name in ("text/kernel", "(4, 6)", "(4, 7)", "extra", "logit_scale"):
        assert name in str(caught.value)


@pytest.mark.parametrize("victim", ["params/_METADATA", "params", "_CHECKPOINT_METADATA"])
def test_a_damaged_checkpoint_is_named(tmp_path, victim):
    write(tmp_path, [5])
    folder = checkpoint.step_dir(tmp_path, 5)
    target = folder / victim
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    if victim == "_CHECKPOINT_METADATA":
        shutil.rmtree(folder / "params" / "d")
    with pytest.raises(UserError, match="5: unreadable checkpoint"):
        checkpoint.restore_params(folder)
