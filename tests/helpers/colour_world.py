"""A world whose organisms are plain coloured squares, and a model that knows the colours.

It lets tests of evaluation, prediction and report state exactly which answers are right.
"""

import io
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from bioclip2_jax.data.records import Record, make_record
from bioclip2_jax.models.presets import ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.text.tokenizer import tokenize
from bioclip2_jax.weights.description import Preprocess

COLOURS = {
    "red": (255, 0, 0),
    "orange": (255, 128, 0),
    "blue": (0, 0, 255),
    "green": (0, 255, 0),
}
_NUMBERS = itertools.count()
BIRD = ("Animalia", "Chordata", "Aves")
TAXA = {
    "red": Taxon(*BIRD, "Fireformes", "Firidae", "Ignis", "red"),
    "orange": Taxon(*BIRD, "Fireformes", "Firidae", "Ignis", "orange"),
    "blue": Taxon(*BIRD, "Seaformes", "Maridae", "Mare", "blue"),
    # Known to its genus only, whose name is the colour.
    "green": Taxon("Plantae", "", "", "Leafales", "Leafaceae", "Green"),
}
COMMON = {"red": "fire bird", "orange": "", "blue": "sea bird", "green": "leaf"}


@dataclass
class ColourModel:
    """Image features are the mean colour; a text has the colour whose word it holds.

    Attributes:
      logit_scale: the factor on cosines.
      confuse: word → the colour it is wrongly taken for.
    """

    logit_scale: float = 50.0
    confuse: dict[str, str] = field(default_factory=dict)
    params: dict = field(default_factory=dict)
    step: int | None = None
    precision: str = "float32"

    def __post_init__(self):
        self.config = ClipConfig(4, VisionConfig(16, 8, 32, 1, 32), TextConfig(32, 1, 1))
        self.preprocess = Preprocess(16)
        self.batch_shapes: set[tuple] = set()
        self._words = {
            int(tokenize(word)[0, 1]): COLOURS[self.confuse.get(word, word)] for word in COLOURS
        }

    def encode_image(self, images: jax.Array, normalize: bool = True) -> np.ndarray:
        """[b, h, w, 3] uint8 → [b, 4]; of length 2 where it is not normalised."""
        images = np.asarray(images)
        self.batch_shapes.add(images.shape)
        return _features(images.mean(axis=(1, 2))) * np.float32(1 if normalize else 2)

    def encode_text(self, tokens: jax.Array) -> np.ndarray:
        """[b, length] int32 → [b, 4]; rows without a known word are grey."""
        tokens = np.asarray(tokens)
        self.batch_shapes.add(tokens.shape)
        colours = [
            next((self._words[t] for t in row.tolist() if t in self._words), (128, 128, 128))
            for row in tokens
        ]
        return _features(np.asarray(colours, float))


def _features(colours: np.ndarray) -> np.ndarray:
    array = np.concatenate([colours / 127.5 - 1, np.full((len(colours), 1), 0.1)], axis=1)
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def square(colour: str, kind: str = "PNG") -> bytes:
    """An encoded picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), COLOURS[colour]).save(buffer, kind)
    return buffer.getvalue()


def record(colour: str, number: int, dataset: str = "squares") -> Record:
    """A record of that colour; its key behind the picture's end tells equal pictures apart."""
    return make_record(
        key=f"{colour}{number}",
        image=square(colour) + f"{colour}{number}".encode(),
        taxon=TAXA[colour],
        vernacular_name=COMMON[colour],
        source="tests",
        licence="CC0",
        dataset_name=dataset,
    )


def write_world(folder: Path, val: dict[str, int], train: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """A dataset with two training pictures of each colour in `train`, and `val` of each in val."""
    from bioclip2_jax.prepare.build import write_dataset

    splits = {
        "train": [record(colour, 100 + i) for colour in train for i in range(2)],
        "val": [
            record(colour, i, "greens" if colour == "green" else "squares")
            for colour, count in val.items()
            for i in range(count)
        ],
    }
    # TFDS wants every dataset of a process to have a name of its own.
    name = f"squares_{next(_NUMBERS)}"
    write_dataset(splits, folder, name=name, description="Coloured squares.")
    return folder
