"""Search in both directions: the pictures of a text, and the texts of a picture.

What is searched for comes from a table of queries, or is the captions of a dataset: then every
picture of a caption is what it asks for. Pictures, and texts, of equal score stand in the order of
a hash of their keys, which knows nothing of what is relevant.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import dataset
from bioclip2_jax.data.records import caption_of
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.published import queries as layouts
from bioclip2_jax.evaluation.published.queries import Queries
from bioclip2_jax.evaluation.schema import Settings
from bioclip2_jax.evaluation.search_schema import (
    RetrievalResult,
    Searched,
    SearchedAgainstChance,
)
from bioclip2_jax.evaluation.subject import Job, Subject, rows_of, rows_of_split
from bioclip2_jax.features.encode import embed_texts
from bioclip2_jax.features.store import Store
from bioclip2_jax.files import absolute, below, place
from bioclip2_jax.measures import ranking
from bioclip2_jax.measures.ranking import Figures, Judged
from bioclip2_jax.measures.scores import number
from bioclip2_jax.text.captions import TEXT_KINDS
from bioclip2_jax.text.taxonomy import RANKS

TASK = "retrieval"
TABLES = {"text_to_image": f"{TASK}_texts.csv", "image_to_text": f"{TASK}_images.csv"}
_TO_TEXT = (*(f"recall_{k}" for k in (1, 5, 10)), *(f"hit_{k}" for k in (1, 5, 10)))
_TEXTS = 10  # of a ranking of them

SearchJob = Job[Queries | None]


@dataclass(frozen=True, kw_only=True)
class Search:
    """Texts, pictures, and which belong together.

    Attributes:
      texts: distinct ones.
      groups: column → what it says of each text.
      keys: of the pictures that there are.
      features: [pictures, dim] float32, theirs.
      judged: texts by pictures.
      bad: (picture, reason) of the others.
    """

    texts: list[str]
    groups: dict[str, list[str]]
    keys: list[str]
    features: np.ndarray
    judged: Judged
    bad: list[tuple[str, str]]


# ---- What is to be done


def plan_search(settings: Settings, features: Store | None) -> SearchJob:
    """Finds what is searched for and reads it.

    Raises:
      UsageError: something needed is missing from the call, or asked for and not there.
      UserError: a table cannot be used.
    """
    root = place(settings.data) if settings.data else None
    is_dataset = root is not None and _is_dataset(root)
    split = settings.split
    if settings.queries:
        queries = layouts.read_table(settings.queries, split)
        if split and not queries.has_splits and not is_dataset:
            if features is None:
                raise UsageError(
                    f"--split {split}: {settings.queries} has no column of splits, and {root} is no"
                    " dataset"
                )
            rows_of_split(features, split, "--features")
        name = files.place(settings.queries).stem
    elif is_dataset or root is None:
        return _plan_captions(settings, features)
    else:
        inner = root / TASK
        root = inner if inner.is_dir() else root
        if not layouts.find_parquet(root):
            raise UsageError(
                f"--data {settings.data}: nothing to search for here; give --queries, a table with"
                " columns query, file and relevant, or a dataset made by `bioclip2 prepare`, whose"
                " captions are searched for, or INQUIRE-Rerank's folder of Parquet"
            )
        queries, split = layouts.read_parquet(root, split)
        name = absolute(root).name
    candidates = settings.candidates or ("own" if queries.has_others else "all")
    return Job(
        task=TASK,
        settings=replace(settings, split=split, candidates=candidates),
        name=name,
        root=None
        if features is not None
        else dataset.dataset_folder(root)
        if is_dataset and root
        else root,
        pictures=queries,
    )


def _plan_captions(settings: Settings, features: Store | None) -> SearchJob:
    split, kind = settings.split or "val", settings.text_kind or "taxon_com"
    if kind not in TEXT_KINDS:
        raise UsageError(
            f"--text-kind {kind} is no caption; --tasks {TASK} takes one of {', '.join(TEXT_KINDS)}"
        )
    if settings.candidates == "own":
        raise UsageError("--candidates own goes with a table of queries; captions have no others")
    if features is not None:
        if not any(features.texts["split"]):
            raise UsageError(
                "--features: made of a plain folder, whose pictures have no captions; give"
                " --queries, a table with columns query, file and relevant"
            )
        rows_of_split(features, split, "--features")
    elif split not in (there := dataset.splits(settings.data or "")):
        raise UsageError(f"{settings.data}: no split {split!r}; it has {', '.join(sorted(there))}")
    return Job(
        task=TASK,
        settings=replace(settings, split=split, text_kind=kind, candidates="all"),
        name=absolute(settings.data).name if settings.data else "features",
        pictures=None,
    )


def _is_dataset(root: Path) -> bool:
    return any(f"/{name}".endswith("/features.json") for name in below(root))


# ---- What is searched


def _of_table(job: SearchJob, queries: Queries, subject: Subject) -> Search:
    split = job.settings.split
    store = subject.store(job.root, split=split, archives=queries.archives)
    if split and split in store.texts["split"]:
        store = store.select(store.texts["split"] == split)
    rows, present, bad = rows_of(store, queries.files, queries.place)
    keys = list(store.keys)
    for row, position in zip(rows, present, strict=True):
        keys[row] = queries.files[position]  # as the table calls it, wherever the features lie
    row_of = dict(zip(present.tolist(), rows.tolist(), strict=True))
    if job.settings.candidates == "own" or queries.archives:  # which may hold a picture twice
        row_of = {position: row for row, position in enumerate(row_of)}
        store, keys = store.select(rows), [keys[row] for row in rows]
    pairs = [
        (text, row_of[picture], relevance)
        for (text, picture), relevance in queries.pairs.items()
        if picture in row_of
    ]
    columns = [np.asarray(column) for column in zip(*pairs, strict=True)]
    return _in_fair_order(queries.texts, queries.groups, keys, store.features, columns, bad)


def _of_captions(job: SearchJob, subject: Subject) -> Search:
    settings = job.settings
    kind, split = settings.text_kind or "taxon_com", settings.split or "val"
    bad: list[tuple[str, str]] = []
    if subject.features is not None:
        store = rows_of_split(subject.features, split, "--features")
        keys, features, bad = store.keys, store.features, list(store.about.bad)
        captions = [caption_of(record, kind) for record in _records(store)]
    else:
        pictures = subject.split(settings)
        keys, features, bad = pictures.keys, pictures.features, pictures.bad
        captions = []
        for record in dataset.open_split(settings.data or "", split).read(
            pictures.indices.tolist()
        ):
            if isinstance(record, UserError):
                raise record
            captions.append(caption_of(record, kind))
    _, numbers = number([layouts.one_text(caption) for caption in captions])
    _, firsts = np.unique(numbers, return_index=True)
    texts = [captions[row] for row in firsts]
    every = np.arange(len(keys))
    columns = [numbers, every, np.ones(len(keys))]
    return _in_fair_order(texts, {}, keys, features, columns, bad)


def _records(store: Store) -> list[dict]:
    """What records of a dataset say, of the rows of a store."""
    names = (*RANKS, "scientificName", "vernacularName")
    return [
        {name: str(store.texts[name][row]) for name in names}
        | {"labels": {name: str(values[row]) for name, values in store.labels.items()}}
        for row in range(len(store.keys))
    ]


def _in_fair_order(
    texts: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    keys: Sequence[str],
    features: np.ndarray,
    columns: Sequence[np.ndarray],
    bad: list[tuple[str, str]],
) -> Search:
    """Texts and pictures in the order of hashes of them; `columns`: text, picture, gain."""
    text_order, order = _by_hash(texts), _by_hash(keys)
    text_place, picture_place = np.argsort(text_order), np.argsort(order)
    own, pictures, gains = columns
    return Search(
        texts=_in_order(texts, text_order),
        groups={name: _in_order(values, text_order) for name, values in groups.items()},
        keys=_in_order(keys, order),
        features=features[order],
        judged=Judged.of(
            text_place[own], picture_place[pictures], gains.astype(float), len(texts), len(keys)
        ),
        bad=bad,
    )


def _in_order(values: Sequence[str], order: np.ndarray) -> list[str]:
    return [values[int(row)] for row in order]


def _by_hash(names: Sequence[str]) -> np.ndarray:
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.argsort(
        np.asarray([int.from_bytes(each) for each in digests], np.uint64), kind="stable"
    )


# ---- The task


def run_retrieval(job: SearchJob, subject: Subject) -> RetrievalResult:
    """Searches in both directions; writes a row a text and a row a picture.

    Raises:
      UserError: no picture has features, or none is relevant to any text.
    """
    search = _of_table(job, job.pictures, subject) if job.pictures else _of_captions(job, subject)
    judged, own = search.judged, job.settings.candidates == "own"
    asked = np.flatnonzero(judged.relevant)
    if not len(asked):
        raise UserError(
            f"{job.settings.queries or job.settings.data}: no text has a relevant picture that"
            " could be read"
        )
    text_features = embed_texts(subject.loaded_model(), search.texts, subject.batch_size)
    if own:
        rankings = list(ranking.ranked_among_own(text_features, search.features, judged, asked))
        figures = ranking.among_own(judged, asked, rankings)
    else:
        rankings = ranking.ranked_among_all(text_features[asked], search.features, ranking.DEPTH)
        figures = ranking.among_all(judged, asked, rankings)
    firsts = np.asarray([ranked[0] for ranked in rankings])
    folder = subject.place(job)
    (folder / f"{TASK}.json").unlink(missing_ok=True)
    _write_texts(folder, search, asked, figures, firsts, text_features)

    swapped = judged.swapped()
    shown = np.flatnonzero(swapped.relevant)
    texts = ranking.ranked_among_all(search.features[shown], text_features, _TEXTS)
    to_text = ranking.among_all(swapped, shown, texts)
    to_text = {name: to_text[name] for name in _TO_TEXT}
    _write_images(folder, search, shown, to_text, texts[:, 0])
    by_lot = ranking.chance(swapped, shown, own=False)
    judged_each = np.bincount(judged.queries, minlength=len(search.texts))[asked]
    return RetrievalResult(
        settings=job.settings,
        text_to_image=_against_chance(figures, ranking.chance(judged, asked, own=own)),
        image_to_text=_against_chance(to_text, {name: by_lot[name] for name in _TO_TEXT}),
        by_group={
            column: _by_value(figures, [values[row] for row in asked])
            for column, values in search.groups.items()
        },
        num_images=len(search.keys),
        num_texts=len(search.texts),
        num_pairs=int((judged.gains > 0).sum()),
        mean_candidates=float(judged_each.mean()) if own else len(search.keys),
        num_without=len(search.texts) - len(asked),
        num_doubled=job.pictures.num_doubled if job.pictures else 0,
        num_bad=len(search.bad),
        bad=[schema.BadPicture(*pair) for pair in search.bad],
        queries_sha256=_sha256(search, job.settings),
    )


def _against_chance(figures: Figures, chance: dict[str, float]) -> SearchedAgainstChance:
    return SearchedAgainstChance(**vars(_mean(figures)), chance=chance)


def _mean(figures: Figures) -> Searched:
    means, intervals = ranking.means(figures)
    count = len(next(iter(figures.values())))
    return Searched(num_queries=count, figures=means, intervals=intervals)


def _by_value(figures: Figures, values: Sequence[str]) -> dict[str, Searched]:
    """Of the queries of each value, sorted; they are independent, so each has its own bootstrap."""
    array = np.asarray(values)
    return {
        str(value): _mean({name: each[array == value] for name, each in figures.items()})
        for value in np.unique(array)
    }


def _sha256(search: Search, settings: Settings) -> str:
    judged = search.judged
    lines = [f"{settings.candidates} {len(search.keys)}", *search.texts]
    for text, picture, gain in zip(judged.queries, judged.items, judged.gains, strict=True):
        lines.append(f"{text} {search.keys[picture]} {gain:g}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# ---- Tables


def _write_texts(
    folder: Path,
    search: Search,
    asked: np.ndarray,
    figures: Figures,
    firsts: np.ndarray,
    text_features: np.ndarray,
) -> None:
    """A row a text, also those without a relevant picture, whose figures are empty."""
    judged = search.judged
    relevant = judged.relevant
    num_judged = np.bincount(judged.queries, minlength=len(search.texts))
    gains = judged.gains_of(asked, firsts[:, None])[:, 0]
    place_of = {int(text): place for place, text in enumerate(asked)}
    rows = []
    for text, words in enumerate(search.texts):
        row = {"query": words} | {name: values[text] for name, values in search.groups.items()}
        row |= {"num_judged": num_judged[text], "num_relevant": relevant[text]}
        if (place := place_of.get(text)) is not None:
            first = firsts[place]
            row |= {name: float(values[place]) for name, values in figures.items()}
            row |= {"answer_1": search.keys[first], "relevance_1": float(gains[place])}
            row["score_1"] = float(text_features[text] @ search.features[first])
        rows.append(row)
    columns = ["query", *search.groups, "num_judged", "num_relevant", *figures]
    columns += ["answer_1", "relevance_1", "score_1"]
    files.write_csv(folder / TABLES["text_to_image"], rows, columns)


def _write_images(
    folder: Path, search: Search, shown: np.ndarray, figures: Figures, firsts: np.ndarray
) -> None:
    """A row a picture that is relevant to some text."""
    relevant = search.judged.swapped().relevant
    rows = [
        {"key": search.keys[picture], "num_relevant": relevant[picture]}
        | {name: float(values[place]) for name, values in figures.items()}
        | {"answer_1": search.texts[firsts[place]]}
        for place, picture in enumerate(shown)
    ]
    files.write_csv(folder / TABLES["image_to_text"], rows, list(rows[0]))
