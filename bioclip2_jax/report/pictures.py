"""The pictures of the report: which ones, and how they get into the page."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import dataset, folders, images
from bioclip2_jax.errors import UserError, reason
from bioclip2_jax.measures.intervals import wilson

PICTURES = 6  # right ones, and as many wrong ones
WORST_CLASSES = 10
WRONG_A_CLASS = 3
CARD_PIXELS = 280
THUMBNAIL_PIXELS = 150

# A row of `zero_shot_images.csv` → the encoded picture and whom to credit.
Opener = Callable[[dict[str, str]], tuple[bytes, str]]


# ---- Choosing


def choose_pictures(answers: list[dict[str, str]]) -> tuple[list[dict], list[dict]]:
    """Right answers spread over the taxa, and the wrong ones the model was surest of.

    Args:
      answers: rows of `zero_shot_images.csv`.

    Returns:
      Up to `PICTURES` rows each, no two of the same taxon.
    """
    right, wrong = {}, {}
    for row in _surest_first(answers):
        chosen = right if row["correct"] == "1" else wrong
        chosen.setdefault(row["scientificName"], row)
    spread = [right[name] for name in sorted(right)]
    places = np.unique(np.linspace(0, len(spread) - 1, PICTURES).astype(int)) if spread else ()
    return [spread[place] for place in places], list(wrong.values())[:PICTURES]


def worst_classes(classes: list[dict[str, str]]) -> list[tuple[dict[str, str], float]]:
    """The taxa least often named rightly for all that chance can do, the hardest first.

    Returns:
      Rows of `zero_shot_classes.csv`, and the upper end of the Wilson interval of the share that
      was named rightly, which orders them.
    """

    def most(row: dict[str, str]) -> float:
        count = int(row["num_images"])
        return wilson(round(float(row["top1"]) * count), count)[1]

    missed = [(row, most(row)) for row in classes if float(row["top1"]) < 1]
    order = sorted(missed, key=lambda pair: pair[1])
    return order[:WORST_CLASSES]


def wrong_of_class(answers: list[dict[str, str]], name: str) -> list[dict]:
    """The surest mistakes about one taxon, of different given names as far as there are.

    Args:
      answers: rows of `zero_shot_images.csv`.
      name: the scientific name.

    Returns:
      Up to `WRONG_A_CLASS` rows.
    """
    own = [row for row in answers if row["scientificName"] == name and row["correct"] != "1"]
    first: dict[str, dict] = {}
    for row in _surest_first(own):
        first.setdefault(row["answer_1"], row)
    # A stable sort: the first of each name, then the others, the surest first in both parts.
    order = sorted(_surest_first(own), key=lambda row: row is not first[row["answer_1"]])
    return order[:WRONG_A_CLASS]


def _surest_first(answers: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(answers, key=lambda row: -float(row["score_1"]))


# ---- Opening


def open_pictures(data: str | None, split: str, is_folder: bool) -> Opener:
    """A function that finds the pictures of an evaluation again.

    Args:
      data: what was evaluated: a dataset, or a folder that keys count from.
      split: of the dataset.
      is_folder: the pictures lie in a folder.

    Raises:
      UserError: they are not there any more.
    """
    if data is None:
        raise UserError("the evaluation took kept features and tells no place of the pictures")
    if is_folder:
        root = files.place(data)
        if not root.is_dir():
            raise UserError(f"{data}: no such folder any more")
        return lambda row: (_read_below(root, row["key"]), "")
    source = dataset.open_split(data, split)

    def find(row: dict[str, str]) -> tuple[bytes, str]:
        index = int(row["index"])
        record = source[index] if index < len(source) else None
        if record is None or record["key"] != row["key"]:
            raise UserError(
                f"picture {row['key']} of the results is not in this dataset; give --data the"
                " dataset that was evaluated"
            )
        credit = ", ".join(filter(None, (record["source"], record["licence"])))
        return record["image"], credit

    return find


def _read_below(root: Path, key: str) -> bytes:
    """A file of the folder, and of no other place."""
    path = folders.inside(root, key)
    if path is None:
        raise UserError(f"picture {key} of the results lies outside {root}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or reason(error)})") from error


def picture(opener: Opener, row: dict[str, str], pixels: int) -> dict:
    """What the page shows of one picture: a small JPEG as a data URL, its name, its answers.

    Raises:
      UserError: it is not there, or is no picture any more.
    """
    data, credit = opener(row)
    try:
        image = images.decode(data)
    except images.BadImage as error:
        raise UserError(f"picture {row['key']} cannot be read any more ({error})") from error
    image.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    answers = [
        {"name": row[f"answer_{place}"], "score": float(row[f"score_{place}"])}
        for place in range(1, 4)
        if row.get(f"answer_{place}")
    ]
    return {
        "url": f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "name": row["scientificName"],
        "credit": credit,
        "answers": answers,
    }
