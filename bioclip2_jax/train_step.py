"""One update: two towers, one or two contrastive losses, AdamW, the clamp of logit_scale."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from bioclip2_jax import optim, sharding
from bioclip2_jax.losses import contrastive_loss
from bioclip2_jax.models import clip
from bioclip2_jax.models.layers import Execution
from bioclip2_jax.models.presets import ClipConfig

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
    opt_state = optim.optimizer(config.train).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state)


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Shardings for every leaf of `state` (arrays or shapes); Adam's moments follow the params."""
    return TrainState(*(sharding.tree_shardings(part, mesh) for part in state))


def losses(
    model: clip.Clip, config: ConfigDict, batch: dict[str, jax.Array], keep_key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of the biological pairs plus, with equal weight, loss of the replay pairs.

    All images pass the trunk together. The two kinds have their own visual projection and their
    own similarity matrix, and share the text tower and logit_scale (paper, section 4).

    Returns:
      The total [] float32, and `contrastive_loss`, `accuracy`, `replay_loss` when replay is on.
    """
    replay = "replay_images" in batch
    pixels = batch["images"]
    if replay:
        pixels = jnp.concatenate([pixels, batch["replay_images"]])
    pixels = clip.normalize_images(pixels, config.data.mean, config.data.std)
    pooled = model.image_trunk(pixels, _kept_patches(model, config, pixels.shape[0], keep_key))
    scale = jnp.exp(model.logit_scale[...])
    size = batch["images"].shape[0]
    loss, accuracy = contrastive_loss(
        model.project_image(pooled[:size]),
        model.encode_text(batch["tokens"]),
        scale,
        batch["weights"],
    )
    metrics = {"contrastive_loss": loss, "accuracy": accuracy}
    if replay:
        replay_loss, _ = contrastive_loss(
            model.project_image(pooled[size:], replay=True),
            model.encode_text(batch["replay_tokens"]),
            scale,
            batch["replay_weights"],
        )
        metrics["replay_loss"] = replay_loss
        loss = loss + replay_loss
    return loss, metrics


def _kept_patches(
    model: clip.Clip, config: ConfigDict, num_images: int, key: jax.Array
) -> jax.Array | None:
    """Random patches for each image, [images, kept] int32, or None to keep them all."""
    if config.train.patch_keep >= 1:
        return None
    patches = (model.config.vision.image_size // model.config.vision.patch_size) ** 2
    kept = max(1, round(config.train.patch_keep * patches))
    noise = jax.random.uniform(key, (num_images, patches))
    return jnp.argsort(noise, axis=1)[:, :kept].astype(jnp.int32)


def make_train_step(
    config: ConfigDict, model: ClipConfig, mesh: Mesh, shardings: TrainState
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles (state, batch) → (next state, metrics), with the state donated.

    Metrics are [] float32: `loss`, its parts, `accuracy`, `logit_scale` (the exponential used in
    this step), `learning_rate`, `gradient_norm`, `bad_images`.
    """
    update = optim.optimizer(config.train)
    schedule = optim.learning_rate(config.train)
    settings = config.model
    execution = Execution(settings.dtype, settings.scan, settings.remat)

    def train_step(
        state: TrainState, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)

        def loss_of(params: dict) -> tuple[jax.Array, dict[str, jax.Array]]:
            bound = clip.bind(model, params, execution)
            return losses(bound, config, batch, key)

        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
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

    whole = NamedSharding(mesh, sharding.BATCH)
    return jax.jit(
        train_step,
        in_shardings=(shardings, whole),
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
