"""Mesh and sharding rules on eight forced CPU devices."""

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
