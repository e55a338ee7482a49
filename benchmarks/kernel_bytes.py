"""What a ViT-L/14's train step moves through an H100's memory, from the program compiled for one.

    python benchmarks/kernel_bytes.py [--json] [--attention packed] [--fp8 mlp]

No card is needed, but JAX's wheels for CUDA are: `pip install "jax[cuda13]"`, gigabytes. Prints
`layer_gb`, what the kernels of one more image block read and write outside products and attention
at 288 pairs, its weights' update included; `spilled_bytes`, what the project's kernels lack in
registers; `fp8_products`, which of 3 image and 2 text blocks are 6 for each but the last;
`batch_minor_transposes`, arrays of all tokens with the pairs innermost, which cost a
pass each.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
_SIZES = {"bf16": 2, "f32": 4, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "s8": 1, "f16": 2}
_SIZES |= {"f8e4m3fn": 1, "f8e5m2": 1, "s64": 8, "u64": 8}
_FREE = ("parameter", "get-tuple-element", "bitcast", "tuple", "constant", "after-all")
_KERNELS = r"(packed|short)_attention|layer_norm|gelu|embedding|fp8"


def compiled(layers: int, attention: str, pairs: int = 288, length: int = 48, **model: object):
    """The step of a model with so many image blocks, compiled for a card that is not there."""
    import jax
    import msgspec
    from jax._src.pallas.triton import gpu_info
    from jax.experimental import topologies
    from jax.sharding import NamedSharding

    from bioclip2_jax.models.presets import PRESETS
    from bioclip2_jax.training import sharding
    from bioclip2_jax.training.step import StepSettings, init_state, make_train_step
    from configs import bioclip2_vitl14

    # Pallas asks for the GPU that it lowers for.
    card = gpu_info.get_gpu_info_from_version(gpu_info.GpuVersion.H100)
    gpu_info.get_gpu_info = lambda *args, **options: card
    target = (HERE / "h100.txtpb").read_text()
    found = topologies.get_topology_desc(
        platform="cuda", topology_name="1x1x1", topology="1x1x1", target_config=target
    )
    config = bioclip2_vitl14.get_config()
    replay = pairs // 9
    config.train.update(batch_size=pairs - replay, replay_batch_size=replay)
    options = {"remat": "none", "scan": False, "dtype": "bfloat16", "attention": attention}
    config.model.update(options | {"block_parts": 1} | model)
    size = PRESETS["vit_l14"]
    size = dataclasses.replace(
        size,
        vision=dataclasses.replace(size.vision, layers=layers),
        text=dataclasses.replace(size.text, layers=2),
    )
    values = config.data.to_dict() | config.train.to_dict() | config.model.to_dict()
    values |= {"seed": config.seed, "optimizer": values}
    values |= {"execution": values | {"gather": sharding.gather}}
    settings = msgspec.convert(values, StepSettings)
    mesh = sharding.make_mesh(-1, 1, devices=list(found.devices)[:1])
    shapes = jax.eval_shape(lambda: init_state(settings, size))
    shardings = sharding.tree_shardings(shapes, mesh)

    def shape(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    batch = {}
    for prefix, count in (("", pairs - replay), ("replay_", replay)):
        batch[prefix + "images"] = jax.ShapeDtypeStruct((count, 224, 224, 3), "uint8")
        batch[prefix + "tokens"] = jax.ShapeDtypeStruct((count, length), "int32")
        batch[prefix + "weights"] = jax.ShapeDtypeStruct((count,), "float32")
    rows = NamedSharding(mesh, sharding.BATCH)
    step = make_train_step(settings, size, mesh, shardings)
    state = jax.tree.map(shape, shapes, shardings)
    return step.lower(state, jax.tree.map(lambda x: shape(x, rows), batch)).compile()


def array_bytes(shapes: str) -> int:
    """All arrays named in a piece of a program's text."""
    total = 0
    for dtype, sizes in re.findall(r"\b([a-z]+[0-9a-z]*)\[([0-9,]*)\]", shapes):
        count = _SIZES.get(dtype, 0)
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        total += count
    return total


def moved(text: str) -> dict[str, int]:
    """Bytes that the kernels of a program's entry read and write, by kind."""
    entry = text[text.index("\nENTRY") :]
    shapes: dict[str, str] = {}
    found = {"products": 0, "attention": 0, "other": 0}
    for line in entry[: entry.index("\n}")].splitlines():
        match = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)", line)
        if not match:
            continue
        name, shape, operation, rest = match.groups()
        shapes[name] = shape
        if operation in _FREE:
            continue
        product = "matmul" in line or "cublas" in line or "dynamic_slice_fusion" in name
        out = shape.split(", s8[")[0] if product else shape
        inputs = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        size = array_bytes(out) + sum(array_bytes(shapes.get(one, "")) for one in inputs)
        kind = "products" if product else "other"
        if re.search(r"(packed|short)_attention_|fmha", line):
            kind = "attention"
        found[kind] += size
    return found


def measure(attention: str, fp8: str) -> dict:
    """The numbers, and the bytes that they come from."""
    programs = {layers: compiled(layers, attention, fp8=fp8).as_text() for layers in (2, 3)}
    bytes_moved = {layers: moved(text) for layers, text in programs.items()}
    pairs = r"\b(?:bf16|f32)\[(\d+,\d+),288\]\{|\b(?:bf16|f32)\[288,(\d+,\d+)\]\{0,"
    rest = [a or b for a, b in re.findall(pairs, programs[3])]
    large = [sizes for sizes in rest if math.prod(map(int, sizes.split(","))) > 2**16]
    return {
        "fp8_products": programs[3].count('"__cublas$lt$matmul$f8"'),
        "layer_gb": (bytes_moved[3]["other"] - bytes_moved[2]["other"]) / 1e9,
        "batch_minor_transposes": len(large),
        "gb_of_three_layers": {kind: size / 1e9 for kind, size in bytes_moved[3].items()},
    }


def main() -> None:
    """Compiles in a process of its own, whose compiler says on its log what registers spill."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", default="packed")
    parser.add_argument("--fp8", default="none")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.attention, options.fp8)))
        return
    if not importlib.util.find_spec("jax_cuda13_plugin"):
        sys.exit('error: no compiler for GPUs here; pip install "jax[cuda13]"')
    flags = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "0"}
    environment |= {"XLA_FLAGS": flags, "PYTHONPATH": str(HERE.parent)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # what is not compiled spills nothing
    done = subprocess.run(
        [sys.executable, __file__, "--child"]
        + ["--attention", options.attention, "--fp8", options.fp8],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        sys.exit("error: " + done.stderr[-2000:])
    spilled = re.findall(r"spilled to local memory in function '(\w+)', (\d+) bytes", done.stderr)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found["spilled_bytes"] = sum(int(n) for name, n in spilled if re.search(_KERNELS, name))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
