"""A transformer block on rows [batch * tokens, width], joined from the kernels and plain products.

The joints are where a kernel gets by the way what would be a pass of its own over all rows: sums
for the gradients of biases, and the gradient of the residual stream.
"""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name

from bioclip2_jax.models import fp8, layers
from bioclip2_jax.models.gradients import exact_gelu
from bioclip2_jax.models.kernels import gelu, layer_norm, packed_attention, short_attention
from bioclip2_jax.models.kernels import mlp as mlp_kernels


def supports(block: layers.Block, tokens: int) -> bool:
    """Whether there are kernels for so many tokens of this block."""
    config = block.attention.config
    dim = config.width // config.heads
    packed = packed_attention.supports(tokens, dim) and not config.causal
    return packed or short_attention.supports(tokens, dim)


def run(
    block: layers.Block,
    x: jax.Array,
    before: jax.Array,
    tokens: int,
    maxima: jax.Array | None,
    interpret: bool,
) -> jax.Array:
    """The block's `__call__` on rows; see `supports`.

    The last bias gets no gradient here: a sum over rows, it comes with the next block's LayerNorm.

    Args:
      before: `last_bias` of the block before; zeros for the first.
      maxima: [2, 3] for an MLP in 8 bits, or None.
    """
    config, attention, mlp = block.attention.config, block.attention, block.mlp
    norms = [(norm.scale[...], norm.bias[...]) for norm in (block.ln_1, block.ln_2)]
    y, x = split_norm(x, before, *norms[0], interpret)  # pyright: ignore[reportGeneralTypeIssues]
    mixed = project_and_attend(
        y, *_weights(attention.qkv), config.heads, config.causal, tokens, interpret
    )
    y, x = add_and_norm(x, mixed, *_weights(attention.out), *norms[1], interpret)  # pyright: ignore[reportGeneralTypeIssues]
    kernel, bias = _weights(mlp.proj)
    if maxima is not None:
        if config.activation is exact_gelu:
            y = mlp_kernels.mlp(y, *_weights(mlp.fc), kernel, maxima, interpret)
        else:
            y = config.activation(mlp.fc(y, maxima[0]))
            y = fp8.matmul(y, kernel, maxima[1])
        y = y + jax.lax.stop_gradient(bias).astype(x.dtype)  # pyright: ignore[reportOperatorIssue]
        return x + y
    if config.activation is exact_gelu:
        y = project_and_gelu(y, *_weights(mlp.fc), interpret)
    else:
        y = config.activation(mlp.fc(y))
    return x + _dense(y, kernel, jax.lax.stop_gradient(bias))  # pyright: ignore[reportArgumentType]


def last_bias(block: layers.Block) -> jax.Array:
    """[width] zeros to be added to the block's result, through which its last bias learns."""
    bias = block.mlp.proj.bias[...]
    return bias - jax.lax.stop_gradient(bias)


def _weights(dense: layers.Dense) -> tuple[jax.Array, jax.Array]:
    return dense.kernel[...], dense.bias[...]


def _dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


def _dense_gradients(x: jax.Array, kernel: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the rows and the kernel; that of the bias is known otherwise."""
    of_kernel = jax.lax.dot_general(x, d, (((0,), (0,)), ((), ())))
    return d @ kernel.astype(x.dtype).T, of_kernel.astype(kernel.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def norm(x: jax.Array, scale: jax.Array, bias: jax.Array, interpret: bool) -> jax.Array:
    """LN(x) of rows."""
    return layer_norm.forward(x, scale, bias, interpret=interpret)[0]


def _norm_forward(x, scale, bias, interpret):
    y, *statistics = layer_norm.forward(x, scale, bias, interpret=interpret)
    return y, (x, scale, *statistics)


def _norm_backward(interpret, kept, dy):
    x, *rest = kept
    dx, sums = layer_norm.backward(x, dy, None, *rest, interpret=interpret)
    return dx, *sums[:2].astype(rest[0].dtype)


norm.defvjp(_norm_forward, _norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def split_norm(
    x: jax.Array, before: jax.Array, scale: jax.Array, bias: jax.Array, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """LN(x) and x, which goes on beside it; `before` [width] is zero, and added to x."""
    return _split_norm_forward(x, before, scale, bias, interpret)[0]


def _split_norm_forward(x, before, scale, bias, interpret):
    y, kept = _norm_forward(x, scale, bias, interpret)
    return (y, x), kept


def _split_norm_backward(interpret, kept, cotangents):
    x, *rest = kept
    dx, sums = layer_norm.backward(x, *cotangents, *rest, interpret=interpret)
    of_scale, of_bias, of_before = sums.astype(rest[0].dtype)
    return dx, of_before, of_scale, of_bias


split_norm.defvjp(_split_norm_forward, _split_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def add_and_norm(
    x: jax.Array,
    mixed: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    norm_scale: jax.Array,
    norm_bias: jax.Array,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """r = x + mixed @ kernel + bias: LN(r) and r."""
    return _add_and_norm_forward(x, mixed, kernel, bias, norm_scale, norm_bias, interpret)[0]


def _add_and_norm_forward(x, mixed, kernel, bias, norm_scale, norm_bias, interpret):
    r = checkpoint_name(x + _dense(mixed, kernel, bias), layers.MIDDLE)
    y, kept = _norm_forward(r, norm_scale, norm_bias, interpret)
    return (y, r), (mixed, kernel, *kept)


def _add_and_norm_backward(interpret, kept, cotangents):
    mixed, kernel, r, scale, *statistics = kept
    d, sums = layer_norm.backward(r, *cotangents, scale, *statistics, interpret=interpret)  # pyright: ignore[reportCallIssue]
    of_scale, of_norm_bias, of_bias = sums.astype(scale.dtype)
    return d, *_dense_gradients(mixed, kernel, d), of_bias, of_scale, of_norm_bias


add_and_norm.defvjp(_add_and_norm_forward, _add_and_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def project_and_attend(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    heads: int,
    causal: bool,
    tokens: int,
    interpret: bool,
) -> jax.Array:
    """Queries, keys and values of rows, and attention among each sequence's."""
    return _project_and_attend_forward(x, kernel, bias, heads, causal, tokens, interpret)[0]


def _attention(dim, heads, causal, tokens, interpret):
    if packed_attention.supports(tokens, dim) and not causal:
        module, options = packed_attention, {}
    else:
        module, options = short_attention, {"causal": causal}
    options = {"heads": heads, "interpret": interpret} | options
    return [functools.partial(f, **options) for f in (module.forward, module.backward)]


def _project_and_attend_forward(x, kernel, bias, heads, causal, tokens, interpret):
    forward, _ = _attention(x.shape[1] // heads, heads, causal, tokens, interpret)
    qkv = checkpoint_name(_dense(x, kernel, bias), layers.QKV)
    qkv = qkv.reshape(-1, tokens, kernel.shape[1])
    out, lse = checkpoint_name(forward(qkv), layers.MIXED)
    return out.reshape(x.shape), (x, kernel, qkv, out, lse)


def _project_and_attend_backward(heads, causal, tokens, interpret, kept, cotangent):
    x, kernel, qkv, out, lse = kept
    _, backward = _attention(x.shape[1] // heads, heads, causal, tokens, interpret)
    d, sums = backward(qkv, out, lse, cotangent.reshape(out.shape))
    gradients = _dense_gradients(x, kernel, d.reshape(-1, d.shape[-1]))
    return *gradients, sums.astype(kernel.dtype)


project_and_attend.defvjp(_project_and_attend_forward, _project_and_attend_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def project_and_gelu(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, interpret: bool
) -> jax.Array:
    """GELU(x @ kernel + bias)."""
    return _project_and_gelu_forward(x, kernel, bias, interpret)[0]


def _project_and_gelu_forward(x, kernel, bias, interpret):
    hidden = checkpoint_name(_dense(x, kernel, bias), layers.HIDDEN)
    return gelu.forward(hidden, interpret=interpret), (x, kernel, hidden)


def _project_and_gelu_backward(interpret, kept, cotangent):
    x, kernel, hidden = kept
    d, sums = gelu.backward(hidden, cotangent, interpret=interpret)
    return *_dense_gradients(x, kernel, d), sums.astype(kernel.dtype)


project_and_gelu.defvjp(_project_and_gelu_forward, _project_and_gelu_backward)
