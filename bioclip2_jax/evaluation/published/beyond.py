"""The sets beyond species as their authors publish them: which picture, what is true, which part.

Every reader takes the folder of the set and gives file names relative to it, as `bioclip2 embed` on
that folder names its features. Layouts: NeWT (Van Horn et al. 2021), FishNet (Khan et al. 2023),
AwA2 (Xian et al. 2018), Herbarium 19 (Tan et al. 2019) in the form of generalised category
discovery, and PlantDoc (Singh et al. 2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioclip2_jax.data import tables
from bioclip2_jax.data.folders import files_below
from bioclip2_jax.errors import UserError

FISHNET_LABELS = (
    *("FeedingPath", "Tropical", "Temperate", "Subtropical", "Boreal", "Polar"),
    *("freshwater", "saltwater", "brackish"),
)
_FEEDING = {"pelagic": 1, "benthic": 0}


@dataclass(frozen=True)
class Newt:
    """NeWT: binary tasks. Arrays are [images].

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


@dataclass(frozen=True)
class Split:
    """A set with a training and a test part.

    Attributes:
      train_files, test_files: file names.
      train_labels, test_labels: [images] int classes, or [images, labels] 0 and 1.
      names: of the classes or labels.
    """

    train_files: list[str]
    train_labels: np.ndarray
    test_files: list[str]
    test_labels: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Herbarium:
    """Herbarium 19: images, their classes [images] int, and which classes are old [classes]."""

    files: list[str]
    labels: np.ndarray
    is_old: np.ndarray


def newt(root: Path) -> Newt:
    """`newt2021_labels.csv` and `newt2021_images/ID.jpg`.

    Raises:
      UserError: the table is missing, lacks a column or holds another value.
    """
    path = root / "newt2021_labels.csv"
    rows = _table(path, ("id", "label", "task", "split"))
    for number, row in rows:
        if row["label"] not in ("0", "1", "0.0", "1.0") or row["split"] not in ("train", "test"):
            raise UserError(
                f"{path}: line {number} has label {row['label']!r} and split {row['split']!r};"
                " 0 or 1, and train or test are known"
            )
    rows = [row for _, row in rows]
    return Newt(
        [f"newt2021_images/{row['id']}.jpg" for row in rows],
        np.asarray([int(float(row["label"])) for row in rows]),
        np.asarray([row["task"] for row in rows]),
        np.asarray([row.get("task_cluster") or "" for row in rows]),
        np.asarray([row["split"] == "train" for row in rows]),
    )


def fishnet(root: Path) -> Split:
    """`train.csv`, `test.csv` and `Image_Library/FOLDER/NAME`.

    Rows that lack one of the nine labels are dropped, as in the original.

    Raises:
      UserError: a table is missing, lacks a column or holds another value.
    """
    parts = []
    for name in ("train.csv", "test.csv"):
        path = root / name
        rows = _table(path, ("image", "Folder", *FISHNET_LABELS))
        files, labels = [], []
        for number, row in rows:
            cells = [row[label].strip() for label in FISHNET_LABELS]
            if any(cell.lower() in ("", "nan", "null", "none") for cell in cells):
                continue
            try:
                values = [_FEEDING.get(cells[0].lower()), *(int(float(c)) for c in cells[1:])]
            except ValueError:
                values = [None]
            if None in values or not set(values) <= {0, 1}:
                raise UserError(
                    f"{path}: line {number} holds {', '.join(cells)}; FeedingPath is pelagic or"
                    " benthic, the other labels are 0 or 1"
                )
            files.append(f"Image_Library/{row['Folder']}/{Path(row['image']).name}")
            labels.append(values)
        if not files:
            raise UserError(f"{path}: no row with all nine labels")
        parts += [files, np.asarray(labels)]
    return Split(*parts, list(FISHNET_LABELS))


def awa2(root: Path) -> Split:
    """`classes.txt`, `trainclasses.txt`, `testclasses.txt`, `predicate-matrix-binary.txt`, images.

    The labels of a picture are the 85 attributes of its class. `classes.txt` may number its lines,
    as the published one does.

    Raises:
      UserError: a file is missing or does not fit the others.
    """
    names = [line.split()[-1] for line in read_lines(root / "classes.txt")]
    path = root / "predicate-matrix-binary.txt"
    try:
        matrix = np.asarray([[int(cell) for cell in line.split()] for line in read_lines(path)])
    except ValueError as error:
        raise UserError(f"{path}: not a table of 0 and 1 ({error})") from error
    if matrix.ndim != 2 or len(matrix) != len(names) or not np.isin(matrix, (0, 1)).all():
        raise UserError(f"{path}: needs one line of 0 and 1 for each of {len(names)} classes")
    predicates = root / "predicates.txt"
    attributes = [f"attribute {i}" for i in range(matrix.shape[1])]
    if predicates.exists():
        attributes = [line.split()[-1] for line in read_lines(predicates)]
    parts: list = []
    for file in ("trainclasses.txt", "testclasses.txt"):
        files, rows = [], []
        for name in read_lines(root / file):
            if name not in names:
                raise UserError(f"{root / file}: {name!r} is not in classes.txt")
            found = _images(root / "JPEGImages" / name, root)
            files += found
            rows += [matrix[names.index(name)]] * len(found)
        parts += [files, np.asarray(rows)]
    return Split(*parts, attributes)


def herbarium19(root: Path) -> Herbarium:
    """`small-train/CLASS/*.jpg` and the split into old and new classes.

    The split is published as a pickle, which is never opened here: it must be written out once as
    `old_classes.txt`, one number of an old class a line, counted from 0 in the sorted order of the
    folders.

    Raises:
      UserError: a folder or the split is missing, or the split names no such class.
    """
    files, labels, names = _folders(root / "small-train", root)
    path = root / "old_classes.txt"
    if not path.exists():
        raise UserError(
            f"{path}: missing; write the numbers of the old classes into it, one a line: they are"
            " the list under the key train_classes of the published herbarium_19_class_splits.pkl"
        )
    numbers = read_lines(path)
    if not all(line.isdigit() and int(line) < len(names) for line in numbers):
        raise UserError(f"{path}: holds something other than numbers from 0 to {len(names) - 1}")
    is_old = np.zeros(len(names), bool)
    is_old[[int(line) for line in numbers]] = True
    return Herbarium(files, labels, is_old)


def plantdoc(root: Path) -> Split:
    """`train/CLASS/*` and `test/CLASS/*`.

    Raises:
      UserError: a folder is missing, or a test class has no training picture.
    """
    train_files, train_labels, train_names = _folders(root / "train", root)
    test_files, test_labels, test_names = _folders(root / "test", root)
    unknown = sorted(set(test_names) - set(train_names))
    if unknown:
        raise UserError(f"{root / 'test' / unknown[0]}: the training part has no such class")
    numbers = np.asarray([train_names.index(name) for name in test_names])
    return Split(train_files, train_labels, test_files, numbers[test_labels], train_names)


# ---- Files


def _table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of a table that has these columns; a first column without a name is an index."""
    table = tables.open_table(path)
    missing = [name for name in columns if name not in table.header]
    if missing:
        raise UserError(
            f"{path}: no column {missing[0]!r}; it has {', '.join(filter(None, table.header))}"
        )
    return list(table.rows())


def read_lines(path: Path) -> list[str]:
    """The lines of a text that are not blank.

    Raises:
      UserError: it cannot be read, or holds none.
    """
    lines = [line for _, line in tables.read_lines(path)]
    if not lines:
        raise UserError(f"{path}: nothing in it")
    return lines


def _images(folder: Path, root: Path) -> list[str]:
    names = files_below(folder).pictures
    if not names:
        raise UserError(f"{folder}: no picture here")
    return [(folder.relative_to(root) / name).as_posix() for name in names]


def _folders(folder: Path, root: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Files, labels [files] and names of the classes of a folder with one folder a class."""
    names = sorted(p.name for p in (folder.iterdir() if folder.is_dir() else ()) if p.is_dir())
    if not names:
        raise UserError(f"{folder}: no folder of a class here")
    files: list[str] = []
    labels: list[int] = []
    for number, name in enumerate(names):
        found = _images(folder / name, root)
        files += found
        labels += [number] * len(found)
    return files, np.asarray(labels), names
