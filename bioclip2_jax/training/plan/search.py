"""Will a recipe fit, and how fast can it be: the true train step, compiled for devices elsewhere.

The compiler of the target runs here, without its hardware, and says how much memory the step takes
on each chip; what the chips send each other is read from the program it made. Times are bounds
from data sheets, not predictions.
"""

import json
import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from bioclip2_jax.errors import UsageError
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.training import sharding
from bioclip2_jax.training import step as train_step
from bioclip2_jax.training.plan import hlo

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator, from its maker's data sheet.

    Attributes:
      memory: bytes.
      flops: peak dense bfloat16 FLOP/s.
      network: bytes/s it receives from its neighbours, all links together.
    """

    memory: float
    flops: float
    network: float


CHIPS = {
    "v5e": Chip(16 * GIB, 197e12, 200e9),
    "v5p": Chip(95 * GIB, 459e12, 600e9),
    "v6e": Chip(32 * GIB, 918e12, 448e9),
    "gpu": Chip(80 * GIB, 989e12, 450e9),
}
# Tried in turn until the step fits: what costs no time first.
_MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Plan:
    """What one compilation found; memory is per chip, in GiB.

    Attributes:
      fits: whether the compiler could place everything.
      argument_gib: parameters, optimizer state and one batch; None if it does not fit.
      temporary_gib: everything the step makes meanwhile; without a fit, None.
      needed_gib: as the compiler reports it when the step does not fit.
      collective_bytes: received by a chip in one step, by kind.
      settings: the config keys that decide, and their values here.
    """

    fits: bool
    argument_gib: float | None
    temporary_gib: float | None
    needed_gib: float | None
    collective_bytes: dict[str, float]
    settings: dict[str, int | str]


def target_devices(topology: str, slices: int) -> tuple[list, Chip]:
    """Devices to compile for: `v5e:16x16`, `v5p:4x4x8`, `v6e:8x8` ..., or the GPUs of this host.

    Raises:
      UsageError: there is no such topology, or no compiler for it is installed.
    """
    if topology == "gpu":
        try:
            return jax.devices("gpu"), CHIPS["gpu"]
        except RuntimeError as error:
            raise UsageError(
                "--topology gpu: this host has no GPU that JAX can use; GPUs are planned where"
                " they are, TPUs anywhere"
            ) from error
    kind, _, layout = topology.partition(":")
    if kind not in CHIPS or kind == "gpu" or not re.fullmatch(r"\d+(x\d+){1,2}", layout):
        raise UsageError(
            f"--topology {topology}: write a kind and its layout, for example v5e:16x16,"
            " v5p:4x4x8, v6e:8x16, or gpu"
        )
    several = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **several)
    except Exception as error:  # the plugin's own, of no common class
        message = str(error).splitlines()[0]
        hint = "" if "INVALID_ARGUMENT" in message else "; install libtpu: pip install libtpu"
        raise UsageError(f"--topology {topology}: {message}{hint}") from error
    return list(found.devices), CHIPS[kind]


def compile_step(
    config: ConfigDict, model: ClipConfig, devices: list, text_length: int = 77
) -> Plan:
    """Compiles the train step of `config` for `devices` and reports what it takes.

    Raises:
      UsageError: the batch or the mesh does not fit the number of devices.
    """
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    train_step.check(config, mesh)
    abstract = jax.eval_shape(lambda: train_step.init_state(config, model))
    shardings = train_step.state_shardings(abstract, mesh)
    state = jax.tree.map(_shape, abstract, shardings)
    batch = _batch(config, model, text_length)
    batch = jax.tree.map(lambda x: _shape(x, NamedSharding(mesh, sharding.BATCH)), batch)
    lowered = train_step.make_train_step(config, model, mesh, shardings).lower(state, batch)
    settings = {
        "mesh.data": mesh.shape["data"],
        "mesh.fsdp": mesh.shape["fsdp"],
        "mesh.slices": mesh.shape["slice"],
        "model.remat": config.model.remat,
        "model.block_parts": config.model.block_parts,
        "train.micro_batches": config.train.micro_batches,
    }
    with tempfile.TemporaryDirectory() as folder:
        # Some compilers' programs cannot be turned into text any more once they are finished.
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            memory = lowered.compile(compiler_options=options).memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            used = re.search(r"Used ([\d.]+)([MG]) of", str(error))
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            needed = float(used[1]) / (1024 if used[2] == "M" else 1) if used else None
            return Plan(False, None, None, needed, {}, settings)
        moved = hlo.collective_bytes(_longest(folder, "*after_optimizations.txt"))
        reserved = hlo.temporary_bytes(_longest(folder, "*buffer-assignment.txt"))
    arguments = memory.argument_size_in_bytes / GIB
    temporaries = (reserved or memory.temp_size_in_bytes) / GIB
    return Plan(True, arguments, temporaries, None, moved, settings)


def _longest(folder: str, pattern: str) -> str:
    """The text of the largest dump of a kind: that of the step, not of a helper's program."""
    paths = sorted(Path(folder).glob(pattern), key=lambda path: path.stat().st_size)
    return paths[-1].read_text(encoding="utf-8") if paths else ""


def search(
    config: ConfigDict,
    model: ClipConfig,
    devices: list,
    chip: Chip,
    say: Callable[[str], None],
    text_length: int = 77,
) -> tuple[Plan, Plan | None]:
    """Plans `config`, and if it does not fit, settings that do.

    Returns:
      The plan of the config as it is, and the one recommended instead, or None.
    """
    first = plan = compile_step(config, model, devices, text_length)
    say(_line(first))
    if first.fits:
        return first, None
    config = ConfigDict(config.to_dict())
    per_slice = len(devices) // config.mesh.slices
    # More devices than this leave shares too thin for the chips' memory layout.
    config.mesh.update({"data": -1, "fsdp": math.gcd(per_slice, 16)})
    config.model.update({"remat": "full", "block_parts": max(8, config.model.block_parts)})
    for micro_batches in _MICRO_BATCHES:
        needed = (plan.needed_gib or 0) * GIB / chip.memory
        if micro_batches < config.train.micro_batches or micro_batches < needed / 4:
            continue  # parts of a batch cannot save more than their number
        config.train.micro_batches = micro_batches
        try:
            plan = compile_step(config, model, devices, text_length)
        except UsageError:
            break  # the rows of a device cannot be split further
        say(_line(plan))
        if plan.fits:
            return first, plan
    return first, None


def report(
    config: ConfigDict,
    model: ClipConfig,
    topology: str,
    chips: int,
    chip: Chip,
    plan: Plan,
    recommended: Plan | None,
    text_length: int = 77,
) -> dict:
    """One flat object with everything known, of the recommended plan where there is one."""
    best = recommended or plan
    flops = train_step.train_flops_per_step(config, model, text_length)
    work = flops * _recomputed(best.settings)
    moved = sum(best.collective_bytes.values())
    pairs = config.train.batch_size + config.train.replay_batch_size
    seconds = max(work / (chips * chip.flops), moved / chip.network)
    changes = {
        f"config.{key}={value}": value
        for key, value in best.settings.items()
        if recommended and value != plan.settings[key]
    }
    if recommended:
        advice = "does not fit as it is; fits with " + " ".join(f"--{c}" for c in changes)
    elif plan.fits:
        advice = "fits as it is"
    else:
        advice = "does not fit, nor with any setting tried: take more chips, or a smaller batch"
    state = _state_bytes(config, model, best.settings["mesh.fsdp"])
    found = {
        "topology": topology,
        "chips": chips,
        "model": config.model.name,
        "batch_size": config.train.batch_size,
        "replay_batch_size": config.train.replay_batch_size,
        "per_chip_batch": pairs // chips,
        "fits": plan.fits,
        "needed_gib": plan.needed_gib,
        "argument_gib": best.argument_gib,
        "parameters_gib": state[0] / GIB,
        "optimizer_gib": state[1] / GIB,
        "temporary_gib": best.temporary_gib,
        "hbm_gib": chip.memory / GIB,
        "remat": best.settings["model.remat"],
        "settings": best.settings,
        "flops_per_step": flops,
        "collective_bytes": best.collective_bytes,
        "recommendation": advice,
    }
    if best.fits:
        found |= {
            "step_seconds_at_best": seconds,
            "samples_per_second_at_best": pairs / seconds,
            "mfu_bound": flops / (seconds * chips * chip.flops),
            "days_at_best": seconds * config.train.steps / 86400,
        }
    return found


def as_text(found: dict) -> str:
    """The report for a person."""
    lines = [
        f"{found['model']} on {found['topology']}: {found['chips']} chips,"
        f" {found['per_chip_batch']} pairs each a step",
        f"  {found['recommendation']}",
    ]
    if found["needed_gib"]:
        lines.append(f"  as it is, needs {found['needed_gib']:.1f} of {found['hbm_gib']:.0f} GiB")
    if found["temporary_gib"] is None:
        return "\n".join(lines)
    moved = ", ".join(f"{k} {v / 1e9:.2f} GB" for k, v in found["collective_bytes"].items())
    settings = ", ".join(f"{key}={value}" for key, value in found["settings"].items())
    return "\n".join(
        [
            *lines,
            f"  settings       {settings}",
            f"  memory a chip  {found['temporary_gib']:.2f} GiB temporaries,"
            f" {found['parameters_gib']:.2f} parameters, {found['optimizer_gib']:.2f} optimizer,"
            f" of {found['hbm_gib']:.0f}",
            f"  work a step    {found['flops_per_step'] / 1e15:.1f} PFLOP of the model",
            f"  received       {moved or 'nothing'} a chip and step",
            f"  at best        {found['step_seconds_at_best']:.2f} s a step,"
            f" {found['samples_per_second_at_best']:,.0f} samples/s,"
            f" MFU {found['mfu_bound']:.0%}, {found['days_at_best']:.1f} days for the recipe",
        ]
    )


def to_json(found: dict) -> str:
    """The report for a program."""
    return json.dumps(found, indent=2)


def _batch(config: ConfigDict, model: ClipConfig, text_length: int) -> dict:
    size, train = model.vision.image_size, config.train
    batch = {}
    for prefix, count in (("", train.batch_size), ("replay_", train.replay_batch_size)):
        if count:
            batch |= {
                prefix + "images": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
                prefix + "tokens": jax.ShapeDtypeStruct((count, text_length), jnp.int32),
                prefix + "weights": jax.ShapeDtypeStruct((count,), jnp.float32),
            }
    if train.rank_weights:
        ranks = len(train.rank_weights)
        batch["taxon_ids"] = jax.ShapeDtypeStruct((train.batch_size, ranks), jnp.int32)
    return batch


def _shape(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _recomputed(settings: dict) -> float:
    """Work over that of the model: a forward pass is one of three parts, and may be repeated."""
    again = {"none": 0, "dots": 0, "attention": 1, "full": 1, "offload": 1}[settings["model.remat"]]
    return 1 + (again + (settings["train.micro_batches"] > 1)) / 3


def _state_bytes(config: ConfigDict, model: ClipConfig, fsdp: int) -> tuple[float, float]:
    """Parameters and optimizer state on one chip."""
    state = jax.eval_shape(lambda: train_step.init_state(config, model))

    def held(tree: dict) -> float:
        # Everything but vectors is split.
        return sum(
            leaf.size * leaf.dtype.itemsize / (fsdp if leaf.ndim > 1 else 1)
            for leaf in jax.tree.leaves(tree)
        )

    return held(state.params), held(state.opt_state)


def _line(plan: Plan) -> str:
    settings = " ".join(f"{key}={value}" for key, value in plan.settings.items())
    if plan.fits:
        return f"{settings}: {plan.temporary_gib:.2f} GiB of temporaries a chip"
    needed = f"needs {plan.needed_gib:.1f} GiB" if plan.needed_gib else "does not fit"
    return f"{settings}: {needed}"
