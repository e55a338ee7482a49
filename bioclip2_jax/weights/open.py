"""Opens a model in whatever form it is kept in. Detection goes by content, not by options."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError, naming
from bioclip2_jax.files import read_json_object, sha256
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.weights import checkpoint, hub, layout, transformers
from bioclip2_jax.weights.description import CONFIG_FILE, Preprocess, read_description
from bioclip2_jax.weights.infer import infer_config
from bioclip2_jax.weights.tensors import Tensors, open_safetensors, open_torch

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
      projection: the further projection that is read as `visual.proj`, if one is.
      notes: what was assumed or changed, a sentence each.
    """

    config: ClipConfig
    preprocess: Preprocess
    tensors: Tensors
    kind: str
    path: Path
    step: int | None = None
    resized: bool = False
    projection: str | None = None
    notes: tuple[str, ...] = ()


def open_source(
    where: str | Path,
    *,
    revision: str | None = None,
    model_config: Path | None = None,
    image_size: int | None = None,
    heads: int | None = None,
    text_heads: int | None = None,
    projection: str | None = None,
) -> Source:
    """Opens a model; no tensor is read yet.

    Args:
      where: workdir or step folder of a training run, folder of open_clip or of transformers, a
        `.safetensors`, `.pt`, `.pth` or `.bin` file, all of them here or in a bucket (gs://…), or
        `hf-hub:organisation/model[@revision]`.
      revision: of a model on the Hub.
      model_config: an `open_clip_config.json` for a bare file, whose sizes are otherwise inferred.
      image_size: pixels; position embeddings are resized to it. None: as stored.
      heads: of the image tower of a bare file, which does not tell them.
      text_heads: of its text tower.
      projection: a further projection of open_clip's weights that is read in the place of
        `visual.proj`, such as BioCAP's `caption_proj`.

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
    if (heads or text_heads) and (model_config or not path.is_file()):
        raise UsageError(f"--heads and --text-heads are for a bare weight file alone, not {where}")
    if path.is_file():
        source = _open_file(path, model_config, heads, text_heads, projection, notes)
    elif (path / CONFIG_FILE).is_file():
        source = _open_open_clip(path, projection, notes)
    elif projection:
        raise UsageError(f"--projection is for weights of open_clip, which {where} is not")
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


def _open_open_clip(folder: Path, projection: str | None, notes: list[str]) -> Source:
    config, preprocess = read_description(folder / CONFIG_FILE)
    others = sorted(path.name for path in folder.iterdir() if path.suffix == ".pt")
    weights = _first_of(folder, (*_OPEN_CLIP_WEIGHTS, *others))
    return Source(
        config=config,
        preprocess=preprocess,
        tensors=_open_plain(weights, projection, notes),
        kind="open_clip",
        path=weights,
        projection=projection,
    )


def _open_plain(path: Path, projection: str | None, notes: list[str]) -> Tensors:
    """The tensors of open_clip's model, and of all its visual projections one."""
    tensors = open_files(path)
    with naming(path):
        plain = layout.take_projection(tensors, projection)
    left = sorted(tensors.keys() - plain.keys())
    if projection:
        notes.append(f"{projection} is read in the place of {layout.PROJECTION}")
    elif left:
        notes.append(f"left out: {', '.join(left)}; --projection NAME takes another projection")
    return plain


def _open_transformers(folder: Path) -> Source:
    config, preprocess = transformers.read_config(folder)
    weights = _first_of(folder, _TRANSFORMERS_WEIGHTS)
    with naming(weights):
        tensors = transformers.as_open_clip(open_files(weights), config)
    return Source(
        config=config, preprocess=preprocess, tensors=tensors, kind="transformers", path=folder
    )


def _open_file(
    path: Path,
    model_config: Path | None,
    heads: int | None,
    text_heads: int | None,
    projection: str | None,
    notes: list[str],
) -> Source:
    if path.suffix not in _SUFFIXES:
        raise UserError(
            f"{path}: no weight file by its name; these are read: {', '.join(_SUFFIXES)}"
        )
    tensors = _open_plain(path, projection, notes)
    beside = path.parent / CONFIG_FILE
    if model_config is None and beside.is_file():
        model_config = beside
    if model_config is not None:
        if heads or text_heads:
            raise UsageError(f"--heads and --text-heads: {model_config} tells the heads of {path}")
        config, preprocess = read_description(model_config)
    else:
        with naming(path):
            config = infer_config(tensors, heads=heads, text_heads=text_heads)
        preprocess = Preprocess(config.vision.image_size)
        notes.append(
            f"sizes inferred from the weights, with {config.vision.heads} and {config.text.heads}"
            f" heads, {'QuickGELU' if config.quick_gelu else 'GELU'} and CLIP's mean, std and"
            f" tokens; if the model has others, put its {CONFIG_FILE} beside the file or name it"
            " with --model-config"
        )
    return Source(
        config=config,
        preprocess=preprocess,
        tensors=tensors,
        kind="weights",
        path=path,
        projection=projection,
    )


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
