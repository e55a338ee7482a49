"""Which device holds what: one mesh, one table of rules."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bioclip2_jax.errors import UsageError

Tree = TypeVar("Tree")  # nested arrays, shapes or shardings alike
AXES = ("slice", "data", "fsdp")  # slow network between slices, fast within
BATCH = P(AXES)
_SPLIT = P("fsdp", None)  # a matrix, along its inputs
# First match wins. Stacked block kernels are [layer, in, out]; the layer axis is scanned over.
RULES = (
    (r"blocks/.*/kernel$", P(None, *_SPLIT)),
    (r"token_embedding$", _SPLIT),
    (r"projection$", _SPLIT),
    (r".*", P()),
)


@dataclass(frozen=True)
class MeshSettings:
    """The arguments of `make_mesh`."""

    data: int
    fsdp: int
    slices: int


def make_mesh(data: int, fsdp: int, slices: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of (`slice`, `data`, `fsdp`); one of the last two may be -1: what the others leave.

    Args:
      data: devices that split the batch alone.
      fsdp: devices of one slice that also split parameters and optimizer state.
      slices: groups of devices with a fast network of their own, for example TPU slices.
      devices: all that there are, if None.

    Raises:
      UsageError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    left = len(devices)
    for name, size in (("slices", slices), ("fsdp", fsdp), ("data", data)):
        if size == -1 and name != "slices":
            continue
        if size < 1 or left % size:
            raise UsageError(
                f"config.mesh.{name}={size} does not divide {left} of the {len(devices)} devices"
            )
        left //= size
    shape = (slices, left if data == -1 else data, left if fsdp == -1 else fsdp)
    if math.prod(shape) != len(devices) or data == fsdp == -1:
        raise UsageError(
            f"config.mesh: {slices} slices x data={data} x fsdp={fsdp} is not the {len(devices)}"
            " devices here; set config.mesh.data=-1 to use them all"
        )
    if slices > 1 and hasattr(devices[0], "slice_index"):
        grid = mesh_utils.create_hybrid_device_mesh(
            (1, *shape[1:]), (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def tree_shardings(tree: Tree, mesh: Mesh | AbstractMesh) -> Tree:
    """Shardings for a tree of parameters or of anything that holds parameter-shaped copies.

    Adam's moments in a train state thus follow the parameters.

    Raises:
      UsageError: a tensor cannot be split into as many parts as `fsdp` says.
    """

    def of_leaf(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis and size % mesh.shape[axis]:
                raise UsageError(
                    f"config.mesh.{axis}={mesh.shape[axis]} does not divide the {size} rows of"
                    f" {name}; use a power of two"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def on_shares(function: Callable, params: dict, batch: dict, mesh: Mesh) -> dict:
    """`function(params, batch)` on each device with its share of both; it may call `gather`.

    Args:
      function: its result has the batch as first axis of every leaf.

    Differentiable: gradients of what a device holds are summed over all devices that hold it.
    """
    specs = jax.tree.map(lambda leaf: leaf.spec, tree_shardings(params, mesh))
    # Unchecked, the sums over copies are left to the very end: once for all layers and parts.
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=(specs, BATCH), out_specs=BATCH, check_vma=False
    )
    return mapped(params, batch)


def gather(weight: jax.Array) -> jax.Array:
    """The whole of a weight of which each device holds [inputs / fsdp, outputs].

    Backwards, its gradient is summed and split again in one step (reduce-scatter).
    """
    return jax.lax.all_gather(weight, "fsdp", tiled=True)


def local_slices(mesh: Mesh) -> tuple[list[int], int]:
    """Which of how many equal slices of a batch the devices of this process hold.

    Returns:
      For one process ([0], 1), else the slices, ascending, and the number of all of them.
    """
    if jax.process_count() == 1:
        return [0], 1
    count = math.prod(mesh.shape[axis] for axis in AXES)
    rows = NamedSharding(mesh, BATCH).addressable_devices_indices_map((count,))
    return sorted({index[0].start or 0 for index in rows.values() if index}), count


def global_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """One array of all processes for each part of the batch, from this process's slices of it."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, BATCH), batch)
