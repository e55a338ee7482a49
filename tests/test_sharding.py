"""Mesh and sharding rules on eight forced CPU devices."""

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import PartitionSpec as P

from bioclip2_jax.errors import UsageError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.training import sharding


def test_data_axis_takes_what_fsdp_leaves():
    assert dict(sharding.make_mesh(-1, 2).shape) == {"slice": 1, "data": 4, "fsdp": 2}
    assert dict(sharding.make_mesh(-1, 2, 2).shape) == {"slice": 2, "data": 2, "fsdp": 2}


@pytest.mark.parametrize("fsdp", [1, 16, 64])
def test_a_shard_of_a_slice_may_take_part_of_a_row_of_chips(fsdp, monkeypatch):
    chips = [
        SimpleNamespace(
            id=128 * number + chip,
            platform="tpu",
            device_kind="TPU v5 lite",
            process_index=32 * number + chip // 4,
            slice_index=number,
            coords=(chip % 8, chip // 8, 0),
            core_on_chip=0,
        )
        for number in range(2)
        for chip in range(128)
    ]
    monkeypatch.setattr(sharding, "Mesh", lambda grid, *_, **__: grid)
    grid = sharding.make_mesh(-1, fsdp, 2, devices=chips)
    assert grid.shape == (2, 128 // fsdp, fsdp)
    assert [{chip.slice_index for chip in part.flat} for part in grid] == [{0}, {1}]


@pytest.mark.parametrize("axes", [(3, 1), (-1, 3), (8, 8), (-1, 0), (-1, 1, 3), (-1, 8, 2)])
def test_a_mesh_that_does_not_fit_is_named(axes):
    with pytest.raises(UsageError, match="config.mesh"):
        sharding.make_mesh(*axes)


def test_block_kernels_and_token_embeddings_are_split_and_biases_are_not():
    mesh = sharding.make_mesh(-1, 4)
    params = clip.abstract_params(PRESETS["tiny"], replay_projection=False)
    specs = jax.tree.map(lambda s: s.spec, sharding.tree_shardings(params, mesh))
    block = specs["image"]["blocks"]
    assert block["attention"]["qkv"]["kernel"] == P(None, "fsdp", None)
    assert block["attention"]["qkv"]["bias"] == P()
    assert specs["text"]["token_embedding"] == P("fsdp", None)
    assert specs["logit_scale"] == P()


def test_a_tensor_that_cannot_be_split_is_named():
    mesh = sharding.make_mesh(-1, 8)
    tree = {"projection": jax.ShapeDtypeStruct((12, 5), "float32")}
    with pytest.raises(UsageError, match="mesh.fsdp=8 does not divide the 12 rows of projection"):
        sharding.tree_shardings(tree, mesh)
