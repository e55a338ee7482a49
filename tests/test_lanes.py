"""Many shards: dealt to lanes, whose order no number of hosts changes, and few of them open."""

import contextlib
import itertools
import json
import os
import pickle
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import ROOT, arguments
from sharded import sharded_data

from bioclip2_jax.data import dataset, order, pipeline, shards
from bioclip2_jax.errors import UserError
from bioclip2_jax.prepare import settle
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.training import recipe
from configs import common

LENGTHS = [3 + number % 2 for number in range(64)]  # of shards, which are dealt to 4 lanes


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return sharded_data(tmp_path_factory.mktemp("many") / "data", LENGTHS)


@pytest.fixture
def corpus(many):
    return pipeline.open_corpus(str(many), "train", seed=3, batch_size=16)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# ---- Lanes


@pytest.mark.parametrize(
    ("count", "lanes"),
    [(1, 1), (31, 1), (32, 2), (63, 2), (64, 4), (8191, 256), (8192, 512), (10**6, 512)],
)
def test_a_lane_has_at_least_sixteen_shards(count, lanes):
    assert settle.lanes_of(count) == lanes


def test_a_conversion_deals_shards_to_lanes_of_one_size(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(settle, "SHARD_RECORDS", 2)
    train, val = (list(dataset.open_split(tiny_data, split)) for split in ("train", "val"))
    records = {"train": [*train, *val[:5]], "val": val[5:]}
    write_dataset(records, tmp_path / "d", name="d", description="")
    corpora = [pipeline.open_corpus(str(tmp_path / "d"), split, 3, 8) for split in records]
    assert [corpus.lanes for corpus in corpora] == [2, 1]
    lengths = corpora[0].source.shards.lengths
    assert len(lengths) == 36  # where 35 would do
    assert (sum(lengths[::2]), sum(lengths[1::2])) == (35, 34)
    write_dataset(records, tmp_path / "d", name="d", description="", overwrite=True)


def test_the_order_of_a_single_lane_is_what_it_was():
    before = {
        (1, 0): [(0, 18), (0, 800), (0, 195), (96000, 629), (96000, 528)],
        (1, 1): [(0, 320), (0, 730), (0, 450), (96000, 324), (96000, 599)],
        (2, 0): [(0, 450), (0, 392), (0, 525), (96000, 258), (96000, 501)],
        (2, 1): [(0, 524), (0, 770), (0, 511), (96000, 104), (96000, 87)],
    }
    for (kind, stream), expected in before.items():
        corpus = order.Corpus([None] * 1000, 42, 96, {}, stream=stream, order=kind)
        found = order.examples_at(corpus, 9, range(30, 33))
        assert found + order.examples_at(corpus, 10**6, range(2)) == expected


def test_the_order_of_lanes_stays_what_it_is(corpus):
    assert corpus.lanes == 4
    found = order.examples_at(corpus, 10**6, range(3, 6))
    assert found == [(83333, 114), (62500, 62), (62500, 104)]


def test_every_lane_meets_each_of_its_records_once_an_epoch(corpus):
    shard_of = np.repeat(np.arange(64), LENGTHS)
    for lane in range(4):
        size = sum(LENGTHS[lane::4])
        steps = range(3 * size // 4)
        mine = range(4 * lane, 4 * lane + 4)
        met = list(itertools.chain(*(order.examples_at(corpus, step, mine) for step in steps)))
        epochs = [met[n * size : (n + 1) * size] for n in range(3)]
        own = np.flatnonzero(shard_of % 4 == lane).tolist()
        for number, epoch in enumerate(epochs):
            assert sorted(epoch) == [(number, index) for index in own]
        assert len({tuple(index for _, index in epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("cut", [(8,), (4, 8, 12), (1, 6, 7, 13)])
@pytest.mark.parametrize("batch", [16, 24, 18, 15])
def test_rows_are_the_same_however_a_batch_is_cut(many, cut, batch):
    corpus = pipeline.open_corpus(str(many), "train", seed=3, batch_size=batch)
    for step in (0, 5, 70_000):
        whole = order.examples_at(corpus, step, range(batch))
        parts = [range(*ends) for ends in itertools.pairwise((0, *cut, batch))]
        found = [example for part in parts for example in order.examples_at(corpus, step, part)]
        assert found == whole and len(set(whole)) == batch


def test_lanes_that_do_not_divide_the_batch_are_merged(many):
    corpus = pipeline.open_corpus(str(many), "train", seed=3, batch_size=18)  # two of four
    shard_of = np.repeat(np.arange(64), LENGTHS)
    met = [index for step in range(40) for _, index in order.examples_at(corpus, step, range(9))]
    assert set(shard_of[met] % 2) == {0} and set(shard_of[met] % 4) == {0, 2}
    alone = pipeline.open_corpus(str(many), "train", seed=3, batch_size=15)  # one
    met = [index for step in range(15) for _, index in order.examples_at(alone, step, range(15))]
    assert sorted(met[: len(shard_of)]) == list(range(len(shard_of)))


@pytest.mark.parametrize(("hosts", "workers", "start"), [(2, 3, 1), (4, 0, 0), (1, 1, 2)])
def test_hosts_workers_and_restarts_see_the_same_batches(many, hosts, workers, start):
    def batches(workers: int, start: int, host: int, hosts: int):
        config = common.get_config()
        config.data.dir, config.data.workers, config.seed = str(many), workers, 3
        config.train.batch_size, config.train.steps = 16, 3
        settings = recipe.compose(config).data
        return list(pipeline.batches(settings, 32, start, slices=[host], num_slices=hosts))

    whole = batches(0, 0, 0, 1)[start:]
    parts = [batches(workers, start, host, hosts) for host in range(hosts)]
    assert len({len(whole), *map(len, parts)}) == 1
    for batch, *shares in zip(whole, *parts, strict=True):
        for key, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([share[key] for share in shares]))


def test_what_was_begun_before_there_were_lanes_has_one(many, tmp_path):
    assert pipeline.open_corpus(str(many), "train", 3, 16, order=1).lanes == 1
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in many.iterdir():
        if path.name != dataset.LANES_FILE:
            (copy / path.name).hardlink_to(path)
    assert pipeline.open_corpus(str(copy), "train", 3, 16).lanes == 1
    for damage in ({"lanes": {"train": 65}}, {"lanes": {"train": 0}}, {"lanes": [4]}, {}):
        (copy / dataset.LANES_FILE).write_text(json.dumps(damage))
        with pytest.raises(UserError, match=r"lanes.json: damaged .*prepare the dataset again"):
            pipeline.open_corpus(str(copy), "train", 3, 16)


# ---- Open shards


@pytest.fixture
def few(monkeypatch):
    """A process that may have eight shards open."""
    monkeypatch.setattr(shards, "_descriptors", lambda: 16)
    monkeypatch.setattr(shards, "_open", shards._OpenShards())


def test_few_shards_are_open_at_a_time(many, few):
    before = open_files()
    source = dataset.open_split(many, "train")
    assert [record["key"] for record in source] == [str(n) for n in range(sum(LENGTHS))]
    assert open_files() == before + 8
    again = pickle.loads(pickle.dumps(source))
    assert again[100] == source[100] and open_files() == before + 8
    del source, again
    assert open_files() == before


def test_their_indices_hold_few_records(many, few, monkeypatch):
    monkeypatch.setattr(shards, "_MOST_RECORDS", 10)
    before = open_files()
    source = dataset.open_split(many, "train")
    assert len(list(source)) == sum(LENGTHS) and open_files() <= before + 3


def test_records_come_in_the_order_asked_for_to_every_thread(many, few):
    source = dataset.open_split(many, "train")

    def read(seed: int) -> None:
        asked = np.random.default_rng(seed).integers(len(source), size=300).tolist()
        assert [record["key"] for record in source.read(asked)] == list(map(str, asked))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(8)))


def test_a_damaged_record_takes_no_neighbour_with_it(tmp_path):
    data = sharded_data(tmp_path / "data", [20, 20])
    path = next(data.glob("*-00001-of-*"))
    content = bytearray(path.read_bytes())
    content[content.index(b"\n\x0225") + 2] ^= 1  # the key of one
    path.write_bytes(content)
    found = list(dataset.open_split(data, "train").read(range(39, -1, -1)))
    bad = [39 - place for place, record in enumerate(found) if isinstance(record, UserError)]
    assert bad == [25] and "record 25 cannot be read" in str(found[14])
    assert path.name in str(found[14])


@contextlib.contextmanager
def no_descriptor_left():
    """As when the rest of the process has all that it may have."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), limits[1])
    )
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_where_others_need_descriptors_shards_are_closed_for_them(many, few):
    source = dataset.open_split(many, "train")
    keys = [source[index]["key"] for index in range(20)]
    with no_descriptor_left():
        found = [source[index]["key"] for index in range(20, 60)]
    assert keys + found == [str(number) for number in range(60)]


def test_too_many_open_files_are_called_by_their_name(many, few):
    source = dataset.open_split(many, "train")
    shards._open.forget(source.shards._number)
    with no_descriptor_left(), pytest.raises(UserError) as caught:
        list(source.read([0, 1]))
    assert "too many open files" in str(caught.value) and "ulimit -n" in str(caught.value)
    assert "prepare" not in str(caught.value) and "\n" not in str(caught.value)
    assert source[0]["key"] == "0"


def test_two_thousand_shards_train_with_256_descriptors(tmp_path):
    data = sharded_data(tmp_path / "data", [1] * 2000)
    flags = ("--config.data.order=2", "--config.data.workers=1")
    steps = {"steps": 126, "checkpoint_every": 126, "log_every": 126}  # 2016 pictures
    flags_of_one = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    command = ["bash", "-c", 'ulimit -n 256; exec "$@"', "-", sys.executable]
    done = subprocess.run(
        [*command, "-m", "bioclip2_jax.train", *arguments(tmp_path / "run", data, *flags, **steps)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags_of_one},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert row["step"] == 126 and row["unreadable"] == 0
