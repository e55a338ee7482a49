"""What all classifiers share: a model, pictures, and probabilities of texts."""

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from bioclip2_jax import files
from bioclip2_jax.data import images as pictures_
from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.features.encode import encode_pixels, spread
from bioclip2_jax.identify.pybioclip.names import BIOCLIP_MODEL_STR, LABELS_OF
from bioclip2_jax.measures.scores import unit
from bioclip2_jax.weights.load import load

Picture = str | os.PathLike[str] | Image.Image
Progress = Callable[[int, int], object]  # pictures done, all
_LOCAL = "local-dir:"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_SIDE = 224  # to which pybioclip brings pictures for its own two models


class BaseClassifier:
    """A model that encodes pictures.

    Attributes:
      model_str, pretrained_str, device: as given.
      model: what `bioclip2_jax.load` gives.
      preprocess: RGB picture → [size, size, 3], uint8 or, for pybioclip's own two models, float32
        and normalised: it scales those pictures as floats to 224 x 224, whatever their shape, where
        other models have the transform that they come with.
    """

    def __init__(
        self,
        model_str: str | None = BIOCLIP_MODEL_STR,
        pretrained_str: str | None = None,
        device: Any = "cpu",
    ):
        """Loads the model.

        Args:
          model_str: `hf-hub:organisation/model`, which is taken from the Hub's cache where it is
            there; `local-dir:FOLDER`, or any place that `bioclip2_jax.load` takes; or the name of
            an architecture if `pretrained_str` is a file. None is the default.
          pretrained_str: a weight file, whose sizes are read from it. Ignored, as open_clip does,
            where `model_str` begins with `hf-hub:` or `local-dir:`.
          device: kept, but JAX has chosen when it started; JAX_PLATFORMS=cpu in the environment
            chooses otherwise. A warning says so where another than JAX's is asked for.

        Raises:
          UsageError: an architecture without a file, or with a tag of open_clip's list.
          UserError: the model cannot be read.
        """
        self.device = device
        self.recorder: Any = None
        self.load_pretrained_model(model_str, pretrained_str)
        kind, ours = str(device).partition(":")[0], jax.default_backend()
        if kind != "cpu" and (kind == "mps" or ours == "cpu"):
            warnings.warn(
                f"device {device!r} is not used: JAX computes on {ours}, as it was installed and"
                " as JAX_PLATFORMS says",
                stacklevel=2,
            )

    def load_pretrained_model(
        self, model_str: str | None = BIOCLIP_MODEL_STR, pretrained_str: str | None = None
    ) -> None:
        """Loads another model; arguments and errors are those of the constructor."""
        self.model_str = model_str or BIOCLIP_MODEL_STR
        self.pretrained_str = pretrained_str
        place = _place(self.model_str, pretrained_str)
        model = load(place)
        if place == pretrained_str and self.model_str.lower().endswith("-quickgelu"):
            # No weight file tells that.
            config = dataclasses.replace(model.config, quick_gelu=True)
            model = dataclasses.replace(model, config=config)
        self.model = spread(model)
        how = self.model.preprocess
        self.preprocess: Callable[[Image.Image], np.ndarray]
        if self.model_str in LABELS_OF:
            self.preprocess = _squash
        else:
            self.preprocess = pictures_.eval_transform(how.size, how.resize_mode, how.interpolation)

    def set_recorder(self, recorder: Any) -> None:
        """Takes what `add_prediction(images, **settings)` is called on, such as pybioclip's."""
        self.recorder = recorder

    def record_event(self, images: object, **settings: object) -> None:
        """Tells the recorder, if there is one, of a call of `predict`."""
        if self.recorder:
            self.recorder.add_prediction(images, **settings)

    @staticmethod
    def ensure_rgb_image(image: Picture) -> Image.Image:
        """Reads a picture as pybioclip does: not turned by EXIF, transparency dropped.

        Raises:
          OSError: it cannot be read; of Pillow if it is no picture.
        """
        if not isinstance(image, Image.Image):
            image = pictures_.opened(files.place(image).read_bytes())
        return image.convert("RGB")

    @staticmethod
    def make_key(image: Picture, idx: int) -> Any:
        """What a picture is called in the answers: as it was given, or by its number."""
        return str(idx) if isinstance(image, Image.Image) else image

    def create_image_features(
        self, images: Sequence[Image.Image], normalize: bool = True
    ) -> np.ndarray:
        """Encodes RGB pictures: [n, dim] float32.

        Each number of pictures is compiled once.

        Raises:
          UserError: the features are not finite.
        """
        return self._features(images, len(images), normalize=normalize)

    def create_image_features_for_image(self, image: Picture, normalize: bool = True) -> np.ndarray:
        """Encodes one picture: [dim] float32; raises as `ensure_rgb_image`."""
        return self.create_image_features([self.ensure_rgb_image(image)], normalize)[0]

    def create_probabilities(
        self, img_features: np.ndarray, txt_features: np.ndarray | jax.Array
    ) -> np.ndarray:
        """Softmax of exp(logit_scale) · cosine.

        Args:
          img_features: [n, dim] float32, L2-normalised.
          txt_features: [dim, texts] float32, L2-normalised columns.

        Returns:
          [n, texts] float32, rows sum to 1.
        """
        return np.asarray(_softmax(img_features, txt_features, self.model.logit_scale))

    def create_probabilities_for_images(
        self,
        images: Sequence[Picture],
        keys: Sequence[Any],
        txt_features: np.ndarray | jax.Array,
    ) -> dict[Any, np.ndarray]:
        """Key → probabilities of its picture, [texts] float32; all pictures in one batch."""
        each = self._probabilities(images, txt_features, None, lambda *_: None)
        return {keys[number]: row for number, row in each}

    def create_batched_probabilities_for_images(
        self,
        images: Sequence[Picture],
        txt_features: np.ndarray | jax.Array,
        batch_size: int | None = 10,
        callback: Progress | None = None,
    ) -> dict[Any, np.ndarray]:
        """Key of each picture (`make_key`) → its probabilities, [texts] float32; all of them."""
        each = self._probabilities(images, txt_features, batch_size, callback)
        return {self.make_key(images[number], number): row for number, row in each}

    def get_tol_repo_id(self) -> str:
        """The dataset on the Hub with the label files of the model.

        Raises:
          ValueError: of another model than pybioclip's own two.
        """
        if self.model_str not in LABELS_OF:
            raise ValueError(
                f"{self.model_str}: no label files on the Hub but for {', '.join(LABELS_OF)}; make"
                " some with `bioclip2 labels` and give them as labels=FOLDER"
            )
        return LABELS_OF[self.model_str]

    def get_cached_datafile(self, filename: str) -> str:
        """Where a file of that dataset lies in the Hub's cache, fetched if it does not.

        Raises:
          ValueError: as `get_tol_repo_id`.
          UserError: it is not there and cannot be fetched.
        """
        from huggingface_hub import hf_hub_download

        repository = self.get_tol_repo_id()
        try:
            return hf_hub_download(repository, filename, repo_type="dataset")
        except Exception as error:  # whatever the network, the Hub and its library come up with
            raise UserError(
                f"{filename} of {repository} is not in the Hub's cache and cannot be fetched"
                f" ({reason(error)})"
            ) from error

    def _features(self, images: Sequence[Image.Image], size: int, *, normalize: bool) -> np.ndarray:
        with ThreadPoolExecutor() as pool:
            pixels = np.stack(list(pool.map(self.preprocess, images)))
        features = encode_pixels(self.model, pixels, size)
        return unit(features) if normalize else features

    def _probabilities(
        self,
        images: Sequence[Picture],
        txt_features: np.ndarray | jax.Array,
        batch_size: int | None,
        callback: Progress | None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(number, [texts] float32) of each picture; one batch of them lies in memory."""
        count = len(images)
        size = min(batch_size or count, count)
        # The texts go to the device once.
        texts = jnp.asarray(txt_features)
        is_quiet = callback is not None or not sys.stderr.isatty()
        with tqdm(total=count, unit="images", disable=is_quiet) as bar:
            for first in range(0, count, max(size, 1)):
                batch = [self.ensure_rgb_image(image) for image in images[first : first + size]]
                features = self._features(batch, size, normalize=True)
                yield from enumerate(self.create_probabilities(features, texts), first)
                bar.update(len(batch))
                if callback:
                    callback(first + len(batch), count)


def listed(images: Picture | Sequence[Picture]) -> Sequence[Picture]:
    """One picture, or several, as several."""
    return [images] if isinstance(images, str | os.PathLike | Image.Image) else images


def _place(model_str: str, pretrained_str: str | None) -> str | Path:
    if model_str.startswith(_LOCAL):
        return model_str.removeprefix(_LOCAL)
    if model_str.startswith("hf-hub:") or files.place(model_str).exists():
        return model_str
    if pretrained_str and pretrained_str.endswith(_SUFFIXES):
        return pretrained_str
    raise UsageError(
        f"{model_str}: no folder, file or hf-hub: name; of an architecture give the weight file as"
        " pretrained_str (open_clip's tags are not known here: save that model by open_clip first)"
    )


def _squash(image: Image.Image) -> np.ndarray:
    """[224, 224, 3] float32, normalised; scaled as floats, which rounds to no 8 bits."""
    bands = [Image.fromarray(np.asarray(band, np.float32)) for band in image.split()]
    scaled = [band.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR) for band in bands]
    pixels = np.stack([np.asarray(band) for band in scaled], axis=-1) / 255
    centred = pixels - np.asarray(pictures_.CLIP_MEAN, np.float32)
    return centred / np.asarray(pictures_.CLIP_STD, np.float32)


@jax.jit
def _softmax(features: jax.Array, texts: jax.Array, scale: float) -> jax.Array:
    return jax.nn.softmax(scale * jnp.dot(features, texts, precision="highest"), axis=1)
