"""The sets beyond species as their authors publish them: which picture, what is true, which part.

Every reader takes the folder of the set and gives file names relative to it, as `bioclip2 embed` on
that folder names its features. Layouts: NeWT (Van Horn et al. 2021), FishNet (Khan et al. 2023),
AwA2 (Xian et al. 2018), Herbarium 19 (Tan et al. 2019) in the form of generalised category
discovery, and PlantDoc (Singh et al. 2020).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation.published import folders
from bioclip2_jax.evaluation.published.folders import Labelled

FISHNET_LABELS = (
    *("FeedingPath", "Tropical", "Temperate", "Subtropical", "Boreal", "Polar"),
    *("freshwater", "saltwater", "brackish"),
)
_FEEDING = {"pelagic": 1, "benthic": 0}


@dataclass(frozen=True, kw_only=True)
class BinaryTasks:
    """Of NeWT. Arrays are [images].

    Attributes:
      files: file names.
      labels: int, 0 or 1.
      tasks, clusters: names of the task and of its group.
      is_train: bool.
    """

    files: list[str]
    labels: np.ndarray
    tasks: np.ndarray
    clusters: np.ndarray
    is_train: np.ndarray


class TwoParts(NamedTuple):
    """A set with a training and a test part: [images] classes, or [images, labels] 0 and 1."""

    train: Labelled
    test: Labelled


@dataclass(frozen=True, kw_only=True)
class OldAndNew:
    """Of Herbarium 19: images, their classes [images] int, and which classes are old [classes]."""

    files: list[str]
    labels: np.ndarray
    is_old: np.ndarray


def newt(root: Path) -> BinaryTasks:
    """`newt2021_labels.csv` and `newt2021_images/ID.jpg`.

    Raises:
      UserError: the table is missing, lacks a column or holds another value.
    """
    path = root / "newt2021_labels.csv"
    numbered = folders.read_table(path, ("id", "label", "task", "split"))
    for number, row in numbered:
        if row["label"] not in ("0", "1", "0.0", "1.0") or row["split"] not in ("train", "test"):
            raise UserError(
                f"{path}: line {number} has label {row['label']!r} and split {row['split']!r};"
                " 0 or 1, and train or test are known"
            )
    rows = [row for _, row in numbered]
    return BinaryTasks(
        files=[f"newt2021_images/{row['id']}.jpg" for row in rows],
        labels=np.asarray([int(float(row["label"])) for row in rows]),
        tasks=np.asarray([row["task"] for row in rows]),
        clusters=np.asarray([row.get("task_cluster") or "" for row in rows]),
        is_train=np.asarray([row["split"] == "train" for row in rows]),
    )


def fishnet(root: Path) -> TwoParts:
    """`train.csv`, `test.csv` and `Image_Library/FOLDER/NAME`.

    Rows that lack one of the nine labels are dropped, as in the original.

    Raises:
      UserError: a table is missing, lacks a column or holds another value.
    """
    return TwoParts(*(_fishnet_part(root / f"{part}.csv") for part in TwoParts._fields))


def _fishnet_part(path: Path) -> Labelled:
    files, labels = [], []
    for number, row in folders.read_table(path, ("image", "Folder", *FISHNET_LABELS)):
        cells = [row[label].strip() for label in FISHNET_LABELS]
        if any(cell.lower() in ("", "nan", "null", "none") for cell in cells):
            continue
        try:
            values = [_FEEDING.get(cells[0].lower()), *(int(float(c)) for c in cells[1:])]
        except ValueError:
            values = [None]
        if not set(values) <= {0, 1}:
            raise UserError(
                f"{path}: line {number} holds {', '.join(cells)}; FeedingPath is pelagic or"
                " benthic, the other labels are 0 or 1"
            )
        files.append(f"Image_Library/{row['Folder']}/{Path(row['image']).name}")
        labels.append(values)
    if not files:
        raise UserError(f"{path}: no row with all nine labels")
    return Labelled(files, np.asarray(labels))


def awa2(root: Path) -> TwoParts:
    """`classes.txt`, `trainclasses.txt`, `testclasses.txt`, `predicate-matrix-binary.txt`, images.

    The labels of a picture are the 85 attributes of its class. `classes.txt` may number its lines,
    as the published one does.

    Raises:
      UserError: a file is missing or does not fit the others.
    """
    names = [line.split()[-1] for line in folders.read_lines(root / "classes.txt")]
    path = root / "predicate-matrix-binary.txt"
    try:
        matrix = np.loadtxt(folders.read_lines(path), int, ndmin=2)
    except ValueError as error:
        raise UserError(f"{path}: not a table of 0 and 1 ({error})") from error
    if len(matrix) != len(names) or not np.isin(matrix, (0, 1)).all():
        raise UserError(f"{path}: needs one line of 0 and 1 for each of {len(names)} classes")

    def part(path: Path) -> Labelled:
        files, labels = [], []
        for name in folders.read_lines(path):
            if name not in names:
                raise UserError(f"{path}: {name!r} is not in classes.txt")
            pictures = folders.pictures_in(root / "JPEGImages" / name, root)
            files += pictures
            labels += [matrix[names.index(name)]] * len(pictures)
        return Labelled(files, np.asarray(labels))

    return TwoParts(part(root / "trainclasses.txt"), part(root / "testclasses.txt"))


def herbarium19(root: Path) -> OldAndNew:
    """`small-train/CLASS/*.jpg` and the split into old and new classes.

    The split is published as a pickle, which is never opened here: it must be written out once as
    `old_classes.txt`, one number of an old class a line, counted from 0 in the sorted order of the
    folders.

    Raises:
      UserError: a folder or the split is missing, or the split names no such class.
    """
    pictures, names = folders.class_folders(root / "small-train", root)
    path = root / "old_classes.txt"
    if not path.exists():
        raise UserError(
            f"{path}: missing; write the numbers of the old classes into it, one a line: they are"
            " the list under the key Old of the published herbarium_19_class_splits.pkl"
        )
    numbers = folders.read_lines(path)
    if not all(line.isdigit() and int(line) < len(names) for line in numbers):
        raise UserError(f"{path}: holds something other than numbers from 0 to {len(names) - 1}")
    is_old = np.zeros(len(names), bool)
    is_old[[int(line) for line in numbers]] = True
    return OldAndNew(files=pictures.files, labels=pictures.labels, is_old=is_old)


def plantdoc(root: Path) -> TwoParts:
    """`train/CLASS/*` and `test/CLASS/*`.

    Raises:
      UserError: a folder is missing, or a test class has no training picture.
    """
    train, train_names = folders.class_folders(root / "train", root)
    test, test_names = folders.class_folders(root / "test", root)
    unknown = sorted(set(test_names) - set(train_names))
    if unknown:
        raise UserError(f"{root / 'test' / unknown[0]}: the training part has no such class")
    numbers = np.asarray([train_names.index(name) for name in test_names])
    test = Labelled(test.files, numbers[test.labels])
    return TwoParts(train, test)
