"""One update: two towers, one or two contrastive losses, AdamW, the clamp of logit_scale."""

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from bioclip2_jax.errors import UsageError
from bioclip2_jax.losses import contrastive_loss_and_accuracy
from bioclip2_jax.models import clip, fp8
from bioclip2_jax.models.execution import Execution
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.text.captions import LEVELS
from bioclip2_jax.training import optim, sharding

MAX_LOGIT_SCALE = math.log(100)
_MULTIPLIERS = 0x01000193, 0x85EBCA6B  # FNV's prime, and one of MurmurHash3's


@dataclass(frozen=True)
class StepSettings:
    """What one update does. Each is the key of the same name in `configs/common.py`.

    Attributes:
      seed: of random weights, and of the patches that are left out.
      mean: of the pixels' channels, as is `std`.
      distinct_captions: equal captions of a batch are one text.
      level_weight, level_draw: of the level loss, see `losses`.
      level_texts: a bound on the distinct level captions of a batch, not of the recipe but of the
        data; 0: not known.
      execution: how the towers are run on a mesh, with `sharding.gather`.
    """

    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int
    replay_batch_size: int
    micro_batches: int
    loss_tile: int
    distinct_captions: bool
    level_weight: float
    level_draw: tuple[float, ...]
    patch_keep: float
    clip_gradients: float
    skip_nonfinite: int
    ema: float
    param_dtype: str
    execution: Execution
    optimizer: optim.OptimizerSettings
    level_texts: int = 0

    @property
    def levels(self) -> int:
        """Level captions that each picture of a batch has."""
        if not self.level_weight:
            return 0
        return 1 if self.level_draw else len(LEVELS)

    def level_rows(self, pairs: int) -> int:
        """How many texts the text tower takes at a time for the level captions of `pairs`."""
        rows = pairs * self.levels
        return min(rows, -(-self.level_texts // 8) * 8) if self.level_texts else rows


class TrainState(NamedTuple):
    """All that a checkpoint holds.

    Attributes:
      step: finished updates.
      params, opt_state: what the next update starts from.
      averaged: with `StepSettings.ema` the running mean of the parameters, in float32.
      maxima: with `Execution.fp8` what `models.fp8` keeps of the last steps, by tower.
    """

    step: jax.Array
    params: dict
    opt_state: Any
    averaged: dict | None = None
    maxima: dict | None = None


def init_state(settings: StepSettings, model: ClipConfig, params: dict | None = None) -> TrainState:
    """The state before the first update; `params` replaces random weights. Traceable."""
    if params is None:
        replay = settings.replay_batch_size > 0
        params = clip.init_params(model, settings.seed, replay_projection=replay)
    first: dict = jax.tree.map(lambda leaf: leaf.astype(settings.param_dtype), params)
    opt_state = optim.optimizer(settings.optimizer).init(first)
    averaged = jax.tree.map(lambda x: x.astype(jnp.float32), params) if settings.ema else None
    step = jnp.zeros((), jnp.int32)
    maxima = fp8.initial_maxima(model) if settings.execution.fp8 == "mlp" else None
    return TrainState(
        step=step, params=first, opt_state=opt_state, averaged=averaged, maxima=maxima
    )


def check_split(settings: StepSettings, mesh: Mesh) -> None:
    """Refuses batches that cannot be split over the devices.

    Raises:
      UsageError: names the key and a size that can.
    """
    parts = settings.micro_batches
    for key, size in (
        ("batch_size", settings.batch_size),
        ("replay_batch_size", settings.replay_batch_size),
    ):
        divisor = mesh.size * parts
        if size % divisor:
            several = jax.process_count() > 1
            raise UsageError(
                f"config.train.{key}={size} cannot be split over {mesh.size} devices"
                + (f" of {jax.process_count()} processes" if several else "")
                + (f" in {parts} parts" if parts > 1 else "")
                + f"; use a multiple, for example {max(size // divisor, 1) * divisor}"
            )


def losses(
    params: dict,
    batch: dict[str, jax.Array],
    keep_key: jax.Array,
    maxima: dict | None = None,
    *,
    settings: StepSettings,
    model: ClipConfig,
    mesh: Mesh,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of the biological pairs plus, with equal weight, loss of the replay pairs.

    With `settings.level_weight` the biological pictures have second captions, their lineages down
    to a rank that is drawn for the step, and a loss over the distinct texts among these is added
    with that weight (of several ranks, the mean of theirs).

    The two kinds have their own visual projection and their own similarity matrix, and share the
    rest (paper, section 4). With `settings.micro_batches` the towers see a part of each
    device's pairs at a time and are run again for its gradients; the losses are over all pairs, so
    nothing changes but rounding and memory (GradCache, arXiv 2101.06983).

    Args:
      params, batch: of the model, and of one step.
      keep_key: for the patches that are left out.
      maxima: [layers, 2, 3] expected by tower, see `models.fp8`; its gradient is what was seen.
      settings, model, mesh: of the run.

    Returns:
      The total [] float32, and `contrastive_loss`, `accuracy`, `level_loss` and `replay_loss` where
      they are on.
    """
    execution = settings.execution.on(mesh.devices.flat[0].platform)

    def features_of(params: dict, rows: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Of one device's rows."""

        def towers(part: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return _features(settings, clip.bind(model, params, execution), part)

        if settings.micro_batches == 1:
            return towers(rows)
        parts = jax.tree.map(lambda x: x.reshape(settings.micro_batches, -1, *x.shape[1:]), rows)
        features = jax.lax.map(jax.checkpoint(towers, prevent_cse=False), parts)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), features)

    seen = {k: x for k, x in batch.items() if k.endswith(("images", "tokens"))}
    seen |= _kept_patches(settings, model, batch, keep_key)
    if maxima is not None:
        # One of each for every device and part, since gradients of one for all would be summed.
        passes = mesh.size * settings.micro_batches
        seen |= {"maxima": {name: fp8.shared(x, passes) for name, x in maxima.items()}}
    features = sharding.on_shares(features_of, params, seen, mesh)

    scale = jnp.exp(params["logit_scale"].astype(jnp.float32))
    over_all = functools.partial(contrastive_loss_and_accuracy, mesh=mesh, tile=settings.loss_tile)
    images, weights = features["images"], batch["weights"]
    ids = _text_ids(batch["tokens"]) if settings.distinct_captions else None
    loss, accuracy = over_all(images, features["tokens"], scale, weights, text_ids=ids)
    metrics = {"contrastive_loss": loss, "accuracy": accuracy}
    if "level_tokens" in batch:
        texts, tokens = features["level_tokens"], batch["level_tokens"]
        level_losses = [
            over_all(images, texts[:, n], scale, weights, text_ids=_text_ids(tokens[:, n]))[0]
            for n in range(settings.levels)
        ]
        metrics["level_loss"] = sum(level_losses, jnp.zeros(())) / settings.levels
        loss = loss + settings.level_weight * metrics["level_loss"]
    if "replay_images" in batch:
        replay_loss, _ = over_all(
            features["replay_images"], features["replay_tokens"], scale, batch["replay_weights"]
        )
        metrics["replay_loss"] = replay_loss
        loss = loss + replay_loss
    return loss, metrics


def _features(
    settings: StepSettings, model: clip.Clip, part: dict[str, Any]
) -> dict[str, jax.Array]:
    """Features [rows, dim] in the compute dtype; both streams pass each tower together."""
    maxima = {name: x[0] for name, x in part["maxima"].items()} if "maxima" in part else {}
    of_texts: Any = [maxima.get("text")] * 2
    if maxima and "level_tokens" in part:
        of_texts = fp8.shared(maxima["text"], 2)
    streams = [prefix for prefix in ("", "replay_") if prefix + "images" in part]
    rows, length = len(part["images"]), max(part[p + "tokens"].shape[1] for p in streams)

    def joined(name: str) -> jax.Array:
        return jnp.concatenate([part[prefix + name] for prefix in streams])

    def padded(tokens: jax.Array) -> jax.Array:
        return jnp.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))

    pixels = clip.normalize_images(joined("images"), settings.mean, settings.std)
    pooled = model.image_trunk(
        pixels, joined("kept") if "kept" in part else None, maxima.get("image")
    )
    tokens = jnp.concatenate([padded(part[p + "tokens"]) for p in streams])
    text = model.encode_text(tokens, of_texts[0])
    features = {"images": model.project_image(pooled[:rows]), "tokens": text[:rows]}
    if len(streams) == 2:
        features["replay_images"] = model.project_image(pooled[rows:], replay=True)
        features["replay_tokens"] = text[rows:]
    if "level_tokens" in part:
        level_tokens = part["level_tokens"]
        most = settings.level_rows(rows)
        level_rows = level_tokens.reshape(-1, level_tokens.shape[-1])
        level_texts = _encode_once(model, level_rows, most, of_texts[1])
        features["level_tokens"] = level_texts.reshape(*level_tokens.shape[:2], -1)
    dtype = jnp.dtype(model.execution.dtype)
    return jax.tree.map(lambda x: x.astype(dtype), features)


def _encode_once(
    model: clip.Clip, tokens: jax.Array, most: int, maxima: jax.Array | None
) -> jax.Array:
    """Features [rows, dim] of texts of which no more than `most` differ, each encoded once."""
    if most >= len(tokens):
        return model.encode_text(tokens, maxima)
    numbers = _text_ids(tokens)
    order = jnp.argsort(numbers)
    (starts,) = jnp.nonzero(jnp.diff(numbers[order], prepend=-1), size=most, fill_value=0)
    texts = model.encode_text(tokens[order[starts]], maxima)
    # A product, whose gradient adds up in one order on every machine, as that of `take` does not.
    return jnp.matmul(jax.nn.one_hot(numbers, most, dtype=texts.dtype), texts, precision="highest")


def _text_ids(tokens: jax.Array) -> jax.Array:
    """[rows, length] int32 → [rows] int32 from 0 on, equal where the texts are.

    Texts are told apart by two hashes of 32 bits each: that any two of 100,000 are taken for one
    has a chance of one in some thousand million.
    """
    hashes = [jnp.full(len(tokens), 2166136261, jnp.uint32) for _ in _MULTIPLIERS]
    for place in range(tokens.shape[-1]):  # as FNV-1a does, but high bits come back to low ones
        token = tokens[:, place].astype(jnp.uint32)
        hashes = [(h ^ token) * jnp.uint32(by) for h, by in zip(hashes, _MULTIPLIERS, strict=True)]
        hashes = [h ^ (h >> 15) for h in hashes]
    order = jnp.lexsort(hashes)
    is_new = jnp.any(jnp.stack([jnp.diff(h[order]) != 0 for h in hashes]), axis=0)
    return jnp.zeros(len(tokens), jnp.int32).at[order].set(jnp.cumsum(jnp.append(False, is_new)))


def _kept_patches(
    settings: StepSettings, model: ClipConfig, batch: dict[str, jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
    """Random patches for each image by stream, [images, kept] int32; nothing: keep them all."""
    if settings.patch_keep >= 1:
        return {}
    patches, kept = _patch_counts(settings, model)
    streams = [prefix for prefix in ("", "replay_") if prefix + "images" in batch]
    chosen = {}
    for number, prefix in enumerate(streams):
        images = batch[prefix + "images"].shape[0]
        noise = jax.random.uniform(jax.random.fold_in(key, number), (images, patches))
        chosen[prefix + "kept"] = jnp.argsort(noise, axis=1)[:, :kept].astype(jnp.int32)
    return chosen


def _patch_counts(settings: StepSettings, model: ClipConfig) -> tuple[int, int]:
    """Patches of an image, and how many of them are looked at."""
    patches = (model.vision.image_size // model.vision.patch_size) ** 2
    return patches, max(1, round(settings.patch_keep * patches))


def make_train_step(
    settings: StepSettings, model: ClipConfig, mesh: Mesh, shardings: TrainState
) -> jax.stages.Wrapped:
    """Compiles (state, batch) → (next state, metrics), with the state donated.

    Metrics are [] float32: `loss`, its parts, `accuracy`, `logit_scale` (the exponential used in
    this step), `learning_rate`, `gradient_norm` (before it is clipped), `unreadable` (pairs of
    weight 0).
    """
    optimizer = optim.optimizer(settings.optimizer)
    schedule = optim.learning_rate(settings.optimizer)

    def train_step(
        state: TrainState, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)

        def loss_of(params: dict, maxima: dict | None) -> tuple[jax.Array, dict[str, jax.Array]]:
            return losses(params, batch, key, maxima, settings=settings, model=model, mesh=mesh)

        differentiate = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
        maxima = state.maxima
        known = None if maxima is None else fp8.expected(maxima)
        (loss, metrics), (gradients, seen) = differentiate(state.params, known)
        if maxima is not None:
            maxima = fp8.remembered(maxima, seen)
        gradients = jax.lax.with_sharding_constraint(gradients, shardings.params)
        norm = optax.global_norm(gradients)
        if settings.clip_gradients:
            factor = jnp.minimum(1, settings.clip_gradients / (norm + 1e-6))  # as torch does
            gradients = jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = cast(dict, optax.apply_updates(state.params, updates))
        params["logit_scale"] = jnp.clip(params["logit_scale"], 0, MAX_LOGIT_SCALE)
        if settings.skip_nonfinite:
            is_sound = jnp.isfinite(loss) & jnp.isfinite(norm)
            params, opt_state, maxima = jax.tree.map(
                lambda new, old: jnp.where(is_sound, new, old),
                (params, opt_state, maxima),
                (state.params, state.opt_state, state.maxima),
            )
        averaged = state.averaged
        if averaged is not None:
            averaged = jax.tree.map(
                lambda old, new: settings.ema * old + (1 - settings.ema) * new, averaged, params
            )
        metrics |= {
            "loss": loss,
            "logit_scale": jnp.exp(state.params["logit_scale"]),
            "learning_rate": schedule(state.step),
            "gradient_norm": norm,
            "unreadable": sum(
                (value == 0).sum() for key, value in batch.items() if key.endswith("weights")
            ),
        }
        after = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            averaged=averaged,
            maxima=maxima,
        )
        return after, metrics

    return jax.jit(
        train_step,
        in_shardings=(shardings, NamedSharding(mesh, sharding.BATCH)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )


def train_flops_per_step(
    settings: StepSettings,
    model: ClipConfig,
    text_length: int,
    *,
    level_length: int | None = None,
    devices: int = 1,
) -> float:
    """Model FLOPs of one update: 2 per weight and token forward, twice that backward.

    Of level captions those that the text tower takes are counted, see `StepSettings.level_rows`.

    Attention adds 4 * tokens * width per token and layer. Recomputation is not counted, so a
    utilisation built on this is MFU, not hardware utilisation (PaLM, arXiv 2204.02311, app. B).

    Args:
      settings, model: of the run.
      text_length: tokens of the captions.
      level_length: tokens of the level captions; None: as many.
      devices: that a batch is split over.
    """

    def tower(tokens: int, width: int, layers: int, mlp_ratio: float) -> float:
        weights = layers * width * width * (4 + 2 * mlp_ratio)
        return 2 * tokens * (weights + 2 * layers * tokens * width)

    vision, text = model.vision, model.text
    patches, kept = _patch_counts(settings, model)
    image = tower(kept + 1, vision.width, vision.layers, vision.mlp_ratio)
    image += 2 * patches * 3 * vision.patch_size**2 * vision.width
    caption = tower(text_length, text.width, text.layers, 4.0)
    pairs = settings.batch_size + settings.replay_batch_size
    parts = devices * settings.micro_batches
    level_texts = parts * settings.level_rows(settings.batch_size // parts)
    level_text = tower(level_length or text_length, text.width, text.layers, 4.0)
    return 3 * (pairs * (image + caption) + level_texts * level_text)
