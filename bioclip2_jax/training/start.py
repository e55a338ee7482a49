"""What a run starts from: the sizes of its model, its first weights, `model.json`."""

import dataclasses
import difflib
from pathlib import Path

import jax

from bioclip2_jax import files
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.models.presets import PRESETS, ClipConfig
from bioclip2_jax.training.recipe import Settings
from bioclip2_jax.training.step import TrainState, init_state
from bioclip2_jax.weights.description import Preprocess, read_description, write_description
from bioclip2_jax.weights.load import read_params
from bioclip2_jax.weights.open import MODEL_FILE, Source, open_source
from bioclip2_jax.workers import processes


def model_sizes(settings: Settings, workdir: Path | None = None) -> ClipConfig:
    """The sizes of `settings.model`: a preset's, or with "init" those of `settings.init`.

    Raises:
      UsageError: there is no such preset; names the nearest. Or "init" without `settings.init`.
      UserError: `settings.init` cannot be opened.
    """
    name = settings.model
    if name == "init":
        if not settings.init:
            raise UsageError("config.model.name='init' takes the sizes of config.init: set that")
        if workdir and (workdir / MODEL_FILE).is_file():  # of the run that is resumed
            return read_description(workdir / MODEL_FILE)[0]
        return open_source(settings.init).config
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise UsageError(
            f"config.model.name={name!r} is not one of {', '.join(PRESETS)}, init; did you mean"
            f" {near}?"
        )
    return PRESETS[name]


def cache_folder(settings: Settings, workdir: Path) -> Path:
    """Where compiled steps are kept: in the workdir, or wherever a whole name says."""
    cache = files.place(settings.compile_cache)
    return cache if files.is_remote(cache) else workdir / cache


def check_same_model(model: ClipConfig, workdir: Path) -> None:
    """Refuses a recipe of other sizes than those that a run was begun with.

    Raises:
      UserError: names both.
    """
    path = workdir / MODEL_FILE
    if path.is_file() and (begun := read_description(path)[0]) != model:
        raise UserError(f"{workdir}: a run of another model, {begun}, not {model}")


def initial_state(settings: Settings, model: ClipConfig, shardings: TrainState) -> TrainState:
    """Random weights, or those of `settings.init`; made directly where they belong on the mesh.

    Raises:
      UserError: `settings.init` is a model of another shape.
    """
    params = None
    if settings.init:
        source = starting_source(settings, model)
        for note in pixel_notes(settings, source):
            processes.say(f"note: {note}")
        params = jax.device_put(starting_params(settings, source), shardings.params)
    return jax.jit(lambda p: init_state(settings.step, model, p), out_shardings=shardings)(params)


def starting_source(settings: Settings, model: ClipConfig) -> Source:
    """The weights of `settings.init`; positions are resized to the model's image size.

    Raises:
      UserError: it cannot be opened, or is a model of another shape.
    """
    source = open_source(settings.init)
    size = model.vision.image_size
    vision = dataclasses.replace(source.config.vision, image_size=size)
    if dataclasses.replace(source.config, vision=vision) != model:
        raise UserError(
            f"config.init={settings.init}: its weights are not of a {settings.model} model but of"
            f" {source.config}; config.model.name=init takes its sizes"
        )
    return source if source.config == model else open_source(settings.init, image_size=size)


def starting_params(settings: Settings, source: Source) -> dict:
    """The parameters of a source, on the host.

    With replay both projections start from the same weights, as in the original, unless the model
    brings two.

    Raises:
      UserError: a tensor cannot be read.
    """
    params = read_params(source)
    image = params["image"]
    replay_projection = image.pop("replay_projection", image["projection"])
    if settings.step.replay_batch_size:
        image["replay_projection"] = replay_projection
    return params


def pixel_notes(settings: Settings, source: Source) -> list[str]:
    """That pictures become the model's input in another way than before: a sentence, or none.

    The original trains LAION's weights with ImageNet's mean, so this is no mistake in itself.
    """
    now = preprocess_of(settings, source.preprocess.size)
    whose = "CLIP" if source.kind == "weights" else "it"  # a bare file says nothing of pictures
    changes = [
        f"config.data.{key} is {value}, where {whose} had {vars(source.preprocess)[key]}"
        for key, value in vars(now).items()
        if value != vars(source.preprocess)[key]
    ]
    return [f"config.init={settings.init}: {'; '.join(changes)}"] if changes else []


def preprocess_of(settings: Settings, size: int) -> Preprocess:
    """How pictures of the run become the input of a model for pictures of that size."""
    return Preprocess(
        size=size,
        mean=settings.step.mean,
        std=settings.step.std,
        resize_mode=settings.resize_mode,
        interpolation=settings.interpolation,
    )


def save_description(settings: Settings, model: ClipConfig, workdir: Path) -> None:
    """Writes `WORKDIR/model.json`, in the form of `open_clip_config.json`, for every reader."""
    preprocess = preprocess_of(settings, model.vision.image_size)
    files.write_json(workdir / MODEL_FILE, write_description(model, preprocess), indent=2)
