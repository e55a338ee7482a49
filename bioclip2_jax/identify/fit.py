"""Fits a small head to labelled pictures: a table and features in, a `heads.Head` out."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from threadpoolctl import threadpool_limits

import bioclip2_jax
from bioclip2_jax import files
from bioclip2_jax.data import tables
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.identify import heads, labelled
from bioclip2_jax.identify import kept as keeping
from bioclip2_jax.identify.heads import About, Head, Verdict
from bioclip2_jax.identify.kept import Kept
from bioclip2_jax.identify.label_features import features_of
from bioclip2_jax.identify.labelled import Labelled
from bioclip2_jax.measures import choice, confounds, head_figures
from bioclip2_jax.measures.accuracy import class_average
from bioclip2_jax.measures.choice import CHOSEN
from bioclip2_jax.measures.folds import count_folds, deal
from bioclip2_jax.measures.linear_heads import Linear

FALSE_UNKNOWN = 0.05
_SMALL = 1 << 22  # numbers


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks for; see the options of `bioclip2 fit`."""

    table: str
    features: str | None
    images: str | None
    model: str | None
    column: str
    group: str | None
    out: str
    overwrite: bool
    false_unknown: float = FALSE_UNKNOWN
    text: bool = True
    seed: int = 0
    batch_size: int = 32


def run(request: Request, say: Callable[[str], None] = lambda note: None) -> About:
    """Fits a head and writes it.

    Args:
      request: by the options.
      say: receives what should be known of the pictures.

    Raises:
      UsageError: options that do not fit, a column that is not there, or an `out` that is taken.
      UserError: the table, the features or the model cannot be used, or classes are too few.
    """
    if bool(request.features) == bool(request.images):
        raise UsageError("give either --features STORE or --images DIR")
    if request.images and not request.model:
        raise UsageError("--images needs --model, which encodes them; name a model")
    out = files.place(request.out)
    if (out / heads.ABOUT).exists() and not request.overwrite:
        raise UsageError(f"--out {out}: a head is there; give --overwrite, or another folder")
    rows = labelled.read(request.table, request.column, request.group, say)
    kept = _kept(request, rows, say)
    names = [rows.classes[row] for row in kept.rows]
    classes = sorted(set(names))
    if len(classes) < 2:
        raise UserError(
            f"{request.table}: {request.column}: only {classes[0]!r}; a head tells classes apart"
        )
    labels = np.searchsorted(classes, names)
    counts = np.bincount(labels)
    if counts.min() < 3:
        few = classes[int(counts.argmin())]
        raise UserError(
            f"{request.table}: {request.column}: class {few!r} has {counts.min()} of its pictures"
            " here; three are the least, to learn, choose and judge; add some, or empty its cells"
        )
    groups = None
    if request.group:
        groups = np.unique([rows.groups[row] for row in kept.rows], return_inverse=True)[1]
    text, scale = None, 1.0
    if kept.model and request.text:
        text, scale = features_of(kept.model, classes, 128), kept.model.logit_scale
    (linear, recipe), verdict = fitted(
        kept.features,
        labels,
        groups=groups,
        text=text,
        logit_scale=scale,
        false_unknown=request.false_unknown,
        seed=request.seed,
    )
    about = About(
        classes=classes,
        counts=counts.tolist(),
        column=request.column,
        table=str(files.absolute(request.table)),
        group=request.group or "",
        num_groups=0 if groups is None else int(groups.max()) + 1,
        model=kept.made,
        preprocess=kept.preprocess,
        dim=kept.features.shape[1],
        seed=request.seed,
        verdict=verdict,
        cautions=_cautions(request, rows, kept, classes, labels, groups),
        version=bioclip2_jax.__version__,
        recipe=recipe,
    )
    heads.write(out, Head(about, linear, text if recipe.text_weight else None))
    return about


def _kept(request: Request, rows: Labelled, say: Callable[[str], None]) -> Kept:
    if request.features:
        return keeping.of_store(request.features, request.model, rows.files, say)
    assert request.images and request.model
    return keeping.of_images(request.images, request.model, rows.files, request.batch_size, say)


def fitted(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    text: np.ndarray | None = None,
    logit_scale: float = 1.0,
    false_unknown: float = FALSE_UNKNOWN,
    seed: int = 0,
) -> tuple[tuple[Linear, choice.Recipe], Verdict]:
    """Chooses, judges and fits a head on arrays.

    Args:
      features: [n, dim] float32, L2-normalised.
      labels: [n] int, 0 ... classes - 1, each with three pictures or more.
      groups: [n] int, never divided between folds.
      text: [classes, dim] float32, L2-normalised, of the classes' names.
      logit_scale: of the model.
      false_unknown: share of pictures of known classes that may be called unknown.
      seed: of folds, draws and intervals.

    Returns:
      The head on all pictures with its recipe, and the verdict.

    Raises:
      UserError: fewer than three groups.
    """
    few = 1 if features.size < _SMALL else None  # threads would wait longer than they work
    with threadpool_limits(limits=few):
        return _fitted(features, labels, groups, text, logit_scale, false_unknown, seed)


def _fitted(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    text: np.ndarray | None,
    logit_scale: float,
    false_unknown: float,
    seed: int,
) -> tuple[tuple[Linear, choice.Recipe], Verdict]:
    cosines = None if text is None else features @ text.T
    basis = _basis(features)
    inner = features if basis is None else features @ basis
    folds = deal(labels, count_folds(labels, groups), groups, seed)
    nested = choice.nested(inner, labels, folds, cosines, logit_scale)
    recipe = nested.recipe
    own = cosines if recipe.text_weight else None
    rivals = [name for name in nested.recipes if name != recipe.name]
    averages = {n: class_average(nested.answers[n] == labels, labels) for n in rivals}
    runner_up = max(rivals, key=lambda name: averages[name] or 0)
    figures, lead = head_figures.figures(
        nested.answers, labels, groups, seed, pair=(recipe.name, runner_up)
    )
    right = nested.answers[CHOSEN] == labels
    unseen = head_figures.unseen_confidence(inner, labels, folds, recipe, own, seed)
    linear = choice.fit(inner, labels, int(labels.max()) + 1, recipe)
    if basis is not None:
        mean = None if linear.mean is None else basis @ linear.mean
        linear = Linear(basis @ linear.weight, linear.bias, mean)
    verdict = Verdict(
        kind=recipe.name,
        strength=recipe.strength,
        text_weight=recipe.text_weight,
        figures=figures,
        agreement=nested.agreement,
        runner_up=runner_up,
        lead=lead,
        folds=int(folds.max()) + 1,
        curve=head_figures.learning_curve(inner, labels, folds, recipe, own, seed),
        unknown=head_figures.unknown(nested.confidence, right, folds, false_unknown, unseen),
    )
    return (linear, recipe), verdict


def _basis(features: np.ndarray) -> np.ndarray | None:
    """[dim, n] float32, directions of fewer pictures than numbers; None of more.

    Heads depend on products of features alone, which these coordinates keep.
    """
    if len(features) >= features.shape[1]:
        return None
    return np.ascontiguousarray(np.linalg.svd(features, full_matrices=False)[2].T)


# ---- What may deceive


def _cautions(
    request: Request,
    rows: Labelled,
    kept: Kept,
    classes: list[str],
    labels: np.ndarray,
    groups: np.ndarray | None,
) -> list[str]:
    cautions = []
    if groups is not None and (alone := confounds.in_one_group(labels, groups)):
        names = ", ".join(classes[number] for number in alone[:5]) + ", …" * (len(alone) > 5)
        cautions.append(
            f"{len(alone)} of {len(classes)} classes have pictures of one {request.group} alone"
            f" ({names}): no other confirms them, and they count as wrong"
        )
    folders = [str(PurePosixPath(rows.files[row]).parent) for row in kept.rows]
    own = Counter(
        tables.normal(PurePosixPath(folder).name) == tables.normal(classes[label])
        for folder, label in zip(folders, labels, strict=True)
    )
    sources = {"dataset": list(kept.datasets)}
    if own[True] < own[False]:  # else the folders are how people sorted their pictures
        sources["folder"] = folders
    for what, names in sources.items():
        if len(set(names)) < 2:
            continue
        told = confounds.told_by(np.asarray(names), labels)
        if told.tells:
            cautions.append(
                f"the {what} of a picture alone tells the class of {told.accuracy:.0%} (the"
                f" commonest class: {told.prior:.0%}); the head may know places instead of"
                f" {request.column}"
            )
    return cautions
