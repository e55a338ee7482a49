"""Paths, local and in buckets."""

import contextlib
import json
import subprocess
import sys
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


@pytest.mark.parametrize("name", ["gs:/bucket/a", "gs://", "gs:///a"])
def test_a_bucket_without_a_name_is_one_sentence(name):
    with pytest.raises(UsageError, match="names no bucket"):
        files.place(name)


def test_the_missing_client_is_named(monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"bioclip2-jax\[gcs\]"):
        files.place("gs://bucket/a")


def test_a_file_in_a_bucket_grows_and_goes_on_after_what_is_there(bucket):
    path = files.place(bucket) / "log.jsonl"
    for line in (b"1\n", b"2\n"):
        with contextlib.closing(files.appending(path)) as file:
            file.write(line)
    file = files.appending(path)
    file.write(b"3\n")
    assert path.read_bytes() == b"1\n2\n"
    file.flush()
    assert path.read_bytes() == b"1\n2\n3\n"


def test_what_grows_on_a_disk_is_written_at_once_and_in_a_bucket_now_and_then(monkeypatch):
    now = 100.0
    monkeypatch.setattr(files.time, "monotonic", lambda: now)
    disk, bucket = files.Pace("/runs/a"), files.Pace("gs://bucket/a")
    assert disk.is_due() and disk.is_due() and bucket.is_due() and not bucket.is_due()
    now = 131.0
    assert bucket.is_due() and not bucket.is_due()


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_files_below_a_folder_are_listed_in_order_without_hidden_ones(where, tmp_path, request):
    folder = tmp_path if where == "disk" else files.place(request.getfixturevalue("bucket"))
    for name in ("b.txt", "a/z", "a/b/c", ".hidden/x", "a/.y", "skipped/x"):
        files.make_folder((folder / name).parent)
        files.write_text(folder / name, "")
    assert list(files.below(folder, leave_out=("skipped",))) == ["b.txt", "a/z", "a/b/c"]
    assert list(files.below(folder / "nowhere")) == []
    assert files.absolute(folder) == folder


def test_another_process_s_files_are_seen(bucket):
    folder = files.place(bucket)
    files.write_text(folder / "first", "")
    assert [path.name for path in folder.iterdir()] == ["first"]
    script = "import sys; from bioclip2_jax import files; files.write_text(sys.argv[1], '')"
    subprocess.run([sys.executable, "-c", script, str(folder / "second")], check=True)
    assert sorted(path.name for path in folder.iterdir()) == ["first", "second"]
