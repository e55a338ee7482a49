"""The project's GPU kernels one by one: right, the same twice, and how fast at which setting.

    python benchmarks/gpu_kernels.py [--toy]         # one JSON object a line; a minute on a card

Sizes are those of a ViT-L/14's block at 288 pictures, and of its captions. `--toy` interprets
small ones on a CPU, to see that it runs.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bioclip2_jax.models import fp8
from bioclip2_jax.models.gradients import exact_gelu, layer_norm
from bioclip2_jax.models.kernels import casts, embedding, gelu, packed_attention, short_attention
from bioclip2_jax.models.kernels import layer_norm as norm_kernels
from bioclip2_jax.models.kernels.packed_attention import Tiles
from bioclip2_jax.training.xla_flags import set_flags

FORWARD = [packed_attention.FORWARD, Tiles(stages=2), Tiles(block=128, warps=8)]
BACKWARD = [packed_attention.KEYS, Tiles(inner=32, stages=2), Tiles(stages=3), Tiles()]


def say(**row: object) -> None:
    """One line at once, so that a run that is cut keeps what it has."""
    print(json.dumps(row), flush=True)


def timed(name: str, function: Callable, *inputs: jax.Array, turns: int, **setting: object) -> dict:
    """Milliseconds of one call, the median of three times `turns`; prints and returns the row."""
    row = {"kernel": name, **setting}
    try:
        compiled = jax.jit(function).lower(*inputs).compile()
        jax.block_until_ready(compiled(*inputs))
        times = []
        for _ in range(3):
            before = time.perf_counter()
            for _ in range(turns):
                result = compiled(*inputs)
            jax.block_until_ready(result)
            times.append((time.perf_counter() - before) / turns)
        row["ms"] = round(statistics.median(times) * 1e3, 4)
    except Exception as error:  # a setting that a card does not take is a row like others
        row["failed"] = str(error).strip().splitlines()[0][:200]
    say(**row)
    return row


def distance(a: jax.Array, b: jax.Array) -> float:
    """The largest difference over the largest value."""
    b = b.astype(jnp.float32)
    return float(jnp.abs(a.astype(jnp.float32) - b).max() / jnp.abs(b).max())


def exact(name: str, found: list, expected: list, again: list) -> None:
    """Says how far results are from those of plain float32 JAX, and whether they come twice."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True)
    say(
        kernel=name,
        differences=[round(distance(a, b), 6) for a, b in zip(found, expected, strict=True)],
        same_twice=all(bool((a == b).all()) for a, b in pairs),
    )


def attention(module: object, qkv: jax.Array, dout: jax.Array, heads: int, **options: bool) -> None:
    """Values and gradients of the first four sequences against the reference's."""
    causal = {key: options[key] for key in options if key == "causal"}
    out, lse = module.forward(qkv, heads, **options)
    gradient = functools.partial(module.backward, qkv, out, lse, dout, heads, **options)
    (d, sums), again = gradient(), gradient()
    wide = qkv[:4].astype(jnp.float32)
    expected, pull = jax.vjp(lambda x: module.reference(x, heads, **causal), wide)
    slopes = pull(dout[:4].astype(jnp.float32))[0]
    found = [out[:4], d[:4]]
    exact(module.__name__.split(".")[-1], found, [expected, slopes], [*found[:1], again[0][:4]])
    say(kernel="sums", difference=distance(sums, d.astype(jnp.float32).sum((0, 1))))


TILES = [
    casts.Tile(),
    casts.Tile(warps=4),
    casts.Tile(columns=64, warps=4),
    casts.Tile(columns=256),
    casts.Tile(programs=9),
    casts.Tile(programs=257),
    casts.Tile(stages=2),
    casts.Tile(rows=16),
]


def in_8_bits(x: jax.Array, dy: jax.Array, width: int, time_it: Callable, toy: bool) -> None:
    """Casts and products of an MLP, `x` and `dy` [rows, 4 * width]: right, and how fast."""
    scale, narrow = jnp.float32(128), x[:, :width]  # some are too large for e4m3
    calls = {
        "plain": (lambda tile, *given: casts.plain(*given, fp8.NARROW, tile, toy), (narrow, scale)),
        "gelu": (lambda tile, *given: casts.gelu(*given, tile, toy), (x, scale)),
        "gelu gradient": (lambda tile, *given: casts.gelu_gradient(*given, tile, toy),
                          (x, dy, scale)),
    }  # fmt: skip
    slopes = jax.vjp(exact_gelu, x[:512].astype(jnp.float32))
    values = (
        narrow[:512].astype(jnp.float32), slopes[0], slopes[1](dy[:512].astype(jnp.float32))[0]
    )  # fmt: skip
    for (name, (call, given)), value in zip(calls.items(), values, strict=True):
        found, again = call(casts.Tile(), *given), call(casts.Tile(), *given)
        form = found[0].dtype
        # Beside the kernel the same values, cast by XLA: differences are one step of the format.
        expected = fp8.cast(value, scale, form).astype(jnp.float32)
        near = jnp.abs(found[0][:512].astype(jnp.float32) - expected)
        say(
            kernel=f"8 bits, {name}",
            unequal=float((near > 0).mean()),
            difference=float((near / jnp.maximum(jnp.abs(expected), 1)).max()),
            turned=bool((found[0].T == found[1]).all()),
            same_twice=all(bool((a == b).all()) for a, b in zip(found, again, strict=True)),
        )
        for tile in TILES[: 1 if toy else None]:
            time_it(f"8 bits, {name}", functools.partial(call, tile), *given, **tile._asdict())

    def product(a: jax.Array, b: jax.Array, out: object, fast: bool) -> jax.Array:
        pair = (a, scale), (b, scale)
        return fp8.product(*pair, (1, 1), jnp.bfloat16, out, fast=fast)

    sizes = {"forward": (fp8.NARROW, fp8.NARROW, jnp.bfloat16),
             "of rows": (fp8.FAR, fp8.NARROW, jnp.bfloat16),
             "of kernel": (fp8.NARROW, fp8.FAR, jnp.float32)}  # fmt: skip
    for name, (left, right, out) in sizes.items():
        for inner, outer in ((width, 4 * width), (4 * width, width)):
            a, b = x[:, :inner], dy[:outer, :inner]
            if name == "of kernel":
                a, b = x[:, :inner].T, dy[:, :outer].T
            setting = {"direction": name, "inner": inner}
            wide = functools.partial(jnp.einsum, "ik,jk->ij", preferred_element_type=out)
            time_it("product in bfloat16", wide, a, b, **setting)
            a, b = a.astype(left), b.astype(right)
            for fast in (True, False):
                call = functools.partial(product, out=out, fast=fast)
                time_it("product in 8 bits", call, a, b, fast=fast, **setting)


def main() -> None:
    """All kernels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true")
    toy = parser.parse_args().toy
    set_flags("packed")
    pairs, tokens, heads, length = (2, 65, 2, 12) if toy else (288, 257, 16, 48)
    width, dtype = heads * 64, jnp.bfloat16
    time_it = functools.partial(timed, turns=1 if toy else 10)
    options = {"interpret": toy}
    say(device=jax.devices()[0].device_kind, jax=jax.__version__)

    def draw(number: int, *shape: int) -> jax.Array:
        return jax.random.normal(jax.random.key(number), shape, jnp.float32).astype(dtype)

    qkv, dout = draw(0, pairs, tokens, 3 * width), draw(1, pairs, tokens, width)
    attention(packed_attention, qkv, dout, heads, **options)
    out, lse = packed_attention.forward(qkv, heads, **options)
    for tiles in FORWARD[: 1 if toy else None]:
        forward = functools.partial(packed_attention.forward, heads=heads, tiles=tiles, **options)
        time_it("packed attention forward", forward, qkv, **tiles._asdict())
    for tiles in BACKWARD[: 1 if toy else None]:
        both = {"queries": tiles, "keys": tiles} | options
        backward = functools.partial(packed_attention.backward, heads=heads, **both)
        time_it("packed attention backward", backward, qkv, out, lse, dout, **tiles._asdict())
    qkv, dout = draw(2, pairs, length, 3 * width), draw(3, pairs, length, width)
    attention(short_attention, qkv, dout, heads, causal=True, **options)
    out, lse = short_attention.forward(qkv, heads, causal=True, **options)
    for warps in (4, 8):
        short = {"heads": heads, "causal": True, "warps": warps} | options
        forward = functools.partial(short_attention.forward, **short)
        backward = functools.partial(short_attention.backward, **short)
        time_it("short attention forward", forward, qkv, warps=warps)
        time_it("short attention backward", backward, qkv, out, lse, dout, warps=warps)

    rows = pairs * tokens - (2 if toy else 0)
    x, dy, dr = (draw(number, rows, width) for number in (4, 5, 6))
    scale, bias = jnp.ones(width), jnp.zeros(width)
    y, *statistics = norm_kernels.forward(x, scale, bias, **options)
    kept = (x, dy, dr, scale, *statistics)
    dx, sums = norm_kernels.backward(*kept, **options)
    expected, pull = jax.vjp(layer_norm, x.astype(jnp.float32), scale, bias)
    slopes = pull(dy.astype(jnp.float32))
    again = norm_kernels.backward(*kept, **options)
    exact(
        "layer norm", [y, dx, *sums[:2]],
        [expected, slopes[0] + dr.astype(jnp.float32), *slopes[1:]], [y, again[0], *again[1][:2]],
    )  # fmt: skip
    for warps in (2, 4, 8):
        forward = functools.partial(norm_kernels.forward, warps=warps, **options)
        time_it("layer norm forward", forward, x, scale, bias, warps=warps)
    for warps, programs in ((4, 1056), (4, 4224), (4, 9252), (2, 1056), (2, 4224), (8, 1056)):
        backward = functools.partial(
            norm_kernels.backward, warps=warps, programs=programs, **options
        )
        time_it("layer norm backward", backward, *kept, warps=warps, programs=programs)

    x, dy = draw(7, rows, 4 * width), draw(8, rows, 4 * width)
    expected, pull = jax.vjp(exact_gelu, x[:512].astype(jnp.float32))
    slopes = pull(dy[:512].astype(jnp.float32))[0]
    found = [gelu.forward(x, **options), gelu.backward(x, dy, **options)[0]]
    exact("gelu", [part[:512] for part in found], [expected, slopes],
          [found[0][:512], gelu.backward(x, dy, **options)[0][:512]])  # fmt: skip
    for size, warps in ((4096, 4), (8192, 8), (2048, 4), (4096, 8)):
        forward = functools.partial(gelu.forward, size=size, warps=warps, **options)
        time_it("gelu forward", forward, x, size=size, warps=warps)
    time_it("gelu forward by XLA", exact_gelu, x)
    for block, columns, warps, programs in (
        (4, 1024, 4, 264),
        (4, 1024, 4, 1056),
        (4, 1024, 4, 2112),
        (4, 1024, 4, 4626),
        (8, 512, 4, 1056),
        (2, 2048, 4, 1056),
        (2, 1024, 4, 2112),
        (8, 1024, 8, 1056),
    ):
        setting = {"rows": block, "columns": columns, "warps": warps, "programs": programs}
        time_it("gelu backward", functools.partial(gelu.backward, **setting, **options), x, dy,
                **setting)  # fmt: skip

    in_8_bits(x, dy, width, time_it, toy)

    rows = pairs * length
    numbers = jnp.minimum(jax.random.geometric(jax.random.key(9), 0.01, (rows,)), 999)
    numbers = numbers.astype(jnp.int32).at[: rows // 3].set(0)
    vocabulary, dy = 1000 if toy else 49408, draw(10, rows, 192 if toy else 768)

    def scatter(numbers: jax.Array, dy: jax.Array) -> jax.Array:
        zero = jnp.zeros((vocabulary, dy.shape[1]))
        return zero.at[numbers].add(dy.astype(jnp.float32))

    backward = functools.partial(embedding.backward, vocabulary=vocabulary, **options)
    found, again = backward(numbers, dy), backward(numbers, dy)
    exact("embedding", [found], [scatter(numbers, dy)], [again])
    time_it("embedding backward", backward, numbers, dy)
    time_it("embedding backward by XLA", scatter, numbers, dy)
    say(done=True)


if __name__ == "__main__":
    main()
