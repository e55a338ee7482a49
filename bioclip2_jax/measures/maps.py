"""Vectors laid out in two dimensions, to look at."""

import numpy as np

MIN_POINTS = 10  # fewer have no neighbourhoods that t-SNE could keep


def principal_map(features: np.ndarray) -> np.ndarray:
    """[n, d] float → [n, 2] float64, the first two principal components."""
    features = np.asarray(features, np.float64)
    left, sizes, right = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    # An axis has no sign of its own: let its largest weight be positive.
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    places = (left * sizes * signs)[:, :2]
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def flat_map(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE by cosine distance, or principal components where it has too few points.

    UMAP is left out: it would be a new dependency for a third look at the same thing.

    Args:
      features: [n, d] float.
      seed: of t-SNE.

    Returns:
      [n, 2] float64.
    """
    if len(features) < MIN_POINTS:
        return principal_map(features)
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(features) - 1) / 3)
    layout = TSNE(init="pca", perplexity=perplexity, metric="cosine", random_state=seed)
    # On a busy machine its threads wait for each other far longer than they work.
    with threadpool_limits(1):
        return layout.fit_transform(np.asarray(features, np.float32)).astype(np.float64)
