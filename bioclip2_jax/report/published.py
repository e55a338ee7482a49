"""The figures that BioCLIP 2 was published with, in percent, and the sets they were measured on.

Our results are put beside them by the name of their set: that of the annotation table, of a folder
above it, or of the folder of pictures.
"""

from dataclasses import dataclass
from pathlib import PurePath

from bioclip2_jax.evaluation.tasks import TASKS

_CARD = "model card of imageomics/bioclip-2 and project page imageomics.github.io/bioclip-2"


@dataclass(frozen=True)
class BenchmarkSet:
    """One set of pictures.

    Attributes:
      names: it goes by, in small letters and digits only; the first one is its key.
      images, classes: how many it has as published, None where that is not told. What was measured
        on a part of a set, or on a folder that only shares its name, is marked by them.
    """

    names: tuple[str, ...]
    images: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Column:
    """A column of a published table: one set, or the plain mean of several."""

    title: str
    sets: tuple[BenchmarkSet, ...]


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper.

    Attributes:
      title, metric, source: for the page.
      columns: its sets.
      rows: model → the figure of each column, then the mean of the row as it was published.
    """

    title: str
    metric: str
    source: str
    columns: tuple[Column, ...]
    rows: dict[str, tuple[float, ...]]


def _one(title: str, *names: str, images: int | None, classes: int | None = None) -> Column:
    return Column(title, (BenchmarkSet(names, images, classes),))


def _task(name: str, images: int | None, classes: int | None = None) -> Column:
    return _one(TASKS[name].title, name, images=images, classes=classes)


ZERO_SHOT = PublishedTable(
    title="Species without examples (zero-shot)",
    metric="share of pictures whose first answer is right",
    source=_CARD,
    columns=(
        _one("NABirds", "nabirds", "nabird", images=48_562, classes=555),
        _one("Plankton", "plankton", "plk", "plkmini", images=3_440, classes=86),
        _one("Insects", "insects", "ins", "insmini", images=4_160, classes=104),
        _one("Insects 2", "insects2", "ins2", "ins2mini", images=4_080, classes=102),
        Column(
            "Camera Trap",
            (
                BenchmarkSet(("desertlion", "desertlionbalanced"), 352),
                BenchmarkSet(("ena24", "ena24balanced"), 1_120),
                BenchmarkSet(("island", "islandbalanced"), 310),
                BenchmarkSet(("ohiosmallanimals", "ohiosmallanimalsbalanced"), 468),
                BenchmarkSet(("orinoquia", "orinoquiabalanced"), 336),
            ),
        ),
        _one("PlantNet", "plantnet", "pltnet", "pltnetmini", images=1_000, classes=25),
        _one("Fungi", "fungi", "fng", "fngmini", images=1_000, classes=25),
        _one("PlantVillage", "plantvillage", "pltvil", "pltvilmini", images=1_520, classes=38),
        _one("Med. Leaf", "medleaf", "medlf", "medlfmini", images=1_000, classes=25),
        _one("Rare Species", "rarespecies", "rare", images=11_983, classes=400),
    ),
    rows={
        "CLIP ViT-L/14": (66.5, 1.3, 9.0, 11.7, 29.5, 61.7, 7.6, 6.5, 25.6, 35.2, 25.5),
        "SigLIP": (61.7, 2.4, 27.3, 20.7, 33.7, 81.8, 36.9, 28.5, 54.5, 47.6, 39.5),
        "BioTrove-CLIP": (39.4, 1.0, 20.5, 15.7, 10.7, 64.4, 38.2, 15.7, 31.6, 24.6, 26.2),
        "BioCLIP": (58.8, 6.1, 34.9, 20.5, 31.7, 88.2, 40.9, 19.0, 38.5, 37.1, 37.6),
        "BioCLIP 2": (74.9, 3.9, 55.3, 27.7, 53.9, 96.8, 83.8, 25.1, 57.8, 76.8, 55.6),
    },
)

BEYOND_SPECIES = PublishedTable(
    title="Beyond species",
    metric="exact match of nine labels, accuracy, macro F1, clustering accuracy, one-shot accuracy",
    source=_CARD,
    columns=(
        _task("fishnet", images=94_532),
        _task("newt", images=None, classes=164),
        _task("awa2", images=37_322),
        _task("herbarium19", images=34_225),
        _task("plantdoc", images=2_598),
    ),
    rows={
        "CLIP ViT-L/14": (27.9, 83.4, 61.6, 18.2, 22.3, 42.7),
        "SigLIP": (31.9, 83.2, 67.3, 18.6, 28.2, 45.8),
        "Supervised-IN21K": (29.4, 75.8, 52.7, 14.9, 25.1, 39.6),
        "DINOv2": (37.4, 83.7, 48.6, 28.1, 38.6, 47.3),
        "BioTrove-CLIP": (22.1, 82.5, 45.7, 20.4, 37.7, 41.7),
        "BioCLIP": (30.1, 82.7, 65.9, 26.8, 39.5, 49.0),
        "BioCLIP 2": (39.8, 89.1, 69.5, 48.6, 40.4, 57.5),
    },
)

# Share of the difference between juvenile and adult inside the plane of the species, below the
# panels of the figure on variation within species: by pictures trained on.
VARIANT_SHARE = {"CLIP": 0.33, "1M": 0.28, "10M": 0.26, "50M": 0.17, "214M": 0.14}
VARIANT_SHARE_SOURCE = "figure on life stages, project page imageomics.github.io/bioclip-2"

# What every set calls its table or a folder inside.
_NAMELESS = ("metadata", "annotations", "labels", "images", "data", "train", "val", "test")
_BY_NAME = {
    name: benchmark
    for table in (ZERO_SHOT, BEYOND_SPECIES)
    for column in table.columns
    for benchmark in column.sets
    for name in benchmark.names
}


def plain(name: str) -> str:
    """Small letters and digits of a name: "ENA24-balanced" → "ena24balanced"."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def find_set(annotations: str | None, data: str | None) -> BenchmarkSet | None:
    """The published set that settings of an evaluation name, or None.

    Args:
      annotations: path of the annotation table, whose name counts before that of the pictures.
      data: folder of the pictures.
    """
    names = [plain(set_name(path)) for path in (annotations, data) if path]
    return next((_BY_NAME[name] for name in names if name in _BY_NAME), None)


def set_name(path: str) -> str:
    """What a table or folder is called: "nabirds.csv", "nabirds/metadata.csv", "nabirds/val"."""
    pure = PurePath(path)
    names = [
        pure.stem if pure.suffix in (".csv", ".txt") else pure.name,
        *(p.name for p in pure.parents),
    ]
    return next((name for name in names if name and plain(name) not in _NAMELESS), pure.name)
