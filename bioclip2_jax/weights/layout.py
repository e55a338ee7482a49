"""One table between open_clip's names and ours, read in both directions."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image

from bioclip2_jax.errors import UserError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.weights.settings import HYPERBOLIC
from bioclip2_jax.weights.tensors import Tensor, Tensors

POSITION = "visual.positional_embedding"
PROJECTION = "visual.proj"
REPLAY = "visual.continual_proj"
# Further projections of the same picture, as BioCAP's `visual.caption_proj`.
_FURTHER = re.compile(r"visual\.(?:(?P<before>\w+)_proj|proj_(?P<behind>\w+))")
_TEMPERATURE = "logit_scale"
_LORENTZ = {"curv", "visual_alpha", "textual_alpha"}  # numbers that lift features off the plane
_FLOATS = ("float32", "float16", "bfloat16")
_LISTED = 40  # misfits named in one error
# Beside the weights, OpenAI's files hold these three numbers.
OPENAI_NUMBERS = frozenset({"input_resolution", "context_length", "vocab_size"})

# (ours, open_clip's, axes of ours in the order of open_clip's; None: as it is)
_IMAGE = (
    ("image/class_embedding", "visual.class_embedding", None),
    ("image/position_embedding", "visual.positional_embedding", None),
    ("image/projection", "visual.proj", None),
    ("image/patch_embed/kernel", "visual.conv1.weight", (3, 2, 0, 1)),
    ("image/ln_pre/scale", "visual.ln_pre.weight", None),
    ("image/ln_pre/bias", "visual.ln_pre.bias", None),
    ("image/ln_post/scale", "visual.ln_post.weight", None),
    ("image/ln_post/bias", "visual.ln_post.bias", None),
)
_TEXT = (
    ("text/position_embedding", "positional_embedding", None),
    ("text/token_embedding", "token_embedding.weight", None),
    ("text/projection", "text_projection", None),
    ("text/ln_final/scale", "ln_final.weight", None),
    ("text/ln_final/bias", "ln_final.bias", None),
    ("logit_scale", "logit_scale", None),
)
_BLOCK = (
    ("ln_1/scale", "ln_1.weight", None),
    ("ln_1/bias", "ln_1.bias", None),
    ("attention/qkv/kernel", "attn.in_proj_weight", (1, 0)),
    ("attention/qkv/bias", "attn.in_proj_bias", None),
    ("attention/out/kernel", "attn.out_proj.weight", (1, 0)),
    ("attention/out/bias", "attn.out_proj.bias", None),
    ("ln_2/scale", "ln_2.weight", None),
    ("ln_2/bias", "ln_2.bias", None),
    ("mlp/fc/kernel", "mlp.c_fc.weight", (1, 0)),
    ("mlp/fc/bias", "mlp.c_fc.bias", None),
    ("mlp/proj/kernel", "mlp.c_proj.weight", (1, 0)),
    ("mlp/proj/bias", "mlp.c_proj.bias", None),
)


class Leaf(NamedTuple):
    """One of our parameters and what it is made of.

    Attributes:
      ours: its name, `a/b/c`.
      shape: of ours.
      theirs: open_clip's names; of a stacked parameter one a layer, else one.
      axes: of one of ours in the order of theirs; None: as it is.
      stacked: whether layers are stacked along the first axis.
    """

    ours: str
    shape: tuple[int, ...]
    theirs: tuple[str, ...]
    axes: tuple[int, ...] | None
    stacked: bool

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Shape of each tensor in open_clip's files."""
        shape = self.shape[1:] if self.stacked else self.shape
        return shape if self.axes is None else tuple(shape[axis] for axis in self.axes)


@functools.cache
def leaves(config: ClipConfig, replay_projection: bool = False) -> tuple[Leaf, ...]:
    """Every parameter of a model of these sizes."""
    abstract = clip.abstract_params(config, replay_projection=replay_projection)
    shapes = {name: leaf.shape for name, leaf in flatten(abstract).items()}
    single = [*_IMAGE, *_TEXT]
    if replay_projection:
        single.append(("image/replay_projection", REPLAY, None))
    parameters = [
        Leaf(ours=ours, shape=shapes[ours], theirs=(theirs,), axes=axes, stacked=False)
        for ours, theirs, axes in single
    ]
    for prefix, stack, depth in (
        ("visual.transformer.resblocks", "image/blocks", config.vision.layers),
        ("transformer.resblocks", "text/blocks", config.text.layers),
    ):
        for ours, theirs, axes in _BLOCK:
            name = f"{stack}/{ours}"
            names = tuple(f"{prefix}.{layer}.{theirs}" for layer in range(depth))
            parameters.append(
                Leaf(ours=name, shape=shapes[name], theirs=names, axes=axes, stacked=True)
            )
    return tuple(parameters)


def of_ours(
    read_leaf: Callable[[str], np.ndarray], config: ClipConfig, *, replay_projection: bool
) -> Tensors:
    """Our parameters as open_clip's tensors, float32.

    Linear weights become [out, in], the patch convolution [out, 3, p, p]; stacked blocks are taken
    apart. Names come leaf by leaf, and `read_leaf` is called once for each when they are read in
    that order.

    Args:
      read_leaf: our name (`a/b/c`) → array.
      config: sizes.
      replay_projection: whether there is one, and it is wanted.
    """
    cached = functools.lru_cache(maxsize=1)(read_leaf)

    def read(leaf: Leaf, layer: int) -> np.ndarray:
        value = np.asarray(cached(leaf.ours), np.float32)
        value = value[layer] if leaf.stacked else value
        return value if leaf.axes is None else np.ascontiguousarray(value.transpose(leaf.axes))

    return {
        name: Tensor(leaf.their_shape, "float32", functools.partial(read, leaf, layer))
        for leaf in leaves(config, replay_projection)
        for layer, name in enumerate(leaf.theirs)
    }


def check(tensors: Tensors, config: ClipConfig) -> None:
    """Compares names, shapes and dtypes with what a model of these sizes holds.

    Raises:
      UserError: tensors are missing, unknown, misshapen or of another dtype; all are listed.
    """
    problems, unused = [], tensors.keys() - OPENAI_NUMBERS
    for leaf in leaves(config, REPLAY in tensors):
        unused -= set(leaf.theirs)
        for name in leaf.theirs:
            tensor, expected = tensors.get(name), leaf.their_shape
            # logit_scale is stored as [] or [1].
            if tensor is None:
                problems.append(f"{name} is missing")
            elif tensor.shape != expected and (tensor.shape, expected) != ((1,), ()):
                problems.append(f"{name} is {list(tensor.shape)}, expected {list(expected)}")
            elif tensor.dtype not in _FLOATS:
                problems.append(f"{name} is {tensor.dtype}, not one of {', '.join(_FLOATS)}")
    problems += [f"{name} is not known" for name in sorted(unused)]
    if problems:
        more = len(problems) - _LISTED
        shown = "; ".join(problems[:_LISTED]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(f"the weights do not fit: {shown}")


def read_leaves(tensors: Tensors, config: ClipConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Our parameters one after the other: (name, float32 array). `check` comes first."""
    for leaf in leaves(config, REPLAY in tensors):
        value = np.empty(leaf.shape, np.float32)
        back = None if leaf.axes is None else tuple(np.argsort(leaf.axes))
        for layer, name in enumerate(leaf.theirs):
            part = tensors[name].floats().reshape(leaf.their_shape)
            value[layer if leaf.stacked else ...] = part if back is None else part.transpose(back)
        yield leaf.ours, value
        del value  # before the next is made


def read_params(tensors: Tensors, config: ClipConfig) -> dict:
    """The nested dict of `models/clip.py`, numpy float32.

    Raises:
      UserError: as `check`; or a file is damaged.
    """
    check(tensors, config)
    return unflatten_dict(dict(read_leaves(tensors, config)), sep="/")


# ---- Further projections


def take_projection(tensors: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """A plain CLIP's state dict: with one of its projections, whatever further ones there are.

    BioCLIP 2's replay projection is kept, as we have a place for it.

    Args:
      tensors: open_clip's name → anything with a shape.
      name: the projection that becomes `visual.proj`, with its own temperature (BioCAP's
        `caption_proj` has `logit_scale_caption`) if there is one; None for `visual.proj` itself.

    Raises:
      UserError: there is no such projection; names those that there are. Or the model is
        hyperbolic.
    """
    lifted = sorted(_LORENTZ & tensors.keys())
    if lifted:
        raise UserError(f"holds {', '.join(lifted)}: {HYPERBOLIC}")
    own = tensors.get(PROJECTION)
    further = {
        theirs: f"{_TEMPERATURE}_{match['before'] or match['behind']}"
        for theirs, tensor in tensors.items()
        if (match := _FURTHER.fullmatch(theirs)) and (own is None or own.shape == tensor.shape)
    }
    kept = {
        theirs: tensor
        for theirs, tensor in tensors.items()
        if (theirs == REPLAY or theirs not in further) and not theirs.startswith(f"{_TEMPERATURE}_")
    }
    wanted = f"visual.{name.removeprefix('visual.')}" if name else PROJECTION
    if wanted in further:
        kept.pop(wanted, None)
        kept[PROJECTION] = tensors[wanted]
        if further[wanted] in tensors:
            kept[_TEMPERATURE] = tensors[further[wanted]]
    elif wanted != PROJECTION:
        there = ", ".join(sorted({PROJECTION} & tensors.keys() | further.keys()))
        raise UserError(f"holds no projection {wanted}, but {there or 'none'}")
    return kept


# ---- Position embeddings of another image size


def fit_position_embedding(tensors: Tensors, config: ClipConfig) -> Tensors:
    """The tensors with the image tower's positions resized to the config's grid, if they differ."""
    stored = tensors.get(POSITION)
    grid = config.vision.image_size // config.vision.patch_size
    if stored is None or len(stored.shape) != 2:
        return tensors
    patches = stored.shape[0] - 1
    if patches == grid**2 or round(patches**0.5) ** 2 != patches:
        return tensors  # where they are no square, `check` will say so

    def read() -> np.ndarray:
        return resize_position_embedding(stored.floats(), grid)

    return {**tensors, POSITION: Tensor((1 + grid**2, stored.shape[1]), "float32", read)}


def resize_position_embedding(embedding: np.ndarray, grid: int) -> np.ndarray:
    """[1 + old², width] → [1 + grid², width], bicubic and antialiased; the class token's is kept.

    The same filter as torch's `interpolate(mode="bicubic", antialias=True)`, with which open_clip
    resizes on loading.
    """
    old = round((len(embedding) - 1) ** 0.5)
    planes = embedding[1:].reshape(old, old, -1).transpose(2, 0, 1)
    resized = [
        Image.fromarray(np.ascontiguousarray(plane)).resize((grid, grid), Image.Resampling.BICUBIC)
        for plane in planes
    ]
    patches = np.stack([np.asarray(plane) for plane in resized], axis=-1)
    return np.concatenate([embedding[:1], patches.reshape(grid * grid, -1)])


def flatten(tree: Mapping) -> dict[str, Any]:
    """Nested dict → flat dict with `a/b/c` names."""
    return flatten_dict(dict(tree), sep="/")
