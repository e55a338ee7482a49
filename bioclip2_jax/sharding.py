"""Which device holds what: one mesh, one table of rules."""

import math
import re
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bioclip2_jax.errors import UsageError
from bioclip2_jax.models.layers import Placement

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


def make_mesh(
    data: int, fsdp: int, slices: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
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
    if data == -1 and fsdp != -1:
        data, left = left, 1
    elif fsdp == -1 and data != -1:
        fsdp, left = left, 1
    if left != 1 or -1 in (data, fsdp):
        raise UsageError(
            f"config.mesh: {slices} slices x data={data} x fsdp={fsdp} is not the {len(devices)}"
            " devices here; set config.mesh.data=-1 to use them all"
        )
    shape = (slices, data, fsdp)
    if slices > 1 and hasattr(devices[0], "slice_index"):
        grid = mesh_utils.create_hybrid_device_mesh((1, data, fsdp), (slices, 1, 1), devices)
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def tree_shardings(tree: dict, mesh: Mesh) -> dict:
    """Shardings for a tree of parameters or of anything that holds parameter-shaped copies.

    A tensor whose ruled axis does not divide stays whole on every device.
    """

    def one(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        return NamedSharding(mesh, _if_it_divides(spec, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, tree)


def placement(mesh: Mesh) -> Placement:
    """How the towers run on `mesh`: batch split, each weight gathered where it is used.

    Left to itself the compiler splits activations by the weights' axes, or gathers all layers at
    once. A weight's gradient is summed and split again in one step (reduce-scatter), in the dtype
    of the weight as it was gathered.
    """
    whole = NamedSharding(mesh, P())

    @jax.custom_vjp
    def gather(weight: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(weight, whole)

    def backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        split = NamedSharding(mesh, _if_it_divides(_SPLIT, gradient.shape, mesh))
        return (jax.lax.with_sharding_constraint(gradient, split),)

    gather.defvjp(lambda weight: (gather(weight), None), backward)

    def activation(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, BATCH))

    def split(x: jax.Array, most: int) -> jax.Array:
        parts = math.gcd(x.shape[0] // mesh.size, most)
        x = split_batch(x, mesh, parts)
        return x.reshape(parts, -1, *x.shape[3:])

    def join(x: jax.Array) -> jax.Array:
        return join_batch(x.reshape(x.shape[0], mesh.size, -1, *x.shape[2:]), mesh)

    return Placement(activation, gather, split, join)


def split_batch(x: jax.Array, mesh: Mesh, parts: int) -> jax.Array:
    """[batch, ...] → [parts, devices, rows, ...]; every device keeps its own rows."""
    x = x.reshape(mesh.size, parts, -1, *x.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(None, *BATCH)))


def join_batch(x: jax.Array, mesh: Mesh) -> jax.Array:
    """The inverse of `split_batch`."""
    x = x.swapaxes(0, 1).reshape(-1, *x.shape[3:])
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, BATCH))


def batch_divisor(mesh: Mesh) -> int:
    """The number every global batch size must be divisible by."""
    return mesh.size


def _if_it_divides(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    if len(spec) > len(shape):
        return P()
    divided = zip(shape, spec, strict=False)
    return spec if all(not axis or size % mesh.shape[axis] == 0 for size, axis in divided) else P()
