"""What grows with scale on photographs: the tables of docs/scaled_photos.md.

    python benchmarks/scaled_photos.py --photos ../shared/data --out runs/scaled_photos [--json]

A third of the species is never trained on; of the others an eighth, a quarter, a half and all, with
as large a share of the training pictures and of the steps, each set within the next one. Three such
splits leave each species out once. The models of a split start from the same random weights, and
take pictures as `configs/photos.py` does. Pictures that no model is trained on, the same for all,
are what is measured; their features are kept (OUT/models/*/features), so that figures can be made
anew.

A folder of photographs holds one folder a set with a metadata.csv, and traits/. What is finished is
not repeated, and a run that was killed goes on. `--splits` and `--shares` choose among the models,
`--tables` trains nothing.
"""

import argparse
import hashlib
import heapq
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from hierarchy import rows_of
from ml_collections import ConfigDict
from scaled_photos_figures import Measured, measure
from scaled_photos_known import KINDS, MIN_IMAGES, Examination, labels_there
from scaled_photos_slopes import markdown, slopes

from bioclip2_jax import files, train
from bioclip2_jax.data.records import Record, make_record
from bioclip2_jax.errors import UsageError, UserError, exit_on_user_error
from bioclip2_jax.features import store
from bioclip2_jax.features.embed import embed
from bioclip2_jax.features.encode import embed_texts
from bioclip2_jax.features.sources import open_source
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS, ClipConfig, TextConfig, VisionConfig
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.text.captions import caption
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.training.recipe import compose
from bioclip2_jax.training.start import model_sizes
from bioclip2_jax.weights.description import Preprocess
from bioclip2_jax.weights.load import Model, load
from configs import photos as recipe

SHARES = tuple(Fraction(1, n) for n in (8, 4, 2, 1))
PARTS = 3  # of the species, one of which a split leaves out
EXAMINED = 0.4  # of the pictures of a species, or of each of its variants, but at most …
MOST_EXAMINED = 16
MOST_TRAINED = 64  # pictures of a species, so that none is half of all
SIZES: dict[str, Any] = {"model": "small", "steps": 800, "batch_size": 64}  # of the largest model
TOY: dict[str, Any] = {"model": "toy", "steps": 8, "batch_size": 32}


def main() -> None:
    """Makes what is missing, then measures all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="sets of photographs")
    parser.add_argument("--out", type=Path, required=True, help="datasets, models and results")
    parser.add_argument("--splits", nargs="+", type=int, default=list(range(PARTS)))
    parser.add_argument("--shares", nargs="+", type=Fraction, default=list(SHARES))
    parser.add_argument("--tables", action="store_true", help="train nothing")
    parser.add_argument("--toy", action="store_true", help="sizes of a test")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    if not (set(options.splits) <= set(range(PARTS)) and set(options.shares) <= set(SHARES)):
        parser.error(f"--splits are 0 to {PARTS - 1}, --shares {', '.join(map(str, SHARES))}")
    sizes, draws = SIZES, 999
    if options.toy:
        PRESETS["toy"] = ClipConfig(16, VisionConfig(32, 16, 32, 1, 16), TextConfig(16, 2, 1))
        sizes, draws = TOY, 19
    exit_on_user_error(lambda: campaign(options, sizes, draws))


def campaign(options: argparse.Namespace, sizes: dict[str, Any], draws: int) -> None:
    """See the top of the file."""
    out, plan = options.out, Plan.of(options.photos)
    claim(out, sizes | {"examined": dealt("\n".join(plan.asked.keys)).hex()})
    if not (options.tables or (out / "data/examination").exists()):
        records = map(Picture.record, plan.examination)
        write_dataset({"eval": records}, out / "data/examination", name="photos", description="")
    rows: list[dict[str, Any]] = []
    measured: dict[tuple[int, Fraction], Measured] = {}
    for split in options.splits:
        sets = plan.training_sets(split)
        roles = plan.roles(split, sets[SHARES[0]])
        for share in (Fraction(0), *sorted(options.shares)):
            folder = out / "models" / f"{split}-{share}".replace("/", "of")
            pictures = sets.get(share, [])
            steps = round(sizes["steps"] * share)
            if not (options.tables or (folder / "names.npy").exists()):
                make(folder, out, split, steps, pictures, plan.taxa, sizes)
            if not (folder / "names.npy").exists():
                continue
            found = examine(folder, plan.asked, roles, draws)
            row = {
                **{"world": "photographs", "captions": "hierarchical", "replay": False},
                **{"species": len({p.name for p in pictures}), "images": len(pictures)},
                **{"steps": steps, "seed": split, "share": float(share)},
                **json.loads((folder / "cost.json").read_text()),
            }
            rows.append(row | found.row)
            if share:
                measured[split, share] = found
            print(f"{folder.name}: {summary(rows[-1])}", file=sys.stderr, flush=True)
    result = {
        "settings": sizes | {"unseen": f"1/{PARTS}", "draws": draws},
        "labels": labels_there(plan.asked, options.photos),
        "rows": rows,
        "slopes": slopes(measured, plan.asked, draws),
    }
    files.write_json(out / "scaled_photos.json", result)
    text = markdown(result)
    files.write_text(out / "scaled_photos.md", text)
    print(json.dumps(result) if options.json else text)


def summary(row: dict[str, Any]) -> str:
    """A line about a model."""
    return f"{row['species']} species, {row['images']:,} pictures, top-1 {row['top1_seen']:.3f}"


# ---- What is trained on and what is examined


@dataclass(frozen=True)
class Picture:
    """A photograph of a named species.

    Attributes:
      key: the set and the file in it.
      path: of the file.
      taxon: its species.
      common_name: of that.
      kind, variant: what varies within the species, a column of the table, and its value; "".
    """

    key: str
    path: Path
    taxon: Taxon
    common_name: str
    kind: str
    variant: str

    @property
    def name(self) -> str:
        """Of the species."""
        return self.taxon.scientific_name

    def record(self) -> Record:
        """As datasets hold it. No caption names the variant."""
        return make_record(
            key=self.key,
            image=self.path.read_bytes(),
            taxon=self.taxon,
            vernacular_name=self.common_name,
        )


@dataclass(frozen=True)
class Plan:
    """Which pictures are examined, which may be trained on, and which species are left out where.

    Attributes:
      asked: what is known of the pictures that are examined, in all splits and at all scales.
      examination: these pictures.
      others: species → its pictures that may be trained on.
      taxa: species → its lineage, in the order of these.
      part: species → the split that leaves it out.
      varied: species in which something varies.
    """

    asked: Examination
    examination: list[Picture]
    others: dict[str, list[Picture]]
    taxa: dict[str, Taxon]
    part: dict[str, int]
    varied: set[str]

    @classmethod
    def of(cls, photos: Path) -> "Plan":
        """Of a folder of sets; what is drawn is drawn by the names of files and of species."""
        cells = defaultdict(list)
        for picture in sorted(pictures_of(photos), key=lambda p: dealt(p.key)):
            cells[picture.name, picture.kind, picture.variant].append(picture)
        if not cells:
            raise UserError(f"{photos}: no */metadata.csv names a picture of a species")
        examination, others = [], defaultdict(list)
        for cell in cells.values():
            count = min(MOST_EXAMINED, round(EXAMINED * len(cell)))
            examination += cell[:count]
            others[cell[0].name] += cell[count:]
        taxa = {cell[0].name: cell[0].taxon for cell in cells.values()}
        taxa = dict(sorted(taxa.items(), key=lambda item: item[1].ranks))
        asked = Examination.of(examination, list(taxa.values()), photos / "traits")
        varied = {asked.taxa[group.species].scientific_name for group in asked.groups}
        few = {name for name, n in zip(taxa, asked.counts, strict=True) if n < MIN_IMAGES}
        # Relatives go to different parts, and so do the species in which something varies.
        order = sorted(
            taxa,
            key=lambda name: (name not in varied, name in few, taxa[name].ranks[:5], dealt(name)),
        )
        part = {name: place % PARTS for place, name in enumerate(order)}
        return cls(asked, examination, dict(others), taxa, part, varied)

    def training_sets(self, split: int) -> dict[Fraction, list[Picture]]:
        """Share → pictures, those of smaller shares within those of larger ones.

        The species in which something varies come first, so that they are learned at all scales,
        then others as often from each class as there are of it.
        """
        classes = defaultdict(list)
        for name in sorted(self.taxa, key=lambda name: dealt(f"{split} {name}")):
            if self.part[name] != split and self.others[name]:
                classes[name not in self.varied, self.taxa[name].class_].append(name)
        places = {
            name: (late, (place + 0.5) / len(names), dealt(name))
            for (late, _), names in classes.items()
            for place, name in enumerate(names)
        }
        order = sorted(places, key=places.__getitem__)
        room = {name: min(len(self.others[name]), MOST_TRAINED) for name in order}
        sets, taken = {}, dict.fromkeys(order, 0)
        for share in SHARES:
            left = round(share * sum(room.values())) - sum(taken.values())
            species = order[: max(2, round(share * len(order)))]
            fewest = [(taken[name], name) for name in species if taken[name] < room[name]]
            heapq.heapify(fewest)
            for _ in range(left):
                if not fewest:
                    break
                count, name = heapq.heappop(fewest)
                taken[name] = count + 1
                if count + 1 < room[name]:
                    heapq.heappush(fewest, (count + 1, name))
            sets[share] = [p for name in species for p in self.others[name][: taken[name]]]
        return sets

    def roles(self, split: int, smallest: Sequence[Picture]) -> dict[str, set[int]]:
        """Numbers of the species seen by all models of a split, and by none."""
        seen = {picture.name for picture in smallest}
        return {
            "seen": {number for number, name in enumerate(self.taxa) if name in seen},
            "unseen": {n for n, name in enumerate(self.taxa) if self.part[name] == split},
        }


def pictures_of(photos: Path) -> Iterator[Picture]:
    """All pictures named down to the species."""
    for path in sorted(photos.glob("*/metadata.csv")):
        for row in rows_of(path):
            taxon = Taxon.from_row(row)
            if not taxon.species:
                continue
            kind = next((kind for kind in KINDS if row.get(kind)), "")
            yield Picture(
                key=f"{path.parent.name}/{row['filename']}",
                path=path.parent / row["filename"],
                taxon=taxon,
                common_name=row.get("common_name", ""),
                kind=kind,
                variant=row.get(kind, ""),
            )


def dealt(text: str) -> bytes:
    """An order that nobody chose."""
    return hashlib.sha256(text.encode()).digest()


# ---- Training and embedding


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder that holds a campaign of other sizes or pictures."""
    path = out / "campaign.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        raise UsageError(f"--out {out} holds a campaign of other sizes; name another folder")
    files.make_folder(out)
    files.write_json(path, settings)


def make(
    folder: Path,
    out: Path,
    split: int,
    steps: int,
    pictures: list[Picture],
    taxa: dict[str, Taxon],
    sizes: dict[str, Any],
) -> None:
    """Trains a model, or takes random weights where there are no steps, and keeps its features."""
    began = time.perf_counter(), time.process_time()
    config = recipe_of(split, sizes)
    config.compile_cache = str((out / "compile_cache").resolve())
    config.data.dir = str(out / "data" / folder.name)
    config.train.steps, config.train.warmup_steps = max(steps, 1), max(1, steps // 20)
    if steps:
        if not Path(config.data.dir).exists():
            records = map(Picture.record, pictures)
            write_dataset({"train": records}, Path(config.data.dir), name="photos", description="")
        with train.alone_in(folder):
            train.run(compose(config), folder)
        if not (folder / train.DONE_FILE).exists():
            raise UserError(f"{folder}: stopped before its end; the same command goes on")
        model = load(folder)
    else:
        model = untrained(config)
    examination = open_source([str(out / "data/examination")])
    quietly: list[str] = []
    embed(model, folder.name, examination, folder / "features", say=quietly.append)
    # What can be made anew from the features is not kept.
    cost = {
        "seconds": round(time.perf_counter() - began[0], 1),
        "processor_seconds": round(time.process_time() - began[1], 1),
    }
    files.write_json(folder / "cost.json", cost)
    texts = [caption("taxon", taxon) for taxon in taxa.values()]
    with files.writing(folder / "names.npy") as file:
        np.save(file, embed_texts(model, texts, 128))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # many, and needed no more


def recipe_of(split: int, sizes: dict[str, Any]) -> ConfigDict:
    """Of the models of a split, but for their data and steps."""
    config = recipe.get_config()
    config.seed = split
    config.model.name = sizes["model"]
    config.train.batch_size = sizes["batch_size"]
    config.train.level_weight = 0.0  # as when the published figures were made
    config.train.checkpoint_every, config.train.keep_checkpoints = 200, 1
    return config


def untrained(config: ConfigDict) -> Model:
    """The random weights that training with this recipe starts from."""
    settings = compose(config)
    sizes = model_sizes(settings)
    params = clip.init_params(sizes, settings.step.seed)
    preprocess = Preprocess(
        size=sizes.vision.image_size,
        mean=settings.step.mean,
        std=settings.step.std,
        resize_mode=settings.resize_mode,
        interpolation=settings.interpolation,
    )
    return Model(config=sizes, params=params, preprocess=preprocess, step=0)


def examine(
    folder: Path, examination: Examination, roles: dict[str, set[int]], draws: int
) -> Measured:
    """The figures of a model, from what is kept of it."""
    kept = store.read(folder / "features")
    place = {key: row for row, key in enumerate(kept.keys)}
    missing = [key for key in examination.keys if key not in place]
    if missing:
        raise UserError(f"{folder}/features lack {missing[0]}; remove the folder to make it anew")
    features = kept.features[[place[key] for key in examination.keys]]
    return measure(features, np.load(folder / "names.npy"), examination, roles, draws)


if __name__ == "__main__":
    main()
