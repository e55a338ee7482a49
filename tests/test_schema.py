"""Files of results: the keys they hold on disk, and what is read of them again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bioclip2_jax.cli.evaluate import evaluate as command
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.tasks import SPECIES_TASKS, TASKS

EARLIER = Path(__file__).parent / "data" / "earlier" / "run" / "eval" / "2"

HEAD = {"task", "step", "model", "dataset", "version", "settings"}
BEYOND = {"value", "std", "protocol", "metric", "runs", "num_images", "num_missing", "bad"}
SPECIES = {
    *("top1", "top3", "top5", "macro_top1", "macro_top3", "macro_top5", "ranks", "intervals"),
    *("chance", "num_images", "num_classes", "num_excluded", "classes_sha256", "num_bad", "bad"),
}
LATER = {"prior", "prior_fit", "commonest", "same_text"}  # than `EARLIER`
KEYS = {
    "zero_shot": SPECIES | LATER | {"calibration", "hierarchy", "strata", "open_set"},
    "few_shot_1": SPECIES | {"k", "std", "folds", "draw_intervals", "left_out"},
    "few_shot_5": SPECIES | {"k", "std", "folds", "draw_intervals", "left_out"},
    "newt": BEYOND | {"mean_over_tasks", "tasks", "clusters"},
    "fishnet": BEYOND | {"mean_over_labels", "per_label"},
    "awa2": BEYOND | {"micro_f1"},
    "herbarium19": BEYOND | {"macro", "old", "new"},
    "plantdoc": BEYOND | {"macro", "loader_runs"},
    "retrieval": {
        *("text_to_image", "image_to_text", "by_group", "num_images", "num_texts", "num_pairs"),
        *("mean_candidates", "num_without", "num_doubled", "num_bad", "bad", "queries_sha256"),
    },
}


@pytest.mark.parametrize("task", KEYS)
def test_the_keys_on_disk_are_those_that_others_read(task):
    fields = {field.name for field in dataclasses.fields(TASKS[task].result)}
    assert fields == HEAD | KEYS[task]


@pytest.mark.parametrize("task", ["zero_shot", "few_shot_1"])
def test_what_an_earlier_version_wrote_is_read_and_written_without_loss(task, tmp_path):
    path = EARLIER / f"{task}.json"
    schema.write(tmp_path / "again.json", schema.read(path, TASKS[task].result))
    content = json.loads(path.read_text())
    assert content["settings"]["protocol"] == "faithful"
    content["settings"]["protocol"] = "v2"  # its name today
    assert kept(json.loads((tmp_path / "again.json").read_text()), content) == content


def kept(written: dict, content: dict) -> dict:
    """What is written, without the keys that came later and say nothing of an earlier result."""
    return {
        key: kept(value, content[key]) if isinstance(content.get(key), dict) else value
        for key, value in written.items()
        if key in content or value not in (None, "flat", [], {})
    }


def test_keys_that_came_later_have_defaults_and_unknown_ones_are_passed_over(tmp_path):
    content = json.loads((EARLIER / "zero_shot.json").read_text())
    for key in ("calibration", "hierarchy", "strata", "open_set", "classes_sha256", "version"):
        del content[key]
    del content["settings"]["templates"], content["settings"]["where"]
    (tmp_path / "old.json").write_text(json.dumps(content | {"nobody_knows": [1]}))
    result = schema.read(tmp_path / "old.json", schema.ZeroShotResult)
    assert result.top1 == content["top1"] and result.calibration is result.strata is None
    assert (result.settings.templates, result.settings.where) == ("bioclip2", ())


@pytest.mark.parametrize("key", ["top1", "ranks", "settings"])
def test_a_damaged_result_is_one_sentence_with_the_file_and_the_key(tmp_path, key):
    damage = {"top1": "half", "ranks": {"genus": {}}, "settings": 3}
    content = json.loads((EARLIER / "zero_shot.json").read_text()) | {key: damage[key]}
    path = tmp_path / "zero_shot.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"zero_shot\.json: not a result .*{key}.*make it again"):
        schema.read(path, schema.ZeroShotResult)


def test_numpy_values_are_plain_and_what_is_no_number_is_null(tmp_path):
    comparison = schema.BeyondResult(
        settings=schema.Settings(),
        value=np.float64(0.1),
        std=float("nan"),
        protocol=np.str_("faithful"),
        metric="accuracy",
        runs=[np.float32(0.5)],
        num_images=np.int64(3),
    )
    schema.write(tmp_path / "result.json", comparison)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["value"] == 0.1 and content["std"] is None and content["runs"] == [0.5]
    assert content["protocol"] == "v2" and content["num_images"] == 3
    with pytest.raises(TypeError, match="object has no form in JSON"):
        schema.write(tmp_path / "other.json", {"what": object()})


def test_the_table_of_tasks_is_what_the_command_offers():
    told = CliRunner().invoke(command, ["--help"]).output
    offered = told.split("Of ")[1].split(";")[0].replace(",", " ").split()
    names = ["zero_shot", "few_shot", *(name for name in TASKS if name not in SPECIES_TASKS)]
    assert offered == names
    assert all(task.name == name for name, task in TASKS.items())
