"""Batches are made in parts by many hands, few ahead, and a training does not outlive a worker."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from processes import (
    LONG,
    arguments,
    children,
    finish,
    kill,
    rows,
    short_data,
    start_together,
    wait_until,
)

from bioclip2_jax.data import feeding, pipeline
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.training import recipe
from bioclip2_jax.weights import checkpoint
from configs import common

SIZE, BATCH, STEPS = 32, 8, 6


def settings_of(data, **changes):
    config = common.get_config()
    config.data.dir = config.data.replay_dir = str(data)
    config.train.steps, config.train.batch_size, config.train.replay_batch_size = STEPS, BATCH, 4
    config.train.level_weight = 0.5
    for key, value in changes.items():
        config.data[key] = value
    return recipe.compose(config).data


@pytest.fixture(scope="module")
def plain(tiny_data):
    """All batches, each made at once."""
    batches = []
    for step in range(STEPS):
        batch = {}
        for prefix, size in (("", BATCH), ("replay_", 4)):
            draw = None if prefix else (1.0,) * 6
            corpus = pipeline.open_corpus(
                str(tiny_data), "train", 42, size, stream=bool(prefix), level_draw=draw
            )
            augmentation = pipeline.Augmentation(SIZE, (0.9, 1.0), False, 0.0, "simd")
            part = pipeline.make_batch(corpus, augmentation, step)
            batch |= {prefix + name: array for name, array in part.items()}
        batches.append(batch)
    return batches


# Fewer rows than parts, and rows that the parts do not divide, are among them.
@pytest.mark.parametrize(
    ("slices", "num_slices", "workers", "threads", "prefetch", "start"),
    [
        ((0,), 1, 0, 1, 1, 0),
        ((0,), 1, 0, 4, 3, 2),
        ((1,), 2, 0, 3, 2, 0),
        ((0, 3), 4, 0, 2, 2, 5),
        ((0,), 1, 3, 1, 2, 0),
        ((1,), 2, 1, 2, 1, 3),
        ((2,), 4, 3, 4, 3, 1),
    ],
)
def test_neither_slices_nor_workers_nor_a_restart_change_a_batch(
    tiny_data, plain, slices, num_slices, workers, threads, prefetch, start
):
    settings = settings_of(tiny_data, workers=workers, threads=threads, prefetch=prefetch)
    feed = pipeline.batches(settings, SIZE, start, slices=slices, num_slices=num_slices)
    made = list(feed)
    assert len(made) == STEPS - start and not feed.failure
    for step, batch in enumerate(made, start):
        assert batch.keys() == plain[step].keys()
        for name, array in plain[step].items():
            parts = np.split(array, num_slices)
            np.testing.assert_array_equal(batch[name], np.concatenate([parts[n] for n in slices]))


class Counting:
    """A filler of one row a part that counts what it makes."""

    rows = 10**6

    def __init__(self):
        self.made, self._lock = 0, threading.Lock()

    def layout(self, step):
        return {"x": ((8,), np.int64)}

    def fill(self, step, part, parts, batch):
        with self._lock:
            self.made += 1
        batch["x"][part % 8] = step

    def begin(self, step, batch): ...

    def warm_up(self): ...


@pytest.mark.parametrize(("prefetch", "ahead"), [(1, 1), (2, 1.5), (3, 2.5)])
def test_a_consumer_that_stops_stops_the_making(prefetch, ahead):
    filler = Counting()
    feed = feeding.ThreadFeed(filler, range(100), threads=2, prefetch=prefetch)
    parts = feeding.count_parts(filler.rows, 0, 2)
    for taken in range(1, 4):
        batch = next(feed)
        time.sleep(0.1)
        assert filler.made == (taken + ahead) * parts
        assert (batch["x"] == taken - 1).all()
    feed.close()
    assert next(feed, None) is None


def test_every_part_has_a_hand_of_its_own_and_the_parts_are_the_rows():
    for rows_, workers, threads in ((512, 2, 4), (5632, 8, 4), (7, 3, 2), (1, 4, 4), (100, 0, 3)):
        parts = feeding.count_parts(rows_, workers, threads)
        hands = max(workers, 1)
        assert parts % hands == 0 and (parts >= 2 * hands or rows_ < 2 * hands)
        made = []
        for hand in range(hands):  # each makes neighbouring rows
            own = range(hand, parts, hands)
            made += [
                n for part in own for n in range(rows_)[feeding.slice_of(rows_, part, parts, hands)]
            ]
        assert made == list(range(rows_))


def test_what_a_worker_cannot_make_is_said_by_the_training(tiny_data, monkeypatch):
    settings = dataclasses.replace(settings_of(tiny_data, workers=1), crop_scale=(-1.0, -1.0))
    with pytest.raises(ValueError, match="math domain error"):
        next(pipeline.batches(settings, SIZE))

    def refuse(*_):
        raise UserError("the disk is gone")

    monkeypatch.setattr(pipeline.Reader, "fill", refuse)
    with pytest.raises(UserError, match="^the disk is gone$"):
        next(pipeline.batches(settings, SIZE))


@pytest.mark.parametrize(("key", "least"), [("workers", 0), ("threads", 1), ("prefetch", 1)])
def test_too_few_hands_are_named(tiny_data, key, least):
    with pytest.raises(UsageError, match=f"config.data.{key}={least - 1} must be at least {least}"):
        settings_of(tiny_data, **{key: least - 1})


def test_workers_are_refused_where_memory_has_to_have_a_name(tiny_data, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    settings_of(tiny_data).check()
    with pytest.raises(UsageError, match="config.data.workers needs Linux"):
        settings_of(tiny_data, workers=1).check()


# ---- Killed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return short_data(tmp_path_factory.mktemp("short") / "short")


def start_slowly(count, workdir, data, workers):
    flags = f"--config.data.workers={workers}", "--config.data.threads=1"
    args = arguments(workdir, data, *flags, recipe="slowly", **LONG)
    return start_together(count, args)


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_worker_ends_the_run_with_a_sentence_and_a_checkpoint(tmp_path, data, count):
    processes = start_slowly(count, tmp_path, data, workers=1)
    wait_until(lambda: len(rows(tmp_path)) >= 2, processes)
    (worker,) = children(processes[-1].pid)
    os.kill(worker, signal.SIGKILL)
    codes, messages = finish(processes)
    assert codes == [1] * count
    (kept,) = checkpoint.steps(tmp_path)
    assert 2 <= kept < LONG["steps"] and len(rows(tmp_path)) == kept
    sentence = (
        "bioclip2: error: a worker of the data loader was killed by signal 9, perhaps for want of"
        " memory; start again with the same command\n"
    )
    assert messages[-1].count(sentence) == 1 and "Traceback" not in "".join(messages)
    assert f"stopped and saved after step {kept}" in messages[0]


def test_nothing_is_left_of_a_killed_training(tmp_path, data):
    processes = start_slowly(1, tmp_path, data, workers=2)
    wait_until(lambda: len(rows(tmp_path)) >= 2, processes)
    workers = children(processes[0].pid)
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGTERM)  # as Slurm does, to all; the training is to save first
    time.sleep(0.5)
    assert children(processes[0].pid) == workers
    mapped = {
        line.split(maxsplit=5)[5].strip()
        for worker in workers
        for line in Path(f"/proc/{worker}/maps").read_text().splitlines()
        if "/dev/shm" in line
    }
    assert not mapped  # memory that has a name could outlive them
    kill(processes)
    deadline = time.time() + 5
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
