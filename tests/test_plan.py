"""Planning for accelerators that are not here, and reading what their programs move."""

import json
import os
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
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.training import sharding
from bioclip2_jax.training.hardware import CHIPS, chip_of
from bioclip2_jax.training.plan import hlo, report, search
from bioclip2_jax.training.recipe import compose
from configs import quickstart

ROOT = Path(__file__).parent.parent
needs_libtpu = pytest.mark.skipif(
    util.find_spec("libtpu") is None, reason="libtpu, the TPU's compiler, is not installed"
)


def settings(fsdp=1):
    config = quickstart.get_config()
    config.mesh.fsdp = fsdp
    config.model.update({"scan": True, "remat": "full"})
    config.train.update({"batch_size": 64, "replay_batch_size": 16})
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


def test_when_nothing_fits_more_micro_batches_are_tried(monkeypatch):
    tried = []

    def compile_step(settings, model, devices, text_length):
        step = settings.step
        tried.append((step.micro_batches, step.execution.block_parts, settings.mesh.fsdp))
        fits = len(tried) == 4
        keys = {"train.micro_batches": step.micro_batches, "mesh.fsdp": settings.mesh.fsdp}
        keys |= {"model.remat": step.execution.remat}
        needed = None if fits else 20.0
        return search.Plan(fits=fits, settings=keys, temporary_gib=2.0, needed_gib=needed)

    monkeypatch.setattr(search, "compile_step", compile_step)
    chip, model = CHIPS["TPU v5 lite"], PRESETS["tiny"]
    target = search.Target(topology="v5e:2x4", devices=jax.devices(), chip=chip)
    first, best = search.search(settings(), model, target, lambda line: None)
    assert tried == [(1, 1, 1), (1, 8, 8), (2, 8, 8), (4, 8, 8)] and not first.fits and best.fits
    found = report.report(settings(), model, target, first, best)
    assert not found["fits"] and "--config.mesh.fsdp=8" in found["recommendation"]
    assert "--config.train.micro_batches=4" in found["recommendation"]
    assert json.loads(report.to_json(found))["samples_per_second_at_best"] > 0
    assert "needs 20.0 of 16 GiB" in report.as_text(found)


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

    code, found = run("--config.model.dtype=bfloat16", "--config.model.scan=True")
    assert code == 0 and found["fits"] and found["chips"] == 4
    assert 0 < found["temporary_gib"] < 1 and found["hbm_gib"] == 16
