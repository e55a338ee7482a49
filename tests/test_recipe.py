"""Recipes load, overrides apply, and every mistake ends in one clear sentence."""

import json
import math
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from bioclip2_jax import files
from bioclip2_jax.errors import UsageError
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.training import ranges, recipe, start
from configs import common, quickstart

RECIPES = Path(__file__).parent.parent / "configs"
QUICKSTART = f"--config={RECIPES / 'quickstart.py'}"
KEYS = (
    "data.dir data.replay_dir train.steps train.batch_size train.replay_batch_size"
    " train.checkpoint_every mesh.data mesh.fsdp model.name seed"
).split()


@pytest.mark.parametrize("name", sorted(p.name for p in RECIPES.glob("[!_c]*.py")))
def test_every_recipe_loads_and_has_the_common_keys(name):
    config, _ = recipe.parse_arguments([f"--config={RECIPES / name}", "--workdir=w"])
    assert set(KEYS) <= set(flatten_dict(config.to_dict(), sep="."))
    assert recipe.compose(config).model in (*PRESETS, "init")


def test_the_papers_recipe_has_the_papers_numbers():
    settings = recipe.compose(recipe.parse_recipe([f"--config={RECIPES / 'bioclip2_vitl14.py'}"]))
    step, optimizer = settings.step, settings.step.optimizer
    assert (step.batch_size, step.replay_batch_size) == (90_112, 10_240)
    assert (optimizer.steps, optimizer.warmup_steps) == (71_280, 1_875)
    assert (optimizer.learning_rate, optimizer.weight_decay) == (1e-4, 0.2)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.98, 1e-6)
    assert step.mean == (0.485, 0.456, 0.406) and step.std == (0.229, 0.224, 0.225)
    assert settings.data.crop_scale == (0.9, 1.0)


def test_the_papers_recipe_with_hierarchy_differs_in_the_level_loss_alone():
    papers, ours = (
        flatten_dict(recipe.parse_recipe([f"--config={RECIPES / f'{name}.py'}"]).to_dict(), sep=".")
        for name in ("bioclip2_vitl14", "bioclip2_vitl14_hierarchy")
    )
    assert {key for key in ours if ours[key] != papers[key]} == {"train.level_weight"}
    assert papers["train.level_weight"] == 0 < ours["train.level_weight"]


def test_overrides_reach_nested_keys():
    config, workdir = recipe.parse_arguments(
        [QUICKSTART, "--config.train.steps=7", "--config.data.dir=my data", "--workdir", "there"]
    )
    settings = recipe.compose(config)
    assert settings.steps == settings.data.steps == settings.step.optimizer.steps == 7
    assert settings.data.dir == "my data" and workdir == Path("there")


@pytest.mark.parametrize("words", [["--config", QUICKSTART[9:]], ["-config", QUICKSTART[9:]]])
def test_the_recipe_may_be_a_word_of_its_own(words):
    assert recipe.parse_recipe([*words, "--config.seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model.dtype", "float16", "config.model.dtype='float16' is not one of"),
        ("model.param_dtype", "int8", "config.model.param_dtype='int8' is not one of"),
        ("model.remat", "some", "config.model.remat='some' is not one of"),
        ("model.attention", "flash", "config.model.attention='flash' is not one of"),
        ("model.block_parts", 2, "block_parts above 1 needs config.model.remat=full"),
        ("model.remat_share", 1.5, "config.model.remat_share=1.5 must be in"),
        ("model.block_parts", 0, "config.model.block_parts=0 must be at least 1"),
        ("train.batch_size", 0, "config.train.batch_size=0 must be at least 1"),
        ("train.micro_batches", 0, "config.train.micro_batches=0 must be at least 1"),
        ("train.loss_tile", -1, "config.train.loss_tile=-1 must be at least 1"),
        ("train.keep_checkpoints", 0, "config.train.keep_checkpoints=0 must be at least 1"),
        ("train.patch_keep", 0.0, "config.train.patch_keep=0.0 must be in"),
        ("train.level_weight", -0.5, "config.train.level_weight=-0.5 must be at least 0"),
        ("train.level_draw", (0.5, 0.5), "say how often each of kingdom, .* genus is drawn"),
        ("train.level_draw", (0.0,) * 6, "say how often"),
        ("train.level_draw", (-0.5,) + (0.5,) * 5, "config.train.level_draw=.* must be at least 0"),
        ("data.resize_mode", "longest", "'longest' is not one of shortest, squash"),
        ("data.interpolation", "nearestt", "'nearestt' is not one of bicubic, bilinear"),
        ("data.mean", (0.5, 0.5), "config.data.mean=.* must be 3 numbers"),
        ("data.mean", (0.5, 0.5, math.nan), "config.data.mean=.* must be finite"),
        ("data.std", (0.5, 0.0, 0.5), "config.data.std=.* must be above 0"),
        ("data.crop_scale", (0.0, 1.0), r"config.data.crop_scale=.* must be in \(0, 1\]"),
        ("data.crop_scale", (0.5, 1.5), r"config.data.crop_scale=.* must be in \(0, 1\]"),
        ("data.crop_scale", (1.0, 0.9), "the smaller share comes first"),
        ("data.color_jitter", -0.1, r"must be in \[0, 1\]"),
        ("data.max_unreadable", 1.5, r"must be in \[0, 1\]"),
        ("data.workers", -1, "config.data.workers=-1 must be at least 0"),
        ("data.threads", 0, "config.data.threads=0 must be at least 1"),
        ("train.learning_rate", math.nan, "config.train.learning_rate=nan must be at least 0"),
        ("train.learning_rate", math.inf, "config.train.learning_rate=inf must be at least 0"),
        ("train.learning_rate", -1.0, "config.train.learning_rate=-1.0 must be at least 0"),
        ("train.beta1", 1.0, r"config.train.beta1=1.0 must be in \[0, 1\)"),
        ("train.beta2", 1.5, r"config.train.beta2=1.5 must be in \[0, 1\)"),
        ("train.epsilon", 0.0, "config.train.epsilon=0.0 must be above 0"),
        ("train.weight_decay", -0.1, "config.train.weight_decay=-0.1 must be at least 0"),
        ("train.warmup_steps", -1, "config.train.warmup_steps=-1 must be at least 0"),
        ("train.momentum_dtype", "int8", "config.train.momentum_dtype='int8' is not one of"),
        ("train.replay_batch_size", -8, "must be at least 0"),
        ("train.schedule", "sine", "'sine' is not one of cosine, constant, linear, trapezoid"),
        ("train.schedule", "trapezoid", "needs config.train.cooldown_steps"),
        ("train.clip_gradients", -1.0, "config.train.clip_gradients=-1.0 must be at least 0"),
        ("train.skip_nonfinite", -1, "config.train.skip_nonfinite=-1 must be at least 0"),
        ("train.stuck_minutes", 0.0, "config.train.stuck_minutes=0.0 must be above 0"),
        ("data.prefetch", 0, "config.data.prefetch=0 must be at least 1"),
        ("train.steps", 0, "config.train.steps=0 must be at least 1"),
        ("seed", -1, r"config.seed=-1 must be in \[0, 4294967295\]"),
        ("seed", 2**32, r"config.seed=4294967296 must be in"),
    ],
)
def test_an_impossible_setting_is_named(key, value, sentence):
    config = recipe.parse_recipe([QUICKSTART])
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UsageError, match=sentence):
        recipe.compose(config)


@pytest.mark.parametrize("changes", [["warmup_steps=401"], ["warmup_steps=9", "steps=8"]])
def test_a_warm_up_longer_than_the_run_is_refused(changes):
    with pytest.raises(UsageError, match="is longer than the run, config.train.steps="):
        recipe.parse_recipe([QUICKSTART, *(f"--config.train.{change}" for change in changes)])


def test_a_run_cut_short_for_a_try_may_end_within_its_warm_up():
    assert recipe.parse_recipe([QUICKSTART, "--config.train.steps=20"]).train.warmup_steps == 50


@pytest.mark.parametrize(("platform", "dtype"), [("cpu", "bfloat16"), ("gpu", "float32")])
def test_kernels_that_the_devices_lack_are_refused(platform, dtype):
    with pytest.raises(UsageError, match="attention=cudnn needs an NVIDIA GPU"):
        ranges.check_devices("cudnn", dtype, platform)
    ranges.check_devices("cudnn", "bfloat16", "gpu")
    ranges.check_devices("packed", dtype, platform)


@pytest.mark.parametrize("key", ["data.dir", "data.replay_dir", "init", "compile_cache"])
def test_places_of_another_kind_are_refused_in_a_sentence(key):
    config = recipe.parse_recipe([QUICKSTART, f"--config.{key}=s3://bucket/data"])
    with pytest.raises(UsageError, match=f"config.{key}: s3://bucket/data: s3:// is not read"):
        recipe.compose(config)


def test_a_workdir_may_be_in_a_bucket():
    _, workdir = recipe.parse_arguments([QUICKSTART, "--workdir=gs://bucket/run"])
    assert str(workdir) == "gs://bucket/run" and files.is_remote(workdir)


@pytest.mark.parametrize(
    ("workdir", "cache", "place"),
    [
        ("/runs/a", "compile_cache", "/runs/a/compile_cache"),
        ("gs://bucket/a", "compile_cache", "gs://bucket/a/compile_cache"),
        ("gs://bucket/a", "/tmp/cache", "/tmp/cache"),
        ("/runs/a", "gs://bucket/cache", "gs://bucket/cache"),
    ],
)
def test_compiled_steps_are_kept_in_the_workdir_or_where_a_whole_name_says(workdir, cache, place):
    config = recipe.parse_recipe([QUICKSTART, f"--config.compile_cache={cache}"])
    folder = start.cache_folder(recipe.compose(config), files.place(workdir))
    assert str(folder) == place


def test_a_recipe_without_a_key_or_of_another_type_is_named():
    config = quickstart.get_config()
    del config.train.epsilon
    with pytest.raises(UsageError, match="epsilon"):
        recipe.compose(config)
    config.train.epsilon = "small"
    with pytest.raises(UsageError, match="epsilon"):
        recipe.compose(config)
    del config.model
    with pytest.raises(UsageError, match="no 'model'"):
        recipe.compose(config)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([QUICKSTART, "--workdir=w", "--config.train.stepz=3"], "did you mean config.train.steps"),
        ([QUICKSTART, "--workdir=w", "--config.sead=3"], "did you mean config.seed"),
        ([QUICKSTART, "--workdir=w", "--config.train.steps=many"], "steps"),
        ([QUICKSTART, "--workdirr=w"], "workdir"),
        ([QUICKSTART], "--workdir is missing"),
        (["--workdir=w"], "--config is missing"),
        ([QUICKSTART, "--workdir=gcs://b/run"], "gcs:// is not read or written; name a folder or"),
        (["--config=no/such.py", "--workdir=w"], "no such recipe file"),
        ([QUICKSTART, "--workdir=w", "stray"], "unexpected argument 'stray'"),
        ([QUICKSTART, QUICKSTART, "--workdir=w"], "Overriding config is not allowed"),
        ([QUICKSTART, "--workdir=w", "-c"], "Unknown command line flag 'c'"),
    ],
)
def test_a_mistake_in_the_call_is_one_sentence(arguments, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        recipe.parse_arguments(arguments)
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
    path = folder / "bad.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=sentence) as caught:
        recipe.parse_arguments([f"--config={path}", "--workdir=w"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("begun", [{}, {"decode": "fast", "order": 1}])
def test_a_run_keeps_the_pixels_and_the_order_that_it_began_with(tmp_path, begun):
    config = common.get_config()
    assert recipe.keep_as_begun(config, tmp_path) == []
    assert (config.data.decode, config.data.order) == ("simd", 2)
    (tmp_path / "config.json").write_text(json.dumps({"data": begun}))
    expected = begun.get("decode", "pillow")  # before there was the key
    for _ in range(2):
        config = common.get_config()
        notes = recipe.keep_as_begun(config, tmp_path)
        assert notes == [
            f"config.data.decode stays {expected!r}, as this run began",
            "config.data.order stays 1, as this run began",
        ]
        data = recipe.compose(config).data
        assert (data.decode, data.order) == (expected, 1)
        recipe.save(recipe.compose(config), tmp_path)


def test_an_unknown_way_of_decoding_is_named():
    config = recipe.parse_recipe([QUICKSTART, "--config.data.decode=opencv"])
    with pytest.raises(UsageError, match="opencv.*decode"):
        recipe.compose(config)


def test_saving_twice_tells_what_changed(tmp_path):
    config = recipe.parse_recipe([QUICKSTART])
    assert recipe.save(recipe.compose(config), tmp_path) == []
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(config.to_json())
    config.train.steps = 12
    changes = recipe.save(recipe.compose(config), tmp_path)
    assert changes == ["config.train.steps was 400, is 12"]
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 12


def test_a_run_begun_with_soft_targets_is_refused_and_one_without_goes_on(tmp_path):
    config = quickstart.get_config()
    for weights in ([], [0.5] * 7):
        begun = config.to_dict()
        begun["train"]["rank_weights"] = weights
        (tmp_path / "config.json").write_text(json.dumps(begun))
        if weights:
            with pytest.raises(UsageError, match="begun with config.train.rank_weights"):
                recipe.keep_as_begun(config, tmp_path)
        else:
            assert recipe.keep_as_begun(config, tmp_path) == []


def test_a_run_begun_before_the_level_loss_stays_without_at_every_start(tmp_path):
    begun = quickstart.get_config().to_dict()
    del begun["train"]["level_weight"]
    (tmp_path / "config.json").write_text(json.dumps(begun))
    for _ in range(3):
        config = quickstart.get_config()
        notes = recipe.keep_as_begun(config, tmp_path)
        assert notes == ["config.train.level_weight stays 0.0, as this run began"]
        settings = recipe.compose(config)
        assert settings.step.level_weight == 0
        assert recipe.save(settings, tmp_path) == []
