"""Training batches: what a batch holds is a function of (seed, step) alone.

`data/order.py` says which records that is; a host decodes only its own slice of them, in parts that
`data/feeding.py` deals out. No iterator state has to be saved, and any number of hosts, workers and
restarts sees the same examples, crops and captions.
"""

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from bioclip2_jax.data import dataset, images, records, views
from bioclip2_jax.data.feeding import Arrays, Feed, Layout, ThreadFeed, WorkerFeed, slice_of
from bioclip2_jax.data.order import Corpus, examples_at, generator
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.text import captions
from bioclip2_jax.text.tokenizer import TOKEN_LENGTHS, tokenize

STREAMS = ("", "replay_")  # what the keys of a batch begin with
_RECORDS_AT_A_TIME = 64  # in memory, of each thread


@dataclass(frozen=True)
class DataSettings:
    """What batches are made of. Each is the key of the same name in `configs/common.py`.

    Attributes:
      order: of the records, see `order.Corpus`.
      steps: of the whole run.
      seed: of the order of the records, the captions and the crops.
      level_weight: above 0 batches bring level captions.
      level_draw: of their ranks, see `captions.levels_at`.
      captions: "given", the source's own where they differ from ours, or "cleaned", always ours.
      decode: see `views.training_view`.
      max_unreadable: share of the records that may be unreadable, see `training/unreadable.py`.
    """

    dir: str
    replay_dir: str
    split: str
    steps: int
    batch_size: int
    replay_batch_size: int
    seed: int
    order: Literal[1, 2]
    level_weight: float
    level_draw: tuple[float, ...]
    captions: Literal["given", "cleaned"]
    crop_scale: tuple[float, float]
    flip: bool
    color_jitter: float
    decode: views.Decoding
    max_unreadable: float
    workers: int
    threads: int
    prefetch: int

    def check(self) -> None:
        """Refuses what a recipe may leave open until it is trained, and what this machine lacks.

        Raises:
          UsageError: names the key.
        """
        views.check_decoding(self.decode)
        if self.workers and not hasattr(os, "memfd_create"):
            raise UsageError("config.data.workers needs Linux; set it to 0 on this machine")
        if not self.dir:
            raise UsageError("config.data.dir is empty: name a folder made by `bioclip2 prepare`")
        if self.replay_batch_size and not self.replay_dir:
            raise UsageError(
                "config.train.replay_batch_size is set but config.data.replay_dir is empty; name a"
                " folder made by `bioclip2 prepare`, or set the size to 0"
            )


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image; see `views.training_view`."""

    size: int
    crop_scale: tuple[float, float]
    flip: bool
    color_jitter: float
    decode: views.Decoding


def bucket(length: int) -> int:
    """The smallest token length the step is compiled for that holds `length` tokens."""
    return next(size for size in TOKEN_LENGTHS if size >= min(length, TOKEN_LENGTHS[-1]))


def open_corpus(
    data_dir: str,
    split: str,
    seed: int,
    batch_size: int,
    *,
    given: bool = True,
    stream: int = 0,
    order: Literal[1, 2] = 2,
    level_draw: tuple[float, ...] | None = None,
) -> Corpus:
    """Opens a prepared dataset for training.

    Captions are cut to the longest of their kind in the whole dataset: exact, because the text
    tower is causal and pools at the end-of-text token, and the same on every host.

    Raises:
      UserError: the split is missing or empty.
    """
    source = dataset.open_split(data_dir, split)
    if not len(source):
        raise UserError(f"{data_dir}: split {split!r} is empty; prepare more images")
    longest = dataset.read_caption_tokens(data_dir)
    shards = len(source.shards.lengths)
    lanes = dataset.read_lanes(data_dir, split, shards) if order == 2 else 1
    lengths = {kind: bucket(longest.get(kind, TOKEN_LENGTHS[-1])) for kind in captions.TEXT_KINDS}
    return Corpus(
        source=source,
        seed=seed,
        batch_size=batch_size,
        token_lengths=lengths,
        given=given,
        stream=stream,
        order=order,
        lanes=lanes,
        level_draw=level_draw,
    )


def count_level_texts(settings: DataSettings) -> int:
    """A bound on how many distinct level captions a step's batch has; 0: not known.

    Raises:
      UserError: the dataset cannot be read.
    """
    entries = dataset.read_taxa(settings.dir)
    if "caption" in dataset.label_names(settings.dir):
        return 0
    # Pictures without any rank are called by their scientific names, each maybe by another; 1 is
    # for records that cannot be read.
    nameless = [entry for entry in entries if not entry.taxon.deepest_rank]
    others = 1 + sum(entry.counts.get(settings.split, 0) for entry in nameless)
    texts = [
        {captions.level_caption(rank, entry.taxon) for entry in entries} for rank in captions.LEVELS
    ]
    counts = [len(each) + others for each in texts]
    draw = settings.level_draw
    return max(n for n, w in zip(counts, draw, strict=True) if w) if draw else sum(counts)


def layout_of(corpus: Corpus, size: int, step: int, rows: int) -> Layout:
    """The arrays of one stream's part of a batch, see `make_batch`."""
    kind = captions.text_kind(corpus.seed + corpus.stream, step)
    layout: Layout = {
        "images": ((rows, size, size, 3), np.uint8),
        "tokens": ((rows, corpus.token_lengths[kind]), np.int32),
        "weights": ((rows,), np.float32),
        "unreadable": ((rows,), np.int64),
    }
    if corpus.level_draw is None:
        return layout
    # A lineage cut short is no longer than the whole, and that is the text of this kind.
    ranks = len(captions.levels_at(corpus.seed, step, corpus.level_draw))
    return layout | {"level_tokens": ((rows, ranks, corpus.token_lengths["taxon"]), np.int32)}


def make_batch(
    corpus: Corpus,
    augmentation: Augmentation,
    step: int,
    *,
    slices: Sequence[int] = (0,),
    num_slices: int = 1,
) -> Arrays:
    """Reads, augments and tokenises some of the equal slices of one step's batch.

    A record that cannot be read, or whose image cannot be decoded, is a grey image of weight 0.

    Returns:
      `images` [local, size, size, 3] uint8, `tokens` [local, length] int32, `weights` [local]
      float32; `unreadable` [local] int64, the index of such a record and -1 for others; with level
      captions `level_tokens` [local, ranks, length] int32, see `captions.levels_at`.
    """
    examples = list(_examples_of(corpus, step, slices, num_slices))
    layout = layout_of(corpus, augmentation.size, step, len(examples))
    batch = {name: np.empty(shape, dtype) for name, (shape, dtype) in layout.items()}
    fill_rows(corpus, augmentation, step, examples, batch)
    return batch


def _examples_of(
    corpus: Corpus, step: int, slices: Sequence[int], num_slices: int
) -> Iterable[tuple[int, int]]:
    share = corpus.batch_size // num_slices
    for n in slices:
        yield from examples_at(corpus, step, range(n * share, (n + 1) * share))


def fill_rows(
    corpus: Corpus,
    augmentation: Augmentation,
    step: int,
    examples: Sequence[Sequence[int]],
    batch: Arrays,
) -> None:
    """Reads these examples into the rows of `batch`, see `make_batch`; it has as many."""
    if not len(examples):
        return
    kind = captions.text_kind(corpus.seed + corpus.stream, step)
    pixels, unreadable = batch["images"], batch["unreadable"]
    pixels[:], unreadable[:] = 127, -1
    levels = captions.levels_at(corpus.seed, step, corpus.level_draw or ())
    levels = levels if "level_tokens" in batch else ()
    texts, level_texts = [], []
    contents = corpus.source.read([index for _, index in examples])
    numbered = enumerate(zip(examples, contents, strict=True))
    while some := list(itertools.islice(numbered, _RECORDS_AT_A_TIME)):
        for _, (_, record) in some:
            if isinstance(record, UserError):
                texts.append("")
                level_texts += [""] * len(levels)
                continue
            texts.append(records.caption_of(record, kind, corpus.given))
            level_texts += [records.level_caption_of(record, rank) for rank in levels]
        # By themselves: where texts and pictures take turns, each drives the other's code out of
        # the processor's caches, which costs a quarter of the time.
        for row, ((epoch, index), record) in some:
            try:
                if isinstance(record, UserError):
                    raise record
                rng = generator(corpus, epoch, index)
                pixels[row] = views.training_view(record["image"], rng, **vars(augmentation))
            except (UserError, images.BadImage):
                unreadable[row] = index
    batch["tokens"][:] = tokenize(texts)[:, : corpus.token_lengths[kind]]
    batch["weights"][:] = unreadable < 0
    if levels:
        tokens = batch["level_tokens"]
        tokens[:] = tokenize(level_texts)[:, : tokens.shape[-1]].reshape(tokens.shape)


def why_unreadable(settings: DataSettings, stream: str, index: int) -> str:
    """Names a record that a batch calls unreadable, and says why it is."""
    folder = settings.replay_dir if stream else settings.dir
    try:
        source = dataset.open_split(folder, settings.split)
        record = source[index]
    except UserError as error:
        return str(error)
    where = f"{folder}, split {settings.split!r}: {record['key']}, record {index},"
    try:
        images.decode(record["image"])
    except images.BadImage as error:
        return f"{where} cannot be read ({error})"
    return f"{where} could not be read a moment ago"


def open_streams(settings: DataSettings) -> dict[str, Corpus]:
    """Prefix of a batch's keys, see `STREAMS` → the stream; the second one with replay alone.

    Raises:
      UserError: a dataset cannot be opened.
    """
    split, seed, order = settings.split, settings.seed, settings.order
    given, size = settings.captions == "given", settings.batch_size
    draw = settings.level_draw if settings.level_weight else None
    streams = {
        "": open_corpus(settings.dir, split, seed, size, given=given, order=order, level_draw=draw)
    }
    if size := settings.replay_batch_size:
        replay = open_corpus(settings.replay_dir, split, seed, size, stream=1, order=order)
        streams["replay_"] = replay
    return streams


def keys_of_step(settings: DataSettings, step: int) -> dict[str, list[str]]:
    """Stream ("" or "replay_") → the keys of the records of a whole batch, in its order.

    A record that cannot be read is named by its number.

    Raises:
      UserError: a dataset cannot be opened.
    """
    keys = {}
    for stream, corpus in open_streams(settings).items():
        indices = [index for _, index in examples_at(corpus, step, range(corpus.batch_size))]
        keys[stream] = [
            f"record {index}" if isinstance(record, UserError) else record["key"]
            for index, record in zip(indices, corpus.source.read(indices), strict=True)
        ]
    return keys


@dataclass(frozen=True)
class Share:
    """What one host reads: these of the equal slices of every batch."""

    settings: DataSettings
    image_size: int
    slices: tuple[int, ...]
    num_slices: int


class Reader:
    """Makes the parts of a share's batches, see `feeding.Filler`.

    Their rows lie one slice after the other; both streams are cut into the same number of parts.
    """

    def __init__(self, share: Share):
        """Opens the datasets.

        Raises:
          UserError: one cannot be opened.
        """
        settings = share.settings
        self._share = share
        self._augmentation = Augmentation(
            size=share.image_size,
            crop_scale=settings.crop_scale,
            flip=settings.flip,
            color_jitter=settings.color_jitter,
            decode=settings.decode,
        )
        self._streams = open_streams(settings)
        self.rows = max(self._rows(corpus) for corpus in self._streams.values())

    def warm_up(self) -> None:
        """Makes one pair, so that all that is loaded at first use is there."""
        corpus, size = self._streams[""], self._share.image_size
        batch = {n: np.empty(*form) for n, form in layout_of(corpus, size, 0, 1).items()}
        fill_rows(corpus, self._augmentation, 0, [(0, 0)], batch)

    def _rows(self, corpus: Corpus) -> int:
        return corpus.batch_size // self._share.num_slices * len(self._share.slices)

    def job(self) -> str:
        """The share, as JSON."""
        return msgspec.json.encode(self._share).decode()

    def _layout(self, prefix: str, step: int) -> Layout:
        corpus, size = self._streams[prefix], self._share.image_size
        return layout_of(corpus, size, step, self._rows(corpus))

    def layout(self, step: int) -> Layout:
        """The arrays of a step: those of `make_batch`, and the examples that they are of."""
        layout: Layout = {}
        for prefix, corpus in self._streams.items():
            arrays = self._layout(prefix, step)
            layout |= {prefix + name: form for name, form in arrays.items()}
            layout["_" + prefix + "examples"] = ((self._rows(corpus), 2), np.int64)
        return layout

    def begin(self, step: int, batch: Arrays) -> None:
        """Writes down which examples the step takes."""
        for prefix, corpus in self._streams.items():
            examples = _examples_of(corpus, step, self._share.slices, self._share.num_slices)
            batch["_" + prefix + "examples"][:] = list(examples)

    def fill(self, step: int, part: int, parts: int, batch: Arrays) -> None:
        """Reads some of them."""
        for prefix, corpus in self._streams.items():
            workers = max(self._share.settings.workers, 1)
            where = slice_of(self._rows(corpus), part, parts, workers)
            own = {name: batch[prefix + name][where] for name in self._layout(prefix, step)}
            examples = batch["_" + prefix + "examples"][where].tolist()
            fill_rows(corpus, self._augmentation, step, examples, own)


def batches(
    settings: DataSettings,
    image_size: int,
    start: int = 0,
    *,
    slices: Sequence[int] = (0,),
    num_slices: int = 1,
) -> Feed:
    """This host's slices of the batches of steps `start` ... `settings.steps`.

    A batch is cut into `num_slices` equal slices: as many as there are hosts, or more where the
    devices of a host are not neighbours on the mesh.

    With replay on, the keys of the second stream carry the prefix `replay_`.

    Returns:
      An iterator; to be closed if it is not used up.

    Raises:
      UserError: a dataset cannot be opened.
    """
    reader = Reader(Share(settings, image_size, tuple(slices), num_slices))
    steps, threads, prefetch = range(start, settings.steps), settings.threads, settings.prefetch
    if settings.workers:
        return WorkerFeed(
            reader, steps, workers=settings.workers, threads=threads, prefetch=prefetch
        )
    return ThreadFeed(reader, steps, threads=threads, prefetch=prefetch)
