"""Which device holds what: one mesh, one table of rules."""

import math
import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bioclip2_jax.errors import UsageError

BATCH = P(("data", "fsdp"))
# First match wins. Stacked block kernels are [layer, in, out]; the layer axis is scanned over.
RULES = (
    (r"blocks/.*/kernel$", P(None, "fsdp", None)),
    (r"token_embedding$", P("fsdp", None)),
    (r"projection$", P("fsdp", None)),
    (r".*", P()),
)


def make_mesh(data: int, fsdp: int) -> Mesh:
    """A (`data`, `fsdp`) mesh over all devices; `data=-1` takes what `fsdp` leaves.

    Raises:
      UsageError: the axes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise UsageError(f"config.mesh.fsdp={fsdp} does not divide the {devices} devices here")
    if data == -1:
        data = devices // fsdp
    if data * fsdp != devices:
        raise UsageError(
            f"config.mesh.data={data} x config.mesh.fsdp={fsdp} is not the {devices} devices here;"
            " set config.mesh.data=-1 to use them all"
        )
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def tree_shardings(tree: dict, mesh: Mesh) -> dict:
    """Shardings for a tree of parameters or of anything that holds parameter-shaped copies.

    A tensor whose ruled axis does not divide stays whole on every device.
    """

    def one(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis and size % mesh.shape[axis]:
                spec = P()
        return NamedSharding(mesh, spec if len(spec) <= len(leaf.shape) else P())

    return jax.tree_util.tree_map_with_path(one, tree)


def batch_divisor(mesh: Mesh) -> int:
    """The number every global batch size must be divisible by."""
    return math.prod(mesh.shape.values())
