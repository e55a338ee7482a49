"""The contrastive loss over image-caption pairs (arXiv 2505.23883; CLIP, arXiv 2103.00020)."""

import jax
import jax.numpy as jnp


def contrastive_loss(
    image_features: jax.Array,
    text_features: jax.Array,
    logit_scale: jax.Array,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Symmetric InfoNCE over the whole batch; pair i is the only positive of row and column i.

    Equal captions in a batch stay each other's negatives, as in the original.

    Args:
      image_features: [batch, dim] float32, L2-normalised.
      text_features: [batch, dim] float32, L2-normalised.
      logit_scale: [] float32, the exponential of the learned parameter.
      weights: [batch] float32 or None. A pair of weight 0 (an unreadable image) is neither a
        positive nor a negative.

    Returns:
      The loss [] float32 in nats, and the share [] of images whose own caption scores highest.
    """
    logits = logit_scale * image_features @ text_features.T
    if weights is None:
        weights = jnp.ones(logits.shape[0], logits.dtype)
    absent = weights == 0
    # A large negative number instead of -inf keeps the gradient of an absent row finite.
    logits = jnp.where(absent[:, None] | absent[None, :], -1e9, logits)
    positives = jnp.diagonal(logits)
    from_images = jax.nn.logsumexp(logits, axis=1) - positives
    from_texts = jax.nn.logsumexp(logits, axis=0) - positives
    total = jnp.maximum(weights.sum(), 1)
    loss = (weights * (from_images + from_texts)).sum() / (2 * total)
    correct = jnp.argmax(logits, axis=1) == jnp.arange(logits.shape[0])
    return loss, (weights * correct).sum() / total
