"""Conversions: what is kept, and that no way of running one, or of ending it, changes a byte."""

import csv
import dataclasses
import io
import json
import random
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tars
from PIL import Image

from bioclip2_jax.data import dataset
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.prepare import settle
from bioclip2_jax.prepare.build import build
from bioclip2_jax.prepare.folder import Folder
from bioclip2_jax.prepare.webdataset import Webdataset
from bioclip2_jax.prepare.workshop import Order, Workshop
from bioclip2_jax.workers.tasks import Runner, share_of

COUNT = 240


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A table of 240 pictures: some broken, some twice, some of one key."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(COUNT):
        name = f"{number}.png"
        if number % 40 == 7:
            (folder / name).write_bytes(b"no picture")
        else:
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        if number % 30 == 11:
            (folder / name).write_bytes((folder / f"{number - 5}.png").read_bytes())
        split = ("train", "train", "val", "test")[number % 4]
        rows.append([name, f"o{number // 2}", "Panthera", ("leo", "onca")[number % 2], split])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "occurrenceID", "genus", "species", "split"], *rows])
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("bioclip2_jax.prepare.folder._ROWS_A_PART", 40)
    monkeypatch.setattr(settle, "SHARD_BYTES", 20_000)


def order(pictures, out, **settings):
    return Order(
        source=Folder(tables=((None, pictures / "table.csv"),)), out=out, name="x", **settings
    )


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bioclip2_jax.prepare.folder._ROWS_A_PART", 40)
        patch.setattr(settle, "SHARD_BYTES", 20_000)
        out = tmp_path_factory.mktemp("undisturbed") / "d"
        build(order(pictures, out))
    return bytes_of(out)


# ---- What is kept


def test_in_is_out_and_set_aside(undisturbed):
    summary = json.loads(undisturbed["summary.json"])
    assert summary["inputs"] == COUNT == summary["records"] + summary["set_aside"]
    assert sum(summary["splits"].values()) == summary["records"]
    assert sum(summary["by_rank"].values()) == summary["records"]
    quarantine = list(csv.DictReader(io.StringIO(undisturbed["quarantine.csv"].decode())))
    assert len(quarantine) == summary["set_aside"] == sum(summary["by_reason"].values())
    assert summary["by_reason"]["not a picture of any known format"] == 6
    assert len([name for name in undisturbed if "array_record" in name]) > 4


def test_equal_pictures_meet_and_stay_on_the_held_out_side(tmp_path, pictures, undisturbed):
    quarantine = list(csv.DictReader(io.StringIO(undisturbed["quarantine.csv"].decode())))
    repeats = [row for row in quarantine if row["reason"].startswith("the same picture")]
    assert len(repeats) == 8
    for row in repeats:
        # 11 and 6: train or test, and val or train; of another species, as their numbers are odd
        # and even.
        number = int(Path(row["file"]).stem)
        first, second = sorted([number, number + (5 if number % 30 == 6 else -5)])
        splits = [("train", "train", "val", "test")[each % 4] for each in (first, second)]
        kept = min(splits, key=("test", "val", "train").index)
        assert f"in {kept})" in row["reason"] and "under another name" in row["reason"]
        assert row["split"] == splits[1 - splits.index(kept)]


def test_pictures_of_one_key_are_numbered_in_the_order_of_the_source(tmp_path, pictures):
    build(order(pictures, tmp_path / "d"))
    keys = [
        record["key"]
        for split in ("train", "val", "test")
        for record in dataset.open_split(tmp_path / "d", split)
    ]
    assert len(set(keys)) == len(keys) and {"o0", "o0#2", "o1", "o1#2"} < set(keys)
    by_file = {
        record["key"]: record["species"] for record in dataset.open_split(tmp_path / "d", "val")
    }
    assert by_file["o1"] == "leo"  # 2.png; 3.png, in test, is o1#2


def test_shards_of_a_split_are_of_one_length_and_in_the_order_of_the_pictures(undisturbed):
    info = json.loads(undisturbed["dataset_info.json"])
    for split in info["splits"]:
        lengths = [int(length) for length in split["shardLengths"]]
        assert max(lengths) - min(lengths) <= 1 and len(lengths) > 1


def test_ranges_of_hashes_and_keys_change_nothing(tmp_path, pictures, undisturbed, monkeypatch):
    monkeypatch.setattr(settle, "AT_A_TIME", 17)
    build(order(pictures, tmp_path / "d"))
    assert bytes_of(tmp_path / "d") == undisturbed


# ---- Ways to run


def test_several_processes_give_the_same_bytes(tmp_path, pictures, undisturbed):
    build(order(pictures, tmp_path / "d", runner=Runner(processes=2)))
    assert bytes_of(tmp_path / "d") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("at_once", [False, True])
def test_shares_one_by_one_or_at_once_give_the_same_bytes(tmp_path, pictures, undisturbed, at_once):
    said: list[str] = []

    def share(index: int) -> None:
        runner = Runner(share=(index, 4))
        build(order(pictures, tmp_path / "d", runner=runner), said.append)

    threads = [threading.Thread(target=share, args=[index]) for index in range(4)]
    for thread in threads:
        thread.start()
        if not at_once:
            thread.join()
    for thread in threads:
        thread.join()
    assert bytes_of(tmp_path / "d") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    if not at_once:
        assert len(said) == 3 and "still to come: --task 1/4, --task 2/4, --task 3/4" in said[0]


def test_a_ray_cluster_of_two_workers_gives_the_same_bytes(tmp_path, pictures, undisturbed):
    pytest.importorskip("ray", reason="Ray is not installed")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        build(order(pictures, tmp_path / "d", runner=Runner(ray=cluster.address)))
    finally:
        cluster.shutdown()
    assert bytes_of(tmp_path / "d") == undisturbed


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/4", "0/0"])
def test_an_impossible_share_is_refused(text):
    with pytest.raises(UsageError, match="write I/N"):
        share_of(text)


# ---- Ends


SCRIPT = """
import os, signal, sys
from pathlib import Path
from bioclip2_jax.prepare import folder, settle
from bioclip2_jax.prepare.build import build
from bioclip2_jax.prepare.folder import Folder
from bioclip2_jax.prepare.workshop import Order
from bioclip2_jax.errors import exit_on_user_error

folder._ROWS_A_PART, settle.SHARD_BYTES = 40, 20_000
table, out, last, how = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rename, count = os.replace, 0

def counted(*names):
    global count
    count += 1
    if count == last:
        os.kill(os.getpid(), getattr(signal, how))
    rename(*names)

os.replace = counted
exit_on_user_error(lambda: build(Order(source=Folder(tables=((None, table),)), out=out, name="x")))
"""


def ended(pictures, out, last, how, **settings):
    command = [sys.executable, "-c", SCRIPT, str(pictures / "table.csv"), str(out), str(last), how]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)


def test_a_conversion_killed_at_any_file_goes_on_from_there(tmp_path, pictures, undisturbed):
    # It writes about fifty files; each start gets somewhat further than the one before.
    rng, starts = random.Random(0), 0
    while ended(pictures, tmp_path / "d", rng.randint(3, 30), "SIGKILL").returncode == -9:
        assert not (tmp_path / "d").exists()
        starts += 1
    assert starts >= 2
    assert bytes_of(tmp_path / "d") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_signal_leaves_nothing_half_written(tmp_path, pictures, undisturbed):
    assert ended(pictures, tmp_path / "d", 12, "SIGTERM").returncode == 143
    (workshop,) = tmp_path.iterdir()
    assert workshop.name == ".d.preparing"
    assert not [path for path in workshop.glob("**/.*") if path.is_file()]
    build(order(pictures, tmp_path / "d"))
    assert bytes_of(tmp_path / "d") == undisturbed


@pytest.mark.parametrize("limit", [2_000, 9_000])
def test_a_full_disk_is_one_sentence_and_what_is_done_stays(tmp_path, pictures, undisturbed, limit):
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = ended(pictures, tmp_path / "d", 0, "SIGKILL", preexec_fn=small_disk)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    build(order(pictures, tmp_path / "d"))
    assert bytes_of(tmp_path / "d") == undisturbed


def test_an_unfinished_conversion_of_something_else_is_not_touched(tmp_path, pictures):
    assert ended(pictures, tmp_path / "d", 12, "SIGKILL").returncode == -signal.SIGKILL
    other = Order(
        source=Folder(tables=((pictures, pictures / "table.csv"),)), out=tmp_path / "d", name="x"
    )
    with pytest.raises(UsageError, match="unfinished conversion of other sources"):
        build(other)
    assert build(dataclasses.replace(other, overwrite=True)) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_source_that_changes_in_between_is_refused(tmp_path):
    tar = tmp_path / "a.tar"
    rows = [{"uuid": f"u{n}", "image": b"no picture", "genus": "Panthera"} for n in range(3)]
    tars.write_treeoflife(tar, rows)
    order = Order(source=Webdataset(paths=(str(tar),)), out=tmp_path / "d", name="x")
    workshop = Workshop(tmp_path / ".d.preparing", order)
    workshop.open()
    workshop.reads()
    tars.write_treeoflife(tar, rows[:2])
    with pytest.raises(UserError, match="a.tar: changed since this conversion began; remove"):
        build(order)


def test_half_a_shard_of_a_dead_process_is_not_published(tmp_path, pictures, undisturbed):
    assert ended(pictures, tmp_path / "d", 40, "SIGKILL").returncode == -signal.SIGKILL
    (tmp_path / ".d.preparing" / "dataset").mkdir(exist_ok=True)
    (tmp_path / ".d.preparing" / "dataset" / ".x-train.1234.abcd").write_bytes(b"half")
    build(order(pictures, tmp_path / "d", runner=Runner(share=(0, 1))))
    assert bytes_of(tmp_path / "d") == undisturbed


def test_a_share_that_cannot_begin_leaves_nothing(tmp_path, pictures):
    source = Folder(tables=((None, pictures / "nosuch.csv"),))
    wrong = Order(source=source, out=tmp_path / "d", name="x", runner=Runner(share=(0, 2)))
    with pytest.raises(UserError, match="nosuch.csv"):
        build(wrong)
    assert list(tmp_path.iterdir()) == []


def test_two_conversions_to_one_place_are_not_mixed(tmp_path, pictures):
    from bioclip2_jax.workers.tasks import alone

    workshop = tmp_path / ".d.preparing"
    workshop.mkdir()
    (workshop / "digest").write_text("")
    with (
        alone(workshop),
        pytest.raises(UserError, match="another process is at work"),
        alone(workshop),
    ):
        pass
