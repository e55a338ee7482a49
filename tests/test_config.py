"""Recipes load, overrides apply, and every mistake ends in one clear sentence."""

import json
from pathlib import Path

import pytest

from bioclip2_jax.errors import UsageError
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.training import recipe as config_lib

RECIPES = Path(__file__).parent.parent / "configs"
QUICKSTART = f"--config={RECIPES / 'quickstart.py'}"
KEYS = (
    "data.dir data.replay_dir train.steps train.batch_size train.replay_batch_size"
    " train.checkpoint_every mesh.data mesh.fsdp model.name seed"
).split()


@pytest.mark.parametrize("recipe", sorted(p.name for p in RECIPES.glob("[!_c]*.py")))
def test_every_recipe_loads_and_has_the_common_keys(recipe):
    config, _ = config_lib.parse_arguments([f"--config={RECIPES / recipe}", "--workdir=w"])
    flat = config_lib._flatten(config.to_dict())
    assert set(KEYS) <= set(flat)
    assert config.model.name in PRESETS


def test_the_papers_recipe_has_the_papers_numbers():
    config, _ = config_lib.parse_arguments(
        [f"--config={RECIPES / 'bioclip2_vitl14.py'}", "--workdir=w"]
    )
    train = config.train
    assert (train.batch_size, train.replay_batch_size) == (90_112, 10_240)
    assert (train.steps, train.warmup_steps) == (71_280, 1_875)
    assert (train.learning_rate, train.weight_decay) == (1e-4, 0.2)
    assert (train.beta1, train.beta2, train.epsilon) == (0.9, 0.98, 1e-6)
    assert tuple(config.data.mean) == (0.485, 0.456, 0.406)
    assert tuple(config.data.crop_scale) == (0.9, 1.0)


def test_overrides_reach_nested_keys():
    config, workdir = config_lib.parse_arguments(
        [QUICKSTART, "--config.train.steps=7", "--workdir", "there"]
    )
    assert config.train.steps == 7 and workdir == Path("there")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([QUICKSTART, "--workdir=w", "--config.train.stepz=3"], "did you mean config.train.steps"),
        ([QUICKSTART, "--workdir=w", "--config.sead=3"], "did you mean config.seed"),
        ([QUICKSTART, "--workdir=w", "--config.train.steps=many"], "steps"),
        ([QUICKSTART, "--workdirr=w"], "workdir"),
        ([QUICKSTART], "--workdir is missing"),
        (["--workdir=w"], "--config is missing"),
        (["--config=no/such.py", "--workdir=w"], "no such recipe file"),
        ([QUICKSTART, "--workdir=w", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_mistake_in_the_call_is_one_sentence(arguments, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        config_lib.parse_arguments(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def get_config(:\n", "bad.py"),
        ("x = 1\n", "get_config"),
        (
            "from configs import common\n"
            "def get_config():\n"
            "    c = common.get_config()\n"
            "    c.lock()\n"
            "    c.train.stepz = 1\n"
            "    return c\n",
            "stepz",
        ),
    ],
)
def test_a_broken_recipe_is_one_sentence(tmp_path, text, sentence):
    folder = tmp_path / "configs"
    folder.mkdir()
    recipe = folder / "bad.py"
    recipe.write_text(text)
    with pytest.raises(UsageError, match=sentence) as caught:
        config_lib.parse_arguments([f"--config={recipe}", "--workdir=w"])
    assert "\n" not in str(caught.value)


def test_saving_twice_tells_what_changed(tmp_path):
    config, _ = config_lib.parse_arguments([QUICKSTART, "--workdir=w"])
    assert config_lib.save(config, tmp_path) == []
    config.train.steps = 12
    changes = config_lib.save(config, tmp_path)
    assert len(changes) == 1 and "config.train.steps" in changes[0]
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 12
