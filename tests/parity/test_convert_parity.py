"""Weights of open_clip, PyTorch and transformers: read, written, used by their own libraries."""

import json
import pickle

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from kept_models import export_open_clip, read, state_dict

from bioclip2_jax.cli.convert import convert
from bioclip2_jax.errors import UserError
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights.description import Preprocess, to_open_clip
from bioclip2_jax.weights.open import CONFIG_FILE, WEIGHTS_FILE, open_source
from bioclip2_jax.weights.write import LAYOUTS, write

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
measures = pytest.importorskip("measures")
load_file, save_file = measures.load_file, measures.save_file

TINY = PRESETS["tiny"]


def call(*arguments):
    return CliRunner().invoke(convert, [str(argument) for argument in arguments])


def succeed(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.exception or result.output
    return result.output


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def save_open_clip(folder, config):
    folder.mkdir()
    model = measures.reference(config)
    save_file(model.state_dict(), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": to_open_clip(config)}))
    return model


# ---- Architectures


@pytest.mark.parametrize("name", [*measures.ARCHITECTURES, *measures.ODD])
def test_features_and_logits_agree_with_open_clip(name, tmp_path):
    # Two layers show the same as all; the report has the full depth.
    config = measures.architecture(name, layers=2)
    image, text, logits = measures.feature_differences(config, tmp_path)
    assert image <= 2e-5 and text <= 2e-5 and logits <= 2e-3


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-L-14-336", *measures.ODD])
def test_open_clip_to_ours_and_back_gives_the_same_bytes(name, tmp_path):
    save_open_clip(tmp_path / "theirs", measures.architecture(name, layers=1))
    succeed(tmp_path / "theirs", tmp_path / "ours")
    succeed(tmp_path / "ours", tmp_path / "back")
    before, after = (load_file(tmp_path / name / WEIGHTS_FILE) for name in ("theirs", "back"))
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert value.dtype == after[key].dtype and torch.equal(value, after[key]), key


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", *list(measures.ODD)[:1]])
def test_transformers_gives_the_same_features_and_the_same_bytes_back(name, tmp_path):
    pytest.importorskip("transformers")
    save_open_clip(tmp_path / "theirs", measures.architecture(name, layers=1))
    succeed(tmp_path / "theirs", tmp_path / "ours")
    output = succeed(tmp_path / "ours", tmp_path / "hf", "--to", "transformers", "--verify")
    assert "written, in transformers" in output and "0 differ" in output
    succeed(tmp_path / "hf", tmp_path / "back")
    before, after = (read(tmp_path / name)[1] for name in ("theirs", "back"))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_what_transformers_saves_is_read_whole_and_in_parts(tmp_path, random_params):
    transformers = pytest.importorskip("transformers")
    export_open_clip(random_params(TINY), TINY, Preprocess(64), tmp_path / "theirs")
    succeed(tmp_path / "theirs", tmp_path / "hf", "--to", "transformers")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "hf")
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="5MB")
    assert (tmp_path / "parts" / "model.safetensors.index.json").is_file()
    expected = read(tmp_path / "theirs")[1]
    for name in ("whole", "parts"):
        jax.tree.map(np.testing.assert_array_equal, read(tmp_path / name)[1], expected)


def test_transformers_processor_sees_pictures_and_words_as_we_do(tmp_path, random_params):
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    import bioclip2_jax
    from bioclip2_jax.data import images

    export_open_clip(random_params(TINY), TINY, Preprocess(64), tmp_path / "theirs")
    succeed(tmp_path / "theirs", tmp_path / "hf", "--to", "transformers")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "hf")
    texts = ["a photo of Pica pica.", "Poa annua with common name Annual Meadow-grass"]
    found = tokenizer(texts, padding="max_length", return_tensors="np")["input_ids"]
    np.testing.assert_array_equal(found, bioclip2_jax.tokenize(texts))
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "hf")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8))
    pixels = np.asarray(processor(picture, return_tensors="np")["pixel_values"])[0]
    ours = images.eval_transform(64)(picture)
    ours = (ours / 255 - images.CLIP_MEAN) / images.CLIP_STD
    assert np.abs(pixels.transpose(1, 2, 0) - ours).max() < 0.05  # about 3 of 255 grey levels


# ---- PyTorch's own files


def saved_forms(tensors):
    wrapped = {f"module.{name}": value for name, value in tensors.items()}
    replay = {"visual.continual_proj": tensors["visual.proj"] + 1}
    momentum = {"exp_avg": torch.ones(3), "step": torch.tensor(1.0)}
    training = {
        "epoch": 3,
        "name": "run",
        "state_dict": wrapped | {"module." + k: v for k, v in replay.items()},
    }
    return {
        "bare.pt": tensors,
        "bare.pth": tensors,
        "training.pt": training | {"optimizer": {"state": {0: momentum}, "param_groups": []}},
        "module.bin": wrapped,
        "replay.pt": tensors | replay,
        "half.pt": {name: value.bfloat16() for name, value in tensors.items()},
    }


@pytest.mark.parametrize(
    "name", ["bare.pt", "bare.pth", "training.pt", "module.bin", "replay.pt", "half.pt", "old.pt"]
)
def test_every_kind_of_pytorch_file_is_read(name, tmp_path, random_params):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, "f4"), random_params(TINY))
    tensors = {k: torch.from_numpy(v.copy()) for k, v in state_dict(params, TINY).items()}
    content = saved_forms(tensors)["bare.pt" if name == "old.pt" else name]
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=name != "old.pt")
    succeed(tmp_path / name, tmp_path / "ours", "--verify")
    config, found, _ = read(tmp_path / "ours")
    replay = found["image"].pop("replay_projection", None)
    assert (replay is not None) == (name in ("training.pt", "replay.pt")) and config == TINY
    if replay is not None:
        np.testing.assert_array_equal(replay, params["image"]["projection"] + 1)
    if name == "half.pt":
        params = jax.tree.map(lambda x: x.astype("bfloat16").astype("f4"), params)
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_pt_file_is_what_pytorch_and_open_clip_load(dtype, tmp_path, random_params):
    export_open_clip(random_params(TINY), TINY, Preprocess(64), tmp_path / "theirs")
    out = tmp_path / "made.pt"
    output = succeed(tmp_path / "theirs", out, "--dtype", dtype, "--verify")
    assert "written, in open_clip" in output
    loaded = torch.load(out, weights_only=True, mmap=True)
    expected = load_file(tmp_path / "theirs" / WEIGHTS_FILE)
    assert loaded.keys() == expected.keys()
    for name, value in loaded.items():
        assert torch.equal(value, expected[name].to(getattr(torch, dtype)))
        assert value.data_ptr() % 64 == 0
    model = open_clip.model.CLIP(**to_open_clip(TINY))
    open_clip.load_checkpoint(model, str(out), strict=True)


class Bomb:
    def __reduce__(self):
        return (open, ("/tmp/bioclip2_jax_bomb", "w"))


def test_code_in_a_pickle_is_never_run(tmp_path, random_params):
    from pathlib import Path

    target = Path("/tmp/bioclip2_jax_bomb")
    target.unlink(missing_ok=True)
    params = random_params(TINY)
    tensors = {k: torch.from_numpy(v.copy()) for k, v in state_dict(params, TINY).items()}
    torch.save(tensors | {"extra": Bomb()}, tmp_path / "zip.pt")
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(Bomb()))
    torch.save(Bomb(), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pt", "raw.bin", "legacy.pth"):
        for to in ("orbax", "open_clip"):
            result = call(tmp_path / name, tmp_path / "out", "--to", to)
            assert isinstance(result.exception, UserError), result.exception
            assert name in str(result.exception) and "\n" not in str(result.exception)
    assert not target.exists() and not (tmp_path / "out").exists()


def damaged_forms(tensors):
    whole = next(iter(tensors))
    return {
        "not a number": tensors | {whole: tensors[whole] * float("nan")},
        "whole numbers": tensors | {whole: tensors[whole].int()},
        "double": tensors | {whole: tensors[whole].double()},
        "sparse": tensors | {"visual.proj": tensors["visual.proj"].to_sparse()},
        "a list": [1, 2, 3],
        "no tensors": {"a": 1},
        "nothing": {},
        "expanded": {"visual.conv1.weight": torch.zeros(1).expand(2**20, 3, 2**10, 2**10)},
        "quantized": tensors | {whole: torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)},
    }


@pytest.mark.parametrize(
    "name",
    ["not a number", "whole numbers", "double", "sparse", "a list", "no tensors"]
    + ["nothing", "expanded", "quantized", "cut", "text", "TorchScript"],
)
def test_a_damaged_pytorch_file_is_named_and_nothing_is_written(name, tmp_path, random_params):
    params = random_params(TINY)
    tensors = {k: torch.from_numpy(v.copy()) for k, v in state_dict(params, TINY).items()}
    path = tmp_path / "bad.pt"
    if name == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n" * 9)
    elif name == "TorchScript":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    else:
        torch.save(damaged_forms(tensors).get(name, tensors), path)
        if name == "cut":
            path.write_bytes(path.read_bytes()[:-5000])
    result = call(path, tmp_path / "out")
    assert isinstance(result.exception, UserError), result.exception
    assert "bad.pt" in str(result.exception) and "\n" not in str(result.exception)
    assert names_in(tmp_path) == ["bad.pt"]


def test_resized_weights_equal_those_that_open_clip_resizes_on_loading(tmp_path, random_params):
    export_open_clip(random_params(TINY), TINY, Preprocess(64), tmp_path / "theirs")
    succeed(tmp_path / "theirs", tmp_path / "ours", "--image-size", 96)
    model = open_clip.create_model(f"local-dir:{tmp_path / 'theirs'}", force_image_size=96)
    expected = model.visual.positional_embedding.detach().numpy()
    found = read(tmp_path / "ours")[1]["image"]["position_embedding"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_source_in_memory_is_written_the_same_way_in_every_layout(tmp_path, random_params):
    export_open_clip(random_params(TINY), TINY, Preprocess(64), tmp_path / "theirs")
    source = open_source(tmp_path / "theirs")
    for to in LAYOUTS:
        write(source, tmp_path / f"{to}.pt", to)
    found = [read(tmp_path / f"{to}.pt")[1] for to in LAYOUTS]
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, found[0])
