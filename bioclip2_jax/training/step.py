"""One update: two towers, one or two contrastive losses, AdamW, the clamp of logit_scale."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from bioclip2_jax.errors import UsageError
from bioclip2_jax.losses import contrastive_loss_and_accuracy, taxon_targets
from bioclip2_jax.models import clip
from bioclip2_jax.models.execution import ATTENTION, REMAT, Execution
from bioclip2_jax.models.presets import ClipConfig
from bioclip2_jax.text.taxonomy import RANKS
from bioclip2_jax.training import optim, sharding

MAX_LOGIT_SCALE = math.log(100)


class TrainState(NamedTuple):
    """All that a checkpoint holds. `step` counts finished updates."""

    step: jax.Array
    params: dict
    opt_state: Any


def init_state(config: ConfigDict, model: ClipConfig, params: dict | None = None) -> TrainState:
    """The state before the first update; `params` replaces random weights. Traceable."""
    if params is None:
        replay = config.train.replay_batch_size > 0
        params = clip.init_params(model, config.seed, replay_projection=replay)
    params = jax.tree.map(lambda leaf: leaf.astype(config.model.param_dtype), params)
    opt_state = optim.optimizer(config.train).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state)


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Shardings for every leaf of `state` (arrays or shapes); Adam's moments follow the params."""
    return TrainState(*(sharding.tree_shardings(part, mesh) for part in state))


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Refuses settings that no step on `mesh` can be made of.

    Raises:
      UsageError: names the key.
    """
    settings, train = config.model, config.train
    for key, known in (
        ("dtype", ("float32", "bfloat16")),
        ("param_dtype", ("float32", "bfloat16")),
        ("remat", tuple(REMAT)),
        ("attention", ATTENTION),
    ):
        if settings[key] not in known:
            raise UsageError(f"config.model.{key}={settings[key]!r} is not one of {known}")
    for key, value in (
        ("model.block_parts", settings.block_parts),
        ("train.micro_batches", train.micro_batches),
        ("train.loss_tile", train.loss_tile),
    ):
        if value < 1:
            raise UsageError(f"config.{key}={value} must be at least 1")
    if settings.block_parts > 1 and settings.remat not in ("full", "offload"):
        raise UsageError("config.model.block_parts above 1 needs config.model.remat=full")
    if train.rank_weights and (
        len(train.rank_weights) != len(RANKS)
        or min(train.rank_weights) < 0
        or train.rank_weights[-1] <= 0
    ):
        raise UsageError(
            f"config.train.rank_weights={tuple(train.rank_weights)}: give one for each of"
            f" {', '.join(RANKS)}, none negative, the last above zero"
        )
    divisor = mesh.size * train.micro_batches
    for name in ("batch_size", "replay_batch_size"):
        size = train[name]
        if size % divisor:
            several = jax.process_count() > 1
            raise UsageError(
                f"config.train.{name}={size} cannot be split over {mesh.size} devices"
                + (f" of {jax.process_count()} processes" if several else "")
                + (f" in {train.micro_batches} parts" if train.micro_batches > 1 else "")
                + f"; use a multiple, for example {max(size // divisor, 1) * divisor}"
            )


def losses(
    model: ClipConfig,
    params: dict,
    config: ConfigDict,
    batch: dict[str, jax.Array],
    keep_key: jax.Array,
    mesh: Mesh,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of the biological pairs plus, with equal weight, loss of the replay pairs.

    The two kinds have their own visual projection and their own similarity matrix, and share the
    rest (paper, section 4). With `config.train.micro_batches` the towers see a part of each
    device's pairs at a time and are run again for its gradients; the losses are over all pairs, so
    nothing changes but rounding and memory (GradCache, arXiv 2101.06983).

    Returns:
      The total [] float32, and `contrastive_loss`, `accuracy`, `replay_loss` when replay is on.
    """
    train, settings = config.train, config.model
    execution = Execution(
        dtype=settings.dtype,
        scan=settings.scan,
        remat=settings.remat,
        block_parts=settings.block_parts,
        attention=settings.attention,
        gather=sharding.gather,
    )

    def features_of(params: dict, rows: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Of one device's rows."""

        def towers(part: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return _features(clip.bind(model, params, execution), config, part)

        if train.micro_batches == 1:
            return towers(rows)
        parts = jax.tree.map(lambda x: x.reshape(train.micro_batches, -1, *x.shape[1:]), rows)
        found = jax.lax.map(jax.checkpoint(towers, prevent_cse=False), parts)
        return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), found)

    seen = {k: x for k, x in batch.items() if k.endswith(("images", "tokens"))}
    seen |= _kept_patches(model, config, batch, keep_key)
    features = sharding.on_shares(features_of, params, seen, mesh)

    scale = jnp.exp(params["logit_scale"].astype(jnp.float32))
    over_all = functools.partial(contrastive_loss_and_accuracy, mesh=mesh, tile=train.loss_tile)
    targets = None
    if "taxon_ids" in batch:
        targets = taxon_targets(batch["taxon_ids"], tuple(train.rank_weights), batch["weights"])
    loss, accuracy = over_all(
        features["images"], features["tokens"], scale, batch["weights"], targets
    )
    metrics = {"contrastive_loss": loss, "accuracy": accuracy}
    if "replay_images" in batch:
        replay_loss, _ = over_all(
            features["replay_images"], features["replay_tokens"], scale, batch["replay_weights"]
        )
        metrics["replay_loss"] = replay_loss
        loss = loss + replay_loss
    return loss, metrics


def _features(model: clip.Clip, config: ConfigDict, part: dict[str, jax.Array]) -> dict:
    """Features [rows, dim] in the compute dtype; both streams pass each tower together."""
    streams = [prefix for prefix in ("", "replay_") if prefix + "images" in part]
    rows, length = len(part["images"]), max(part[p + "tokens"].shape[1] for p in streams)

    def joined(name: str) -> jax.Array:
        return jnp.concatenate([part[prefix + name] for prefix in streams])

    def padded(tokens: jax.Array) -> jax.Array:
        return jnp.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))

    pixels = clip.normalize_images(joined("images"), config.data.mean, config.data.std)
    pooled = model.image_trunk(pixels, joined("kept") if "kept" in part else None)
    text = model.encode_text(jnp.concatenate([padded(part[p + "tokens"]) for p in streams]))
    features = {"images": model.project_image(pooled[:rows]), "tokens": text[:rows]}
    if len(streams) == 2:
        features["replay_images"] = model.project_image(pooled[rows:], replay=True)
        features["replay_tokens"] = text[rows:]
    dtype = jnp.dtype(model.execution.dtype)
    return jax.tree.map(lambda x: x.astype(dtype), features)


def _kept_patches(
    model: ClipConfig, config: ConfigDict, batch: dict[str, jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
    """Random patches for each image by stream, [images, kept] int32; nothing: keep them all."""
    if config.train.patch_keep >= 1:
        return {}
    patches = (model.vision.image_size // model.vision.patch_size) ** 2
    kept = max(1, round(config.train.patch_keep * patches))
    streams = [prefix for prefix in ("", "replay_") if prefix + "images" in batch]
    found = {}
    for number, prefix in enumerate(streams):
        images = batch[prefix + "images"].shape[0]
        noise = jax.random.uniform(jax.random.fold_in(key, number), (images, patches))
        found[prefix + "kept"] = jnp.argsort(noise, axis=1)[:, :kept].astype(jnp.int32)
    return found


def make_train_step(
    config: ConfigDict, model: ClipConfig, mesh: Mesh, shardings: TrainState
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles (state, batch) → (next state, metrics), with the state donated.

    Metrics are [] float32: `loss`, its parts, `accuracy`, `logit_scale` (the exponential used in
    this step), `learning_rate`, `gradient_norm`, `bad_images`.
    """
    update = optim.optimizer(config.train)
    schedule = optim.learning_rate(config.train)

    def train_step(
        state: TrainState, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)

        def loss_of(params: dict) -> tuple[jax.Array, dict[str, jax.Array]]:
            return losses(model, params, config, batch, key, mesh)

        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        gradients = jax.lax.with_sharding_constraint(gradients, shardings.params)
        updates, opt_state = update.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params["logit_scale"] = jnp.clip(params["logit_scale"], 0, MAX_LOGIT_SCALE)
        metrics |= {
            "loss": loss,
            "logit_scale": jnp.exp(state.params["logit_scale"]),
            "learning_rate": schedule(state.step),
            "gradient_norm": optax.global_norm(gradients),
            "bad_images": sum(
                (value == 0).sum() for key, value in batch.items() if key.endswith("weights")
            ),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(
        train_step,
        in_shardings=(shardings, NamedSharding(mesh, sharding.BATCH)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )


def train_flops_per_step(config: ConfigDict, model: ClipConfig, text_length: int) -> float:
    """Model FLOPs of one update: 2 per weight and token forward, twice that backward.

    Attention adds 4 * tokens * width per token and layer. Recomputation is not counted, so a
    utilisation built on this is MFU, not hardware utilisation (PaLM, arXiv 2204.02311, app. B).
    """

    def tower(tokens: int, width: int, layers: int, mlp_ratio: float) -> float:
        weights = layers * width * width * (4 + 2 * mlp_ratio)
        return 2 * tokens * (weights + 2 * layers * tokens * width)

    vision, text = model.vision, model.text
    patches = (vision.image_size // vision.patch_size) ** 2
    kept = max(1, round(min(config.train.patch_keep, 1) * patches))
    image = tower(kept + 1, vision.width, vision.layers, vision.mlp_ratio)
    image += 2 * patches * 3 * vision.patch_size**2 * vision.width
    caption = tower(text_length, text.width, text.layers, 4.0)
    pairs = config.train.batch_size + config.train.replay_batch_size
    return 3 * pairs * (image + caption)
