"""Zero-shot and few-shot classification of species: from features to result files."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data.counts import counts_of
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import questions, schema, tables
from bioclip2_jax.evaluation.protocols.zero_shot import ZeroShot, zero_shot
from bioclip2_jax.evaluation.questions import Question, SpeciesJob
from bioclip2_jax.evaluation.subject import Subject
from bioclip2_jax.features.encode import embed_classes
from bioclip2_jax.measures import accuracy, calibration, hierarchy, intervals, open_set, prior
from bioclip2_jax.measures.scores import lineage_counts, nearest, number, with_prior
from bioclip2_jax.measures.simple_shot import few_shot
from bioclip2_jax.measures.tree import TopDown
from bioclip2_jax.text.taxonomy import RANKS, Taxon, TaxonEntry
from bioclip2_jax.text.templates import TEMPLATES

Groups = Mapping[str, np.ndarray]  # rank → [classes] int, see `accuracy.lineage_groups`


# ---- Zero-shot


def run_zero_shot(job: SpeciesJob, subject: Subject) -> schema.ZeroShotResult:
    """Answers from the names, each in the sentences of the settings' templates; writes the tables.

    Answers and figures are with a prior whose strength is given, and without one whose strength is
    fitted: that one is judged apart, on the pictures that it was not fitted on.

    Raises:
      UserError: no picture is of a class on the list.
    """
    question, model = questions.by_names(job, subject), subject.loaded_model()
    folder, classes = subject.place(job), question.classes
    rows = np.flatnonzero(question.labels >= 0)
    if not len(rows):
        raise UserError("no image is of a taxon on the list of names; choose other --labels")
    labels, features = question.labels[rows], question.pictures.features[rows]
    groups = accuracy.lineage_groups([entry.taxon for entry in classes])
    class_features, lineages = _name_features(job, question, list(groups)[:-1], subject)
    plain, scale = (features, class_features), model.logit_scale
    named = {rank: questions.named_lineages(classes, rank) for rank in lineages}
    commonest, trade, fitted = _commonest(question, labels), None, None
    if job.settings.prior:
        strength = job.settings.prior_strength
        counts = counts_of(job.settings.prior, [entry.taxon for entry in classes])
        commonest = _commonest(question, labels, counts)
        asked = (features, labels, class_features, scale, counts)
        strengths = {*prior.STRENGTHS, strength or 0.0}
        trade = prior.points(*asked, commonest=commonest, strengths=strengths)
        if strength is None:
            keys = [question.pictures.keys[row] for row in rows]
            fitted = prior.fit(*asked, commonest=commonest, keys=keys)
        else:
            factor = strength / scale
            lineages = {
                rank: with_prior(features, names, lineage_counts(counts, groups[rank]), factor)[1]
                for rank, names in lineages.items()
            }
            features, class_features = with_prior(features, class_features, counts, factor)
    result = zero_shot(features, labels, class_features, scale, groups, lineages, named)
    if job.settings.decode == "top_down" and result.top_down:
        best, led = result.predictions[:, 0], result.top_down.classes
        gaps = np.einsum("nd,nd->n", features, class_features[led] - class_features[best])
        own = result.scores[:, 0] * np.exp(scale * gaps.astype(np.float64))
        result = _led_down(result, result.top_down, own, labels, groups)
    first = result.predictions[:, 0]

    def closed(part: np.ndarray) -> float:
        """Accuracy when only the taxa of that part are on the list."""
        present, own = np.unique(labels[part], return_inverse=True)
        return float((nearest(features[part], class_features[present]) == own).mean())

    known = {
        rank: named[rank][of] if rank in named else np.ones(len(classes), bool)
        for rank, of in groups.items()
    }
    at_ranks = _at_ranks(result, groups, labels, known)
    path = result.prompted
    if job.settings.decode == "top_down" and result.top_down:
        path = {rank: result.top_down.answers[rank] for rank in named}

    answers = {"correct": (first == labels).astype(int).tolist()}
    for place, (best, scores) in enumerate(zip(result.predictions.T, result.scores.T, strict=True)):
        answers[f"answer_{place + 1}"] = [classes[label].scientific_name for label in best]
        answers[f"score_{place + 1}"] = scores.tolist()
    if groups:
        answers |= {name: hits for rank in named for name, hits in at_ranks[rank].columns(rank)}
        full = hierarchy.right_down(groups, labels, first, path, known)[RANKS[-1]]
        answers["full_path"] = full.astype(int).tolist()
    tables.write(
        folder, job.task, question, rows, result.outcomes, answers, predictions=first, closed=closed
    )
    present, members = accuracy.rows_by_class(labels)
    means = np.stack([plain[0][part].mean(axis=0) for part in members])
    buffer = io.BytesIO()
    np.savez(buffer, classes=present, image=means, text=plain[1][present])
    files.write_bytes(folder / "zero_shot_embeddings.npz", buffer.getvalue())

    summary = accuracy.summarize(result.outcomes, labels, rank_groups=groups)
    ranks = {
        rank: schema.NamedRank(**vars(row), **at_ranks[rank].figures())
        for rank, row in summary.ranks.items()
    }
    mistakes = None
    if groups:
        mistakes = replace(
            hierarchy.mistakes(groups, labels, first, known),
            consistency=hierarchy.consistency(groups, labels, first, path, known),
        )
    return schema.ZeroShotResult(
        **_common(job, question, replace(summary, ranks=ranks), classes, len(rows)),
        calibration=replace(
            calibration.summary(result.scores[:, 0], first == labels),
            scaled=calibration.temperature_scaling(features, labels, class_features, scale),
        ),
        hierarchy=mistakes,
        strata=_strata(classes, result.outcomes, labels),
        open_set=_open_set(question, rows, plain[1], scale),
        same_text=questions.same_texts(question),
        prior=trade,
        prior_fit=fitted,
        commonest=schema.Commonest(
            name=classes[commonest].scientific_name,
            num_images=int((labels == commonest).sum()),
            top1=float((first == labels)[labels == commonest].mean()),
        ),
    )


def _led_down(
    result: ZeroShot, down: TopDown, scores: np.ndarray, labels: np.ndarray, groups: Groups
) -> ZeroShot:
    """The same with the class that the tree leads to, and its score, before the others."""
    others = result.predictions != down.classes[:, None]
    # Stable: the others stay in order behind it; where it is not among them, the last goes.
    order = np.argsort(others, axis=1, kind="stable")
    shifted = np.where(others.all(axis=1, keepdims=True), np.roll(order, 1, axis=1), order)
    predictions = np.take_along_axis(result.predictions, shifted, axis=1)
    probabilities = np.take_along_axis(result.scores, shifted, axis=1)
    predictions[:, 0], probabilities[:, 0] = down.classes, scores
    right = predictions == labels[:, None]
    ranks = {r: (down.answers[r] == of[labels]).astype(np.int64) for r, of in groups.items()}
    outcomes = replace(
        result.outcomes,
        top={k: right[:, :k].any(axis=1).astype(np.int64) for k in accuracy.TOP},
        ranks=ranks,
    )
    return replace(result, predictions=predictions, scores=probabilities, outcomes=outcomes)


@dataclass(frozen=True)
class _AtRank:
    """Answers at one rank.

    Attributes:
      truth: [n] int, the lineages of the pictures.
      judged: [n] bool, whether the rank is known of the picture.
      right: key of `schema.NamedRank` → [n] bool, whether such an answer is right.
    """

    truth: np.ndarray
    judged: np.ndarray
    right: dict[str, np.ndarray]

    def columns(self, rank: str) -> Iterator[tuple[str, list[int | None]]]:
        """Of the table of pictures: a name, and 1 or 0, or None where it is not judged."""
        for key, hits in self.right.items():
            pairs = zip(hits.tolist(), self.judged.tolist(), strict=True)
            yield f"{rank}_{key}", [int(hit) if judged else None for hit, judged in pairs]

    def figures(self) -> dict[str, Any]:
        """What `schema.NamedRank` says of the pictures that are judged."""
        if not self.judged.any():
            return {"prompted_top1": None}
        right = {key: hits[self.judged] for key, hits in self.right.items()}
        return {
            "prompted_top1": float(right["prompted_top1"].mean()),
            "prompted_macro_top1": accuracy.class_average(
                right["prompted_top1"], self.truth[self.judged]
            ),
            "known_top1": float(right["top1"].mean()),
            "top_down_top1": float(right["top_down_top1"].mean()),
        }


def _at_ranks(
    result: ZeroShot, groups: Groups, labels: np.ndarray, known: Groups
) -> dict[str, _AtRank]:
    """Rank → what was answered there, summed, asked by its own names, and down the tree."""
    ranks = {}
    for rank, of in groups.items():
        truth, first = of[labels], of[result.predictions[:, 0]]
        down = result.top_down.answers[rank] if result.top_down else first
        right = {
            "top1": result.outcomes.ranks[rank] > 0,
            "prompted_top1": result.prompted.get(rank, first) == truth,
            "top_down_top1": down == truth,
        }
        ranks[rank] = _AtRank(truth, known[rank][labels], right)
    return ranks


def _commonest(question: Question, labels: np.ndarray, counts: np.ndarray | None = None) -> int:
    """Of the classes with pictures the one met most often: as counted, else in training, else here.

    Args:
      question: what was asked.
      labels: [n] int, of the pictures that were asked for.
      counts: [classes] numbers; None for the training pictures.
    """
    if counts is None:
        counts = np.asarray([entry.counts.get("train", 0) for entry in question.classes])
    present, pictures = np.unique(labels, return_counts=True)
    return int(present[np.lexsort([pictures, counts[present]])[-1]])


def _name_features(
    job: SpeciesJob, question: Question, ranks: Sequence[str], subject: Subject
) -> tuple[np.ndarray, Groups]:
    """Features of the names of the classes, and rank → those of its lineages."""
    texts = [question.names, *(questions.lineage_names(question.classes, rank) for rank in ranks)]
    unique, numbers = number([text for part in texts for text in part])
    templates = TEMPLATES[job.settings.templates]
    vectors = embed_classes(subject.loaded_model(), unique, subject.batch_size, templates)
    ends = np.cumsum([len(part) for part in texts])[:-1]
    class_features, *lineages = (vectors[part] for part in np.split(numbers, ends))
    return class_features, dict(zip(ranks, lineages, strict=True))


def _common(
    job: SpeciesJob,
    question: Question,
    summary: accuracy.Accuracy,
    classes: Sequence[TaxonEntry],
    num_images: int,
) -> dict[str, Any]:
    """The fields that are made alike for zero-shot and few-shot."""
    bad = [schema.BadPicture(*pair) for pair in question.pictures.bad]
    # Tells lists of classes apart, whatever their order and the words they are named with.
    lines = sorted("|".join((*e.taxon.ranks, e.scientific_name)) for e in classes)
    return vars(summary) | {
        "settings": job.settings,
        "chance": 1 / len(classes) if classes else None,
        "num_images": num_images,
        "num_classes": len(classes),
        "num_excluded": len(question.labels) - num_images,
        "classes_sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "num_bad": len(bad),
        "bad": bad,
    }


def _strata(
    classes: Sequence[TaxonEntry], outcomes: accuracy.Outcomes, labels: np.ndarray
) -> dict[str, accuracy.Stratum] | None:
    """`accuracy.strata`; None where nothing is known of the training."""
    if not any("train" in entry.counts for entry in classes):
        return None
    train_images = np.asarray([entry.counts.get("train", 0) for entry in classes])
    return accuracy.strata(outcomes, labels, train_images)


def _open_set(
    question: Question, rows: np.ndarray, class_features: np.ndarray, logit_scale: float
) -> schema.OpenSets:
    features, labels = question.pictures.features, question.labels[rows]
    hidden = open_set.hidden_classes(labels)
    listed = np.delete(class_features, hidden, axis=0)
    found = open_set.open_set(features[rows], np.isin(labels, hidden), listed, logit_scale)
    both = np.concatenate([rows, _strangers(question)])
    unknown = np.arange(len(both)) >= len(rows)
    return schema.OpenSets(
        hidden=found and schema.HiddenSet(**vars(found), num_hidden_classes=len(hidden)),
        excluded=open_set.open_set(features[both], unknown, class_features, logit_scale),
    )


def _strangers(question: Question) -> np.ndarray:
    """Pictures of species that no class can be: not of it, nor a higher taxon it lies in."""
    listed = {(e.taxon.genus, e.taxon.species.partition(" ")[0]) for e in question.classes}
    # A class known to its family covers every species of it.
    higher = {(e.taxon.deepest_rank, e.taxon.scientific_name) for e in question.classes}

    def is_strange(taxon: Taxon) -> bool:
        if taxon.deepest_rank != "species":
            return False
        pairs = zip(RANKS[:-1], taxon.ranks, strict=False)
        binomial = (taxon.genus, taxon.species.partition(" ")[0])
        return binomial not in listed and not any(pair in higher for pair in pairs)

    taxa = question.pictures.taxa
    outside = np.flatnonzero(question.labels < 0).tolist()
    return np.asarray([row for row in outside if is_strange(taxa[row])], np.int64)


# ---- Few-shot


def _over_draws(
    summary: accuracy.Accuracy, folds: Mapping[str, np.ndarray]
) -> dict[str, intervals.Interval | None]:
    """The intervals of the summary, for other draws of the support as well."""
    found: dict[str, intervals.Interval | None] = dict.fromkeys(accuracy.NAMES)
    for name, interval in summary.intervals.items():
        if interval is not None:
            value = getattr(summary, name)
            found[name] = intervals.over_draws(value, interval, folds[name].tolist())
    return found


def run_few_shot(job: SpeciesJob, subject: Subject, k: int) -> schema.FewShotResult:
    """Support and queries both come from the pictures asked about; writes the tables.

    `few_shot_K_support.json` lists the keys of the support of every fold; `settings.support` is
    such a file, whose folds are taken instead of new ones.

    Raises:
      UserError: `settings.support` cannot be used.
    """
    question, folder = questions.by_examples(job, subject), subject.place(job)
    classes, support = question.classes, job.settings.support
    rows = np.flatnonzero(question.labels >= 0)
    labels, features = question.labels[rows], question.pictures.features[rows]
    groups = accuracy.lineage_groups([entry.taxon for entry in classes])
    keys = [question.pictures.keys[row] for row in rows]
    supports = questions.support_rows(support, keys) if support else None
    try:
        run_on = job.settings.protocol == "v1"
        result = few_shot(features, labels, k, groups, supports, run_on=run_on)
    except UserError as error:
        raise UserError(f"{support}: {error}") from error
    asked = np.isin(labels, result.queried)
    outcomes, labels, rows = result.outcomes.select(asked), labels[asked], rows[asked]
    answers = {"trials": outcomes.trials.tolist(), "correct": outcomes.top[1].tolist()}
    tables.write(folder, job.task, question, rows, outcomes, answers)
    drawn = [[keys[row] for row in fold] for fold in result.support]
    files.write_json(folder / f"{job.task}_support.json", drawn, indent=None)

    summary = accuracy.summarize(outcomes, labels, rank_groups=groups, classes=result.classes)
    shown = [classes[label] for label in result.classes]
    return schema.FewShotResult(
        **_common(job, question, summary, shown, len(rows)),
        k=k,
        std=result.std,
        folds=result.fold_top1.tolist(),
        draw_intervals=_over_draws(summary, result.folds),
        left_out=[classes[label].scientific_name for label in result.left_out],
    )
