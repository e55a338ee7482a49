"""Opens a model in whatever form it is kept in. Detection goes by content, not by options."""

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError, naming
from bioclip2_jax.files import read_json_object, sha256
from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.weights import checkpoint, hub, layout, transformers
from bioclip2_jax.weights.description import Preprocess, read_description
from bioclip2_jax.weights.tensors import Tensors, open_safetensors, open_torch

CONFIG_FILE = "open_clip_config.json"
MODEL_FILE = "model.json"  # the same in a training run
WEIGHTS_FILE = "open_clip_model.safetensors"
# In open_clip's order; `.pt`, which it does not look for, comes from training.
_OPEN_CLIP_WEIGHTS = (
    WEIGHTS_FILE,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_TRANSFORMERS_WEIGHTS = (transformers.WEIGHTS_FILE, transformers.INDEX_FILE, "pytorch_model.bin")
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_SUFFIXES = (".safetensors", *_TORCH_SUFFIXES)
_HEAD_WIDTH = 64


@dataclass(frozen=True)
class Source:
    """A model that can be read, tensor by tensor.

    Attributes:
      config: sizes.
      preprocess: how pictures become its input.
      tensors: under open_clip's names; names and shapes fit `config`.
      kind: "checkpoint", "open_clip", "weights" (a bare file) or "transformers".
      path: the weight file of "open_clip" and "weights", the folder of "transformers", the workdir
        of a checkpoint.
      step: training step of a checkpoint.
      resized: whether position embeddings are resized on reading.
      notes: what was assumed or changed, a sentence each.
    """

    config: ClipConfig
    preprocess: Preprocess
    tensors: Tensors
    kind: str
    path: Path
    step: int | None = None
    resized: bool = False
    notes: tuple[str, ...] = ()


def open_source(
    where: str | Path,
    *,
    revision: str | None = None,
    model_config: Path | None = None,
    image_size: int | None = None,
) -> Source:
    """Opens a model; no tensor is read yet.

    Args:
      where: workdir or step folder of a training run, folder of open_clip or of transformers, a
        `.safetensors`, `.pt`, `.pth` or `.bin` file, all of them here or in a bucket (gs://…), or
        `hf-hub:organisation/model[@revision]`.
      revision: of a model on the Hub.
      model_config: an `open_clip_config.json` for a bare file, whose sizes are otherwise inferred.
      image_size: pixels; position embeddings are resized to it. None: as stored.

    Raises:
      UsageError: an argument that is not for this kind of model.
      UserError: there is no model, or it is damaged, or its weights do not fit its config; later,
        when a tensor is read, that a value of it is not finite.
    """
    notes: list[str] = []
    path = files.place(where)
    from_hub = str(where).startswith(hub.PREFIX)
    if revision and not from_hub:
        raise UsageError(f"--revision is for models on the Hub ({hub.PREFIX}...), not for {where}")
    if model_config and not path.is_file():
        raise UsageError(f"--model-config is for a bare weight file, which {where} is not")
    if from_hub:
        path = hub.fetch(str(where), revision, (*_OPEN_CLIP_WEIGHTS, transformers.INDEX_FILE))
        notes.append(f"{where}: commit {path.name}")
    if path.is_file():
        source = _open_file(path, model_config, notes)
    elif (path / CONFIG_FILE).is_file():
        source = _open_open_clip(path)
    elif (path / transformers.CONFIG_FILE).is_file() and not (path / MODEL_FILE).is_file():
        source = _open_transformers(path)
    else:
        source = _open_checkpoint(path)
    if from_hub:
        weights = [file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES]
        notes += [f"{file.name}: sha256 {sha256(file)}" for file in weights]
    config, preprocess = source.config, source.preprocess
    if image_size:
        if image_size % config.vision.patch_size:
            raise UserError(
                f"image size {image_size} cannot be divided by the patches of"
                f" {config.vision.patch_size} pixels"
            )
        vision = dataclasses.replace(config.vision, image_size=image_size)
        config = dataclasses.replace(config, vision=vision)
        preprocess = dataclasses.replace(preprocess, size=image_size)
    tensors = layout.fit_position_embedding(source.tensors, config)
    resized = tensors is not source.tensors
    if resized:
        notes.append(f"position embeddings resized to {config.vision.image_size} pixels")
    with naming(path):
        layout.check(tensors, config)
    return dataclasses.replace(
        source,
        config=config,
        preprocess=preprocess,
        tensors=_finite(tensors, path),
        resized=resized,
        notes=tuple(notes),
    )


def _finite(tensors: Tensors, path: Path) -> Tensors:
    def read(name: str) -> np.ndarray:
        value = tensors[name].read()
        if not np.isfinite(value).all():
            raise UserError(f"{path}: {name} holds values that are not finite (NaN or infinity)")
        return value

    return {
        name: dataclasses.replace(tensor, read=functools.partial(read, name))
        for name, tensor in tensors.items()
    }


def open_files(path: Path) -> Tensors:
    """The tensors of a weight file, under its own names."""
    if path.suffix in _TORCH_SUFFIXES:
        return open_torch(_here(path))
    if path.name.endswith(".json"):
        parts = read_json_object(path).get("weight_map")
        if not isinstance(parts, dict) or not parts:
            raise UserError(f"{path}: holds no weight_map")
        names = sorted(set(map(str, parts.values())))
        if any(Path(name).name != name for name in names):
            raise UserError(f"{path}: names a file outside its folder")
        return open_safetensors(*(_here(path.parent / name) for name in names))
    return open_safetensors(_here(path))


_fetched: list[tempfile.TemporaryDirectory] = []  # removed when the program ends


def _here(path: Path) -> Path:
    """A weight file on this machine, whose tensors are read one by one."""
    if not files.is_remote(path):
        return path
    _fetched.append(tempfile.TemporaryDirectory(prefix="bioclip2-"))
    return buckets.fetch(path, Path(_fetched[-1].name))


def _first_of(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no weights here; looked for {', '.join(names)}")


def _open_open_clip(folder: Path) -> Source:
    description = read_description(folder / CONFIG_FILE)
    others = sorted(path.name for path in folder.iterdir() if path.suffix == ".pt")
    weights = _first_of(folder, (*_OPEN_CLIP_WEIGHTS, *others))
    return Source(*description, tensors=open_files(weights), kind="open_clip", path=weights)


def _open_transformers(folder: Path) -> Source:
    config, preprocess = transformers.read_config(folder)
    weights = _first_of(folder, _TRANSFORMERS_WEIGHTS)
    with naming(weights):
        tensors = transformers.as_open_clip(open_files(weights), config)
    return Source(
        config=config, preprocess=preprocess, tensors=tensors, kind="transformers", path=folder
    )


def _open_file(path: Path, model_config: Path | None, notes: list[str]) -> Source:
    if path.suffix not in _SUFFIXES:
        raise UserError(
            f"{path}: no weight file by its name; these are read: {', '.join(_SUFFIXES)}"
        )
    tensors = open_files(path)
    beside = path.parent / CONFIG_FILE
    if model_config is None and beside.is_file():
        model_config = beside
    if model_config is not None:
        config, preprocess = read_description(model_config)
    else:
        with naming(path):
            config = infer_config(tensors)
        preprocess = Preprocess(config.vision.image_size)
        notes.append(
            f"sizes inferred from the weights, with {config.vision.heads} and {config.text.heads}"
            f" heads, {'QuickGELU' if config.quick_gelu else 'GELU'} and CLIP's mean and std; if"
            f" the model has others, put its {CONFIG_FILE} beside the file or name it with"
            " --model-config"
        )
    return Source(config=config, preprocess=preprocess, tensors=tensors, kind="weights", path=path)


def _open_checkpoint(path: Path) -> Source:
    workdir, step = path, checkpoint.latest_step(path)
    whole = files.absolute(path)
    named = checkpoint.step_named(whole.name)
    if named is not None and whole.parent.name == checkpoint.FOLDER:
        workdir, step = whole.parent.parent, named
    if step is None or step not in checkpoint.steps(workdir):
        steps = ", ".join(map(str, checkpoint.steps(workdir)))
        raise UserError(
            f"{path}: no model here; looked for a training workdir ({checkpoint.FOLDER}/STEP), one"
            f" of its step folders{f' (there are {steps})' if steps else ''}, a folder with"
            f" {CONFIG_FILE} or transformers' {transformers.CONFIG_FILE}, and a weight file"
        )
    config, preprocess = read_description(workdir / MODEL_FILE)
    folder = checkpoint.step_dir(workdir, step)
    shapes = checkpoint.stored_shapes(folder)
    replay = "image/replay_projection" in shapes
    expected = {leaf.ours: leaf.shape for leaf in layout.leaves(config, replay)}
    names = shapes.keys() | expected.keys()
    wrong = sorted(name for name in names if shapes.get(name) != expected.get(name))
    if wrong:
        raise UserError(
            f"{folder}: {len(wrong)} tensors do not fit the run's model.json, such as {wrong[0]};"
            " one of the two comes from another run"
        )
    read = _read_at_once(folder) if files.is_remote(folder) else checkpoint.leaf_reader(folder)
    return Source(
        config=config,
        preprocess=preprocess,
        tensors=layout.of_ours(read, config, replay_projection=replay),
        kind="checkpoint",
        path=workdir,
        step=step,
    )


def _read_at_once(folder: Path) -> Callable[[str], np.ndarray]:
    """Of a checkpoint in a bucket, where each parameter by itself would take Orbax a second."""

    @functools.cache
    def leaves() -> dict[str, np.ndarray]:
        return layout.flatten(checkpoint.restore_params(folder))

    return lambda name: leaves()[name]


def infer_config(tensors: Tensors) -> ClipConfig:
    """Sizes from the shapes of open_clip's tensors.

    The number of heads cannot be seen: a preset's where all else agrees, else 64 channels each.
    QuickGELU cannot either: it is taken for OpenAI's files, which hold three numbers more.

    Raises:
      UserError: these are not the tensors of a plain CLIP ViT.
    """
    try:
        width, _, patch, _ = tensors["visual.conv1.weight"].shape
        grid = math.isqrt(tensors[layout.POSITION].shape[0] - 1)
        hidden = tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
        vocabulary, text_width = tensors["token_embedding.weight"].shape
        context, _ = tensors["positional_embedding"].shape
        _, embed_dim = tensors["visual.proj"].shape
    except KeyError as error:
        raise UserError(f"not a CLIP ViT of open_clip: {error.args[0]} is missing") from error
    except (ValueError, IndexError) as error:
        raise UserError("not a CLIP ViT of open_clip: a tensor has the wrong rank") from error
    if min(width, patch, grid, hidden, vocabulary, text_width, context, embed_dim) < 1:
        raise UserError("not a CLIP ViT of open_clip: a tensor is empty")
    depths = [
        sum(name.startswith(prefix) and name.endswith(".ln_1.bias") for name in tensors)
        for prefix in ("visual.transformer.resblocks.", "transformer.resblocks.")
    ]
    vision = VisionConfig(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        layers=depths[0],
        head_width=_HEAD_WIDTH,
        mlp_ratio=hidden / width,
    )
    text = TextConfig(
        width=text_width,
        heads=text_width // _HEAD_WIDTH,
        layers=depths[1],
        context_length=context,
        vocab_size=vocabulary,
    )
    quick_gelu = "input_resolution" in tensors
    seen = ClipConfig(embed_dim=embed_dim, vision=vision, text=text, quick_gelu=quick_gelu)
    for preset in PRESETS.values():
        # What cannot be seen, and the image size, may differ.
        resized = dataclasses.replace(preset.vision, image_size=vision.image_size)
        seen_text = dataclasses.replace(preset.text, heads=text.heads)
        if (dataclasses.replace(resized, head_width=_HEAD_WIDTH), seen_text) == (vision, text):
            return dataclasses.replace(seen, vision=resized, text=preset.text)
    if width % _HEAD_WIDTH or text_width % _HEAD_WIDTH:
        raise UserError(
            f"widths {width} and {text_width} are no multiples of {_HEAD_WIDTH}, so the number of"
            f" heads is unknown; put the model's {CONFIG_FILE} beside the file or name it with"
            " --model-config"
        )
    return seen
