"""Will a recipe fit, and how fast can it be: the true train step, compiled for devices elsewhere.

The compiler of the target runs here, without its hardware, and says how much memory the step takes
on each chip; what the chips send each other is read from the program it made. Times are bounds
from data sheets, not predictions.
"""

import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from bioclip2_jax.errors import UsageError, reason
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.training import sharding
from bioclip2_jax.training.hardware import CHIPS, GIB, Chip, chip_of
from bioclip2_jax.training.plan import hlo
from bioclip2_jax.training.recipe import Settings
from bioclip2_jax.training.step import StepSettings, check_split, init_state, make_train_step

# Name in a topology → in JAX's `device_kind`.
_TPUS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
# Tried in turn until the step fits: what costs no time first.
_MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Target:
    """Devices to compile for, here or not, and what each can do."""

    topology: str
    devices: list
    chip: Chip


@dataclass(frozen=True)
class Plan:
    """What one compilation found; memory is per chip, in GiB.

    Attributes:
      fits: whether the compiler could place everything.
      settings: the config keys that decide, and their values here.
      argument_gib: parameters, optimizer state and one batch; None if it does not fit.
      temporary_gib: everything the step makes meanwhile; without a fit, None.
      needed_gib: as the compiler reports it when the step does not fit.
      collective_bytes: received by a chip in one step, by kind.
    """

    fits: bool
    settings: dict[str, Any]
    argument_gib: float | None = None
    temporary_gib: float | None = None
    needed_gib: float | None = None
    collective_bytes: dict[str, float] = field(default_factory=dict)


def target_of(topology: str, slices: int = 1) -> Target:
    """`v5e:16x16`, `v5p:4x4x8`, `v6e:8x8` ..., or the GPUs of this host.

    GPUs that no table here names are taken for an H100.

    Raises:
      UsageError: there is no such topology, or no compiler for it is installed.
    """
    if topology == "gpu":
        try:
            devices = jax.devices("gpu")
        except RuntimeError as error:
            raise UsageError(
                "--topology gpu: this host has no GPU that JAX can use; GPUs are planned where"
                " they are, TPUs anywhere"
            ) from error
        chip = chip_of(devices[0].device_kind) or CHIPS["NVIDIA H100"]
        return Target(topology=topology, devices=devices, chip=chip)
    kind, _, layout = topology.partition(":")
    if kind not in _TPUS or not re.fullmatch(r"\d+(x\d+){1,2}", layout):
        raise UsageError(
            f"--topology {topology}: write a kind and its layout, for example v5e:16x16,"
            " v5p:4x4x8, v6e:8x16, or gpu"
        )
    several = {"num_slices": slices} if slices > 1 else {}
    try:
        compiler = topologies.get_topology_desc(platform="tpu", topology_name=topology, **several)
    except Exception as error:  # the plugin's own, of no common class
        hint = "" if "INVALID_ARGUMENT" in str(error) else "; install libtpu: pip install libtpu"
        raise UsageError(f"--topology {topology}: {reason(error)}{hint}") from error
    return Target(topology=topology, devices=list(compiler.devices), chip=CHIPS[_TPUS[kind]])


def compile_step(
    settings: Settings, model: ClipConfig, devices: list, text_length: int = 77
) -> Plan:
    """Compiles the train step for `devices` and reports what it takes.

    Raises:
      UsageError: the batch or the mesh does not fit the number of devices.
    """
    step = settings.step
    mesh = sharding.make_mesh(**vars(settings.mesh), devices=devices)
    check_split(step, mesh)
    abstract = jax.eval_shape(lambda: init_state(step, model))
    shardings = sharding.tree_shardings(abstract, mesh)
    state = jax.tree.map(_shape, abstract, shardings)
    batch = _batch(step, model, text_length)
    batch = jax.tree.map(lambda x: _shape(x, NamedSharding(mesh, sharding.BATCH)), batch)
    lowered = make_train_step(step, model, mesh, shardings).lower(state, batch)
    keys = {
        "mesh.data": mesh.shape["data"],
        "mesh.fsdp": mesh.shape["fsdp"],
        "mesh.slices": mesh.shape["slice"],
        "model.remat": step.execution.remat,
        "model.block_parts": step.execution.block_parts,
        "train.micro_batches": step.micro_batches,
    }
    with tempfile.TemporaryDirectory() as folder:
        # Some compilers' programs cannot be turned into text any more once they are finished.
        options: dict = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            memory: Any = lowered.compile(compiler_options=options).memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            used = re.search(r"Used ([\d.]+)([MG]) of", str(error))
            needed = float(used[1]) / (1024 if used[2] == "M" else 1) if used else None
            return Plan(fits=False, needed_gib=needed, settings=keys)
        moved = hlo.collective_bytes(_longest(folder, "*after_optimizations.txt"))
        reserved = hlo.temporary_bytes(_longest(folder, "*buffer-assignment.txt"))
    return Plan(
        fits=True,
        argument_gib=memory.argument_size_in_bytes / GIB,
        temporary_gib=(reserved or memory.temp_size_in_bytes) / GIB,
        collective_bytes=moved,
        settings=keys,
    )


def _longest(folder: str, pattern: str) -> str:
    """The text of the largest dump of a kind: that of the step, not of a helper's program."""
    paths = sorted(Path(folder).glob(pattern), key=lambda path: path.stat().st_size)
    return paths[-1].read_text(encoding="utf-8") if paths else ""


def _batch(step: StepSettings, model: ClipConfig, text_length: int) -> dict:
    size = model.vision.image_size
    batch = {}
    for prefix, count in (("", step.batch_size), ("replay_", step.replay_batch_size)):
        if count:
            batch |= {
                prefix + "images": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
                prefix + "tokens": jax.ShapeDtypeStruct((count, text_length), jnp.int32),
                prefix + "weights": jax.ShapeDtypeStruct((count,), jnp.float32),
            }
    if step.levels:
        shape = (step.batch_size, step.levels, text_length)
        batch["level_tokens"] = jax.ShapeDtypeStruct(shape, jnp.int32)
    return batch


def _shape(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def search(
    settings: Settings,
    model: ClipConfig,
    target: Target,
    say: Callable[[str], None],
    text_length: int = 77,
) -> tuple[Plan, Plan | None]:
    """Plans a recipe, and if it does not fit, settings that do.

    Returns:
      The plan of the recipe as it is, and the one recommended instead, or None.
    """
    first = plan = compile_step(settings, model, target.devices, text_length)
    say(_line(first))
    if first.fits:
        return first, None
    step, execution = settings.step, settings.step.execution
    per_slice = len(target.devices) // settings.mesh.slices
    # More devices than this leave shares too thin for the chips' memory layout.
    mesh = replace(settings.mesh, data=-1, fsdp=math.gcd(per_slice, 16))
    execution = replace(execution, remat="full", block_parts=max(8, execution.block_parts))
    for micro_batches in _MICRO_BATCHES:
        needed = (plan.needed_gib or 0) * GIB / target.chip.memory
        if micro_batches < step.micro_batches or micro_batches < needed / 4:
            continue  # parts of a batch cannot save more than their number
        changed = replace(step, micro_batches=micro_batches, execution=execution)
        try:
            plan = compile_step(
                replace(settings, mesh=mesh, step=changed), model, target.devices, text_length
            )
        except UsageError:
            break  # the rows of a device cannot be split further
        say(_line(plan))
        if plan.fits:
            return first, plan
    return first, None


def _line(plan: Plan) -> str:
    settings = " ".join(f"{key}={value}" for key, value in plan.settings.items())
    if plan.fits:
        return f"{settings}: {plan.temporary_gib:.2f} GiB of temporaries a chip"
    needed = f"needs {plan.needed_gib:.1f} GiB" if plan.needed_gib else "does not fit"
    return f"{settings}: {needed}"
