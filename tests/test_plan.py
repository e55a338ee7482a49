"""Planning for accelerators that are not here, and reading what their programs move."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import types
from importlib import util
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bioclip2_jax.cli import cli
from bioclip2_jax.errors import UsageError
from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.training import sharding
from bioclip2_jax.training.hardware import CHIPS, chip_of
from bioclip2_jax.training.plan import choices, hlo, report, search, work
from bioclip2_jax.training.recipe import compose
from configs import bioclip2_vitl14, quickstart

ROOT = Path(__file__).parent.parent
needs_libtpu = pytest.mark.skipif(
    util.find_spec("libtpu") is None, reason="libtpu, the TPU's compiler, is not installed"
)


def settings(fsdp=1, **train):
    config = quickstart.get_config()
    config.mesh.fsdp = fsdp
    config.model.update({"scan": True, "remat": "full"})
    config.train.update({"batch_size": 64, "replay_batch_size": 16, "level_weight": 0.0} | train)
    return compose(config)


def test_a_plan_counts_memory_and_what_devices_exchange():
    found = search.compile_step(settings(fsdp=4), PRESETS["tiny"], jax.devices())
    assert found.fits and found.temporary_gib > 0 and found.settings["mesh.data"] == 2
    # Every device needs all block kernels at least twice, and their gradients are summed once.
    kernels = sum(12 * tower.layers * tower.width**2 * 4 for tower in towers())
    assert sum(found.collective_bytes.values()) > 3 * kernels * 3 / 4
    assert found.collective_bytes["all-gather"] >= 2 * kernels * 3 / 4


def test_reserved_memory_is_that_of_the_main_memory():
    dump = """
allocation 1: size 700, parameter 0, shape |u8[700]|, maybe-live-out:
allocation 2: size 1024, preallocated-temp:
 value: <3 fusion.1 @0> (size=512,offset=512): f32[128]
allocation 3: size 16, color 2, preallocated-temp:
"""
    assert hlo.temporary_bytes(dump) == 1024
    assert hlo.temporary_bytes("") is None


def towers():
    return PRESETS["tiny"].vision, PRESETS["tiny"].text


def test_what_stands_in_a_loop_counts_as_often_as_it_runs():
    mesh = sharding.make_mesh(1, 8)
    split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())

    def five_gathers(x):
        def body(x, _):
            everywhere = jax.lax.with_sharding_constraint(x, whole)
            mixed = jax.numpy.sort(jax.numpy.sin(everywhere))
            return jax.lax.with_sharding_constraint(mixed, split), None

        return jax.lax.scan(body, x, None, length=5)[0]

    given = jax.ShapeDtypeStruct((1024,), np.float32, sharding=split)
    text = jax.jit(five_gathers, out_shardings=split).lower(given).compile().as_text()
    assert hlo.collective_bytes(text)["all-gather"] == 5 * 1024 * 4 * 7 / 8


@pytest.mark.parametrize(
    ("groups", "count"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("[2,8]<=[16]", 8),
        ("mesh['axis_0'=256] {'axis_0'}", 256),
        ("mesh['a'=4,'b'=8] {'b'}", 8),
        ("@mesh['a'=4,'b'=8] {'a','b'}", 32),
    ],
)
def test_groups_are_read_in_every_notation(groups, count):
    line = f"  %r = f32[10]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%sum"
    text = f"ENTRY %main (x: f32[10]) -> f32[10] {{\n{line}\n}}\n"
    assert hlo.collective_bytes(text)["all-reduce"] == pytest.approx(80 * (count - 1) / count)


def test_a_collective_written_out_in_several_stages_counts_once():
    stage = '  %g = bf16[64]{0} all-gather(%p), replica_groups=[1,4]<=[4], metadata={op_name="w"}'
    text = "\n".join(
        [
            *("%begin (p: bf16[16]) -> bf16[64] {", stage, "}"),
            *("%end (p: bf16[16]) -> bf16[64] {", stage, "}"),
            "ENTRY %main (p: bf16[16]) -> bf16[64] {",
            "  %a = bf16[64] fusion(%p), kind=kCustom, calls=%begin",
            "  %b = bf16[64] fusion(%a), kind=kCustom, calls=%end",
            "}",
        ]
    )
    assert hlo.collective_bytes(text) == {"all-gather": 128 * 3 / 4}


def test_repeated_gathers_of_one_shape_all_count():
    line = "  %g.{} = bf16[64]{{0}} all-gather(%p), replica_groups=[1,4]<=[4]"
    line += ', metadata={{op_name="w"}}'
    fused = [f"%f.{n} (p: bf16[16]) -> bf16[64] {{\n{line.format(n)}\n}}" for n in (1, 2)]
    main = [line.format(n) for n in (3, 4)]
    main += [f"  %x.{n} = bf16[64] fusion(%p), kind=kCustom, calls=%f.{n}" for n in (1, 2)]
    text = "\n".join([*fused, "ENTRY %main (p: bf16[16]) -> bf16[64] {", *main, "}"])
    assert hlo.collective_bytes(text) == {"all-gather": 4 * 128 * 3 / 4}


@pytest.mark.parametrize(
    ("made", "call", "bytes_"),
    [
        ("(f32[4], f32[6])", "all-reduce-start(%a, %b)", 2 * 40 * 7 / 8),
        ("((f32[1], f32[2]), (f32[8], f32[16]))", "all-gather-start(%a, %b)", 96 * 7 / 8),
        ("(f32[4], f32[4], u32[], u32[])", "collective-permute-start(%a)", 16),
    ],
)
@pytest.mark.parametrize("groups", [", replica_groups={}", ""])
def test_combined_starts_count_whole_and_no_groups_are_everyone(made, call, bytes_, groups):
    body = f"ENTRY %main (x: f32[4]) -> f32[4] {{\n  %s = {made} {call}{groups}, to_apply=%sum\n}}"
    text = f"HloModule step, num_partitions=8\n\n{body}\n"
    assert sum(hlo.collective_bytes(text).values()) == bytes_


def test_a_sharded_model_moves_what_its_program_says(monkeypatch):
    texts, count = [], hlo.collective_bytes
    monkeypatch.setattr(hlo, "collective_bytes", lambda text: texts.append(text) or count(text))
    changed = settings(fsdp=4)
    execution = dataclasses.replace(changed.step.execution, scan=False, remat="none")
    changed = dataclasses.replace(
        changed, step=dataclasses.replace(changed.step, execution=execution)
    )
    model = ClipConfig(16, VisionConfig(32, 16, 32, 3, 16), TextConfig(16, 2, 3))
    found = search.compile_step(changed, model, jax.devices())
    by_hand = 0.0
    for line in texts[0].splitlines():
        made = re.match(r"\s+(?:ROOT )?%\S+ = (.*?) (all-gather|all-reduce|reduce-scatter)\(", line)
        if made:
            arrays = re.findall(r"(f32|s32)\[([\d,]*)\]", made[1])
            size = sum(4 * math.prod(map(int, filter(None, n.split(",")))) for _, n in arrays)
            group = 4 if "{{0,1,2,3}" in line else 2 if "{{0,4}" in line else 8
            of_result = {"all-gather": 1 / group, "all-reduce": 2 / group, "reduce-scatter": 1}
            by_hand += size * of_result[made[2]] * (group - 1)
    assert by_hand > 1e5
    assert sum(found.collective_bytes.values()) == pytest.approx(by_hand, rel=0.02)


def test_work_counts_what_is_computed_again_and_no_more():
    x, kernel = np.ones((4, 8), np.float32), np.ones((8, 8), np.float32)

    def loss(kernel):
        block = jax.checkpoint(lambda x: jax.numpy.sin(x @ kernel) @ kernel)
        return jax.lax.scan(lambda x, _: (block(x), None), x, None, length=3)[0].sum()

    product = 2 * 4 * 8 * 8
    assert work.product_flops(jax.make_jaxpr(loss)(kernel)) == 3 * 2 * product
    # Two products there, twice two back, and the first of both again.
    assert work.product_flops(jax.make_jaxpr(jax.grad(loss))(kernel)) == 3 * 7 * product


def test_arrays_that_are_not_split_are_held_by_every_chip():
    tree = {"image": {"position_embedding": jax.ShapeDtypeStruct((65, 8), np.float32)}}
    tree["image"]["projection"] = jax.ShapeDtypeStruct((8, 4), np.float32)
    assert choices.held(tree, 4) == (65 * 8 + 2 * 4) * 4


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_level_captions_are_more_texts_to_encode(micro_batches):
    choice = choices.Choice("full", 1.0, 1, micro_batches, 1)

    def costs(**train):
        found = choices.Costs(settings(**train), PRESETS["tiny"], 8, 77)
        return np.array([found.flops(choice), found.known_bytes(choice)])

    alone, one = costs(), costs(level_weight=0.5)
    # 64 pairs more are 64 level captions more.
    more = costs(batch_size=128) - alone
    images = costs(batch_size=128, level_weight=0.5) - one
    np.testing.assert_allclose(images - more, one - alone)
    np.testing.assert_allclose(costs(level_weight=0.5, level_draw=()) - alone, 6 * (one - alone))
    assert (0.02 * alone < one - alone).all() and (one - alone < alone).all()


def planned(monkeypatch, needed_gib, devices=8):
    """A search in which a setting takes what `needed_gib` says of it, and the settings tried."""
    tried = []

    def compile_step(settings, model, devices, text_length, memory):
        step, execution = settings.step, settings.step.execution
        choice = choices.Choice.of(settings, max(settings.mesh.fsdp, 1))
        tried.append(choice)
        keys = {"train.micro_batches": step.micro_batches, "mesh.fsdp": settings.mesh.fsdp}
        keys |= {"model.remat": execution.remat, "model.remat_share": execution.remat_share}
        keys |= {"model.block_parts": execution.block_parts}
        needed = needed_gib(choice)
        flops = costs.flops(choice) * len(devices)
        if needed * 2**30 > memory:
            return search.Plan(fits=False, settings=keys, needed_gib=needed, flops=flops)
        return search.Plan(True, keys, 1.0, needed - 1, flops=flops)

    monkeypatch.setattr(search, "compile_step", compile_step)
    config = bioclip2_vitl14.get_config()
    config.train.update({"batch_size": 1408 * devices, "replay_batch_size": 160 * devices})
    recipe, model = compose(config), PRESETS["vit_l14"]
    costs = choices.Costs(recipe, model, devices, 77)
    return recipe, model, costs, tried


def test_the_fastest_setting_that_fits_is_found(monkeypatch):
    recipe, model, costs, tried = planned(
        monkeypatch, lambda choice: 2.5 + 1.02 * costs.known_bytes(choice) / 2**30
    )
    target = search.Target("v5p:2x2x2", jax.devices(), CHIPS["TPU v5"])
    first, best = search.search(recipe, model, target, lambda line: None)
    assert first.fits and best.fits and len(tried) <= 8
    assert first.flops / best.flops > 1.06 and best.settings["train.micro_batches"] == 1
    assert best.flops == min(
        costs.flops(choice) * 8
        for choice in choices.choices(recipe, model, tried[0], 8)
        if 2.5 + 1.02 * costs.known_bytes(choice) / 2**30 <= 95
    )
    found = report.report(recipe, model, target, first, best)
    assert found["fits"] and "% faster at best with --config.model.remat" in found["recommendation"]
    assert found["step_seconds_at_best"] < found["step_seconds_as_it_is"]
    again = search.search(recipe, model, target, lambda line: None, compilations=1)
    assert again[1] is None


def test_where_a_recipe_does_not_fit_another_setting_does(monkeypatch):
    recipe, model, costs, tried = planned(
        monkeypatch, lambda choice: 3.0 + costs.known_bytes(choice) / 2**30
    )
    target = search.Target("v5e:2x4", jax.devices(), CHIPS["TPU v5 lite"])
    first, best = search.search(recipe, model, target, lambda line: None)
    assert not first.fits and best.fits and len(tried) <= 8
    found = report.report(recipe, model, target, first, best)
    assert not found["fits"] and "--config.train.micro_batches=" in found["recommendation"]
    assert json.loads(report.to_json(found))["samples_per_second_at_best"] > 0
    assert f"needs {first.needed_gib:.1f} of 16 GiB" in report.as_text(found)
    # With micro-batches the towers run once more in any case: blocks then need not as well.
    assert best.settings["model.remat"] != "full"


def test_a_plan_says_what_the_loader_of_a_host_takes():
    chip, model = CHIPS["TPU v5 lite"], PRESETS["tiny"]
    devices = [types.SimpleNamespace(process_index=n // 4) for n in range(8)]
    target = search.Target(topology="v5e:2x4", devices=devices, chip=chip)
    keys = {"mesh.fsdp": 1, "model.remat": "none", "train.micro_batches": 1}
    plan = search.Plan(
        fits=True, settings=keys, argument_gib=1.0, temporary_gib=1.0, collective_bytes={"x": 2e8}
    )
    found = report.report(settings(), model, target, plan, None)
    # 40 of the 80 pairs; two batches ahead and one in use; no workers.
    batch = 40 * (model.vision.image_size**2 * 3 + 77 * 4)
    assert found["hosts"] == 2 and found["host_memory_gb"] == pytest.approx(3 * batch / 1e9)
    # 200 MB at 200 GB/s are a millisecond for 80 pairs: 40,000 a second and host, 1.4 ms each.
    assert found["host_cores"] == 56
    text = report.as_text(found)
    assert "of 2: batches" in text and "take 56 cores" in text and "data.prefetch=2" in text


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA H100 80GB HBM3", 989),
    ],
)
def test_a_chip_is_known_by_the_name_that_jax_gives_it(kind, teraflops):
    assert chip_of(kind).flops == teraflops * 1e12
    assert chip_of("cpu") is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology", "v9:2x2"], "write a kind and its layout"),
        (["--topology", "v5e"], "write a kind and its layout"),
        (["--topology", "gpu"], "no GPU"),
        (["--topology", "gpu:h100"], "a card and how many, for example gpu:h100x8"),
        (["--topology", "gpu:h100x8"], "install CUDA's compiler, which needs no GPU"),
        (["--topology", "gpu", "--text-length", "99"], "1 to 77"),
        (["--topology", "gpu", "--workdir=x"], "--workdir is for training"),
        (["--topology", "gpu", "--config.modle.name=x"], "did you mean config.model.name"),
    ],
)
def test_wrong_calls_are_named(arguments, words):
    call = ["plan", f"--config={ROOT / 'configs' / 'quickstart.py'}", *arguments]
    environment = dict(os.environ)
    result = CliRunner().invoke(cli, call)
    os.environ.clear()
    os.environ.update(environment)
    assert isinstance(result.exception, UsageError) and words in str(result.exception)


@needs_libtpu
def test_the_tpu_compiler_says_what_fits_without_a_tpu():

    def run(*changes):
        command = [sys.executable, "-m", "bioclip2_jax", "plan", "--topology", "v5e:2x2", "--json"]
        command += ["--config=configs/quickstart.py", *changes]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout)

    code, found = run("--as-it-is", "--config.model.dtype=bfloat16", "--config.model.scan=True")
    assert code == 0 and found["fits"] and found["chips"] == 4
    assert 0 < found["temporary_gib"] < 1 and found["hbm_gib"] == 16
