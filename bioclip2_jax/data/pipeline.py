"""Training batches with Grain: what a batch holds is a function of (seed, step) alone.

`data/order.py` says which records that is; a host decodes only its own slice of them. No iterator
state has to be saved, and any number of hosts, workers and restarts sees the same examples, crops
and captions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import grain
import numpy as np
from absl import flags

from bioclip2_jax.data import dataset, images, records
from bioclip2_jax.data.order import Corpus, examples_at, generator
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.text import captions
from bioclip2_jax.text.taxonomy import Taxon, taxon_ids
from bioclip2_jax.text.tokenizer import TOKEN_LENGTHS, tokenize

STREAMS = ("", "replay_")  # what the keys of a batch begin with


@dataclass(frozen=True)
class DataSettings:
    """What batches are made of. Each is the key of the same name in `configs/common.py`.

    Attributes:
      order: of the records, see `order.Corpus`.
      steps: of the whole run.
      seed: of the order of the records, the captions and the crops.
      rank_weights: where there are any, batches bring taxon ids.
      captions: "given", the source's own where they differ from ours, or "cleaned", always ours.
      decode: see `images.training_view`.
      max_unreadable: share of the records that may be unreadable, see `training/unreadable.py`.

    Raises:
      UsageError: a share that is none.
    """

    dir: str
    replay_dir: str
    split: str
    steps: int
    batch_size: int
    replay_batch_size: int
    seed: int
    order: Literal[1, 2]
    rank_weights: tuple[float, ...]
    captions: Literal["given", "cleaned"]
    crop_scale: tuple[float, float]
    flip: bool
    color_jitter: float
    decode: images.Decoding
    max_unreadable: float
    workers: int
    threads: int

    def __post_init__(self) -> None:
        if not 0 <= self.max_unreadable <= 1:
            raise UsageError(f"config.data.max_unreadable={self.max_unreadable} must be in [0, 1]")

    def check(self) -> None:
        """Refuses what a recipe may leave open until it is trained, and what this machine lacks.

        Raises:
          UsageError: names the key.
        """
        images.check_decoding(self.decode)
        if not self.dir:
            raise UsageError("config.data.dir is empty: name a folder made by `bioclip2 prepare`")
        if self.replay_batch_size and not self.replay_dir:
            raise UsageError(
                "config.train.replay_batch_size is set but config.data.replay_dir is empty; name a"
                " folder made by `bioclip2 prepare`, or set the size to 0"
            )


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image; see `images.training_view`."""

    size: int
    crop_scale: tuple[float, float]
    flip: bool
    color_jitter: float
    decode: images.Decoding


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
    )


def make_batch(
    corpus: Corpus,
    augmentation: Augmentation,
    step: int,
    *,
    slices: Sequence[int] = (0,),
    num_slices: int = 1,
    taxa: bool = False,
) -> dict[str, np.ndarray]:
    """Reads, augments and tokenises some of the equal slices of one step's batch.

    A record that cannot be read, or whose image cannot be decoded, is a grey image of weight 0.

    Returns:
      `images` [local, size, size, 3] uint8, `tokens` [local, length] int32, `weights` [local]
      float32; `unreadable` [local] int64, the index of such a record and -1 for others; with `taxa`
      also `taxon_ids` [local, 7] int32, see `taxonomy.taxon_ids`.
    """
    size = augmentation.size
    share = corpus.batch_size // num_slices
    rows = [range(n * share, (n + 1) * share) for n in slices]
    examples = [example for part in rows for example in examples_at(corpus, step, part)]
    pixels = np.full((len(examples), size, size, 3), 127, np.uint8)
    unreadable = np.full(len(examples), -1)
    kind = captions.text_kind(corpus.seed + corpus.stream, step)
    texts, ids = [], []
    contents = corpus.source.read([index for _, index in examples])
    for row, ((epoch, index), record) in enumerate(zip(examples, contents, strict=True)):
        text, taxon, name = "", Taxon(), ""
        rng = generator(corpus, epoch, index)
        try:
            if isinstance(record, UserError):
                raise record
            text = records.caption_of(record, kind, corpus.given)
            taxon, name = records.taxon_of(record), record["scientificName"]
            pixels[row] = images.training_view(record["image"], rng, **vars(augmentation))
        except (UserError, images.BadImage):
            unreadable[row] = index
        texts.append(text)
        ids.append(taxon_ids(taxon, name))
    tokens = tokenize(texts)[:, : corpus.token_lengths[kind]]
    weights = (unreadable < 0).astype(np.float32)
    batch = {"images": pixels, "tokens": tokens, "weights": weights, "unreadable": unreadable}
    return batch | ({"taxon_ids": np.array(ids, np.int32)} if taxa else {})


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


def batches(
    settings: DataSettings,
    image_size: int,
    start: int = 0,
    *,
    slices: Sequence[int] = (0,),
    num_slices: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's slices of the batches of steps `start` ... `settings.steps`.

    A batch is cut into `num_slices` equal slices: as many as there are hosts, or more where the
    devices of a host are not neighbours on the mesh.

    With replay on, the keys of the second stream carry the prefix `replay_`.
    """
    augmentation = Augmentation(
        size=image_size,
        crop_scale=settings.crop_scale,
        flip=settings.flip,
        color_jitter=settings.color_jitter,
        decode=settings.decode,
    )
    split, seed, order = settings.split, settings.seed, settings.order
    given, sizes = settings.captions == "given", (settings.batch_size, settings.replay_batch_size)
    streams = {"": open_corpus(settings.dir, split, seed, sizes[0], given=given, order=order)}
    if settings.replay_batch_size:
        streams["replay_"] = open_corpus(
            settings.replay_dir, split, seed, sizes[1], stream=1, order=order
        )

    def load(step: int) -> dict[str, np.ndarray]:
        batch = {}
        for prefix, corpus in streams.items():
            taxa = bool(settings.rank_weights) and not prefix
            part = make_batch(
                corpus, augmentation, step, slices=slices, num_slices=num_slices, taxa=taxa
            )
            batch |= {prefix + key: value for key, value in part.items()}
        return batch

    threads = settings.threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    steps = grain.MapDataset.range(start, settings.steps).map(load).to_iter_dataset(options)
    if settings.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which we do not use
        steps = steps.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=settings.workers, per_worker_buffer_size=2)
        )
    return iter(steps)
