"""What a plan comes to, for a person and for a program."""

import json
import math
from typing import Any

import jax

from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.training.hardware import GIB
from bioclip2_jax.training.plan.choices import held
from bioclip2_jax.training.plan.search import Plan, Target, seconds
from bioclip2_jax.training.recipe import Settings
from bioclip2_jax.training.step import init_state, train_flops_per_step

# Of a core, to read, decode, crop and tokenise a pair whose picture has 256 pixels a side:
# benchmarks/input_pipeline.py on a Xeon, config.data.decode="simd". 512 pixels take twice that.
_CORE_SECONDS = 1.4e-3
# Of a worker's own memory: benchmarks/loader.py.
_WORKER_BYTES = 80e6


def report(
    settings: Settings,
    model: ClipConfig,
    target: Target,
    plan: Plan,
    recommended: Plan | None,
    text_length: int = 77,
) -> dict[str, Any]:
    """One flat object with everything known, of the recommended plan where there is one.

    What is best is a bound from data sheets: work, or bytes received, over what the chips can do.
    """
    best, step = recommended or plan, settings.step
    chip, chips = target.chip, len(target.devices)
    flops = train_flops_per_step(step, model, text_length, devices=chips)
    pairs = step.batch_size + step.replay_batch_size
    state = jax.eval_shape(lambda: init_state(step, model))
    fsdp = best.settings["mesh.fsdp"]
    hosts = len({device.process_index for device in target.devices})
    facts = {
        "topology": target.topology,
        "chips": chips,
        "model": settings.model,
        "batch_size": step.batch_size,
        "replay_batch_size": step.replay_batch_size,
        "per_chip_batch": pairs // chips,
        "fits": plan.fits,
        "needed_gib": plan.needed_gib,
        "argument_gib": best.argument_gib,
        "parameters_gib": held(state.params, fsdp) / GIB,
        "optimizer_gib": held(state.opt_state, fsdp) / GIB,
        "temporary_gib": best.temporary_gib,
        "hbm_gib": chip.memory / GIB,
        "remat": best.settings["model.remat"],
        "settings": best.settings,
        "flops_per_step": flops,
        "collective_bytes": best.collective_bytes,
        "computed_flops_per_step": best.flops,
        "recommendation": _advice(plan, recommended, target),
        "hosts": hosts,
        "prefetch": settings.data.prefetch,
        "workers": settings.data.workers,
        "host_memory_gb": _host_bytes(settings, model, pairs / hosts, text_length) / 1e9,
    }
    if best.fits:
        time = seconds(best, target)
        facts |= {
            "step_seconds_at_best": time,
            "samples_per_second_at_best": pairs / time,
            "mfu_bound": flops / (time * chips * chip.flops),
            "days_at_best": time * settings.steps / 86400,
            "host_cores": math.ceil(pairs / time / hosts * _CORE_SECONDS),
        }
    if plan.fits:
        facts["step_seconds_as_it_is"] = seconds(plan, target)
    return facts


def as_text(facts: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [
        f"{facts['model']} on {facts['topology']}: {facts['chips']} chips,"
        f" {facts['per_chip_batch']} pairs each a step",
        f"  {facts['recommendation']}",
    ]
    if facts["needed_gib"]:
        lines.append(f"  as it is, needs {facts['needed_gib']:.1f} of {facts['hbm_gib']:.0f} GiB")
    if facts["temporary_gib"] is not None:
        moved = ", ".join(f"{k} {v / 1e9:.2f} GB" for k, v in facts["collective_bytes"].items())
        settings = ", ".join(f"{key}={value}" for key, value in facts["settings"].items())
        lines += [
            f"  settings       {settings}",
            f"  memory a chip  {facts['temporary_gib']:.2f} GiB temporaries,"
            f" {facts['parameters_gib']:.2f} parameters, {facts['optimizer_gib']:.2f} optimizer,"
            f" of {facts['hbm_gib']:.0f}",
            f"  work a step    {facts['flops_per_step'] / 1e15:.1f} PFLOP of the model",
            f"  received       {moved or 'nothing'} a chip and step",
            f"  at best        {facts['step_seconds_at_best']:.2f} s a step,"
            f" {facts['samples_per_second_at_best']:,.0f} samples/s,"
            f" MFU {facts['mfu_bound']:.0%}, {facts['days_at_best']:.1f} days for the recipe",
            f"  each host      of {facts['hosts']}: batches and workers of the loader hold"
            f" {facts['host_memory_gb']:.1f} GB (data.prefetch={facts['prefetch']},"
            f" data.workers={facts['workers']})",
            f"                 and take {facts['host_cores']} cores to keep up at best, where"
            " pictures have 256 pixels a side",
        ]
    return "\n".join(lines)


def to_json(facts: dict[str, Any]) -> str:
    """The report for a program."""
    return json.dumps(facts, indent=2)


def _advice(plan: Plan, recommended: Plan | None, target: Target) -> str:
    if not recommended and plan.fits:
        return "fits as it is"
    if not recommended:
        return "does not fit, nor with any setting tried: take more chips, or a smaller batch"
    settings = recommended.settings.items()
    changes = [f"--config.{key}={value}" for key, value in settings if value != plan.settings[key]]
    if not plan.fits:
        return " ".join(["does not fit as it is; fits with", *changes])
    gain = seconds(plan, target) / seconds(recommended, target) - 1
    return " ".join([f"fits as it is; {gain:.0%} faster at best with", *changes])


def _host_bytes(settings: Settings, model: ClipConfig, pairs: float, text_length: int) -> float:
    """What the loader of a host holds: batches made ahead, the one in use, and its workers."""
    pair = 3 * model.vision.image_size**2 + 4 * text_length * (1 + settings.step.levels)
    return (settings.data.prefetch + 1) * pairs * pair + settings.data.workers * _WORKER_BYTES
