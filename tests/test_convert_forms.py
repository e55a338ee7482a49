"""`bioclip2 convert` between the forms that need no PyTorch."""

import json
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from kept_models import export_open_clip, params_of, read, save_run, source_of, state_dict
from processes import arguments as arguments_of_run
from processes import run_here, short_data
from safetensors.numpy import load_file, save_file

import bioclip2_jax
from bioclip2_jax import train
from bioclip2_jax.cli.convert import convert
from bioclip2_jax.cli.evaluate import evaluate as evaluate_command
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.text import tokenizer
from bioclip2_jax.training import start
from bioclip2_jax.training.recipe import compose, parse_recipe
from bioclip2_jax.weights import checkpoint, layout, transformers
from bioclip2_jax.weights.description import Preprocess, write_description
from bioclip2_jax.weights.infer import infer_config
from bioclip2_jax.weights.open import CONFIG_FILE, WEIGHTS_FILE, open_source
from bioclip2_jax.weights.tensors import Tensor
from bioclip2_jax.weights.write import write

CONFIG = ClipConfig(
    embed_dim=20,
    vision=VisionConfig(image_size=24, patch_size=6, width=48, layers=3, head_width=16),
    text=TextConfig(width=32, heads=2, layers=2, context_length=16, vocab_size=60),
)
PREPROCESS = Preprocess(24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "squash", "bilinear")


def random_params(config: ClipConfig, replay_projection: bool = False) -> dict:
    rng = np.random.default_rng(0)
    abstract = clip.abstract_params(config, replay_projection=replay_projection)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype("f4"), abstract)
    return params | {"logit_scale": np.array(2.5, "f4")}


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG, replay_projection=True)


@pytest.fixture
def folder(params, tmp_path):
    export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "open_clip")
    return tmp_path / "open_clip"


def call(*arguments):
    return CliRunner().invoke(convert, [str(argument) for argument in arguments])


def succeed(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.exception or result.output
    return result.output


def tensors_of_file(path):
    return {name: (value.dtype, value.tobytes()) for name, value in load_file(path).items()}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- Round trips


def test_open_clip_to_ours_and_back_gives_the_same_bytes(folder, tmp_path):
    succeed(folder, tmp_path / "ours")
    assert names_in(tmp_path / "ours") == ["checkpoints", "model.json"]
    succeed(tmp_path / "ours", tmp_path / "back")
    before, after = (tensors_of_file(x / WEIGHTS_FILE) for x in (folder, tmp_path / "back"))
    assert before == after
    assert (folder / CONFIG_FILE).read_text() == (tmp_path / "back" / CONFIG_FILE).read_text()


def test_ours_to_transformers_and_back_gives_the_same_bytes(folder, tmp_path):
    succeed(folder, tmp_path / "ours")
    output = succeed(tmp_path / "ours", tmp_path / "hf", "--to", "transformers")
    assert "CLIPModel.from_pretrained" in output
    succeed(tmp_path / "hf", tmp_path / "back", "--to", "open_clip")
    before, after = (tensors_of_file(x / WEIGHTS_FILE) for x in (folder, tmp_path / "back"))
    assert before == after
    assert (folder / CONFIG_FILE).read_text() == (tmp_path / "back" / CONFIG_FILE).read_text()


def test_every_form_is_loaded_and_gives_the_same_features(folder, tmp_path):
    succeed(folder, tmp_path / "ours")
    succeed(folder, tmp_path / "hf", "--to", "transformers")
    forms = [folder, tmp_path / "ours", tmp_path / "hf", folder / WEIGHTS_FILE]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    features = [np.asarray(bioclip2_jax.load(form).encode_image(pixels)) for form in forms]
    for other in features[1:]:
        np.testing.assert_array_equal(other, features[0])


def test_the_transformers_folder_holds_what_its_tokenizer_and_processor_need(folder, tmp_path):
    succeed(folder, tmp_path / "hf", "--to", "transformers")
    files = {name: (tmp_path / "hf" / name) for name in names_in(tmp_path / "hf")}
    processor = json.loads(files["preprocessor_config.json"].read_text())
    assert processor["size"] == {"height": 24, "width": 24} and not processor["do_center_crop"]
    assert processor["resample"] == 2 and processor["image_mean"] == [0.1, 0.2, 0.3]
    vocabulary = json.loads(files["vocab.json"].read_text())
    assert len(vocabulary) == 49408 and vocabulary["<|endoftext|>"] == tokenizer.END
    assert len(files["merges.txt"].read_text().splitlines()) == 48895
    assert "library_name: transformers" in files["README.md"].read_text()


def test_the_replay_projection_is_kept_in_a_checkpoint_and_elsewhere_on_request(params, tmp_path):
    export_open_clip(params, CONFIG, PREPROCESS, tmp_path / "both", keep_replay_projection=True)
    stored = load_file(tmp_path / "both" / WEIGHTS_FILE)
    np.testing.assert_array_equal(
        stored["visual.continual_proj"], params["image"]["replay_projection"]
    )
    succeed(tmp_path / "both", tmp_path / "ours")
    jax.tree.map(np.testing.assert_array_equal, read(tmp_path / "ours")[1], params)
    succeed(tmp_path / "ours", tmp_path / "kept", "--keep-replay-projector")
    succeed(tmp_path / "ours", tmp_path / "dropped")
    kept, dropped = (
        load_file(tmp_path / name / WEIGHTS_FILE).keys() for name in ("kept", "dropped")
    )
    assert kept - dropped == {"visual.continual_proj"}


def test_a_transformers_model_in_several_files_is_read(folder, tmp_path):
    succeed(folder, tmp_path / "hf", "--to", "transformers")
    whole = load_file(tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "model.safetensors").unlink()
    names = sorted(whole)
    home = {}
    for number, part in enumerate((names[:50], names[50:])):
        file = f"model-{number}.safetensors"
        save_file({name: whole[name] for name in part}, tmp_path / "hf" / file)
        home |= dict.fromkeys(part, file)
    index = tmp_path / "hf" / transformers.INDEX_FILE
    index.write_text(json.dumps({"weight_map": home}))
    jax.tree.map(np.testing.assert_array_equal, read(tmp_path / "hf")[1], read(folder)[1])
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(UserError, match="outside its folder"):
        open_source(tmp_path / "hf")


@pytest.mark.parametrize("changed", ["hidden_act", "layer_norm_eps", "model_type", "heads", "mlp"])
def test_a_transformers_model_that_is_no_plain_clip_is_refused(folder, tmp_path, changed):
    succeed(folder, tmp_path / "hf", "--to", "transformers")
    path = tmp_path / "hf" / "config.json"
    config = json.loads(path.read_text())
    if changed == "model_type":
        config["model_type"] = "siglip"
    elif changed == "heads":
        config["vision_config"]["num_attention_heads"] = 5
    elif changed == "mlp":
        config["text_config"]["intermediate_size"] = 100
    else:
        config["vision_config"][changed] = "silu" if changed == "hidden_act" else 1e-6
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json"):
        open_source(tmp_path / "hf")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_goes_through_every_form_without_further_loss(folder, tmp_path, dtype):
    succeed(folder, tmp_path / "half", "--to", "open_clip", "--dtype", dtype)
    succeed(tmp_path / "half", tmp_path / "hf", "--to", "transformers", "--dtype", dtype)
    succeed(tmp_path / "hf", tmp_path / "ours")
    succeed(tmp_path / "ours", tmp_path / "again", "--to", "open_clip", "--dtype", dtype)
    before, after = (tmp_path / name / WEIGHTS_FILE for name in ("half", "again"))
    jax.tree.map(np.testing.assert_array_equal, read(before)[1], read(after)[1])


# ---- Bare weight files


@pytest.mark.parametrize("name", PRESETS)
def test_the_sizes_of_every_preset_are_inferred_from_its_tensors(name):
    config = PRESETS[name]
    tensors = {
        name: Tensor(leaf.their_shape, "float32", None)
        for leaf in layout.leaves(config)
        for name in leaf.theirs
    }
    assert infer_config(tensors) == config
    other = tensors | {"input_resolution": Tensor((), "float32", None)}  # as in OpenAI's own files
    assert infer_config(other) == replace(config, quick_gelu=True)


def test_a_bare_file_whose_heads_cannot_be_known_asks_for_its_config(params, tmp_path):
    path = tmp_path / "bare.safetensors"
    save_file(state_dict(params, CONFIG), path)
    with pytest.raises(UserError, match="bare.safetensors.*heads is unknown.*--model-config"):
        open_source(path)
    (tmp_path / "x.json").write_text(json.dumps(write_description(CONFIG, PREPROCESS)))
    succeed(path, tmp_path / "named", "--model-config", tmp_path / "x.json")
    (tmp_path / "x.json").rename(tmp_path / CONFIG_FILE)
    succeed(path, tmp_path / "beside")
    for name in ("named", "beside"):
        assert read(tmp_path / name)[0] == CONFIG


def test_what_was_assumed_about_a_bare_file_is_said(tmp_path):
    config = replace(
        CONFIG,
        vision=replace(CONFIG.vision, width=128, head_width=64),
        text=replace(CONFIG.text, width=64, heads=1),
    )
    save_file(state_dict(random_params(config), config), tmp_path / "bare.safetensors")
    result = call(tmp_path / "bare.safetensors", tmp_path / "ours", "--heads", 2)
    assert "2 and 1 heads, GELU and CLIP's mean" in result.output
    assert read(tmp_path / "ours")[0] == config


def test_pytorchs_own_format_without_pytorch_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(UserError, match="pip install torch"):
        open_source(tmp_path / "model.pt")
    source = source_of(random_params(CONFIG), CONFIG, PREPROCESS)
    with pytest.raises(UserError, match="pip install torch"):
        write(source, tmp_path / "out.pt", "pt")
    assert names_in(tmp_path) == ["model.pt"]


# ---- Position embeddings


def test_position_embeddings_are_resized_on_request(folder, params, tmp_path):
    result = call(folder, tmp_path / "large", "--image-size", 48)
    assert "position embeddings resized to 48 pixels" in result.output
    config, found, preprocess = read(tmp_path / "large")
    assert (config.vision.image_size, preprocess.size) == (48, 48)
    assert found["image"]["position_embedding"].shape == (1 + 64, 48)
    before = params["image"]["position_embedding"]
    np.testing.assert_array_equal(found["image"]["position_embedding"][0], before[0])
    flat = np.concatenate([before[:1], np.full((16, 48), 0.25, np.float32)])
    np.testing.assert_allclose(layout.resize_position_embedding(flat, 8)[1:], 0.25, rtol=1e-6)


def test_an_image_size_that_patches_do_not_divide_is_refused(folder, tmp_path):
    result = call(folder, tmp_path / "x", "--image-size", 25)
    assert isinstance(result.exception, UserError) and "patches of 6 pixels" in str(
        result.exception
    )
    assert not (tmp_path / "x").exists()


# ---- Training from converted weights


def test_training_starts_from_a_converted_model_of_any_size_and_resumes(tmp_path):
    config = replace(
        CONFIG,
        vision=VisionConfig(image_size=32, patch_size=8, width=48, layers=1, head_width=24),
        text=TextConfig(width=32, heads=4, layers=1),
        quick_gelu=True,
    )
    export_open_clip(random_params(config), config, Preprocess(32), tmp_path / "open_clip")
    succeed(tmp_path / "open_clip", tmp_path / "ours")
    data = short_data(tmp_path / "data")

    def run(workdir, steps):
        init = f"--config.init={tmp_path / 'ours'}", "--config.model.name=init"
        changes = {"steps": steps, "warmup_steps": 0, "learning_rate": 0.0, "checkpoint_every": 1}
        run_here(arguments_of_run(workdir, data, *init, **changes))

    run(tmp_path / "run", steps=1)
    jax.tree.map(
        np.testing.assert_array_equal, read(tmp_path / "run")[1], read(tmp_path / "ours")[1]
    )
    assert read(tmp_path / "run")[0] == config
    (tmp_path / "ours").rename(tmp_path / "moved")  # a resumed run no longer needs it
    run(tmp_path / "run", steps=2)
    assert checkpoint.latest_step(tmp_path / "run") == 2
    with pytest.raises(UserError, match="a converted model, not a training run"):
        run(tmp_path / "moved", steps=2)


def test_fine_tuning_as_the_pages_say_it_is_compared_with_what_it_began_with(tmp_path, capfd):
    vision = VisionConfig(image_size=32, patch_size=16, width=32, layers=1, head_width=16)
    config = replace(CONFIG, vision=vision)
    export_open_clip(random_params(config), config, Preprocess(32), tmp_path / "open_clip")
    succeed(tmp_path / "open_clip", tmp_path / "ours")
    data = short_data(tmp_path / "data")

    def evaluate(*more):
        fixed = ["--data", data, "--split", "train", "--tasks", "zero_shot"]
        done = CliRunner().invoke(evaluate_command, list(map(str, [*fixed, *more])))
        assert done.exit_code == 0, done.output
        return done.output

    evaluate("--model", tmp_path / "ours", "--out", tmp_path / "before")
    _, *arguments = arguments_of_run(tmp_path / "tuned", data, "--config.model.block_parts=1")
    arguments += [f"--config.init={tmp_path / 'ours'}", "--config.train.learning_rate=0.001"]
    recipe = train.Path(__file__).parent.parent / "configs" / "finetune_hierarchy.py"
    run_here([f"--config={recipe}", *arguments])
    assert "config.data.mean is (0.485, 0.456, 0.406), where it had" in capfd.readouterr().err
    steps = (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == 12 and all("level_loss" in json.loads(line) for line in steps)
    said = evaluate("--workdir", tmp_path / "tuned", "--compare-to", tmp_path / "before")
    assert "compared with" in said and "asked otherwise" not in said and "kingdom" in said


def test_starting_weights_of_another_image_size_are_resized(tmp_path):
    config = PRESETS["tiny"]
    small = replace(config, vision=replace(config.vision, image_size=32))
    export_open_clip(random_params(small), small, Preprocess(32), tmp_path / "small")
    recipe = train.Path(__file__).parent.parent / "configs" / "quickstart.py"
    arguments = [f"--config={recipe}", f"--config.init={tmp_path / 'small'}"]
    settings = compose(parse_recipe(arguments))
    source = start.starting_source(settings, config)
    image = start.starting_params(settings, source)["image"]
    assert image["position_embedding"].shape == (65, 128) and "replay_projection" not in image
    (note,) = start.pixel_notes(settings, source)
    assert "config.data.mean is (0.485, 0.456, 0.406), where it had (0.48145466, " in note
    assert "config.data.std" in note and "size" not in note and "resize_mode" not in note
    assert "where CLIP had" in start.pixel_notes(settings, replace(source, kind="weights"))[0]
    own = [f"--config.data.{key}={getattr(source.preprocess, key)}" for key in ("mean", "std")]
    assert start.pixel_notes(compose(parse_recipe([*arguments, *own])), source) == []
    settings = compose(parse_recipe([*arguments, "--config.train.replay_batch_size=8"]))
    image = start.starting_params(settings, source)["image"]
    np.testing.assert_array_equal(image["replay_projection"], image["projection"])
    with pytest.raises(UserError, match="its weights are not of a tiny model"):
        start.starting_source(settings, replace(config, quick_gelu=True))


# ---- Verification


def test_verification_prints_every_tensor_and_the_features(folder, tmp_path):
    output = succeed(folder, tmp_path / "ours", "--verify")
    assert output.count(" same") == len(load_file(folder / WEIGHTS_FILE))
    assert "0 differ" in output and "written, in bioclip2_jax" in output


def test_a_conversion_that_is_not_exact_leaves_nothing(folder, tmp_path, monkeypatch):
    true = layout.read_leaves

    def damaged(tensors, config):
        for name, value in true(tensors, config):
            yield name, np.asarray(value + (name == "image/projection") * np.float32(1e-3))

    monkeypatch.setattr(layout, "read_leaves", damaged)
    monkeypatch.setattr(layout, "read_leaves", damaged)
    result = call(folder, tmp_path / "ours", "--verify")
    assert isinstance(result.exception, UserError) and "DIFFERS" in str(result.exception)
    assert names_in(tmp_path) == ["open_clip"]


# ---- Wrong calls


def test_wrong_calls_are_usage_errors_and_change_nothing(folder, params, tmp_path):
    save_run(tmp_path / "run", {3: params}, CONFIG, PREPROCESS)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for arguments, words in (
        ((folder, tmp_path / "x", "--dtype", "bfloat16"), "holds float32"),
        ((folder, tmp_path / "x", "--to", "pt"), "ends in .pt"),
        ((folder, tmp_path / "x", "--to", "transformers", "--keep-replay-projector"), "no place"),
        ((folder, tmp_path / "x", "--revision", "main"), "--revision is for"),
        ((folder, tmp_path / "x", "--model-config", folder / CONFIG_FILE), "--model-config is"),
        ((tmp_path / "run", folder), "already holds a model"),
        ((folder, tmp_path / "run"), "holds other files"),
    ):
        result = call(*arguments)
        assert isinstance(result.exception, UsageError), result.output
        assert words in str(result.exception)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_model_in_memory_is_the_inverse_of_its_state_dict(params):
    found = params_of(state_dict(params, CONFIG, replay_projection=True), CONFIG)
    jax.tree.map(np.testing.assert_array_equal, found, params)
