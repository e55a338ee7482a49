"""Will a recipe fit, and how fast can it be: the true train step, compiled for devices elsewhere.

The compiler of the target runs here, without its hardware, and says how much memory the step takes
on each chip; what the chips send each other is read from the program it made. Times are bounds
from data sheets, not predictions.
"""

import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
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
from bioclip2_jax.training.plan import choices, hlo, work
from bioclip2_jax.training.recipe import Settings
from bioclip2_jax.training.step import StepSettings, check_split, init_state, make_train_step

# Name in a topology → in JAX's `device_kind`.
_TPUS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
_GPUS = {"h100": "NVIDIA H100"}  # described beside this file
COMPILATIONS = 8
_WORTH_IT = 0.997  # of the time of the fastest so far
# Of a GPU's memory, see `xla_flags`; a TPU's compiler knows itself what it may use.
_OF_GPUS = 0.92


@dataclass(frozen=True)
class Target:
    """Devices to compile for, here or not, and what each can do."""

    topology: str
    devices: list
    chip: Chip

    @property
    def usable(self) -> float:
        """Bytes of a chip that a step may take."""
        return self.chip.memory * (_OF_GPUS if self.topology.startswith("gpu") else 1)


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
      flops: of the products of all chips, as often as each is computed.
    """

    fits: bool
    settings: dict[str, Any]
    argument_gib: float | None = None
    temporary_gib: float | None = None
    needed_gib: float | None = None
    collective_bytes: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0

    @property
    def total_gib(self) -> float | None:
        """All memory of a chip, if it is known."""
        if self.argument_gib is None or self.temporary_gib is None:
            return None
        return self.argument_gib + self.temporary_gib


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
                "--topology gpu: this host has no GPU that JAX can use; gpu:h100x8 is planned"
                " anywhere"
            ) from error
        chip = chip_of(devices[0].device_kind) or CHIPS["NVIDIA H100"]
        return Target(topology=topology, devices=devices, chip=chip)
    kind, _, layout = topology.partition(":")
    if kind == "gpu":
        return _absent_gpus(topology, layout)
    if kind not in _TPUS or not re.fullmatch(r"\d+(x\d+){1,2}", layout):
        raise UsageError(
            f"--topology {topology}: write a kind and its layout, for example v5e:16x16,"
            " v5p:4x4x8, v6e:8x16, gpu:h100x8, or gpu"
        )
    several = {"num_slices": slices} if slices > 1 else {}
    try:
        compiler = topologies.get_topology_desc(platform="tpu", topology_name=topology, **several)
    except Exception as error:  # the plugin's own, of no common class
        hint = "" if "INVALID_ARGUMENT" in str(error) else "; install libtpu: pip install libtpu"
        raise UsageError(f"--topology {topology}: {reason(error)}{hint}") from error
    return Target(topology=topology, devices=list(compiler.devices), chip=CHIPS[_TPUS[kind]])


def _absent_gpus(topology: str, layout: str) -> Target:
    """`gpu:h100x8`: that many cards of one host, described to the compiler by a file here."""
    found = re.fullmatch(r"(\w+?)x(\d+)", layout)
    if not found or found[1] not in _GPUS or not int(found[2]):
        known = ", ".join(f"gpu:{name}x8" for name in _GPUS)
        raise UsageError(f"--topology {topology}: write a card and how many, for example {known}")
    card = (Path(__file__).parent / f"{found[1]}.txtpb").read_text(encoding="utf-8")
    try:
        compiler = topologies.get_topology_desc(
            platform="cuda",
            topology_name=f"1x1x{found[2]}",
            topology=f"1x1x{found[2]}",
            target_config=card,
        )
    except Exception as error:  # the plugin's own, of no common class
        raise UsageError(
            f"--topology {topology}: {reason(error)}; install CUDA's compiler, which needs no GPU:"
            ' pip install "jax[cuda13]"'
        ) from error
    devices = list(compiler.devices)
    return Target(topology=topology, devices=devices, chip=CHIPS[_GPUS[found[1]]])


def compile_step(
    settings: Settings,
    model: ClipConfig,
    devices: list,
    text_length: int = 77,
    memory: float = math.inf,
) -> Plan:
    """Compiles the train step for `devices`, each with `memory` bytes, and reports what it takes.

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
    traced = make_train_step(step, model, mesh, shardings).trace(state, batch)
    lowered, flops = traced.lower(), work.product_flops(traced.jaxpr)
    keys = {
        "mesh.data": mesh.shape["data"],
        "mesh.fsdp": mesh.shape["fsdp"],
        "mesh.slices": mesh.shape["slice"],
        "model.remat": step.execution.remat,
        "model.remat_share": round(step.execution.remat_share, 4),
        "model.block_parts": step.execution.block_parts,
        "train.micro_batches": step.micro_batches,
    }
    with tempfile.TemporaryDirectory() as folder:
        # Some compilers' programs cannot be turned into text any more once they are finished.
        options: dict = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            found: Any = lowered.compile(compiler_options=options).memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            used = re.search(r"(?:Used |temporaries \()([\d.]+)([MG])", str(error))
            needed = float(used[1]) / (1024 if used[2] == "M" else 1) if used else None
            return Plan(fits=False, needed_gib=needed, settings=keys, flops=flops)
        moved = hlo.collective_bytes(_longest(folder, "*after_optimizations.txt"))
        reserved = hlo.temporary_bytes(_longest(folder, "*buffer-assignment.txt"))
    arguments, temporaries = found.argument_size_in_bytes, reserved or found.temp_size_in_bytes
    if arguments + temporaries > memory:  # which not every compiler refuses
        needed = (arguments + temporaries) / GIB
        return Plan(fits=False, needed_gib=needed, settings=keys, flops=flops)
    return Plan(
        fits=True,
        argument_gib=arguments / GIB,
        temporary_gib=temporaries / GIB,
        collective_bytes=moved,
        settings=keys,
        flops=flops,
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


def seconds(plan: Plan, target: Target) -> float:
    """Of one step at best: the work at the chips' peak, or what they receive, if that takes longer.

    Work counts as it is computed, with what is computed again for the gradients.
    """
    moved = sum(plan.collective_bytes.values())
    return max(plan.flops / (len(target.devices) * target.chip.flops), moved / target.chip.network)


def search(
    settings: Settings,
    model: ClipConfig,
    target: Target,
    say: Callable[[str], None],
    text_length: int = 77,
    compilations: int = COMPILATIONS,
) -> tuple[Plan, Plan | None]:
    """Plans a recipe, and finds the settings that are the fastest of those that fit.

    What a setting takes is estimated from what blocks keep and from what the last compilation took
    beside it; the fastest that should fit is compiled next, until none is left that would be
    faster by more than a trifle, or after so many `compilations`.

    Returns:
      The plan of the recipe as it is, and the one recommended instead, or None.
    """

    def compiled(settings: Settings) -> Plan:
        plan = compile_step(settings, model, target.devices, text_length, target.usable)
        say(_line(plan))
        return plan

    first = compiled(settings)
    chips = len(target.devices)
    own = choices.Choice.of(settings, first.settings["mesh.fsdp"])
    costs = choices.Costs(settings, model, chips, text_length)
    moved = sum(first.collective_bytes.values()) / (1 + own.micro_batches)

    def expected_seconds(choice: choices.Choice) -> float:
        received = moved * (1 + choice.micro_batches)
        return max(costs.flops(choice) / target.chip.flops, received / target.chip.network)

    others = choices.choices(settings, model, own, chips)
    times = {choice: expected_seconds(choice) for choice in (own, *others)}
    known = {choice: costs.known_bytes(choice) for choice in times}

    def unknown(choice: choices.Choice, plan: Plan) -> float:
        """Bytes that a compilation took beside what was known."""
        total = plan.total_gib or plan.needed_gib
        return total * GIB - known[choice] if total else target.usable * 1.05 - known[choice]

    def preferred(choice: choices.Choice) -> tuple:
        changed = choice.block_parts != own.block_parts, choice.fsdp != own.fsdp
        return times[choice], changed, known[choice]

    best, fastest, tried, margin = None, times[own] if first.fits else math.inf, {own}, 0.0
    if first.fits or first.needed_gib:
        margin = unknown(own, first)
    while len(tried) < compilations:
        options = [c for c in times if c not in tried and times[c] < _WORTH_IT * fastest]
        fitting = [c for c in options if known[c] + margin <= target.usable]
        if not options or (not fitting and fastest < math.inf):
            break
        # Where nothing is expected to fit, what takes least may all the same.
        choice = min(fitting, key=preferred) if fitting else min(options, key=known.__getitem__)
        tried.add(choice)
        plan = compiled(choice.applied(settings))
        found = unknown(choice, plan)
        if plan.fits:
            best, fastest, margin = plan, times[choice], found
        elif fastest < math.inf:
            # Compilers are uneven, and what does not fit is refused early: less may do.
            margin += max(found - margin, target.usable / 100) / 2
        else:
            margin = found
    return first, best


def _line(plan: Plan) -> str:
    settings = " ".join(f"{key}={value}" for key, value in plan.settings.items())
    if plan.fits:
        return f"{settings}: {plan.temporary_gib:.2f} GiB of temporaries a chip"
    needed = f"needs {plan.needed_gib:.1f} GiB" if plan.needed_gib else "does not fit"
    return f"{settings}: {needed}"
