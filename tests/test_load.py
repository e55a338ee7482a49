"""`bioclip2_jax.load` opens every form a model is kept in, and says so when it cannot."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from kept_models import export_open_clip, save_run

import bioclip2_jax
from bioclip2_jax.errors import UserError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.weights import load as loading
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.open import CONFIG_FILE

CONFIG = ClipConfig(
    embed_dim=24,
    vision=VisionConfig(image_size=16, patch_size=8, width=32, layers=2, head_width=16),
    text=TextConfig(width=16, heads=2, layers=2),
)
PREPROCESS = Preprocess(16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@functools.partial(jax.jit, static_argnums=0)
def random_params(seed: int) -> dict:
    return clip.init_params(CONFIG, seed, replay_projection=True)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A workdir with the steps 4 and 8, and an export of step 8."""
    root = tmp_path_factory.mktemp("models")
    steps = {step: random_params(step) for step in (4, 8)}
    save_run(root / "run", steps, CONFIG, PREPROCESS)
    export_open_clip(steps[8], CONFIG, PREPROCESS, root / "export")
    return root


@pytest.fixture(scope="module")
def model(places):
    return bioclip2_jax.load(places / "export")


def test_workdir_step_folder_and_export_are_the_same_model(places):
    found = [
        bioclip2_jax.load(places / "run"),
        bioclip2_jax.load(str(places / "run" / "checkpoints" / "8")),
        bioclip2_jax.load(places / "export"),
    ]
    assert [model.step for model in found] == [8, 8, None]
    expected = random_params(8)
    for model in found:
        assert (model.config, model.preprocess) == (CONFIG, PREPROCESS)
        assert model.logit_scale == pytest.approx(1 / 0.07)
        for tower in ("image", "text"):
            ours = {k: v for k, v in model.params[tower].items() if k != "replay_projection"}
            theirs = {name: expected[tower][name] for name in ours}
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert model.params["image"].keys() >= {"patch_embed", "blocks", "projection"}


def test_checkpoints_of_a_run_share_what_is_compiled(places, model):
    before, after = (bioclip2_jax.load(places / "run" / "checkpoints" / s) for s in ("4", "8"))
    first = before.encode_image(PIXELS)
    compiled = loading._encode_image._cache_size()
    second = after.encode_image(PIXELS)
    assert compiled == loading._encode_image._cache_size() > 0
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(second, after.encode_image(PIXELS))


def test_an_older_step_is_opened_by_its_folder(places, monkeypatch):
    model = bioclip2_jax.load(places / "run" / "checkpoints" / "4")
    expected = random_params(4)["image"]["projection"]
    assert model.step == 4
    np.testing.assert_array_equal(model.params["image"]["projection"], expected)
    monkeypatch.chdir(places / "run" / "checkpoints")
    assert bioclip2_jax.load("4").step == 4
    monkeypatch.chdir(places / "run")
    assert bioclip2_jax.load(".").step == 8


def test_bytes_are_normalised_with_the_models_own_statistics(model):
    floats = (PIXELS / 255 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    from_bytes = model.encode_image(PIXELS)
    np.testing.assert_allclose(from_bytes, model.encode_image(floats.astype("f4")), atol=1e-6)
    assert from_bytes.dtype == np.float32 and from_bytes.shape == (3, 24)
    np.testing.assert_allclose(np.linalg.norm(from_bytes, axis=1), 1, rtol=1e-6)


def test_bfloat16_gives_nearly_the_same_features(model, places):
    fast = bioclip2_jax.load(places / "export", "bfloat16")
    features = fast.encode_image(PIXELS)
    assert features.dtype == np.float32
    assert 1e-4 < np.abs(features - model.encode_image(PIXELS)).max() < 0.02
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, not 'half'"):
        bioclip2_jax.load(places / "export", "half")


@pytest.mark.parametrize("count", [0, 3, 4, 7, 8, 9])
def test_a_cpu_encodes_group_after_group(count, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(loading, "CPU_TOKENS", 40)
    seen = []

    def encode(rows):
        seen.append(len(rows))
        return 2 * rows

    batch = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    np.testing.assert_array_equal(loading._in_groups(encode, batch, 10), 2 * batch)
    assert sorted(set(seen)) == {7: [3, 4], 8: [4], 9: [3]}.get(count, [count])


def test_texts_go_from_words_to_features(model):
    tokens = bioclip2_jax.tokenize(["a photo of Pica pica.", "a photo of Poa annua."])
    assert tokens.shape == (2, 77) and tokens.dtype == np.int32
    features = model.encode_text(tokens)
    assert features.dtype == np.float32 and features.shape == (2, 24)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(model.encode_text(tokens[:, :16]), features, atol=1e-6)
    assert not np.allclose(features[0], features[1], atol=1e-4)


def test_no_pictures_give_no_features(model):
    assert model.encode_image(PIXELS[:0]).shape == (0, 24)


@pytest.mark.parametrize(
    "images", [PIXELS[0], PIXELS[:, :8], PIXELS.transpose(0, 3, 1, 2), PIXELS.astype(np.int32)]
)
def test_arrays_that_are_no_pictures_are_refused(model, images):
    with pytest.raises(ValueError, match="images must be"):
        model.encode_image(images)


@pytest.mark.parametrize("tokens", [np.zeros((2, 78), int), np.zeros(77, int), np.zeros((2, 77))])
def test_arrays_that_are_no_tokens_are_refused(model, tokens):
    with pytest.raises(ValueError, match="tokens must be"):
        model.encode_text(tokens)


def test_a_place_without_a_model_is_named_with_what_was_looked_for(places, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no model here; looked for") as caught:
            bioclip2_jax.load(path)
        assert str(path) in str(caught.value) and CONFIG_FILE in str(caught.value)


def test_a_missing_step_is_an_error_that_lists_the_others(places):
    with pytest.raises(UserError, match="there are 4, 8"):
        bioclip2_jax.load(places / "run" / "checkpoints" / "6")


@pytest.fixture
def run(places, tmp_path):
    return shutil.copytree(places / "run", tmp_path / "run")


def test_a_run_without_its_description_names_that_file(run):
    (run / "model.json").unlink()
    with pytest.raises(UserError, match="model.json: cannot be read"):
        bioclip2_jax.load(run)


def test_a_description_of_another_model_is_noticed(run):
    description = json.loads((run / "model.json").read_text())
    description["model_cfg"]["embed_dim"] = 32
    (run / "model.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="3 tensors do not fit .* image/projection"):
        bioclip2_jax.load(run)


def test_features_stay_on_the_devices_the_pictures_were_spread_over(model):
    devices = jax.devices()
    mesh = jax.sharding.Mesh(devices, ("batch",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    many = np.resize(PIXELS, (len(devices), 16, 16, 3))
    features = model.encode_image(jax.device_put(many, spread))
    assert features.sharding.device_set == set(devices)
    np.testing.assert_allclose(features, model.encode_image(many), atol=1e-6)
