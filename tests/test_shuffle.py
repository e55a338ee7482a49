"""Ordering of records by a hash of their keys, in memory and on disk."""

import random

import pytest

from bioclip2_jax.prepare.shuffle import Spool, digest


def record(number: int) -> dict:
    image = bytes([number % 256]) * (number % 50)
    return {"key": f"ü{number}", "image": image, "labels": {"sex": "♀"}, "source": ""}


@pytest.mark.parametrize("memory", [0, 20_000, 1 << 20])
def test_records_come_back_whole_in_the_order_of_their_digests(tmp_path, memory):
    spool = Spool(tmp_path / "spool", memory)
    for number in range(600):
        spool.add(record(number))
    expected = sorted(map(record, range(600)), key=lambda one: digest(one["key"]))
    assert list(spool.in_order()) == expected and spool.count == 600


def test_the_order_does_not_depend_on_arrival(tmp_path):
    numbers = list(range(500))
    results = []
    for attempt in range(3):
        random.Random(attempt).shuffle(numbers)
        spool = Spool(tmp_path / str(attempt), memory=10_000)
        for number in numbers:
            spool.add(record(number))
        results.append(list(spool.in_order()))
    assert results[0] == results[1] == results[2]


def test_small_sets_never_touch_the_disk_and_large_ones_clean_up(tmp_path):
    small, large = Spool(tmp_path / "small"), Spool(tmp_path / "large", memory=100)
    for number in range(300):
        small.add(record(number))
        large.add(record(number))
    assert not (tmp_path / "small").exists() and any((tmp_path / "large").iterdir())
    assert list(small.in_order()) == list(large.in_order())
    assert not any((tmp_path / "large").iterdir())
