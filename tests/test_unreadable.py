"""Records that cannot be read weigh nothing, are named and counted, and end a run if many."""

import numpy as np
import pytest
from processes import arguments, rows, run_here, short_data

from bioclip2_jax.data import dataset, pipeline
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.training import recipe
from bioclip2_jax.training.unreadable import Unreadable
from configs import common


def damage(data, index: int) -> str:
    """Flips a bit of a record; its key."""
    key = dataset.open_split(data, "train")[index]["key"]
    (shard,) = data.glob("*-train.array_record*")
    content = bytearray(shard.read_bytes())
    content[content.index(b"\n" + bytes([len(key)]) + key.encode()) + 2] ^= 1
    shard.write_bytes(content)
    return key


def settings_of(**changes):
    config = common.get_config()
    config.update_from_flattened_dict(changes)
    return recipe.compose(config).data


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_brings_the_index_of_what_cannot_be_read(tmp_path, workers):
    data = short_data(tmp_path / "data")
    damage(data, 20)
    settings = settings_of(
        **{"data.dir": str(data), "data.workers": workers, "train.batch_size": 16, "train.steps": 3}
    )
    batches = list(pipeline.batches(settings, 32))
    met = np.concatenate([batch["unreadable"] for batch in batches])
    assert sorted(met) == [-1] * 47 + [20]
    np.testing.assert_array_equal(np.concatenate([b["weights"] for b in batches]), met < 0)
    assert (np.concatenate([batch["images"] for batch in batches])[met >= 0] == 127).all()


def test_a_run_names_the_first_once_and_counts_all(tmp_path, capsys):
    data = short_data(tmp_path / "data")
    damage(data, 20)
    workdir = tmp_path / "run"
    run_here(arguments(workdir, data))
    said = capsys.readouterr().err
    assert said.count("cannot be read") == 1 and f"{data}, split 'train': record 20" in said
    assert sum(row["unreadable"] for row in rows(workdir)) == 4  # once an epoch
    # What was not logged is in the next row.
    run_here(arguments(tmp_path / "again", data, log_every=6))
    text = (tmp_path / "again" / "metrics.jsonl").read_text()
    assert text.count('"unreadable": 2') == 2
    # One in 10,000 is allowed, the second ends it.
    strict = "--config.data.max_unreadable=0.0001"
    with pytest.raises(UserError, match=r"2 of the last \d+ records cannot be .*record 20") as end:
        run_here(arguments(tmp_path / "strict", data, strict))
    assert "\n" not in str(end.value)


def test_what_is_no_picture_is_named_with_its_key(tmp_path, monkeypatch):
    data = short_data(tmp_path / "data")
    settings = settings_of(**{"data.dir": str(data)})
    record = dict(dataset.open_split(data, "train")[3])
    assert "a moment ago" in pipeline.why_unreadable(settings, "", 3)
    broken = [record | {"image": b"no picture"}] * 4
    monkeypatch.setattr(dataset, "open_split", lambda *_: broken)
    sentence = pipeline.why_unreadable(settings, "", 3)
    assert record["key"] in sentence and "not a picture of any known format" in sentence


def test_one_in_a_hundred_is_borne_for_ever_and_more_is_not():
    met = Unreadable(settings_of(**{"train.batch_size": 60, "train.replay_batch_size": 40}))
    for step in range(300):
        met.count(step, 1)
    with pytest.raises(UserError, match="step 300: 101 of the last 10000 records"):
        met.count(300, 2)


def test_what_was_met_long_ago_is_forgotten():
    met = Unreadable(settings_of(**{"train.batch_size": 100}))
    for step in range(1000):
        met.count(step, 90 if step % 100 == 0 else 0)


def test_a_step_of_more_records_counts_by_itself():
    met = Unreadable(settings_of(**{"train.batch_size": 50_000}))
    for step in range(9):
        met.count(step, 500)
    with pytest.raises(UserError, match="step 9: 501 of the last 50000 records"):
        met.count(9, 501)


def test_a_share_that_is_none_is_named():
    with pytest.raises(UsageError, match="max_unreadable=2.0 must be in"):
        settings_of(**{"data.max_unreadable": 2.0})
