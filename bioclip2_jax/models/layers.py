"""The pre-LayerNorm transformer block that both towers stack."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from bioclip2_jax.models import fp8
from bioclip2_jax.models.gradients import exact_gelu, layer_norm
from bioclip2_jax.models.presets import ClipConfig

# What a block computes by products and can keep for the backward pass, see `execution.REMAT`.
QKV, MIXED, MIDDLE, HIDDEN = "qkv", "attention_output", "block_middle", "mlp_hidden"


def quick_gelu(x: jax.Array) -> jax.Array:
    """The sigmoid approximation that OpenAI's weights were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def activation(config: ClipConfig) -> Callable[[jax.Array], jax.Array]:
    """The one that a model's weights were trained with."""
    return quick_gelu if config.quick_gelu else exact_gelu


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
        return cls(qkv=width**-0.5, out=residual, fc=(2 * width) ** -0.5, proj=residual)

    @classmethod
    def image(cls, width: int, hidden: int) -> "InitialStds":
        """What open_clip's image tower gets from torch's defaults, uniform there, normal here.

        Xavier for q, k and v together; U(-b, b) with b = inputs^-0.5 for the rest, which has a
        standard deviation of b / sqrt(3).
        """
        default = math.sqrt(1 / 3)
        small = default * width**-0.5
        return cls(qkv=(2 * width) ** -0.5, out=small, fc=small, proj=default * hidden**-0.5)


@dataclass(frozen=True)
class BlockConfig:
    """One block.

    Attributes:
      hidden: width of the MLP between its layers.
      causal: whether a token looks at itself and those before it alone.
      activation: of the MLP, elementwise.
      stds: of the random weights.
      product: of rows and a kernel, in their dtype.
    """

    width: int
    heads: int
    hidden: int
    causal: bool
    activation: Callable[[jax.Array], jax.Array]
    stds: InitialStds
    product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul


class LayerNorm(nnx.Module):
    """See `gradients.layer_norm`."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] → the same shape and dtype."""
        return layer_norm(x, self.scale[...], self.bias[...])


def wide_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel; CPUs that have products of bfloat16 take them if the sums may stay float32."""
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)


class Dense(nnx.Module):
    """x @ kernel + bias, computed in the dtype of x."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        std: float,
        rngs: nnx.Rngs,
        product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul,
    ):
        self.kernel = normal(rngs, (inputs, outputs), std)
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.product = product

    def __call__(self, x: jax.Array, maxima: jax.Array | None = None) -> jax.Array:
        """[..., inputs] → [..., outputs]; with `maxima` [3] see `fp8.matmul`."""
        if maxima is not None:
            return fp8.matmul(x, self.kernel[...], maxima) + self.bias[...].astype(x.dtype)
        return self.product(x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype)


def attend(
    qkv: jax.Array, heads: int, causal: bool, padding: int = 0, implementation: str = "xla"
) -> jax.Array:
    """Multi-head attention [batch, tokens, 3 * width] → [batch, tokens, width].

    Columns are in the order part, head, channel. Nothing looks at the last `padding` tokens;
    `implementation` is JAX's, "xla" or "cudnn", or "heads", see `attend_by_head`.
    """
    if implementation == "heads":
        return attend_by_head(qkv, heads, causal)
    batch, tokens, columns = qkv.shape
    parts = qkv.reshape(batch, tokens, 3, heads, columns // 3 // heads)
    seen = None if causal or not padding else jnp.full(batch, tokens - padding, jnp.int32)
    mixed = jax.nn.dot_product_attention(
        *(parts[:, :, part] for part in range(3)),
        key_value_seq_lengths=seen,
        is_causal=causal,
        implementation=cast(Literal["xla", "cudnn"], implementation),
    )
    return mixed.reshape(batch, tokens, columns // 3)


def attend_by_head(qkv: jax.Array, heads: int, causal: bool) -> jax.Array:
    """`attend` in the order that XLA computes fastest on CPUs; its gradient is not faster.

    Each head's rows lie together, and the sum of its shares divides the result, which is smaller
    than the shares.
    """
    batch, tokens, columns = qkv.shape
    dim = columns // 3 // heads
    q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, dim), 2, 0)
    q, k, v = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    scores = jnp.matmul(q, k, preferred_element_type=jnp.float32)
    if causal:
        scores = jnp.where(jnp.tri(tokens, dtype=bool), scores, -jnp.inf)
    shares = jnp.exp((scores - scores.max(axis=-1, keepdims=True)) * dim**-0.5)
    mixed = jnp.matmul(shares.astype(qkv.dtype), v, preferred_element_type=jnp.float32)
    mixed = (mixed / shares.sum(axis=-1, keepdims=True)).astype(qkv.dtype)
    return mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, columns // 3)


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection, in the order q, k, v."""

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs):
        self.config = config
        self.qkv = Dense(config.width, 3 * config.width, config.stds.qkv, rngs, config.product)
        self.out = Dense(config.width, config.width, config.stds.out, rngs, config.product)

    def __call__(self, x: jax.Array, attend: Callable = attend) -> jax.Array:
        """See `Block`."""
        qkv = checkpoint_name(self.qkv(x), QKV)
        return self.out(attend(qkv, self.config.heads, self.config.causal))


class Mlp(nnx.Module):
    """Two dense layers around an activation."""

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs):
        self.activation = config.activation
        self.fc = Dense(config.width, config.hidden, config.stds.fc, rngs, config.product)
        self.proj = Dense(config.hidden, config.width, config.stds.proj, rngs, config.product)

    def __call__(self, x: jax.Array, maxima: jax.Array | None = None) -> jax.Array:
        """[..., width] → the same; with `maxima` [2, 3] by products of 8 bits."""
        of_fc, of_proj = (None, None) if maxima is None else maxima
        hidden = checkpoint_name(self.fc(x, of_fc), HIDDEN)
        return self.proj(self.activation(hidden), of_proj)


class Block(nnx.Module):
    """x += attention(LN(x)); x += MLP(LN(x))."""

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(config.width)
        self.attention = Attention(config, rngs)
        self.ln_2 = LayerNorm(config.width)
        self.mlp = Mlp(config, rngs)

    def __call__(
        self, x: jax.Array, attend: Callable = attend, maxima: jax.Array | None = None
    ) -> jax.Array:
        """[batch, tokens, width] → the same; other shapes, if `attend` takes them.

        With `maxima` the MLP multiplies in 8 bits, see there.
        """
        x = checkpoint_name(x + self.attention(self.ln_1(x), attend), MIDDLE)
        return x + self.mlp(self.ln_2(x), maxima)

    def pooled(
        self, x: jax.Array, place: jax.Array | None, norm: Callable = LayerNorm.__call__
    ) -> jax.Array:
        """The same for one token of each sequence alone: [batch, tokens, width] → [batch, width].

        Args:
          place: [batch] int32, where that token is; None: it is the first.
          norm: how the first LayerNorm is computed.
        """
        batch, tokens, width = x.shape
        config, qkv = self.attention.config, self.attention.qkv

        def pick(x: jax.Array) -> jax.Array:
            if place is None:
                return x[:, 0]
            # A sum over a mask: the gradient of picking by index would be a scatter.
            return jnp.where((jnp.arange(tokens) == place[:, None])[:, :, None], x, 0).sum(1)

        y = norm(self.ln_1, x)
        kernel, bias = qkv.kernel[...].astype(x.dtype), qkv.bias[...].astype(x.dtype)
        q = pick(y) @ kernel[:, :width] + bias[:width]
        kv = y.reshape(-1, width) @ kernel[:, width:] + bias[width:]
        dim = width // config.heads
        q = q.reshape(batch, config.heads, dim)
        k, v = jnp.moveaxis(kv.reshape(batch, tokens, 2, config.heads, dim), 2, 0)
        scores = jnp.einsum("bhd,bthd->bht", q, k, preferred_element_type=jnp.float32)
        if config.causal and place is not None:
            seen = jnp.arange(tokens) <= place[:, None]
            scores = jnp.where(seen[:, None], scores, -jnp.inf)
        shares = jax.nn.softmax(scores * dim**-0.5).astype(x.dtype)
        mixed = jnp.einsum("bht,bthd->bhd", shares, v, preferred_element_type=jnp.float32)
        x = pick(x) + self.attention.out(mixed.astype(x.dtype).reshape(batch, width))
        return x + self.mlp(self.ln_2(x))


def stack_blocks(depth: int, config: BlockConfig, rngs: nnx.Rngs) -> Block:
    """`depth` blocks as one module whose parameters carry a leading layer axis."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap
    def create(rngs: nnx.Rngs) -> Block:
        return Block(config, rngs)

    return create(rngs)
