"""The benchmarks run at toy size, and what they report holds together."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def run(script: str, *options: str) -> Any:
    return json.loads(said(script, *options, "--json"))


def said(script: str, *options: str) -> str:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *options],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_step():
    found = run("train_step.py", "--toy")
    whole, cut, narrow = found["ours"]
    assert whole["loss"] == pytest.approx(cut["loss"], abs=1e-5)
    assert whole["last_loss"] < whole["loss"]
    assert cut["text_length"] < whole["text_length"] == 77
    pairs = whole["batch"] + whole["replay"]
    assert found["samples_per_second"] == pytest.approx(pairs / whole["step_seconds"])
    assert 0 < abs(narrow["loss"] - cut["loss"]) == found["loss_difference_fp8"] < 0.05
    assert found["mfu"] is None  # a CPU's peak is not known
    assert 0 < found["share_of_product_rate"] < 1
    if importlib.util.find_spec("open_clip"):
        assert found["loss_difference"] < 1e-4
        assert found["ratio"] > 0


def test_encode():
    row = json.loads(said("encode.py", "--toy", "--precision", "bfloat16"))
    assert row["precision"] == "bfloat16" and row["pictures"] == 64
    assert 0 < row["decoded_too_per_second"] < row["pictures_per_second"]
    per_picture = row["share_of_product_rate"] * row["product_rate"] / row["pictures_per_second"]
    assert 1e7 < per_picture < 1e9  # FLOPs of the tiny model


def test_loss_rounding():
    told = said("loss_rounding.py", "--model", "tiny", "--pairs", "32", "4", "--batches", "2",
                "--ways", "float32", "xla")  # fmt: skip
    full, half, *peers = map(json.loads, told.splitlines())
    assert len(full["losses"]) == 2 and full["losses"][0] != full["losses"][1]
    assert 0 < max(abs(a - b) for a, b in zip(full["losses"], half["losses"], strict=True)) < 0.02
    if peers:
        assert peers[0]["losses"] == pytest.approx(full["losses"], abs=1e-4)


def test_hierarchy(tmp_path, monkeypatch):
    """Differences of two seeds, by hand; of species kept out of training intervals are wider."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import hierarchy

    species = ["Picus viridis"] * 90 + ["Pica pica"] * 10
    rights = {"base-0": (60, 5), "base-1": (60, 5), "level-0": (69, 5), "level-1": (60, 8)}
    for name, (of_first, of_second) in rights.items():
        for folder in "figures", "unseen":
            path = tmp_path / name / folder / "zero_shot_images.csv"
            path.parent.mkdir(parents=True)
            right = [int(n < of_first) for n in range(90)] + [int(n < of_second) for n in range(10)]
            rows = [f"{n},{species[n]},{right[n]}" for n in range(100)] + ["100,Pica,"]
            path.write_text("\n".join(["key,scientificName,correct", *rows]))

    def difference(folder, seeds, is_macro=False):
        pairs = [[tmp_path / f"{name}-{n}" / folder for name in ("base", "level")] for n in seeds]
        return hierarchy.difference(pairs, "correct", is_macro)

    assert difference("figures", [0]).startswith("+9.0 [+4.0, +1")
    assert difference("figures", [0, 1]).startswith("+6.0 [")  # (9 + 3) / 2
    assert difference("figures", [0, 1], True).startswith("+10.0 [")  # (9 / 90 + 3 / 10) / 2 / 2
    assert difference("unseen", [0]) == "+9.0 [+0.0, +10.0]"


def test_loss():
    found = run("loss.py", "--batch", "256", "--devices", "4", "--dtype", "float32")
    assert found["devices"] == 4
    dense, *others = found["forms"].values()
    assert len(others) == 3
    for row in others:
        assert row["loss"] == pytest.approx(dense["loss"], rel=1e-5)
        assert row["gradient_difference"] < 1e-5


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu")
def test_loss_on_a_tpu_that_is_not_there():
    forms = run("loss.py", "--topology", "v5e:2x4", "--batch", "32768")["forms"]
    memory = {name: row["temporary_mib"] for name, row in forms.items()}
    assert memory["tile 4096"] < memory["one block"] < memory["dense"]
    assert forms["one block"]["work_over_least"] < 1.05


def test_evaluators():
    found = run("evaluators.py", "--toy")
    named, shot, clustered = (found[part] for part in ("zero_shot", "few_shot", "herbarium19"))
    for part in (named, shot, clustered):
        assert part["seconds"] > 0 and 0 < part["peak_gib"] < 4
    assert named["top1"] > 0.5 and 0.5 < named["auroc"] < 1
    # The broadcast form answers the same, and the ratio is what its times say.
    assert shot["same_answers"] == 1 and shot["top1"][1] > shot["top1"][0] > 0.5
    assert shot["queries"] == 5 * (1000 - 20) + 5 * (1000 - 100)
    assert shot["ratio"] == pytest.approx(shot["original_seconds"] / shot["seconds"])
    assert clustered["accuracy"] > 0.5


def test_estimators():
    found = run("estimators.py", "--toy")
    assert all(abs(row["rho"]) <= 0.03 and row["cautioned"] == 1 for row in found["rho"])
    assert found["rho"][-1]["rho_all_species"] > 0.3
    for row in found["fisher"]:
        assert abs(row["corrected"]) <= 0.03 and row["floor"] == pytest.approx(1 / row["images"])
    assert all(abs(row["rho"] - row["true_rho"]) < 0.1 for row in found["coverage"])
    assert [row["tree"] for row in found["tree"]][0::5] == ["its own", "its own, and seen"]
    assert found["tree"][-1]["ridge_tree_p"] == 1
    for row in found["few_shot"]:
        assert row["coverage"] <= row["coverage_with_draws"] <= 1


def test_loader():
    (row,) = run("loader.py", "--workers", "1", "--batch", "128", "--batches", "2")
    assert row["start_seconds"] > 0 and row["first_in_batches"] > 0.2
    assert 1.5 < row["held_with_unmapped"] <= 3 and row["held_batches"] <= 3
    assert row["gone_seconds"] < 5
    assert row["left_processes"] == row["left_shared_memory"] == 0


def test_input_pipeline():
    rows = run("input_pipeline.py", "--count", "64", "--workers", "1")
    assert [row["size"] for row in rows] == [512, 256, 224]
    for row in rows:
        assert row["ours_cpu_ms"] > 0
        if all(map(importlib.util.find_spec, ("open_clip_train", "webdataset"))):
            assert row["ratio"] == pytest.approx(row["open_clip_cpu_ms"] / row["ours_cpu_ms"])
        else:
            assert row["open_clip_cpu_ms"] is None and row["ratio"] is None


def test_scale_index():
    rows = run("scale_index.py", "--records", "6400", "--shards", "64", "--written", "8")
    assert [(row["hosts"], row["workers"]) for row in rows] == [(64, 8), (4, 16)]
    for row in rows:
        assert row["measured_records"] == 800
        assert row["shards"] == 16 + 8  # one lane of four, and the only one of replay
        assert row["records"] == 16 * 100 + 8 * 98
        assert 0 < row["resume_seconds"] < row["seconds"]
        assert row["index_megabytes"] < row["megabytes"] < 1000


def test_name_list():
    row = run("name_list.py", "--toy", "--rank", "family")
    assert row["names"] == 132_072 and row["same_names"] and row["same_scores"]
    assert row["score_error"] < 1e-4
    assert row["beside_gib"] < 4 and row["seconds"] > 0


def test_search():
    row = run("search.py", "--toy")
    assert row["same"] and row["same_twins"] and row["twins"] >= 40
    assert row["ratio"] == pytest.approx(row["seconds"] / row["plain_seconds"])


def test_embed():
    found = run("embed.py", "--toy")
    assert found["ours_seconds"] > 0 and "ratio" not in found
