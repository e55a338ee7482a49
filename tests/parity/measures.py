"""How far we are from the PyTorch reference, in numbers; the tests and the report both use them."""

# ruff: noqa: I001 (vision_operators comes before open_clip)

import dataclasses
import json
import math
import functools
import time
from pathlib import Path

import jax
import numpy as np
import vision_operators  # noqa: F401
import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file, save_file  # noqa: F401

from bioclip2_jax.data import images
from bioclip2_jax.training import recipe, sharding
from bioclip2_jax.training.step import StepSettings, init_state, make_train_step
from bioclip2_jax.weights import layout
from bioclip2_jax.weights.description import from_open_clip, to_open_clip
from bioclip2_jax.weights.open import open_source
from bioclip2_jax.weights.tensors import Tensor
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import (
    PRESETS,
    ClipConfig,
    TextConfig,
    VisionConfig,
)
from bioclip2_jax.text.tokenizer import tokenize
from configs import quickstart

ARCHITECTURES = (
    *("ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14"),
)
ODD = {
    "odd: patches of 6, heads of 24, MLP 2.5": ClipConfig(
        40, VisionConfig(30, 6, 72, 3, 24, 2.5), TextConfig(48, 3, 5, 33, 1000)
    ),
    "odd: one layer, QuickGELU, one head": ClipConfig(
        16, VisionConfig(20, 20, 32, 1, 32), TextConfig(24, 1, 1, 9, 77), True
    ),
    "odd: text wider than picture": ClipConfig(
        200, VisionConfig(56, 8, 64, 2, 8, 3.0), TextConfig(160, 5, 2, 128, 49408)
    ),
}


def architecture(name: str, layers: int | None = None) -> ClipConfig:
    """A model of open_clip's own list, or an odd one; `layers` cuts both towers."""
    config = ODD.get(name) or from_open_clip(open_clip.get_model_config(name))
    if layers is None:
        return config
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, layers=min(layers, config.vision.layers)),
        text=dataclasses.replace(config.text, layers=min(layers, config.text.layers)),
    )


def reference(config: ClipConfig) -> torch.nn.Module:
    """open_clip's model, no parameter of which is at a special value; logit scale 100."""
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**to_open_clip(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(math.log(100))
    return model


def inputs(config: ClipConfig) -> tuple[np.ndarray, np.ndarray]:
    """Three noise pictures, and token rows of several lengths."""
    rng = np.random.default_rng(1)
    text = config.text
    tokens = np.zeros((4, text.context_length), np.int32)
    for row, length in zip(tokens, np.linspace(1, text.context_length - 1, 4), strict=True):
        row[: int(length)] = rng.integers(1, text.vocab_size - 1, int(length))
        row[int(length)] = text.vocab_size - 1
    size = config.vision.image_size
    return rng.standard_normal((3, size, size, 3), np.float32), tokens


def our_features(config: ClipConfig, params: dict, pixels: np.ndarray, tokens: np.ndarray) -> list:
    """Image features, text features and logits in float32."""

    @jax.jit
    def encode(params: dict) -> tuple:
        model = clip.bind(config, params)
        return model.encode_image(pixels), model.encode_text(tokens)

    image, text = (np.asarray(part) for part in encode(params))
    return [image, text, np.exp(np.asarray(params["logit_scale"])) * image @ text.T]


def feature_differences(config: ClipConfig, folder: Path) -> list[float]:
    """Largest differences of image features, text features and logits, through a weight file."""
    model = reference(config)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": to_open_clip(config)}), encoding="utf-8"
    )
    pixels, tokens = inputs(config)
    with torch.no_grad():
        image, text, scale = model(
            torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(tokens).long()
        )
    theirs = [image.numpy(), text.numpy(), (scale * image @ text.T).numpy()]
    del model
    source = open_source(folder)
    ours = our_features(config, layout.read_params(source.tensors, config), pixels, tokens)
    return [float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]


# ---- Training


def training_differences(steps: int = 30) -> tuple[float, float]:
    """AdamW with two visual projections: largest difference of losses, and of parameters.

    The latter is |ours - theirs| / |theirs| (norms over a tensor), the largest of all tensors.
    """
    config = quickstart.get_config()
    config.train.update(
        batch_size=32,
        replay_batch_size=16,
        steps=steps,
        warmup_steps=5,
        learning_rate=1e-4,
        level_weight=0.0,
    )
    config.model.dtype = "float32"
    settings = recipe.compose(config).step
    size = PRESETS["tiny"]
    model = reference(size)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / 0.07))
    projection = model.visual.proj
    model.visual.proj = None  # so that the tower gives what both projections take
    replay = torch.nn.Parameter(projection.detach().clone() + 0.01 * torch.randn(projection.shape))
    tensors = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    tensors |= {"visual.proj": projection.detach().numpy().copy()}
    tensors |= {layout.REPLAY: replay.detach().numpy().copy()}
    batches = [_batch(step, settings) for step in range(steps)]

    theirs = _train_reference(model, projection, replay, settings, batches)
    found = {
        name: Tensor(value.shape, str(value.dtype), functools.partial(np.asarray, value))
        for name, value in tensors.items()
    }
    params = jax.tree.map(jax.numpy.asarray, layout.read_params(found, size))
    mesh = sharding.make_mesh(-1, 1, devices=jax.devices()[:1])
    state = init_state(settings, size, params)
    shardings = sharding.tree_shardings(jax.eval_shape(lambda: state), mesh)
    state = jax.device_put(state, shardings)
    update = make_train_step(settings, size, mesh, shardings)
    whole = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    losses = []
    for batch in batches:
        state, metrics = update(state, jax.device_put(batch, whole))
        losses.append(float(metrics["loss"]))
    flat = {name: np.asarray(leaf) for name, leaf in layout.flatten(state.params).items()}
    ours = layout.of_ours(flat.__getitem__, size, replay_projection=True)
    last = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    last |= {"visual.proj": projection.detach().numpy(), layout.REPLAY: replay.detach().numpy()}
    relative = [
        np.linalg.norm(ours[name].read() - value) / np.linalg.norm(value)
        for name, value in last.items()
    ]
    return float(np.abs(np.subtract(losses, theirs)).max()), float(max(relative))


def _batch(step: int, settings: StepSettings) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    batch = {}
    for prefix, size in (
        ("", settings.batch_size),
        ("replay_", settings.replay_batch_size),
    ):
        texts = [
            f"a photo of {'Pica ' * rng.integers(1, 9)}{n}." for n in rng.integers(0, 99, size)
        ]
        batch[f"{prefix}images"] = rng.integers(0, 256, (size, 64, 64, 3), np.uint8)
        batch[f"{prefix}tokens"] = tokenize(texts)
        batch[f"{prefix}weights"] = np.ones(size, np.float32)
    return batch


def _train_reference(model, projection, replay, settings, batches) -> list[float]:
    train = settings.optimizer
    named = [*model.named_parameters(), ("visual.proj", projection), (layout.REPLAY, replay)]

    def undecayed(name: str, value: torch.Tensor) -> bool:
        return value.ndim < 2 or "ln" in name or "bias" in name or "logit_scale" in name

    groups = [
        {"params": [v for n, v in named if undecayed(n, v)], "weight_decay": 0.0},
        {
            "params": [v for n, v in named if not undecayed(n, v)],
            "weight_decay": train.weight_decay,
        },
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=train.learning_rate, betas=(train.beta1, train.beta2), eps=train.epsilon
    )
    criterion = open_clip.ClipLoss()
    mean, std = torch.tensor(settings.mean), torch.tensor(settings.std)
    normalize = torch.nn.functional.normalize
    losses = []
    for step, batch in enumerate(batches):
        if step < train.warmup_steps:
            rate = train.learning_rate * (step + 1) / train.warmup_steps
        else:
            passed = (step - train.warmup_steps) / (train.steps - train.warmup_steps)
            rate = 0.5 * (1 + math.cos(math.pi * passed)) * train.learning_rate
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels = np.concatenate([batch["images"], batch["replay_images"]])
        pixels = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
        pooled = model.visual(pixels)
        scale, size = model.logit_scale.exp(), len(batch["images"])
        loss = 0
        for part, matrix, prefix in (
            (pooled[:size], projection, ""),
            (pooled[size:], replay, "replay_"),
        ):
            text = model.encode_text(torch.from_numpy(batch[f"{prefix}tokens"]).long())
            loss = loss + criterion(
                normalize(part @ matrix, dim=-1), normalize(text, dim=-1), scale
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item())
    return losses


# ---- Position embeddings and pixels


def resize_difference(old: int, new: int) -> float:
    """Largest difference from open_clip's resizing of position embeddings, of N(0, 1) values."""
    embedding = np.random.default_rng(0).standard_normal((1 + old * old, 48), np.float32)
    model = torch.nn.Module()
    model.visual = torch.nn.Module()
    model.visual.grid_size = (new, new)
    state = {layout.POSITION: torch.from_numpy(embedding)}
    open_clip.model.resize_pos_embed(state, model)
    ours = layout.resize_position_embedding(embedding, new)
    return float(np.abs(ours - state[layout.POSITION].numpy()).max())


MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "HSV", "I", "F")


def pixel_differences(count: int) -> tuple[float, float]:
    """Largest and mean difference from open_clip's evaluation view, in units of 1/255."""
    rng = np.random.default_rng(0)
    largest, total, pixels = 0.0, 0.0, 0
    settings = [(m, i) for m in ("shortest", "squash") for i in ("bicubic", "bilinear")]
    views = {
        (mode, interpolation, size): (
            images.eval_transform(size, mode, interpolation),
            open_clip.transform.image_transform(
                size, False, (0, 0, 0), (1, 1, 1), resize_mode=mode, interpolation=interpolation
            ),
        )
        for mode, interpolation in settings
        for size in (32, 224)
    }
    for number in range(count):
        image = _picture(rng, MODES[number % len(MODES)])
        ours, theirs = list(views.values())[number % len(views)]
        expected = theirs(image).numpy().transpose(1, 2, 0) * 255
        difference = np.abs(ours(image).astype(np.float64) - expected)
        largest = max(largest, float(difference.max()))
        total, pixels = total + float(difference.sum()), pixels + difference.size
    return largest, total / pixels


def _picture(rng: np.random.Generator, mode: str) -> Image.Image:
    width, height = (int(side) for side in np.exp(rng.uniform(np.log(9), np.log(900), 2)))
    coarse = rng.integers(0, 256, (7, 7, 4), np.uint8)
    image = Image.fromarray(coarse, "RGBA").resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-20, 21, (height, width, 4))
    image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8), "RGBA")
    if mode in ("HSV", "CMYK", "YCbCr", "LA", "P", "I", "F"):
        image = image.convert("L" if mode in ("I", "F") else "RGB")
    return image.convert(mode)


# ---- Tokens


def token_mismatches(given: list[str]) -> tuple[list[str], float, float]:
    """Texts whose ids differ from open_clip's; texts a second, ours and theirs, one thread each."""
    count = len(given)
    tokenize(given[:1])
    start = time.process_time()
    ours = tokenize(given)
    middle = time.process_time()
    theirs = open_clip.tokenizer.SimpleTokenizer()(given, 77).numpy()
    end = time.process_time()
    differing = [given[row] for row in np.flatnonzero((ours != theirs).any(axis=1))]
    return differing, count / (middle - start), count / (end - middle)
