"""What is asked: pictures to name, and the closed list of names.

The pictures come from a split of a dataset, from a feature store, or from an annotation table in
the form of BioCLIP 2's; `Question` is what all of them become.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.evaluation.published.species import Species
from bioclip2_jax.evaluation.schema import SameText
from bioclip2_jax.evaluation.subject import Job, Subject, rows_of, split_features
from bioclip2_jax.features.encode import SplitFeatures
from bioclip2_jax.features.store import Store
from bioclip2_jax.measures.scores import number
from bioclip2_jax.text import captions
from bioclip2_jax.text.taxonomy import Taxon, TaxonEntry

SpeciesJob = Job[Species | None]


@dataclass(frozen=True, kw_only=True)
class Question:
    """Pictures to name, and the closed list of names.

    Attributes:
      pictures: with their features, and those that could not be read.
      labels: [pictures] int, the class of each; -1 for those that are of none.
      classes: the list.
      names: of the classes, as they go into the templates.
    """

    pictures: SplitFeatures
    labels: np.ndarray
    classes: list[TaxonEntry]
    names: list[str]


# ---- Questions


def by_names(job: SpeciesJob, subject: Subject) -> Question:
    """For zero-shot: every class of the set, or every taxon on the list of the settings.

    Raises:
      UsageError, UserError: pictures or classes are not there.
    """
    if job.pictures is not None:
        return _of_set(job, job.pictures, subject)
    settings = job.settings
    split = settings.split or "val"
    if settings.data or subject.features is None:
        classes = dataset_classes(settings.data or "", split, settings.labels)
    else:
        classes = store_classes(subject.features, split, settings.labels, "--features")
    return _of_taxa(subject.split(settings), classes, settings.text_kind or "taxon_com")


def by_examples(job: SpeciesJob, subject: Subject) -> Question:
    """For few-shot: every class of the set, or every taxon of the pictures, by first appearance.

    Raises:
      UsageError, UserError: pictures are not there.
    """
    if job.pictures is not None:
        return _of_set(job, job.pictures, subject)
    pictures = subject.split(job.settings)
    taxa = [taxon for taxon in dict.fromkeys(pictures.taxa) if taxon.deepest_rank]
    classes = [TaxonEntry(taxon, taxon.scientific_name, "", {}) for taxon in taxa]
    return _of_taxa(pictures, classes, "sci")


def _of_taxa(pictures: SplitFeatures, classes: list[TaxonEntry], text_kind: str) -> Question:
    """Pictures of other taxa than the classes are of none."""
    index_of = {entry.taxon: index for index, entry in enumerate(classes)}
    return Question(
        pictures=pictures,
        labels=np.asarray([index_of.get(taxon, -1) for taxon in pictures.taxa], np.int64),
        classes=classes,
        names=class_names(classes, text_kind),
    )


def _of_set(job: SpeciesJob, species: Species, subject: Subject) -> Question:
    """The pictures of a species set, in its order; those without features are bad ones."""
    store = subject.store(job.root)
    place = job.settings.annotations or job.settings.data or "--features"
    rows, present, bad = rows_of(store, species.files, place)
    return Question(
        pictures=replace(
            split_features(store.select(rows)), datasets=[job.name] * len(rows), bad=bad
        ),
        labels=species.labels[present],
        classes=species.classes,
        names=species.names,
    )


# ---- Classes


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
    splits = dataset.splits(data)
    if split not in splits:
        raise UsageError(f"{data}: no split {split!r}; it has {', '.join(sorted(splits))}")
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


def class_names(classes: Sequence[TaxonEntry], text_kind: str) -> list[str]:
    """The name of every class as it goes into the templates."""
    return [
        captions.class_name(text_kind, entry.taxon, entry.vernacular_name, entry.scientific_name)
        for entry in classes
    ]


def named_lineages(classes: Sequence[TaxonEntry], rank: str) -> np.ndarray:
    """[lineages] bool, in the order of `lineage_names`: whether it has a name at that very rank."""
    lineages, _ = number([entry.taxon.lineage(rank) for entry in classes])
    return np.asarray([bool(lineage[-1]) for lineage in lineages])


def lineage_names(classes: Sequence[TaxonEntry], rank: str) -> list[str]:
    """The text of every distinct lineage down to `rank`, as `accuracy.lineage_groups` counts."""
    lineages, _ = number([entry.taxon.lineage(rank) for entry in classes])
    return [" ".join(filter(None, lineage)) or "unknown" for lineage in lineages]


def same_texts(question: Question) -> list[SameText]:
    """Texts that more than one class is asked for by: no picture can tell such classes apart."""
    # As the tokenizer reads them.
    texts, numbers = number([" ".join(name.lower().split()) for name in question.names])
    shared = np.flatnonzero(np.bincount(numbers) > 1)
    members = [np.flatnonzero(numbers == which).tolist() for which in shared]
    return [
        SameText(
            text=question.names[rows[0]],
            classes=[question.classes[row].scientific_name for row in rows],
        )
        for rows in members
    ]


# ---- Support


def read_support(path: str) -> list[list[str]]:
    """The keys of the pictures that a support file names, fold by fold.

    Raises:
      UserError: it is no such file.
    """
    try:
        return msgspec.json.decode(files.read_text(path), type=list[list[str]])
    except (UserError, msgspec.DecodeError) as error:
        raise UserError(f"{path}: no list of lists of keys ({reason(error)})") from error


def support_rows(path: str, keys: Sequence[str]) -> list[list[int]]:
    """The same as positions among `keys`.

    Raises:
      UserError: it is no such file, or names a picture that is not there.
    """
    row_of = {key: row for row, key in enumerate(keys)}
    try:
        return [[row_of[key] for key in fold] for fold in read_support(path)]
    except KeyError as error:
        raise UserError(
            f"{path}: names the picture {error}, which is not among those evaluated; give the"
            " --data and --annotations it was drawn from"
        ) from error
