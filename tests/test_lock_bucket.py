"""The lock of a training in a bucket, whose stand-in keeps generations as Google's does."""

import dataclasses
import itertools
import os
import socket
import time

import msgspec
import pytest
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud import storage

from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.training import lock


class Blob:
    """An object; what is asked of it may demand a generation, and 0 that there is none."""

    def __init__(self, bucket, name):
        self.bucket, self.name, self.generation = bucket, name, None

    def _check(self, wanted):
        there = self.bucket.objects.get(self.name, (b"", 0))[1]
        if wanted != there:
            raise PreconditionFailed("conditionNotMet")

    def upload_from_string(self, data, if_generation_match):
        self._check(if_generation_match)
        self.generation = next(self.bucket.generations)
        self.bucket.objects[self.name] = (data, self.generation)
        if self.bucket.loses_answers:
            self._check(if_generation_match)  # as the client does when it tries again

    def download_as_bytes(self, if_generation_match):
        self._check(if_generation_match)
        return self.bucket.objects[self.name][0]

    def delete(self, if_generation_match):
        if self.name not in self.bucket.objects:
            raise NotFound("gone")
        self._check(if_generation_match)
        del self.bucket.objects[self.name]


class Bucket:
    """Objects by name; also its own client."""

    def __init__(self):
        self.objects, self.generations = {}, itertools.count(1)
        self.loses_answers = False

    def bucket(self, name):
        assert name == "bucket"
        return self

    def blob(self, name):
        return Blob(self, name)

    def get_blob(self, name):
        if name not in self.objects:
            return None
        blob = Blob(self, name)
        blob.generation = self.objects[name][1]
        return blob


@pytest.fixture
def bucket(monkeypatch):
    bucket = Bucket()
    monkeypatch.setattr(storage, "Client", lambda **_: bucket)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    return bucket


NAME = f"run/{lock.LOCK_FILE}"
WORKDIR = files.place("gs://bucket/run")
ME = lock.Holder(
    token="me",
    host=socket.gethostname(),
    process=os.getpid(),
    born=lock._born(os.getpid()),
    since=0.0,
    beat=0.0,
)
DEAD = dataclasses.replace(ME, token="dead", host="elsewhere", process=1)


def leave(bucket, holder):
    """The lock of another training."""
    bucket.objects[NAME] = (msgspec.json.encode(holder), next(bucket.generations))


def holder_of(bucket):
    return msgspec.json.decode(bucket.objects[NAME][0], type=lock.Holder)


def opened(bucket):
    return lock._InBucket(WORKDIR / lock.LOCK_FILE)


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_lock_names_its_holder_beats_and_goes(bucket):
    with lock.held(WORKDIR):
        first = holder_of(bucket)
        assert (first.process, first.host) == (os.getpid(), socket.gethostname())
        wait_until(lambda: holder_of(bucket).beat > first.beat)
        assert holder_of(bucket).token == first.token
    assert not bucket.objects


def test_a_lock_that_somebody_took_does_not_go_with_us(bucket, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 60)
    with lock.held(WORKDIR):
        leave(bucket, DEAD)
    assert holder_of(bucket) == DEAD


def test_a_living_training_is_named_and_a_dead_one_taken_over(bucket, capsys):
    leave(bucket, dataclasses.replace(ME, token="other"))
    with pytest.raises(UserError, match=f"at work there .process {os.getpid()} on "):
        lock.held(WORKDIR).__enter__()
    assert holder_of(bucket).token == "other"
    leave(bucket, DEAD)
    with lock.held(WORKDIR):
        assert holder_of(bucket).process == os.getpid()
    assert "is gone (process 1 on elsewhere" in capsys.readouterr().err


def test_of_two_that_start_at_once_one_gets_a_free_lock_and_one_a_dead_one(bucket):
    first, second = opened(bucket), opened(bucket)
    assert first.create(ME) and not second.create(DEAD)
    leave(bucket, DEAD)
    assert first.read() == second.read() == DEAD
    other = dataclasses.replace(ME, token="second")
    assert second.take_over(DEAD, other) and not first.take_over(DEAD, ME)
    assert holder_of(bucket) == other


def test_a_beat_never_writes_over_the_lock_of_another(bucket):
    ours = opened(bucket)
    assert ours.create(ME) and ours.read() == ME
    leave(bucket, DEAD)  # after the look, before the beat
    ours.beat(dataclasses.replace(ME, beat=5.0))
    assert holder_of(bucket) == DEAD


def test_a_lost_answer_is_not_taken_for_another_training(bucket):
    bucket.loses_answers = True
    with lock.held(WORKDIR):
        assert holder_of(bucket).process == os.getpid()


def test_a_lock_cut_off_does_not_hold(bucket, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    bucket.objects[NAME] = (b'{"token": "x", "ho', next(bucket.generations))
    with lock.held(WORKDIR):
        assert holder_of(bucket).process == os.getpid()


def test_a_bucket_that_cannot_be_used_is_one_sentence(bucket, monkeypatch):
    def refuse(name):
        raise NotFound("The specified bucket does not exist.\nand much more")

    monkeypatch.setattr(bucket, "blob", refuse)
    with pytest.raises(UserError) as caught:
        lock.held(WORKDIR).__enter__()
    assert str(caught.value).startswith("gs://bucket/run: the bucket cannot be used (404 The spec")
    assert "\n" not in str(caught.value)
