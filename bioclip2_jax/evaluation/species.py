"""Zero-shot and few-shot classification of species: from features to result files.

The pictures come from a split of a dataset, from a feature store, or from an annotation table in
the form of BioCLIP 2's; `Question` is what all of them become.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import tables as results
from bioclip2_jax.evaluation.published.species import Species
from bioclip2_jax.features.encode import SplitFeatures, embed_classes
from bioclip2_jax.features.store import Store, align
from bioclip2_jax.measures import calibration, hierarchy, metrics, open_set
from bioclip2_jax.measures.scores import nearest, zero_shot
from bioclip2_jax.measures.simple_shot import few_shot
from bioclip2_jax.text import captions
from bioclip2_jax.text.taxonomy import RANKS, Taxon, TaxonEntry
from bioclip2_jax.text.templates import TEMPLATES
from bioclip2_jax.weights.load import Model


@dataclass(frozen=True)
class Question:
    """Pictures to name, and the closed list of names.

    Attributes:
      found: the pictures.
      labels: [pictures] int, the class of each; -1 for those that are of none.
      classes: the list.
      names: of the classes, as they go into the templates.
    """

    found: SplitFeatures
    labels: np.ndarray
    classes: list[TaxonEntry]
    names: list[str]


# ---- Questions


def candidate_classes(
    entries: Iterable[TaxonEntry], labels: str, split: str, place: str
) -> list[TaxonEntry]:
    """The closed list of taxa that pictures are named from, one entry a lineage.

    Args:
      entries: all taxa with their counts per split.
      labels: taxa with pictures in "train", in the evaluated "split", or in "all" splits.
      split: that is evaluated.
      place: for messages.

    Raises:
      UserError: the list is empty.
    """
    classes: dict[Taxon, TaxonEntry] = {}
    for entry in entries:
        wanted = {"train": ["train"], "split": [split], "all": list(entry.counts)}[labels]
        if entry.taxon.deepest_rank and sum(entry.counts.get(name, 0) for name in wanted):
            first = classes.setdefault(entry.taxon, entry)
            if not first.vernacular_name:
                classes[entry.taxon] = replace(first, vernacular_name=entry.vernacular_name)
    if not classes:
        raise UserError(f"{place}: no taxon has images for --labels {labels}; choose others")
    return list(classes.values())


def dataset_classes(data: str, split: str, labels: str) -> list[TaxonEntry]:
    """`candidate_classes` of a dataset folder.

    Raises:
      UsageError: the dataset has no such split.
      UserError: the list is empty.
    """
    known = dataset.splits(data)
    if split not in known:
        raise UsageError(f"{data}: no split {split!r}; it has {', '.join(sorted(known))}")
    return candidate_classes(dataset.read_taxa(data), labels, split, data)


def store_classes(store: Store, split: str, labels: str, place: str) -> list[TaxonEntry]:
    """`candidate_classes` of a feature store, by lineage.

    Raises:
      UserError: the list is empty.
    """
    entries: dict[Taxon, TaxonEntry] = {}
    columns = (store.texts[name] for name in ("scientificName", "vernacularName", "split"))
    for taxon, name, common, part in zip(store.taxa, *columns, strict=True):
        entry = entries.setdefault(taxon, TaxonEntry(taxon, str(name), str(common), {}))
        entry.counts[str(part)] = entry.counts.get(str(part), 0) + 1
    return candidate_classes([entries[taxon] for taxon in sorted(entries)], labels, split, place)


def store_split(store: Store, split: str, place: str) -> SplitFeatures:
    """The pictures of one split of a feature store.

    Raises:
      UsageError: it has none of that split.
    """
    rows = store.select(store.texts["split"] == split)
    if not rows.keys:
        known = sorted(set(store.texts["split"].tolist()) - {""})
        has = (
            f"it has {', '.join(known)}"
            if known
            else (
                "it was made of a plain folder: give --annotations, a table that says what each"
                " picture shows, or --data, the folder of a published set"
            )
        )
        raise UsageError(f"{place}: no features of split {split!r}; {has}")
    return _split_features(rows, store)


def _split_features(rows: Store, store: Store) -> SplitFeatures:
    datasets = rows.texts["datasetName"].tolist()
    bad = store.about.bad
    return SplitFeatures(rows.features, rows.index, rows.keys, rows.taxa, datasets, bad)


def taxa_question(found: SplitFeatures, classes: list[TaxonEntry], text_kind: str) -> Question:
    """Names every picture from the list; those of other taxa are left out."""
    index_of = {entry.taxon: index for index, entry in enumerate(classes)}
    labels = np.asarray([index_of.get(taxon, -1) for taxon in found.taxa], np.int64)
    return Question(found, labels, classes, class_names(classes, text_kind))


def own_taxa_question(found: SplitFeatures) -> Question:
    """Every known taxon of the pictures is a class, in order of first appearance."""
    known = [taxon for taxon in found.taxa if taxon.deepest_rank]
    taxa, numbers = metrics.number(known)
    labels = np.full(len(found.taxa), -1, np.int64)
    labels[[bool(taxon.deepest_rank) for taxon in found.taxa]] = numbers
    entries = [TaxonEntry(taxon, taxon.scientific_name, "", {}) for taxon in taxa]
    return Question(found, labels, entries, class_names(entries, "sci"))


def set_question(store: Store, told: Species, name: str, place: str | Path) -> Question:
    """The pictures of a species set, in its order and with its classes.

    Those without features are left out, and told as bad ones.

    Raises:
      UserError: not one picture has features.
    """
    rows, present = rows_of(store, told.files, place)
    found = _split_features(store.select(rows), store)
    bad = missing(store, told.files)
    return Question(
        replace(found, datasets=[name] * len(rows), bad=bad),
        told.labels[present],
        told.classes,
        told.names,
    )


def rows_of(store: Store, files: Sequence[str], place: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Which row of the store holds each file, see `store.align`.

    Returns:
      [good] int rows, and [good] int positions in `files`; pictures without features are left out.

    Raises:
      UserError: not one of the files has features.
    """
    row_of = {key: row for row, key in enumerate(store.keys)}
    files = align(files, [*store.keys, *(key for key, _ in store.about.bad)])
    present = np.asarray([i for i, file in enumerate(files) if file in row_of], np.int64)
    if not len(present):
        example = f"; it calls one {files[0]}, the features have {store.keys[0]}" if files else ""
        raise UserError(f"{place}: none of its {len(files):,} pictures has features{example}")
    return np.asarray([row_of[files[i]] for i in present], np.int64), present


def missing(store: Store, files: Sequence[str]) -> list[tuple[str, str]]:
    """(file, reason) of every file without features."""
    reasons = dict(store.about.bad)
    keys = [*store.keys, *reasons]
    good = set(store.keys)
    return [
        (file, reasons.get(key, "no such picture"))
        for file, key in zip(files, align(files, keys), strict=True)
        if key not in good
    ]


# ---- Names


def class_names(classes: Sequence[TaxonEntry], text_kind: str) -> list[str]:
    """The name of every class as it goes into the templates."""
    return [
        captions.class_name(text_kind, entry.taxon, entry.vernacular_name, entry.scientific_name)
        for entry in classes
    ]


def lineage_names(classes: Sequence[TaxonEntry], rank: str) -> list[str]:
    """The text of every distinct lineage down to `rank`, numbered as by `lineage_groups`."""
    lineages, _ = metrics.number([entry.taxon.lineage(rank) for entry in classes])
    return [" ".join(filter(None, lineage)) or "unknown" for lineage in lineages]


# ---- Answers


def read_support(path: str | Path) -> list[list[str]]:
    """The keys of the pictures that a support file names, fold by fold.

    Raises:
      UserError: it is no such file.
    """
    try:
        folds = json.loads(Path(path).read_text(encoding="utf-8"))
        if all(isinstance(key, str) for fold in folds for key in fold):
            return folds
        problem = "there is something else in it"
    except (OSError, ValueError, TypeError) as error:
        problem = str(error)
    raise UserError(f"{path}: no list of lists of keys ({problem})")


def _support_rows(path: Path, keys: Sequence[str]) -> list[list[int]]:
    row_of = {key: row for row, key in enumerate(keys)}
    try:
        return [[row_of[key] for key in fold] for fold in read_support(path)]
    except KeyError as error:
        raise UserError(
            f"{path}: names the picture {error}, which is not among those evaluated; give the"
            " --data and --annotations it was drawn from"
        ) from error


def run_zero_shot(
    model: Model, question: Question, batch_size: int, folder: Path, templates: str = "bioclip2"
) -> dict:
    """Answers the question from the names, each in the sentences of `TEMPLATES[templates]`.

    Writes the tables.

    Raises:
      UserError: no picture is of a class on the list.
    """
    classes, found = question.classes, question.found
    rows = np.flatnonzero(question.labels >= 0)
    if not len(rows):
        raise UserError("no image is of a taxon on the list of names; choose other --labels")
    labels, features = question.labels[rows], found.features[rows]
    groups = metrics.lineage_groups([entry.taxon for entry in classes])
    known = any(entry.taxon.deepest_rank for entry in classes)

    texts = {"classes": question.names}
    if known:
        texts |= {rank: lineage_names(classes, rank) for rank in RANKS[:-1]}
    unique, numbers = metrics.number([text for part in texts.values() for text in part])
    vectors = embed_classes(model, unique, batch_size, TEMPLATES[templates])
    ends = np.cumsum([len(part) for part in texts.values()])[:-1]
    class_features, *lineages = (vectors[part] for part in np.split(numbers, ends))
    del vectors
    prompted = dict(zip(RANKS[:-1], lineages, strict=True)) if known else {}

    result = zero_shot(
        features, labels, class_features, model.logit_scale, groups if known else {}, prompted
    )
    first = result.predictions[:, 0]
    summary = metrics.summarize(result.outcomes, labels, rank_groups=groups)
    for rank, row in summary["ranks"].items():
        truth = groups[rank][labels]
        right = result.prompted.get(rank, groups[rank][first]) == truth
        row["prompted_top1"] = float(right.mean())
        row["prompted_macro_top1"] = metrics.class_average(right, np.ones(len(rows)), truth)
        count = int(groups[rank].max()) + 1
        row |= {"num_classes": count, "chance": 1 / count}

    (folder / "zero_shot.json").unlink(missing_ok=True)  # it is no seal of the tables to come
    results.write_classes(folder / "zero_shot_classes.csv", classes, labels, result.outcomes, first)
    datasets = [found.datasets[row] for row in rows]

    def closed(part: np.ndarray) -> float:
        """Accuracy when only the taxa of that part are on the list."""
        present, own = np.unique(labels[part], return_inverse=True)
        return float((nearest(features[part], class_features[present]) == own).mean())

    results.write_datasets(
        folder / "zero_shot_datasets.csv", datasets, labels, result.outcomes, closed
    )
    results.write_images(folder / "zero_shot_images.csv", found, rows, classes, labels, result)
    present, members = metrics.rows_by_class(labels)
    pictures = np.stack([features[part].mean(axis=0) for part in members])
    buffer = io.BytesIO()
    np.savez(buffer, classes=present, image=pictures, text=class_features[present])
    files.write_bytes(folder / "zero_shot_embeddings.npz", buffer.getvalue())
    scale = model.logit_scale
    tree = None
    if known:
        tree = hierarchy.mistakes(groups, labels, first)
        tree["consistency"] = hierarchy.consistency(groups, labels, first, result.prompted)
    return summary | {
        "chance": 1 / len(classes),
        "num_images": len(rows),
        "num_classes": len(classes),
        "num_excluded": len(question.labels) - len(rows),
        "classes_sha256": _checksum(classes),
        "calibration": calibration.summary(result.scores[:, 0], first == labels)
        | {"scaled": calibration.temperature_scaling(features, labels, class_features, scale)},
        "hierarchy": tree,
        "strata": _strata(classes, result.outcomes, labels),
        "open_set": _open_set(question, rows, class_features, scale),
    }


def _checksum(classes: Iterable[TaxonEntry]) -> str:
    """Tells lists of classes apart, whatever their order and the words they are named with."""
    lines = sorted("|".join((*e.taxon.ranks, e.scientific_name)) for e in classes)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _strata(
    classes: Sequence[TaxonEntry], outcomes: metrics.Outcomes, labels: np.ndarray
) -> dict | None:
    """`metrics.strata`; None where nothing is known of the training."""
    if not any("train" in entry.counts for entry in classes):
        return None
    train_images = np.asarray([entry.counts.get("train", 0) for entry in classes])
    return metrics.strata(outcomes, labels, train_images)


def _open_set(
    question: Question, rows: np.ndarray, class_features: np.ndarray, logit_scale: float
) -> dict:
    """Known against unknown pictures, for two kinds of unknown ones; see `open_set`.

    `hidden`: half of the classes with pictures are struck off the list. `excluded`: pictures of
    species that never were on it. None for a kind without pictures.
    """
    features, labels = question.found.features, question.labels
    hidden = open_set.hidden_classes(labels[rows])
    kinds: dict[str, dict | None] = {"hidden": None, "excluded": None}
    if len(hidden) < len(class_features):
        listed = np.delete(class_features, hidden, axis=0)
        result = open_set.open_set(
            features[rows], np.isin(labels[rows], hidden), listed, logit_scale
        )
        kinds["hidden"] = result and asdict(result) | {"num_hidden_classes": len(hidden)}
    strangers = _strangers(question)
    if len(strangers):
        both = np.concatenate([rows, strangers])
        unknown = np.arange(len(both)) >= len(rows)
        result = open_set.open_set(features[both], unknown, class_features, logit_scale)
        kinds["excluded"] = result and asdict(result)
    return kinds


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

    taxa = question.found.taxa
    outside = np.flatnonzero(question.labels < 0).tolist()
    return np.asarray([row for row in outside if is_strange(taxa[row])], np.int64)


def run_few_shot(question: Question, k: int, folder: Path, support: Path | None = None) -> dict:
    """Support and queries both come from the pictures asked about; writes the tables.

    `few_shot_K_support.json` lists the keys of the support of every fold; `support` is such a file,
    whose folds are taken instead of new ones.

    Raises:
      UserError: `support` cannot be used.
    """
    task, found = f"few_shot_{k}", question.found
    rows = np.flatnonzero(question.labels >= 0)
    labels, classes = question.labels[rows], question.classes
    groups = metrics.lineage_groups([entry.taxon for entry in classes])
    known = any(entry.taxon.deepest_rank for entry in classes)
    given = _support_rows(support, [found.keys[row] for row in rows]) if support else None
    try:
        result = few_shot(found.features[rows], labels, k, groups if known else {}, given)
    except UserError as error:
        raise UserError(f"{support}: {error}") from error
    asked = np.isin(labels, result.queried)
    outcomes, labels = result.outcomes.select(asked), labels[asked]
    summary = metrics.summarize(outcomes, labels, rank_groups=groups)
    for rank, row in summary["ranks"].items():
        count = len(np.unique(groups[rank][result.classes]))
        row |= {"num_classes": count, "chance": 1 / count if count else None}
    (folder / f"{task}.json").unlink(missing_ok=True)  # it is no seal of the tables to come
    results.write_classes(folder / f"{task}_classes.csv", classes, labels, outcomes)
    datasets = [found.datasets[row] for row in rows[asked]]
    results.write_datasets(folder / f"{task}_datasets.csv", datasets, labels, outcomes)
    results.write_trials(
        folder / f"{task}_images.csv", found, rows[asked], classes, labels, outcomes
    )
    support = [[found.keys[rows[row]] for row in fold] for fold in result.support]
    files.write_json(folder / f"{task}_support.json", support, indent=None)
    return summary | {
        "k": k,
        "std": result.std,
        "folds": result.fold_top1.tolist(),
        "chance": 1 / len(result.classes) if result.classes else None,
        "num_images": len(labels),
        "num_classes": len(result.classes),
        "num_excluded": len(question.labels) - len(labels),
        "classes_sha256": _checksum(classes[label] for label in result.classes),
        "left_out": [classes[label].scientific_name for label in result.left_out],
    }
