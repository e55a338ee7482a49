"""The contrastive loss over image-caption pairs (arXiv 2505.23883; CLIP, arXiv 2103.00020).

Each device holds its rows of the similarity matrix and every pair is computed once: a row's
log-sum-exp is local, a column's is completed by a maximum and a sum over the devices, and the
gradients come from the same block. With `tile` the block exists one tile of columns at a time:
captions are gathered, and their gradients scattered back, tile by tile, so that memory grows with
the rows of a device alone; the price is that the matrix is computed a second time for gradients.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

_ABSENT = -1e9  # instead of -inf, which would make the gradient of an absent row not a number


def contrastive_loss(
    image_features: jax.Array,
    text_features: jax.Array,
    logit_scale: jax.Array,
    weights: jax.Array | None = None,
    *,
    text_ids: jax.Array | None = None,
    mesh: Mesh | None = None,
    tile: int | None = None,
) -> jax.Array:
    """Symmetric InfoNCE over the whole batch; pair i is the only positive of i.

    Equal captions in a batch stay each other's negatives, as in the original, so a text that many
    pictures share is held down: an image learns log p(text | image) less the log of how common the
    text is. With `text_ids` equal captions are one text: one choice of an image, and right with any
    of its own images. So none of these is held down because another one suits the text as well.

    Args:
      image_features: [batch, dim] float32 or bfloat16, L2-normalised.
      text_features: the same for captions.
      logit_scale: [] float32, the exponential of the learned parameter.
      weights: [batch] float32, or None for ones. A pair of weight 0 (an unreadable image) is
        neither a positive nor a negative, whatever its features are.
      text_ids: [batch] integers, equal where captions are; None: each caption is a choice.
      mesh: devices that the batch is split over, along all axes; None: computed in one place.
      tile: columns of the similarity matrix that exist at a time; None: all.

    Returns:
      The loss [] float32 in nats. Products take the features' dtype and float32 sums; softmax is
      float32.

    Raises:
      ValueError: the devices do not divide the batch.
    """
    return contrastive_loss_and_accuracy(
        image_features,
        text_features,
        logit_scale,
        weights,
        text_ids=text_ids,
        mesh=mesh,
        tile=tile,
    )[0]


def contrastive_loss_and_accuracy(
    image_features: jax.Array,
    text_features: jax.Array,
    logit_scale: jax.Array,
    weights: jax.Array | None = None,
    *,
    text_ids: jax.Array | None = None,
    mesh: Mesh | None = None,
    tile: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`contrastive_loss`, and the share [] of images that no caption suits better than their own.

    A caption that scores the same, such as another picture's of the same words, is no better.
    """
    batch, devices = image_features.shape[0], mesh.size if mesh else 1
    if batch % devices:
        raise ValueError(f"a batch of {batch} pairs cannot be split over {devices} devices")
    if weights is None:
        weights = jnp.ones(batch, jnp.float32)
    else:
        weights = jnp.asarray(weights)
        present = weights[:, None] > 0  # what is not a number times 0 is not 0
        image_features = jnp.where(present, image_features, 0)
        text_features = jnp.where(present, text_features, 0)
    shares = ids = None
    if text_ids is not None:
        ids = jnp.asarray(text_ids)
        shares = 1 / _pairs_of_text(ids, weights)
    pairs = _Pairs(
        image=image_features, text=text_features, weights=weights, shares=shares, ids=ids
    )
    return _loss(mesh, tile, pairs, jnp.asarray(logit_scale, jnp.float32))


def _pairs_of_text(ids: jax.Array, weights: jax.Array) -> jax.Array:
    """[batch] float32: how many pairs of weight above 0 have the caption of each; at least 1."""
    by_id = jnp.argsort(ids)
    ordered, present = ids[by_id], jnp.cumsum(weights[by_id] > 0)
    before = jnp.concatenate([jnp.zeros(1, present.dtype), present])
    first = jnp.searchsorted(ordered, ids, side="left")
    count = before[jnp.searchsorted(ordered, ids, side="right")] - before[first]
    return jnp.maximum(count, 1).astype(jnp.float32)


class _Pairs(NamedTuple):
    image: jax.Array
    text: jax.Array
    weights: jax.Array
    shares: jax.Array | None  # of a pair in the choice that its text is for an image; None: whole
    ids: jax.Array | None  # equal where captions are one text; None: each is one by itself


class _Side(NamedTuple):
    """What the loss knows of rows, or of columns, beside their features."""

    positions: jax.Array  # in the global batch; -1 in the padding of the last tile
    weights: jax.Array
    shares: jax.Array | None
    ids: jax.Array | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(
    mesh: Mesh | None, tile: int | None, pairs: _Pairs, scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _on_devices(mesh, tile, pairs, scale, gradients=False)[0]


def _forward(mesh: Mesh | None, tile: int | None, pairs: _Pairs, scale: jax.Array) -> tuple:
    # The loss is a number, so its gradients can be made at once: no block waits for the way back.
    return _on_devices(mesh, tile, pairs, scale, gradients=True)


def _backward(mesh: Mesh | None, tile: int | None, gradients: tuple, cotangents: tuple) -> tuple:
    image, text, scale, pairs = gradients
    factor = cotangents[0]  # of the loss; the accuracy has no gradient

    def scaled(gradient: jax.Array) -> jax.Array:
        return (factor * gradient).astype(gradient.dtype)

    none = _Pairs(*[None] * len(pairs))  # pyright: ignore[reportArgumentType]
    return none._replace(image=scaled(image), text=scaled(text)), factor * scale


_loss.defvjp(_forward, _backward)


def _on_devices(
    mesh: Mesh | None, tile: int | None, pairs: _Pairs, scale: jax.Array, *, gradients: bool
) -> tuple:
    """(loss, accuracy), and with `gradients` those of image, text and scale, and `pairs`."""
    axes = tuple(mesh.axis_names) if mesh else ()
    block = functools.partial(_block, axes=axes, tile=tile, gradients=gradients)
    if mesh:
        split, whole = P(axes), P()
        results = ((whole, whole), (split, split, whole) if gradients else ())
        # Every value that is declared the same on all devices has gone through psum or pmax.
        block = jax.shard_map(
            block, mesh=mesh, in_specs=(split, whole), out_specs=results, check_vma=False
        )
    values, slopes = block(pairs, scale)
    return values, (*slopes, pairs) if gradients else ()


def _block(
    pairs: _Pairs, scale: jax.Array, *, axes: tuple[str, ...], tile: int | None, gradients: bool
) -> tuple:
    """One device's rows against all columns. See `_on_devices` for what is returned."""
    image, text, weights, shares, ids = pairs
    count = image.shape[0]
    devices = math.prod(jax.lax.axis_size(axis) for axis in axes)
    width = min(count, max(1, tile // devices)) if tile else count  # columns of each device a tile
    tiles = -(-count // width)
    start = count * (jax.lax.axis_index(axes) if axes else 0)
    rows = _Side(positions=start + jnp.arange(count), weights=weights, shares=shares, ids=ids)
    total = jnp.maximum(_sum(weights.sum(), axes), 1)

    def in_tiles(x: jax.Array, fill: int) -> jax.Array:
        padding = [(0, tiles * width - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding, constant_values=fill).reshape(tiles, width, *x.shape[1:])

    own_columns = _Side(
        positions=in_tiles(rows.positions, -1),
        weights=in_tiles(weights, 0),
        shares=None if shares is None else in_tiles(shares, 0),
        ids=None if ids is None else in_tiles(ids, 0),
    )
    own = in_tiles(text, 0), own_columns

    def gathered(tile_of_own: tuple) -> tuple[jax.Array, _Side]:
        if not axes:
            return tile_of_own
        return jax.tree.map(lambda x: jax.lax.all_gather(x, axes, tiled=True), tile_of_own)

    def logits_of(captions: jax.Array, columns: _Side) -> jax.Array:
        logits = scale * _product("id,jd->ij", image, captions)
        present = (weights > 0)[:, None] & (columns.weights > 0)[None, :]
        return jnp.where(present, logits, _ABSENT)

    def of_all_rows(logits: jax.Array) -> jax.Array:
        """Log-sum-exp of columns over the rows of all devices."""
        top = _max(logits.max(axis=0), axes)
        return top + jnp.log(_sum(jnp.exp(logits - top).sum(axis=0), axes))

    def statistics(so_far: tuple, logits: jax.Array, columns: _Side) -> tuple:
        """Running [rows] values, and the log-sum-exp of the tile's columns, of all and own rows."""
        highest, sums, own_logit, pull = so_far
        higher = jnp.maximum(highest, logits.max(axis=1))
        exponentials = _chosen(jnp.exp(logits - higher[:, None]), columns)
        sums = sums * jnp.exp(highest - higher) + exponentials.sum(axis=1)
        same = rows.positions[:, None] == columns.positions[None, :]
        own_logit = own_logit + jnp.where(same, logits, 0).sum(axis=1)
        pull = pull + (_positives(rows, columns) * logits).sum(axis=1)
        of_own = None
        if ids is not None:
            of_own = of_all_rows(jnp.where(_is_own(rows, columns), logits, _ABSENT))
        return (higher, sums, own_logit, pull), (of_all_rows(logits), of_own)

    def gradients_of(
        logits: jax.Array, captions: jax.Array, columns: _Side, of_columns: tuple
    ) -> tuple[jax.Array, jax.Array]:
        """Of the images, float32 so far, and of this device's captions in the tile."""

        def by_logit(logits: jax.Array) -> jax.Array:
            by_row = weights[:, None] * _chosen(jnp.exp(logits - of_rows[:, None]), columns)
            of_all, of_own = of_columns
            by_column = columns.weights * jnp.exp(logits - of_all)
            if of_own is not None:
                own = columns.weights * jnp.exp(logits - of_own)
                by_column -= jnp.where(_is_own(rows, columns), own, 0)
            difference = by_row + by_column - _positives(rows, columns)
            return (difference * (scale / (2 * total))).astype(image.dtype)

        by_caption = []
        for features in jnp.array_split(image, 2, 1):
            # One half at a time: in float32 those of all captions take as much as the logits do.
            features, logits = jax.lax.optimization_barrier((features, logits))
            half = _product("ij,id->jd", by_logit(logits), features)
            if axes:
                half = jax.lax.psum_scatter(half, axes, tiled=True)
            by_caption.append(half.astype(text.dtype))
        by_image = _product("ij,jd->id", by_logit(logits), captions)
        return by_image, jnp.concatenate(by_caption, axis=1)

    zeros = jnp.zeros(count, jnp.float32)
    first = (jnp.full(count, 2 * _ABSENT, jnp.float32), zeros, zeros, zeros)
    if tiles == 1:
        captions, columns = gathered(jax.tree.map(lambda x: x[0], own))
        logits = logits_of(captions, columns)
        last, of_columns = statistics(first, logits, columns)

        def all_gradients() -> tuple[jax.Array, jax.Array]:
            return gradients_of(logits, captions, columns, of_columns)

    else:

        def one_tile(so_far: tuple, tile_of_own: tuple) -> tuple:
            captions, columns = gathered(tile_of_own)
            return statistics(so_far, logits_of(captions, columns), columns)

        last, of_columns = jax.lax.scan(one_tile, first, own)

        def gradients_of_tile(so_far: jax.Array, tile_and_sums: tuple) -> tuple:
            tile_of_own, of_tile = tile_and_sums
            captions, columns = gathered(tile_of_own)
            logits = logits_of(captions, columns)
            by_image, by_text = gradients_of(logits, captions, columns, of_tile)
            return so_far + by_image, by_text

        def all_gradients() -> tuple[jax.Array, jax.Array]:
            none = jnp.zeros(image.shape, jnp.float32)
            by_image, by_text = jax.lax.scan(gradients_of_tile, none, (own, of_columns))
            return by_image, by_text.reshape(tiles * width, -1)[:count]

    highest, sums, own_logit, pull = last
    of_rows = highest + jnp.log(sums)
    from_images = (weights * of_rows).sum() - pull.sum()
    of_all, of_own = of_columns
    of_all = of_all if of_own is None else of_all - of_own
    mine = jax.lax.dynamic_slice_in_dim(
        of_all.reshape(tiles, devices, width), start // count, 1, axis=1
    ).reshape(tiles * width)[:count]
    from_texts = (weights * mine).sum()
    loss = _sum(from_images + from_texts, axes) / (2 * total)
    accuracy = _sum((weights * (own_logit >= highest)).sum(), axes) / total
    if not gradients:
        return (loss, accuracy), ()

    by_image, by_text = all_gradients()
    # Every logit is scale * cosine, so the images' gradient already holds the scale's.
    by_scale = _sum((by_image * image).sum(), axes) / scale
    return (loss, accuracy), (by_image.astype(image.dtype), by_text, by_scale)


def _positives(rows: _Side, columns: _Side) -> jax.Array:
    """[rows, columns]: what the own pair weighs in its row and, where texts are single, column."""
    same = rows.positions[:, None] == columns.positions[None, :]
    halves = 2 if rows.ids is None else 1
    return jnp.where(same, halves * rows.weights[:, None], 0)


def _is_own(rows: _Side, columns: _Side) -> jax.Array:
    """[rows, columns]: whether the image is one of the text's. Absent pairs may be anything."""
    assert rows.ids is not None and columns.ids is not None
    return rows.ids[:, None] == columns.ids[None, :]


def _chosen(exponentials: jax.Array, columns: _Side) -> jax.Array:
    """[rows, columns] parts of a softmax over captions, or over the distinct texts of them."""
    return exponentials if columns.shares is None else exponentials * columns.shares


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=jnp.float32)


def _sum(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.psum(x, axes) if axes else x


def _max(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.pmax(x, axes) if axes else x
