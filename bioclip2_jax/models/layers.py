"""The pre-LayerNorm transformer block that both towers stack."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

Activation = Callable[[jax.Array], jax.Array]
LAYER_NORM_EPSILON = 1e-5


@jax.custom_vjp
def exact_gelu(x: jax.Array) -> jax.Array:
    """x Φ(x), GELU with the error function, not its tanh approximation; computed in float32."""
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _exact_gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return exact_gelu(x), x


def _exact_gelu_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * math.sqrt(0.5 / math.pi)
    slope = _normal_cdf(wide) + wide * density
    return ((cotangent.astype(jnp.float32) * slope).astype(x.dtype),)


# Kept for the backward pass: the input alone. Derived by JAX, it would be four arrays.
exact_gelu.defvjp(_exact_gelu_forward, _exact_gelu_backward)


def quick_gelu(x: jax.Array) -> jax.Array:
    """The sigmoid approximation that OpenAI's weights were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    """A float32 parameter drawn from N(0, std²)."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))


@dataclass(frozen=True)
class InitialStds:
    """Standard deviations of a block's random kernels; biases start at zero."""

    qkv: float
    out: float
    fc: float
    proj: float

    @classmethod
    def text(cls, width: int, depth: int) -> "InitialStds":
        """OpenAI CLIP's text tower: the kernels that end in the residual shrink with depth."""
        residual = width**-0.5 * (2 * depth) ** -0.5
        return cls(width**-0.5, residual, (2 * width) ** -0.5, residual)

    @classmethod
    def image(cls, width: int, hidden: int) -> "InitialStds":
        """What open_clip's image tower gets from torch's defaults, uniform there, normal here.

        Xavier for q, k and v together; U(-b, b) with b = inputs^-0.5 for the rest, which has a
        standard deviation of b / sqrt(3).
        """
        default = math.sqrt(1 / 3)
        small = default * width**-0.5
        return cls((2 * width) ** -0.5, small, small, default * hidden**-0.5)


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis; statistics and scaling in float32, eps 1e-5."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] → the same shape and dtype."""
        return _layer_norm(x, self.scale[...], self.bias[...])


@jax.custom_vjp
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
    return (centred * inverse * scale + bias).astype(x.dtype)


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple:
    return _layer_norm(x, scale, bias), (x, scale)


def _layer_norm_backward(kept: tuple, cotangent: jax.Array) -> tuple:
    x, scale = kept
    wide = x.astype(jnp.float32)
    # Both statistics in one reading of x; shifted, since the difference of squares loses digits.
    near = wide - wide[..., :1]
    shift = near.mean(-1)
    inverse = jax.lax.rsqrt((near * near).mean(-1) - shift * shift + LAYER_NORM_EPSILON)
    mean = wide[..., 0] + shift
    # Without this, XLA computes them anew for each of the three results.
    mean, inverse = jax.lax.optimization_barrier((mean, inverse))
    normal = (wide - mean[..., None]) * inverse[..., None]
    slope = cotangent.astype(jnp.float32)
    scaled = slope * scale
    along = (scaled * normal).mean(-1, keepdims=True)
    found = (scaled - scaled.mean(-1, keepdims=True) - normal * along) * inverse[..., None]
    rows = tuple(range(x.ndim - 1))
    sums = [part.sum(rows).astype(scale.dtype) for part in (slope * normal, slope)]
    return found.astype(x.dtype), *sums


# Kept for the backward pass: the input alone.
_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class Dense(nnx.Module):
    """x @ kernel + bias, computed in the dtype of x."""

    def __init__(self, inputs: int, outputs: int, std: float, rngs: nnx.Rngs):
        self.kernel = normal(rngs, (inputs, outputs), std)
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] → [..., outputs]."""
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection, in the order q, k, v."""

    def __init__(self, width: int, heads: int, causal: bool, stds: InitialStds, rngs: nnx.Rngs):
        self.heads, self.causal = heads, causal
        self.qkv = Dense(width, 3 * width, stds.qkv, rngs)
        self.out = Dense(width, width, stds.out, rngs)

    def __call__(self, x: jax.Array, implementation: str, tokens: int, padding: int) -> jax.Array:
        """See `Block`."""
        width = x.shape[-1]
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.heads, width // self.heads)
        looked_at = None
        if padding and not self.causal:
            looked_at = jnp.full(len(qkv), tokens - padding, jnp.int32)
        mixed = jax.nn.dot_product_attention(
            *(qkv[:, :, part] for part in range(3)),
            key_value_seq_lengths=looked_at,
            is_causal=self.causal,
            implementation=implementation,
        )
        return self.out(checkpoint_name(mixed.reshape(x.shape), _MIXED))


class Mlp(nnx.Module):
    """Two dense layers around an activation."""

    def __init__(
        self, width: int, hidden: int, activation: Activation, stds: InitialStds, rngs: nnx.Rngs
    ):
        self.activation = activation
        self.fc = Dense(width, hidden, stds.fc, rngs)
        self.proj = Dense(hidden, width, stds.proj, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] → the same."""
        return self.proj(self.activation(self.fc(x)))


class Block(nnx.Module):
    """x += attention(LN(x)); x += MLP(LN(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        causal: bool,
        activation: Activation,
        stds: InitialStds,
        rngs: nnx.Rngs,
    ):
        self.ln_1 = LayerNorm(width)
        self.attention = Attention(width, heads, causal, stds, rngs)
        self.ln_2 = LayerNorm(width)
        self.mlp = Mlp(width, hidden, activation, stds, rngs)

    def __call__(
        self, x: jax.Array, tokens: int, attention: str = "xla", padding: int = 0
    ) -> jax.Array:
        """[batch, tokens, width] or [batch * tokens, width] → the same.

        `attention` is one of `ATTENTION`; nothing looks at the last `padding` tokens.
        """
        x = x + self.attention(self.ln_1(x), attention, tokens, padding)
        return x + self.mlp(self.ln_2(x))


def stack_blocks(
    depth: int,
    width: int,
    heads: int,
    hidden: int,
    causal: bool,
    activation: Activation,
    stds: InitialStds,
    rngs: nnx.Rngs,
) -> Block:
    """`depth` blocks as one module whose parameters carry a leading layer axis."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap
    def create(rngs: nnx.Rngs) -> Block:
        return Block(width, heads, hidden, causal, activation, stds, rngs)

    return create(rngs)


def _unchanged(x: jax.Array) -> jax.Array:
    return x


_INPUT, _MIXED = "block_input", "attention_output"
_POLICIES = jax.checkpoint_policies
# What a block keeps for the backward pass, beside what it was given; the rest is computed again.
REMAT = {
    "none": _POLICIES.everything_saveable,
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "attention": _POLICIES.save_only_these_names(_MIXED),
    "full": _POLICIES.nothing_saveable,
    "offload": _POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),  # even a block's input waits in the host's memory
}
ATTENTION = ("xla", "cudnn")


@dataclass(frozen=True)
class Execution:
    """How blocks are run; the result is the same up to rounding.

    Attributes:
      dtype: of the towers' computation, whatever that of the parameters.
      scan: one compiled body for all blocks. Compiles fast; a CPU runs faster without.
      remat: a key of `REMAT`.
      block_parts: each block takes its batch in equal parts one after the other, the largest number
        of them up to this, and so needs a part of the memory at no extra work. Only with "full" or
        "offload".
      attention: one of `ATTENTION`; "cudnn" needs an NVIDIA GPU and bfloat16, and its gradients
        differ in the last bits from run to run.
      gather: this device's share of a weight [inputs, outputs] → the whole, see `sharding.gather`;
        models know no more of devices.
    """

    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    block_parts: int = 1
    attention: str = "xla"
    gather: Callable[[jax.Array], jax.Array] = _unchanged


DEFAULT_EXECUTION = Execution()


def run_blocks(blocks: Block, x: jax.Array, execution: Execution) -> jax.Array:
    """Passes `x` [batch, tokens, width] through stacked blocks.

    Kernels that are split over devices are gathered for one block at a time, in the compute dtype.
    """
    graph, params = nnx.split(blocks)
    parts = max(n for n in range(1, execution.block_parts + 1) if len(x) % n == 0)
    batch, tokens, width = x.shape
    padding = 0
    if execution.attention == "cudnn":
        # JAX takes an odd number of tokens to cuDNN only where no gradient is asked for, and
        # XLA finds worse layouts on GPUs for three axes than for two.
        padding = tokens % 2
        tokens += padding
        x = jnp.pad(x, ((0, 0), (0, padding), (0, 0))).reshape(-1, width)

    def whole(parameter: jax.Array) -> jax.Array:
        if parameter.ndim != 2:
            return parameter
        # Moved in the compute dtype, but gradients of several parts are added up in full.
        return execution.gather(parameter.astype(x.dtype)).astype(parameter.dtype)

    def body(x: jax.Array, layer: nnx.State) -> tuple[jax.Array, None]:
        x = checkpoint_name(x, _INPUT)
        layer = jax.tree.map(whole, layer)

        def block(x: jax.Array) -> jax.Array:
            return nnx.merge(graph, layer)(x, tokens, execution.attention, padding)

        if parts == 1:
            return block(x), None
        # The outer checkpoint forgets the gathered weights, this one the part's intermediates.
        one = jax.checkpoint(block, prevent_cse=False)
        return jax.lax.map(one, x.reshape(parts, -1, *x.shape[1:])).reshape(x.shape), None

    if execution.remat != "none":
        # Without a loop the compiler would find the second computation and merge it with the first.
        body = jax.checkpoint(body, policy=REMAT[execution.remat], prevent_cse=not execution.scan)
    x = jax.lax.scan(body, x, params, unroll=not execution.scan)[0]
    return x.reshape(batch, tokens, width)[:, : tokens - padding]
