"""What the tree says about answers: how far wrong they are, and whether they fit together."""

import numpy as np

from bioclip2_jax.measures.metrics import class_average


def mistakes(
    rank_groups: dict[str, np.ndarray], labels: np.ndarray, predictions: np.ndarray
) -> dict:
    """How far wrong the wrong answers are.

    The height of an answer is the number of ranks one must climb from species until it and the
    truth share their lineage: 0 for the right one, 1 for another species of its genus, 7 for
    another kingdom (Bertinetto et al. 2020, arXiv 1912.09393).

    Args:
      rank_groups: rank → [classes] int, lineage number of every class (`metrics.lineage_groups`).
      labels: [n] int, true classes.
      predictions: [n] int, first answers.

    Returns:
      `mean_height` over all images, `macro_mean_height` averaged over the classes,
      `mistake_height` over the wrong ones (None without any), and `heights`, the number of images
      at each height 0 ... 7.
    """
    groups = rank_groups.values()
    heights = sum((of[labels] != of[predictions]).astype(np.int64) for of in groups)
    wrong = heights[predictions != labels]
    return {
        "mean_height": float(heights.mean()),
        "macro_mean_height": class_average(heights, np.ones(len(labels)), labels),
        "mistake_height": float(wrong.mean()) if len(wrong) else None,
        "heights": np.bincount(heights, minlength=len(groups) + 1).tolist(),
    }


def consistency(
    rank_groups: dict[str, np.ndarray],
    labels: np.ndarray,
    predictions: np.ndarray,
    prompted: dict[str, np.ndarray],
) -> dict:
    """Whether the answers to "which kingdom", "which phylum", ... and "which species" agree.

    Every rank above species is asked on its own, with its lineages as the list of names; the rank
    of species is answered by the first answer among the classes. Nothing makes these answers fit
    together: the genus may be a bird's and the class that of fishes.

    Args:
      rank_groups: rank → [classes] int, lineage number of every class, coarse ranks first.
      labels: [n] int, true classes.
      predictions: [n] int, first answers among the classes.
      prompted: rank → [n] int, the lineage answered where that rank is asked for; for all ranks
        but species.

    Returns:
      `agreement`: rank → share of images whose answer at that rank is the lineage of their species
      answer.
      `consistent`: share of images whose answers form one lineage, that is, agree at all ranks; one
      minus the tree-based inconsistency error (TICE) of Park et al. 2024, arXiv 2406.11608.
      `top_down`: rank → share of images answered rightly at that rank and at every one above it;
      down to species this is the full-path accuracy (FPA) of that paper.
      `full_path`, `macro_full_path`: its last value, and the same averaged over the classes.
    """
    fits, right = np.ones(len(labels), bool), np.ones(len(labels), bool)
    agreement, top_down = {}, {}
    for rank, groups in rank_groups.items():
        answers = prompted.get(rank, groups[predictions])
        if rank in prompted:
            same = answers == groups[predictions]
            agreement[rank] = float(same.mean())
            fits &= same
        right = right & (answers == groups[labels])
        top_down[rank] = float(right.mean())
    return {
        "agreement": agreement,
        "consistent": float(fits.mean()),
        "top_down": top_down,
        "full_path": float(right.mean()),
        "macro_full_path": class_average(right, np.ones(len(labels)), labels),
    }
