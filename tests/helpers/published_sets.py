"""Small copies of every set that the paper is measured on, in the folders of their authors.

Pictures are the coloured squares of `colour_world`, so that the right answers are known.
"""

import json
from pathlib import Path

from colour_world import COLOURS, COMMON, TAXA, square

from bioclip2_jax.evaluation.published.beyond import FISHNET_LABELS
from bioclip2_jax.text.taxonomy import RANKS

EACH = 6  # pictures a class


def put(path: Path, colour: str) -> None:
    """Writes one picture, as what its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(square(colour, "PNG" if path.suffix == ".png" else "JPEG"))


def text(path: Path, *lines: str) -> None:
    """Writes a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(columns: str, one) -> list[str]:
    """A table with one row a picture; the classes take turns."""
    pictures = [(colour, number) for number in range(EACH) for colour in COLOURS]
    return [columns, *(",".join(one(*picture)) for picture in pictures)]


# ---- Species


def nabirds(root: Path) -> None:
    """Plumages are classes of their own; `classes.txt` names inner nodes as well."""
    names = {"0": "Birds", "7": "Ducks", "295": "red Duck (Adult male)", "296": "orange Duck"}
    names |= {"1010": "blue Heron", "997": "green Parrot (Female/Immature)"}
    ids = ["295", "296", "1010", "997"]
    images, labels, parts = [], [], []
    for number in range(EACH):
        for class_id, colour in zip(ids, COLOURS, strict=True):
            key = f"{number:04d}{class_id:0>4}-5c06-4a6a-ad53-ad18b9377b24"
            file = f"{class_id:0>4}/{key.replace('-', '')}.jpg"
            put(root / "images" / file, colour)
            images.append(f"{key} {file}")
            labels.append(f"{key} {class_id}")
            parts.append(f"{key} {number % 2}")
    text(root / "images.txt", *images)
    text(root / "image_class_labels.txt", *labels)
    text(root / "train_test_split.txt", *parts)
    text(root / "classes.txt", *(f"{key} {name}" for key, name in names.items()))
    text(root / "hierarchy.txt", "7 0", *(f"{key} 7" for key in ids))


def meta_album(root: Path) -> None:
    """`info.json` names the columns."""

    def row(colour: str, number: int) -> list[str]:
        put(root / "images" / f"{colour}_{number}.png", colour)
        return [f"{colour}_{number}.png", f"{colour}_interaction", "plankton"]

    text(root / "labels.csv", *_rows("FILE_NAME,CATEGORY,SUPER_CATEGORY", row))
    info = {"dataset_name": root.name, "has_super_categories": True}
    info |= {"image_column_name": "FILE_NAME", "category_column_name": "CATEGORY"}
    text(root / "info.json", json.dumps(info))


def _lineage(colour: str) -> list[str]:
    return [*TAXA[colour].ranks]


def rare_species(root: Path) -> None:
    """The columns of the dataset's own `metadata.csv`."""

    def row(colour: str, number: int) -> list[str]:
        file = f"dataset/{'-'.join(_lineage(colour))}/{number}_1_eol-full-size-copy.jpg"
        put(root / file, colour)
        name = TAXA[colour].scientific_name
        return [f"{colour}{number}", "1", *_lineage(colour), name, COMMON[colour], file]

    columns = f"rarespecies_id,eol_page_id,{','.join(RANKS)},sciName,common,file_name"
    text(root / "metadata.csv", *_rows(columns, row))


def rare_species_of_bioclip(root: Path) -> None:
    """The annotation table of the released code: `cls` is the rank and `class` a name."""

    def row(colour: str, number: int) -> list[str]:
        file = f"2024-03-20/{colour}{number}_eol-full-size-copy.jpg"
        put(root / file, colour)
        name = TAXA[colour].scientific_name
        return [str(number), *_lineage(colour), COMMON[colour], file, name]

    ranks = ",".join(RANKS).replace("class", "cls")
    text(root / "metadata.csv", *_rows(f",{ranks},common_name,filepath,class", row))


CAMERA_TRAPS = ("desert-lion", "ENA24", "island", "ohio-small-animals", "orinoquia")


def camera_traps(root: Path) -> None:
    """Five tables beside each other, whose file names count from `data/test`."""
    for name in CAMERA_TRAPS:

        def row(colour: str, number: int, name: str = name) -> list[str]:
            file = f"{name}/{colour}-{number}.png"
            put(root / "data" / "test" / file, colour)
            return [str(number), f"{number}.png", *_lineage(colour), COMMON[colour], file]

        ranks = ",".join(RANKS).replace("class", "cls")
        columns = f",original_name,{ranks},common_name,filepath"
        text(root / f"{name}-balanced.csv", *_rows(columns, row))


# ---- Beyond species


def newt(root: Path) -> None:
    """Two tasks: red or blue, green or orange."""
    rows = ["id,task_cluster,task_subcluster,task,label,text_label,split,height,width"]
    for task, colours in (("age", ("red", "blue")), ("sex", ("green", "orange"))):
        for number in range(8):
            for label, colour in enumerate(colours):
                key = f"{task}-{colour}-{number}"
                put(root / "newt2021_images" / f"{key}.jpg", colour)
                part = "train" if number < 5 else "test"
                rows.append(f"{key},appearance,,{task},{label},{colour},{part},16,20")
    text(root / "newt2021_labels.csv", *rows)


def fishnet(root: Path) -> None:
    """Pelagic where red; the last row of each table lacks a label."""
    for part in ("train", "test"):
        rows = [f",image,Folder,{','.join(FISHNET_LABELS)}"]
        for number in range(12):
            colour = ("red", "blue")[number % 2]
            name = f"{part}{number}.jpg"
            put(root / "Image_Library" / colour / name, colour)
            feeding = "pelagic" if colour == "red" else "benthic"
            labels = [feeding, *(str(int(colour == "red")) for _ in FISHNET_LABELS[1:])]
            if number == 11:
                labels[3] = ""
            rows.append(",".join([str(number), f"Images/{colour}/{name}", colour, *labels]))
        text(root / f"{part}.csv", *rows)


def awa2(root: Path) -> None:
    """Two classes to train on and one to test, four attributes."""
    text(root / "classes.txt", "1\tantelope", "2\tgrizzly+bear", "3\tkiller+whale")
    text(root / "trainclasses.txt", "antelope", "killer+whale")
    text(root / "testclasses.txt", "grizzly+bear")
    text(root / "predicates.txt", "1 black", "2 white", "3 blue", "4 brown")
    text(root / "predicate-matrix-binary.txt", "0 1 0 1", "0 0 1 1", "1 1 0 0")
    for name, colour in (("antelope", "red"), ("grizzly+bear", "blue"), ("killer+whale", "green")):
        for number in range(4):
            put(root / "JPEGImages" / name / f"{name}_{number}.jpg", colour)


def herbarium19(root: Path) -> None:
    """Two old classes and two new ones."""
    for number, colour in enumerate(COLOURS):
        for picture in range(EACH):
            put(root / "small-train" / str(number) / f"{picture}.jpg", colour)
    text(root / "old_classes.txt", "0", "2")


def plantdoc(root: Path) -> None:
    """A folder a disease, below train and test."""
    for part, each in (("train", 2), ("test", 3)):
        for colour in COLOURS:
            for number in range(each):
                put(root / part / f"{colour} leaf" / f"{number}.jpg", colour)


SPECIES = {
    "nabirds": nabirds,
    "PLK_Mini": meta_album,
    "rare-species": rare_species,
    "rare-species-bioclip": rare_species_of_bioclip,
    "IDLE-OO-Camera-Traps": camera_traps,
}
BEYOND = {
    "newt": newt,
    "fishnet": fishnet,
    "awa2": awa2,
    "herbarium19": herbarium19,
    "plantdoc": plantdoc,
}
