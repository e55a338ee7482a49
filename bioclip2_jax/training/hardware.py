"""What accelerators can do at best, from their makers' data sheets."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      memory: bytes.
      flops: peak dense bfloat16 FLOP/s.
      network: bytes/s it receives from its neighbours, all links together.
    """

    memory: float
    flops: float
    network: float


# By the start of JAX's `device_kind`.
CHIPS = {
    "TPU v4": Chip(memory=32 * GIB, flops=275e12, network=300e9),
    "TPU v5 lite": Chip(memory=16 * GIB, flops=197e12, network=200e9),
    "TPU v5": Chip(memory=95 * GIB, flops=459e12, network=600e9),  # v5p
    "TPU v6 lite": Chip(memory=32 * GIB, flops=918e12, network=448e9),
    "NVIDIA A100": Chip(memory=80 * GIB, flops=312e12, network=300e9),
    "NVIDIA H100": Chip(memory=80 * GIB, flops=989e12, network=450e9),
    "NVIDIA H200": Chip(memory=141 * GIB, flops=989e12, network=450e9),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip of this name, or None where it is not known (CPUs)."""
    names = [name for name in CHIPS if device_kind.startswith(name)]
    return CHIPS[max(names, key=len)] if names else None
