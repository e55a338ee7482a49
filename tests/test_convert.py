"""Exported directories: what is written, what is read back, and what is refused."""

import dataclasses
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from kept_models import export_open_clip, params_of, read, save_run, state_dict
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bioclip2_jax.cli.export import export
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.open import CONFIG_FILE, WEIGHTS_FILE
from bioclip2_jax.weights.write import CARD_FILE

CONFIG = ClipConfig(
    embed_dim=24,
    vision=VisionConfig(image_size=24, patch_size=8, width=32, layers=3, head_width=16),
    text=TextConfig(width=16, heads=2, layers=2, context_length=12, vocab_size=50),
)
PREPROCESS = Preprocess(24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "squash", "bilinear")


@pytest.fixture(scope="module")
def params():
    params = jax.jit(lambda: clip.init_params(CONFIG, 0, replay_projection=True))()
    # Biases and scales too should differ from tensor to tensor.
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    noisy = [np.asarray(leaf + rng.normal(0, 0.1, leaf.shape), np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, noisy)


@pytest.fixture
def folder(params, tmp_path):
    export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "model")
    return tmp_path / "model"


def assert_equal_trees(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def without_replay(params):
    image = {name: leaf for name, leaf in params["image"].items() if name != "replay_projection"}
    return {**params, "image": image}


def test_what_is_exported_is_read_back_unchanged(params, folder):
    config, found, preprocess = read(folder)
    assert (config, preprocess) == (CONFIG, PREPROCESS)
    assert_equal_trees(found, without_replay(params))


def test_whoever_may_read_the_config_may_read_the_weights(folder):
    modes = {(folder / name).stat().st_mode for name in (WEIGHTS_FILE, CONFIG_FILE)}
    assert len(modes) == 1


def test_exporting_what_was_read_gives_the_same_bytes(folder, tmp_path):
    config, params, preprocess = read(folder)
    export_open_clip(params, config, preprocess, tmp_path / "again")
    for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_published_layout_of_vit_l14_is_met():
    abstract = clip.abstract_params(PRESETS["vit_l14"], replay_projection=True)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract)
    config = dataclasses.replace(
        PRESETS["vit_l14"], text=dataclasses.replace(PRESETS["vit_l14"].text, layers=1)
    )
    # One text layer of twelve keeps the test small; each holds twelve tensors.
    zeros["text"]["blocks"] = jax.tree.map(lambda leaf: leaf[:1], zeros["text"]["blocks"])
    zeros["image"]["blocks"] = jax.tree.map(lambda leaf: leaf[:1], zeros["image"]["blocks"])
    config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, layers=1))
    tensors = state_dict(zeros, config)
    assert len(tensors) == 446 - 12 * (23 + 11)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    block = "visual.transformer.resblocks.0"
    assert shapes["visual.conv1.weight"] == (1024, 3, 14, 14)
    assert shapes["visual.positional_embedding"] == (257, 1024)
    assert shapes["visual.proj"] == (1024, 768)
    assert shapes[f"{block}.attn.in_proj_weight"] == (3072, 1024)
    assert shapes[f"{block}.mlp.c_fc.weight"] == (4096, 1024)
    assert shapes[f"{block}.mlp.c_proj.weight"] == (1024, 4096)
    assert shapes["token_embedding.weight"] == (49408, 768)
    assert shapes["transformer.resblocks.0.attn.in_proj_bias"] == (2304,)
    assert shapes["logit_scale"] == ()
    assert "visual.continual_proj" not in shapes


def test_layers_are_taken_apart_in_order_and_linear_weights_turned(params):
    tensors = state_dict(params, CONFIG)
    for layer in range(3):
        np.testing.assert_array_equal(
            tensors[f"visual.transformer.resblocks.{layer}.mlp.c_fc.weight"],
            params["image"]["blocks"]["mlp"]["fc"]["kernel"][layer].T,
        )
    kernel = params["image"]["patch_embed"]["kernel"]
    assert tensors["visual.conv1.weight"][5, 2, 3, 7] == kernel[3, 7, 2, 5]


def test_the_originals_replay_projection_is_read_when_it_is_there(params):
    tensors = state_dict(params, CONFIG)
    tensors["visual.continual_proj"] = params["image"]["replay_projection"]
    assert_equal_trees(params_of(tensors, CONFIG), params)


def test_a_logit_scale_of_shape_one_is_read(params):
    tensors = state_dict(params, CONFIG)
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    assert params_of(tensors, CONFIG)["logit_scale"].shape == ()


def test_every_tensor_that_does_not_fit_is_named_in_one_error(params):
    tensors = state_dict(params, CONFIG)
    del tensors["ln_final.bias"]
    tensors["visual.proj"] = tensors["visual.proj"].T
    tensors["visual.head.weight"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as caught:
        params_of(tensors, CONFIG)
    message = str(caught.value)
    assert "ln_final.bias is missing" in message
    assert "visual.proj is [24, 32], expected [32, 24]" in message
    assert "visual.head.weight is not known" in message


def test_a_long_list_of_misfits_is_cut_and_counted(params):
    tensors = state_dict(params, CONFIG)
    kept = {name: value for name, value in tensors.items() if "resblocks" not in name}
    with pytest.raises(UserError, match="and 20 more"):  # 12 tensors in each of 5 blocks
        params_of(kept, CONFIG)


@pytest.mark.parametrize(
    ("dtype", "kind"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)]
)
def test_half_precision_is_stored_as_such_and_read_as_float32(params, tmp_path, dtype, kind):
    export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "half", dtype=dtype)
    with safe_open(tmp_path / "half" / WEIGHTS_FILE, framework="numpy") as file:
        stored = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert stored == {{"bfloat16": "BF16", "float16": "F16"}[dtype]}
    _, found, _ = read(tmp_path / "half")
    rounded = jax.tree.map(
        lambda leaf: leaf.astype(kind).astype(np.float32), without_replay(params)
    )
    assert_equal_trees(found, rounded)


def test_an_unknown_dtype_is_refused(params, tmp_path):
    with pytest.raises(UsageError, match="int8"):
        export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "x", dtype="int8")
    assert not list(tmp_path.iterdir())


def test_an_earlier_export_is_replaced_only_on_request(params, folder):
    with pytest.raises(UsageError, match="--overwrite"):
        export_open_clip(params, CONFIG, PREPROCESS, folder)
    (folder / "notes.txt").write_text("mine")
    changed = {**params, "logit_scale": np.float32(3)}
    export_open_clip(changed, CONFIG, PREPROCESS, folder, overwrite=True)
    assert read(folder)[1]["logit_scale"] == 3
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_or_file_of_other_things_is_left_alone(params, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("text")
    (tmp_path / "file").write_text("text")
    for name, words in (("thesis", "holds other files"), ("file", "is a file")):
        with pytest.raises(UsageError, match=words):
            export_open_clip(params, CONFIG, PREPROCESS, tmp_path / name, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "text"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_an_empty_folder_and_missing_parents_are_fine(params, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b"):
        export_open_clip(params, CONFIG, PREPROCESS, out)
        assert sorted(path.name for path in out.iterdir()) == [
            "README.md",
            "open_clip_config.json",
            "open_clip_model.safetensors",
        ]


def test_a_failed_export_leaves_nothing_behind(params, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bioclip2_jax.weights.write.write_safetensors", full)
    with pytest.raises(UserError, match="No space left on device"):
        export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def edit_config(folder, **changes):
    path = folder / CONFIG_FILE
    description = json.loads(path.read_text())
    for dotted, value in changes.items():
        node, _, leaf = dotted.rpartition("__")
        target = description[node] if node else description
        target[leaf] = value
    path.write_text(json.dumps(description))


def truncate(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


DAMAGES = {
    "no weights": (lambda f: (f / WEIGHTS_FILE).unlink(), "no weights here; looked for"),
    "cut weights": (lambda f: truncate(f / WEIGHTS_FILE, 0.5), "damaged or incomplete"),
    "empty weights": (lambda f: truncate(f / WEIGHTS_FILE, 0), "damaged or incomplete"),
    "weights are text": (
        lambda f: (f / WEIGHTS_FILE).write_text("version https://git-lfs\n" * 9),
        "damaged or incomplete",
    ),
    "cut config": (lambda f: truncate(f / CONFIG_FILE, 0.5), "config.json: not JSON"),
    "config of bytes": (
        lambda f: (f / CONFIG_FILE).write_bytes(b"\xff\xfe\x00"),
        "config.json: not UTF-8",
    ),
    "config is a list": (lambda f: (f / CONFIG_FILE).write_text("[]"), "not a JSON object"),
    "no model_cfg": (lambda f: (f / CONFIG_FILE).write_text("{}"), "model_cfg is missing"),
    "other sizes": (lambda f: edit_config(f, model_cfg__embed_dim=25), "expected .32, 25."),
    "size": (lambda f: edit_config(f, preprocess_cfg__size=32), "size 32 is not"),
    "resize": (lambda f: edit_config(f, preprocess_cfg__resize_mode="longest"), "'longest' is not"),
    "mean": (lambda f: edit_config(f, preprocess_cfg__mean=[1, 2]), "not three numbers"),
    "std": (lambda f: edit_config(f, preprocess_cfg__std="abc"), "not three numbers"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_directory_ends_in_one_sentence_that_names_the_file(folder, damage):
    harm, words = DAMAGES[damage]
    harm(folder)
    with pytest.raises(UserError, match=words) as caught:
        read(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_absent_preprocessing_means_open_clips_defaults(folder):
    edit_config(folder, preprocess_cfg=None)
    assert read(folder)[2] == Preprocess(24)
    edit_config(folder, preprocess_cfg={"mean": 0.5, "std": 0.5, "size": [24, 24]})
    assert read(folder)[2] == Preprocess(24, (0.5,) * 3, (0.5,) * 3)


# ---- The command


@pytest.fixture
def workdir(params, tmp_path):
    folder = tmp_path / "run"
    steps = {step: {**params, "logit_scale": np.array(step / 10, "f4")} for step in (10, 20)}
    save_run(folder, steps, CONFIG, PREPROCESS)
    return folder


def call(*arguments):
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


def test_the_newest_or_the_named_step_is_exported(workdir, tmp_path):
    for options, scale, name in (([], 2, "step 20"), (["--step", 10], 1, "step 10")):
        out = tmp_path / name
        result = call("--workdir", workdir, "--out", out, *options)
        assert result.exit_code == 0 and name in result.output
        config, found, preprocess = read(out)
        assert (config, preprocess, found["logit_scale"]) == (CONFIG, PREPROCESS, scale)


def test_a_step_that_is_not_there_is_an_error_that_lists_those_that_are(workdir, tmp_path):
    result = call("--workdir", workdir, "--step", 15, "--out", tmp_path / "x")
    assert isinstance(result.exception, UserError) and "10, 20" in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_an_exported_model_can_be_exported_in_another_precision(folder, tmp_path):
    result = call("--workdir", folder, "--out", tmp_path / "half", "--dtype", "bfloat16")
    assert result.exit_code == 0
    whole = (folder / WEIGHTS_FILE).stat().st_size
    assert (tmp_path / "half" / WEIGHTS_FILE).stat().st_size < 0.6 * whole


def test_the_card_tells_how_the_model_was_trained_and_how_well_it_does(workdir, tmp_path):
    from configs import quickstart

    config = quickstart.get_config()
    config.train.update(steps=600, learning_rate=0.001)
    (workdir / "config.json").write_text(config.to_json())
    ranks = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
    result = {"num_classes": 60, "num_images": 1234}
    result["ranks"] = {rank: {"top1": 0.1 * n, "chance": 0.01} for n, rank in enumerate(ranks)}
    (workdir / "eval" / "20").mkdir(parents=True)
    (workdir / "eval" / "20" / "zero_shot.json").write_text(json.dumps(result))
    few_shot = {"k": 5, "top1": 0.25, "std": 0.012, "num_classes": 1200}
    (workdir / "eval" / "20" / "few_shot_5.json").write_text(json.dumps(few_shot))
    (workdir / "eval" / "20" / "few_shot_5_support.json").write_text("[]")  # is none of them
    assert call("--workdir", workdir, "--out", tmp_path / "out").exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense:") and "library_name: open_clip" in card
    assert "| step | 20 of 600 |" in card and "| peak learning rate | 0.001 |" in card
    assert "60 taxa, 1,234 images" in card and "| class | 20.0 % | 1.0 % |" in card
    assert "| 5 | 25.0 % | 1.2 % | 1,200 |" in card
    shutil.rmtree(workdir / "eval")
    assert call("--workdir", workdir, "--out", tmp_path / "out", "--overwrite").exit_code == 0
    assert "Not evaluated." in (tmp_path / "out" / "README.md").read_text()


def test_a_damaged_result_is_named_and_nothing_is_written(workdir, tmp_path):
    (workdir / "eval" / "20").mkdir(parents=True)
    (workdir / "eval" / "20" / "zero_shot.json").write_text('{"num_classes": 60}')
    result = call("--workdir", workdir, "--out", tmp_path / "out")
    assert isinstance(result.exception, UserError) and "num_images" in str(result.exception)
    assert "zero_shot.json" in str(result.exception) and not (tmp_path / "out").exists()


def test_weights_of_the_original_training_code_lose_only_the_replay_projection(folder, tmp_path):
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors["visual.continual_proj"] = np.ones((32, 24), np.float32)
    save_file(tensors, folder / WEIGHTS_FILE)
    assert call("--workdir", folder, "--out", tmp_path / "out").exit_code == 0
    exported = load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert exported.keys() == tensors.keys() - {"visual.continual_proj"}
