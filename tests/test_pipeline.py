"""Batches depend on (seed, step) alone: not on hosts, workers, threads or restarts."""

import collections
import dataclasses
import itertools

import grain
import numpy as np
import pytest

from bioclip2_jax.data import dataset, order, pipeline, records
from bioclip2_jax.data.records import taxon_of
from bioclip2_jax.errors import UserError
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.text import captions
from bioclip2_jax.text.tokenizer import TOKEN_LENGTHS, tokenize
from bioclip2_jax.training import recipe
from configs import quickstart

SIZE = 32


@pytest.fixture
def config(tiny_data):
    config = quickstart.get_config()
    config.data.dir = str(tiny_data)
    config.data.decode, config.data.order = "simd", 2
    config.train.steps = 12
    config.train.batch_size = 8
    config.train.level_weight = 0.0
    return config


@pytest.fixture
def corpus(tiny_data):
    return pipeline.open_corpus(str(tiny_data), "train", seed=3, batch_size=8)


AUGMENTATION = pipeline.Augmentation(SIZE, (0.5, 1.0), True, 0.2, "simd")


def take(config, start=0, **slices):
    return list(pipeline.batches(recipe.compose(config).data, SIZE, start, **slices))


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_a_batch_has_the_shapes_the_step_expects(config):
    batch = take(config)[0]
    assert batch["images"].shape == (8, SIZE, SIZE, 3) and batch["images"].dtype == np.uint8
    assert batch["tokens"].dtype == np.int32 and batch["tokens"].shape[1] in TOKEN_LENGTHS
    assert batch["weights"].tolist() == [1.0] * 8


def test_level_captions_leave_the_rest_of_the_batch_alone_and_stop_at_the_rank_of_the_step(config):
    plain = take(config)
    assert not any("level_tokens" in batch for batch in plain)
    config.train.level_weight = 0.5
    leveled = take(config)
    assert_same(plain, [{k: v for k, v in b.items() if k != "level_tokens"} for b in leveled])
    assert_same(leveled[7:], take(config, start=7))
    parts = [take(config, slices=[host], num_slices=2) for host in range(2)]
    joined = [
        np.concatenate([p["level_tokens"] for p in step]) for step in zip(*parts, strict=True)
    ]
    assert all((a["level_tokens"] == b).all() for a, b in zip(leveled, joined, strict=True))
    source = dataset.open_split(config.data.dir, "train")
    settings = recipe.compose(config).data
    corpus = pipeline.open_streams(settings)[""]
    bound = pipeline.count_level_texts(settings)
    for step, batch in enumerate(leveled):
        (rank,) = captions.levels_at(config.seed, step, settings.level_draw)
        shown = [source[index] for _, index in order.examples_at(corpus, step, range(8))]
        texts = [captions.level_caption(rank, taxon_of(record)) for record in shown]
        tokens = batch["level_tokens"]
        length = tokens.shape[-1]
        np.testing.assert_array_equal(tokens[:, 0], tokenize(texts)[:, :length])
        assert (tokens.max(axis=-1) == 49407).all() and len(set(texts)) < bound


def test_all_levels_at_once_and_never_of_replay(config, tiny_data):
    config.train.level_weight, config.train.level_draw = 0.5, ()
    config.data.replay_dir, config.train.replay_batch_size = str(tiny_data), 4
    batch = take(config)[0]
    assert batch["level_tokens"].shape[:2] == (8, 6) and "replay_level_tokens" not in batch
    source, corpus = (
        dataset.open_split(tiny_data, "train"),
        pipeline.open_streams(recipe.compose(config).data)[""],
    )
    for row, (_, index) in enumerate(order.examples_at(corpus, 0, range(8))):
        taxon = taxon_of(source[index])
        texts = [captions.level_caption(rank, taxon) for rank in captions.LEVELS]
        length = batch["level_tokens"].shape[-1]
        np.testing.assert_array_equal(batch["level_tokens"][row], tokenize(texts)[:, :length])


def test_every_example_is_seen_once_an_epoch_and_epochs_differ(corpus):
    size = len(corpus.source)
    steps = range(-(-2 * size // corpus.batch_size))
    seen = list(itertools.chain(*(order.examples_at(corpus, s, range(8)) for s in steps)))
    first, second = seen[:size], seen[size : 2 * size]
    assert sorted(first) == [(0, i) for i in range(size)]
    assert sorted(second) == [(1, i) for i in range(size)]
    assert [i for _, i in first] != [i for _, i in second]


def orders(corpus, epochs):
    """The order of each epoch."""
    size = len(corpus.source)
    whole = dataclasses.replace(corpus, batch_size=size)
    return [tuple(i for _, i in order.examples_at(whole, e, range(size))) for e in range(epochs)]


def test_neighbouring_seeds_and_replay_share_no_order(corpus):
    walked = [
        walk
        for seed in (0, 1, 2)
        for stream in (0, 1)
        for walk in orders(dataclasses.replace(corpus, seed=seed, stream=stream), 6)
    ]
    assert len(set(walked)) == 36
    assert all(sorted(walk) == list(range(64)) for walk in walked)


def test_crops_of_neighbouring_seeds_and_replay_differ(corpus):
    drawn = {
        order.generator(dataclasses.replace(corpus, seed=s, stream=n), epoch, 5).random()
        for s in (0, 1, 2)
        for n in (0, 1)
        for epoch in range(4)
    }
    assert len(drawn) == 24


@pytest.mark.parametrize("stream", [0, 1])
def test_the_order_of_earlier_runs_is_the_one_it_was(corpus, stream):
    earlier = dataclasses.replace(corpus, order=1, stream=stream)
    walk = grain.MapDataset.range(64).shuffle(corpus.seed + stream).repeat()
    assert list(itertools.chain(*orders(earlier, 3))) == [int(walk[p]) for p in range(3 * 64)]
    drawn = order.generator(earlier, 2, 7).random(3)
    expected = np.random.default_rng((corpus.seed + stream, 2, 7)).random(3)
    np.testing.assert_array_equal(drawn, expected)


def test_a_restart_continues_with_the_same_batches(config):
    assert_same(take(config)[7:], take(config, start=7))


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_together_see_the_batches_of_one_host(config, num_hosts):
    parts = [take(config, slices=[host], num_slices=num_hosts) for host in range(num_hosts)]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(take(config), joined)


def test_a_host_may_read_slices_that_are_not_neighbours(config):
    quarters = [take(config, slices=[host], num_slices=4) for host in (0, 2)]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*quarters, strict=True)
    ]
    assert_same(take(config, slices=[0, 2], num_slices=4), joined)


def test_another_seed_gives_another_order(config):
    before = take(config)[0]["images"]
    config.seed = 1
    assert not np.array_equal(before, take(config)[0]["images"])


def test_replay_comes_in_its_own_batch_size_and_leaves_the_first_stream_alone(config, tiny_data):
    alone = take(config)
    config.data.replay_dir = str(tiny_data)
    config.train.replay_batch_size = 4
    both = take(config)
    assert both[0]["replay_images"].shape[0] == 4
    assert_same(alone, [{k: v for k, v in b.items() if "replay" not in k} for b in both])


def test_the_text_kind_is_one_for_the_whole_batch_and_varies_over_steps(corpus):
    kinds = collections.Counter()
    for step in range(40):
        kinds[pipeline.make_batch(corpus, AUGMENTATION, step)["tokens"].shape[1]] += 1
    assert len(kinds) > 1


def test_cutting_captions_never_cuts_the_end_of_text(corpus):
    for step in range(20):
        tokens = pipeline.make_batch(corpus, AUGMENTATION, step)["tokens"]
        assert (tokens.max(axis=1) == 49407).all()


LONG_NAME = "Very Long Common Name That Only One Picture Of Its Taxon Was Given By Its Source"


def test_captions_of_the_source_are_taken_or_left(tiny_data, tmp_path):
    plain = list(dataset.open_split(tiny_data, "train"))
    for record in plain:
        record["labels"] = {"caption_sci": f"a photo of {record['key']}" + ", a bird" * 9}
    write_dataset({"train": plain}, tmp_path / "own", name="own", description="")
    shown = {}
    for given in (True, False):
        corpus = pipeline.open_corpus(str(tmp_path / "own"), "train", 3, 8, given=given)
        step = next(s for s in range(50) if captions.text_kind(3, s) == "sci")
        shown[given] = pipeline.make_batch(corpus, AUGMENTATION, step)["tokens"]
    ours = pipeline.open_corpus(str(tiny_data), "train", 3, 8)
    record = dataset.open_split(tmp_path / "own", "train")[0]
    assert records.caption_of(record, "sci") == record["labels"]["caption_sci"]
    assert records.caption_of(record, "com") == records.caption_of(record, "com", given=False)
    assert records.caption_of(record, "sci", given=False).startswith("a photo of ")
    assert shown[True].shape != shown[False].shape or (shown[True] != shown[False]).any()
    # No caption is cut, whichever is taken.
    assert corpus.token_lengths["sci"] > ours.token_lengths["sci"]


@pytest.mark.parametrize("labels", [{}, {"caption": f"two dogs on a sofa beside a {LONG_NAME}"}])
def test_a_caption_longer_than_those_of_its_taxon_keeps_its_end(tiny_data, tmp_path, labels):
    plain = [dict(record) for record in dataset.open_split(tiny_data, "train")][:4]
    odd = plain[0] | {"key": "odd", "vernacularName": LONG_NAME, "labels": labels}
    data = tmp_path / "odd"
    write_dataset({"train": [*plain, odd]}, data, name="odd", description="")
    corpus = pipeline.open_corpus(str(data), "train", 3, 5)
    lengths = set()
    for step in range(12):
        tokens = pipeline.make_batch(corpus, AUGMENTATION, step)["tokens"]
        assert (tokens.max(axis=1) == 49407).all()
        lengths.add(tokens.shape[1])
    assert max(lengths) < 77
    (data / "captions.json").unlink()  # made before lengths were kept: never cut
    corpus = pipeline.open_corpus(str(data), "train", 3, 5)
    assert set(corpus.token_lengths.values()) == {77}


def test_an_unreadable_image_becomes_a_pair_of_weight_zero(corpus):
    class Broken(list):
        def __getitem__(self, index):
            record = dict(super().__getitem__(index))
            return record | {"image": b"no picture"} if index % 2 else record

        def read(self, indices):
            return map(self.__getitem__, indices)

    source = Broken(corpus.source[i] for i in range(8))
    broken = order.Corpus(source, corpus.seed, 8, corpus.token_lengths)
    batch = pipeline.make_batch(broken, AUGMENTATION, 0)
    indices = [index for _, index in order.examples_at(broken, 0, range(8))]
    assert batch["weights"].tolist() == [float(index % 2 == 0) for index in indices]
    assert (batch["images"][batch["weights"] == 0] == 127).all()
    assert batch["unreadable"].tolist() == [i if i % 2 else -1 for i in indices]


def test_a_record_with_its_own_caption_keeps_it(corpus):
    record = dict(corpus.source[0])
    record["labels"] = {"caption": "two dogs on a sofa"}
    assert records.caption_of(record, "taxon") == "two dogs on a sofa"


@pytest.mark.parametrize(
    ("length", "size"), [(1, 16), (16, 16), (17, 24), (49, 64), (65, 77), (200, 77)]
)
def test_token_lengths_are_rounded_up_to_a_few_sizes(length, size):
    assert pipeline.bucket(length) == size


def test_a_missing_split_is_named(tiny_data):
    with pytest.raises(UserError, match="nosuch"):
        pipeline.open_corpus(str(tiny_data), "nosuch", 0, 8)
