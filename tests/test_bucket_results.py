"""Evaluation beside a training in a bucket, and the page about it."""

import threading
import time

import buckets
import pytest
from colour_world import ColourModel, write_world
from commands import bioclip2

from bioclip2_jax import files
from bioclip2_jax.evaluation import follow
from bioclip2_jax.evaluation import run as evaluate
from bioclip2_jax.report import gather


@pytest.fixture
def data(tmp_path, bucket):
    folder = write_world(tmp_path / "squares", {"red": 3, "blue": 2})
    return buckets.upload(folder, f"{bucket}/data")


def complete(workdir, step):
    (workdir / "checkpoints" / str(step) / "commit_success.txt").write_text("")


def test_complete_checkpoints_in_a_bucket_are_followed_and_reported(
    bucket, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # where a folder called "gs:" would be
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    loaded, workdir = [], files.place(f"{bucket}/run")

    def load(path):
        loaded.append(str(path).removeprefix(f"{workdir}/checkpoints/"))
        return ColourModel()

    monkeypatch.setattr(evaluate, "load", load)
    complete(workdir, 10)
    (workdir / "checkpoints" / "20" / "SHA256SUMS").write_text("")  # still being written
    files.write_text(workdir / "metrics.jsonl", '{"step": 10, "loss": 2.0}\n')
    seen_too_early = []

    def train():
        while not (workdir / "eval" / "10" / "zero_shot.json").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        seen_too_early.extend(loaded[1:])
        complete(workdir, 20)
        (workdir / "done.json").write_text("{}")

    training = threading.Thread(target=train)
    training.start()
    words = ["evaluate", "--workdir", workdir, "--data", data, "--tasks", "zero_shot", "--follow"]
    assert bioclip2(*words).returncode == 0
    training.join()
    assert loaded == ["10", "20"] and not seen_too_early
    assert bioclip2(*words).returncode == 0 and loaded == ["10", "20"]  # nothing is left to do
    events = [name for name in files.below(workdir / "tensorboard" / "eval") if "events" in name]
    assert len(events) == 2

    page = f"{bucket}/pages/report.html"
    assert bioclip2("report", "--workdir", workdir, "--data", data, "--out", page).returncode == 0
    assert "data:image/jpeg;base64," in files.read_text(page)
    assert [each.subject for each in gather.gather([str(workdir)])] == [
        "run, step 10",
        "run, step 20",
    ]
    assert "train" in bioclip2("inspect", "--data", data).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["squares"]


@pytest.mark.parametrize("option", ["--workdir", "--data", "--out"])
def test_other_addresses_are_one_sentence(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"--workdir": "run", "--data": "data", "--out": "out"} | {option: "s3://b/x"}
    for words in (["evaluate"], ["report"]):
        result = bioclip2(*words, *(word for pair in options.items() for word in pair))
        assert result.returncode == 2
        assert "s3://b/x: s3:// is not read or written; name a folder" in result.stderr
    assert not list(tmp_path.iterdir())
