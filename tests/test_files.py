"""Paths, local and in buckets."""

import json
from pathlib import Path

import pytest

from bioclip2_jax import files
from bioclip2_jax.errors import UsageError


def test_files_are_written_and_read_in_a_bucket(bucket):
    path = files.place(bucket) / "deep" / "facts.json"
    files.write_json(path, {"a": 1})
    assert files.read_json(path) == {"a": 1} and json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in files.place(bucket).iterdir()] == ["deep"]
    assert files.is_remote(path) and not Path("gs:").exists()


def test_local_paths_stay_what_they_are(tmp_path):
    assert files.place(tmp_path / "a") == tmp_path / "a" and isinstance(files.place("b"), Path)
    assert not files.is_remote(tmp_path)


@pytest.mark.parametrize("name", ["s3://bucket/a", "https://host/a", "gcs://bucket/a"])
def test_other_addresses_are_one_sentence(name):
    with pytest.raises(UsageError, match="is not read or written; name a folder or gs://"):
        files.place(name)


def test_the_missing_client_is_named(monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"bioclip2-jax\[gcs\]"):
        files.place("gs://bucket/a")
