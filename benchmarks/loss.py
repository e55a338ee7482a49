"""The contrastive loss and its gradients: dense, one block a device, and tiled.

    python benchmarks/loss.py [--batch 4096] [--devices 8] [--json]        # time and memory, here
    python benchmarks/loss.py --topology v5e:4x8 [--batch 90112] [--json]  # memory and work, there

Dense is the textbook form, split over devices by the compiler. With --topology nothing runs: the
TPU's compiler says what each form would take (needs libtpu). On a CPU --devices are made of one.
"""

import argparse
import json
import os
import statistics
import sys
import time

_DIM = 768


def arguments() -> argparse.Namespace:
    """The command line; also tells JAX, before it starts, which devices there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, help="pairs (4096, with --topology 90112)")
    parser.add_argument("--devices", type=int, default=1, help="of this host")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--topology", metavar="NAME", help="a TPU slice, for example v5e:4x8")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    options.batch = options.batch or (90_112 if options.topology else 4096)
    if options.topology:
        os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
        os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    elif options.devices > 1:
        flag = f"--xla_force_host_platform_device_count={options.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    return options


def main() -> None:
    """One row for each form."""
    options = arguments()
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from bioclip2_jax.losses import contrastive_loss
    from bioclip2_jax.training import sharding
    from bioclip2_jax.training.plan import search

    def dense(image: jax.Array, text: jax.Array, scale: jax.Array) -> jax.Array:
        logits = scale * jnp.matmul(image, text.T, preferred_element_type=jnp.float32)
        own = jnp.diagonal(logits)
        by_row = jax.nn.logsumexp(logits, axis=1) - own
        by_column = jax.nn.logsumexp(logits, axis=0) - own
        return (by_row.mean() + by_column.mean()) / 2

    if options.topology:
        devices = search.target_of(options.topology).devices
    else:
        devices = jax.devices()[: options.devices]
    mesh = sharding.make_mesh(-1, 1, devices=devices)
    rows = NamedSharding(mesh, sharding.BATCH)
    whole = NamedSharding(mesh, PartitionSpec())
    dtype = jnp.dtype(options.dtype)
    abstract = [
        jax.ShapeDtypeStruct((options.batch, _DIM), dtype, sharding=rows),
        jax.ShapeDtypeStruct((options.batch, _DIM), dtype, sharding=rows),
        jax.ShapeDtypeStruct((), jnp.float32, sharding=whole),
    ]
    if not options.topology:
        rng = np.random.default_rng(0)
        image = rng.standard_normal((options.batch, _DIM), np.float32)
        text = image + 6 * rng.standard_normal((options.batch, _DIM), np.float32)
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
        given = [jax.device_put(jnp.asarray(x, dtype), rows) for x in unit]
        given.append(jax.device_put(jnp.float32(20), whole))

    # One product of all pairs and its two gradients, on one device's share.
    least = 3 * 2 * options.batch**2 * _DIM / len(devices)
    forms = {"dense": dense}
    tiles = (8192, 4096) if options.topology else (options.batch // 2, options.batch // 8)
    for tile in (None, *tiles):
        name = f"tile {tile}" if tile else "one block"
        forms[name] = lambda *x, tile=tile: contrastive_loss(*x, mesh=mesh, tile=tile)
    found, outputs = {}, {}
    for name, form in forms.items():
        step = jax.jit(jax.value_and_grad(form, (0, 1, 2))).lower(*abstract).compile()
        cost = step.cost_analysis()
        found[name] = {"temporary_mib": step.memory_analysis().temp_size_in_bytes / 2**20}
        if name in ("dense", "one block"):  # a loop's work is counted once, not per turn
            found[name]["work_over_least"] = cost["flops"] / least
        if not options.topology:
            outputs[name] = jax.block_until_ready(step(*given))
            times = []
            for _ in range(5):
                before = time.perf_counter()
                jax.block_until_ready(step(*given))
                times.append(time.perf_counter() - before)
            found[name]["milliseconds"] = 1000 * statistics.median(times)
            found[name]["loss"] = float(outputs[name][0])
            gradients = zip(outputs[name][1], outputs["dense"][1], strict=True)
            found[name]["gradient_difference"] = max(
                float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in gradients
            )
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    result = {
        "topology": options.topology or devices[0].device_kind,
        "devices": len(devices),
        "batch": options.batch,
        "dim": _DIM,
        "dtype": options.dtype,
        "jax": jax.__version__,
        "forms": found,
    }
    if not options.topology:
        base = found["dense"]["milliseconds"]
        for row in found.values():
            row["speed_over_dense"] = base / row["milliseconds"]
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, row in found.items():
            facts = ", ".join(f"{key} {value:,.4g}" for key, value in row.items())
            print(f"{name:10} {facts}")


if __name__ == "__main__":
    main()
