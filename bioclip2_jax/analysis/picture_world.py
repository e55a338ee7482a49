"""The two ends of the scale in pictures: birds of the simulated tree, and the real model.

A stand-in for the general CLIP model is trained on pictures of another simulated tree with captions
that tell of colours, marks and body, never of a trait, a sex, a stage or a habitat. From it go the
models of either end, all with replay, one for each kind of captions. Birds alone, since a long beak
and a long fin have nothing in common but the number.

Every folder of pictures, the features and the row of every model are kept.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from bioclip2_jax import files, train
from bioclip2_jax.analysis.factor_study import Kept, file_of
from bioclip2_jax.analysis.scaling import Exam, Truth, measure
from bioclip2_jax.data.records import Record
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.experiments import Arm, PictureStudy, Row
from bioclip2_jax.features.encode import embed_images, embed_texts
from bioclip2_jax.measures.scores import number
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.prepare.simulated.individuals import (
    Individual,
    draw_habitat,
    draw_individuals,
    look_of,
    photograph,
)
from bioclip2_jax.prepare.simulated.names import LatinNames, description
from bioclip2_jax.prepare.simulated.tree import TRAITS, Species, grow_tree
from bioclip2_jax.text.captions import caption
from bioclip2_jax.text.taxonomy import RANKS, Taxon
from bioclip2_jax.training.recipe import compose
from bioclip2_jax.training.start import model_sizes
from bioclip2_jax.weights.load import load

BODY = "bird"
SHAPES = ("elongation", "head", "appendage", "limb")  # inherited traits that are asked about
_UNTOLD = ("young", "adult", "male", "female")


def run(
    config: ConfigDict, study: PictureStudy, out: Path, say: Callable[[str], None]
) -> list[Row]:
    """Trains and measures the models; a row that is kept is read.

    Args:
      config: recipe of all of them; its data, start, steps and seed are replaced.
      study: the ends of the scale.
      out: folder for pictures, runs and rows.
      say: receives a line a model.

    Raises:
      UsageError: the tree has too few birds.
      UserError: a training was stopped.
    """
    image_size, rows = model_sizes(compose(config)).vision.image_size, []
    for seed in range(study.seeds):
        world = None
        for arm in arms(study, seed):
            path = file_of(out / "rows", arm)
            if not path.exists():
                world = world or PictureWorld(study, seed, image_size)
                schema.write(path, Kept(row=_row(config, study, world, out, arm)))
            rows.append(schema.read(path, Kept).row)
            say(f"{arm.images:,} pictures, {arm.captions} captions: done")
    return rows


def arms(study: PictureStudy, seed: int) -> list[Arm]:
    """The start, and a model for each end and kind of captions."""
    start = Arm(
        world="pictures",
        captions="general",
        replay=False,
        grows="",
        species=0,
        images=0,
        steps=0,
        seed=seed,
    )
    sizes = zip(study.species, study.images, study.steps, strict=True)
    return [start] + [
        Arm(
            world="pictures",
            captions=captions,
            replay=True,
            grows="all",
            species=species,
            images=images,
            steps=steps,
            seed=seed,
        )
        for (species, images, steps), captions in itertools.product(sizes, study.captions)
    ]


class PictureWorld:
    """The birds that are learned, the tree that is described, and pictures of both."""

    def __init__(self, study: PictureStudy, seed: int, image_size: int):
        self.study, self.seed, self.image_size = study, seed, image_size
        birds = [s for s in grow_tree(2 * seed, study.tree) if s.body == BODY]
        most = max(study.species)
        if len(birds) < most + study.unseen:
            raise UsageError(
                f"config.study.pictures.tree={study.tree} grows {len(birds)} birds, and"
                f" {most + study.unseen} are needed"
            )
        order = np.random.default_rng((seed, 7)).permutation(len(birds)).tolist()
        self.pool = [birds[place] for place in order[:most]]
        self.unseen = [birds[place] for place in order[most : most + study.unseen]]
        self._general = grow_tree(2 * seed + 1, study.tree)
        names = LatinNames(np.random.default_rng((seed, 8)))
        self._flat = {species.taxon: names.latin(3, "is").lower() for species in birds}

    def taxon(self, species: Species, captions: str) -> Taxon:
        """What the captions know of a species: its lineage, or a word that tells nothing."""
        return Taxon(species=self._flat[species.taxon]) if captions == "flat" else species.taxon

    def records(self, captions: str, species: int, count: int) -> Iterator[Record]:
        """Training pictures of the first so many species, each with one or more."""
        drawn = draw_individuals(self.seed, self.pool[:species], count + count // 2)["train"]
        order = np.random.default_rng((self.seed, 9)).permutation(len(drawn)).tolist()
        first = {drawn[place].species.taxon: place for place in reversed(order)}
        taken = set(first.values())
        chosen = [*first.values(), *(place for place in order if place not in taken)][:count]
        for individual in map(drawn.__getitem__, chosen):
            yield self._photograph(individual, self.taxon(individual.species, captions), {})

    def general(self) -> Iterator[Record]:
        """Pictures of the other tree, with captions that tell nothing that is asked about."""
        drawn = draw_individuals(self.seed, self._general, self.study.general_images)
        for individual in itertools.chain(*drawn.values()):
            rng = np.random.default_rng((self.seed, 11, individual.number))
            words = description(look_of(individual), rng).partition(" in a ")[0].strip(".").split()
            told = " ".join(word for word in words if word not in _UNTOLD)
            yield self._photograph(individual, Taxon(), {"caption": f"{told}."}, other=1)

    def examination(self) -> list[tuple[list[bytes], Truth]]:
        """Pictures of the species that all models know and of those that none does."""
        numbers = itertools.count(1 << 20)  # beyond those of the training
        rng = np.random.default_rng((self.seed, 10))
        halves = []
        for kinds in (self.pool[: min(self.study.species)], self.unseen):
            pictures, rows = [], []
            for which, species in enumerate(kinds):
                for male, juvenile, _ in np.ndindex(2, 2, self.study.per_cell):
                    individual = Individual(
                        number=next(numbers),
                        species=species,
                        male=bool(male),
                        juvenile=bool(juvenile),
                        habitat=draw_habitat(species, rng.random()),
                    )
                    pictures.append(self._photograph(individual, species.taxon, {})["image"])
                    rows.append((which, male, juvenile))
            of_picture, male, juvenile = np.asarray(rows).T
            homes, home_of = number([species.habitat for species in kinds])
            shapes = [TRAITS.index(name) for name in SHAPES]
            truth = Truth(
                of_picture=of_picture,
                inherited=np.asarray([species.traits for species in kinds])[:, shapes],
                convergent=np.eye(len(homes))[home_of],
                families=number([species.taxon.lineage("family") for species in kinds])[1],
                variants={"sex": male, "life_stage": juvenile},
            )
            halves.append((pictures, truth))
        return halves

    def _photograph(
        self, individual: Individual, taxon: Taxon, labels: dict, other: int = 0
    ) -> Record:
        record = photograph(2 * self.seed + other, individual, self.image_size)
        ranks = dict(zip(RANKS, taxon.ranks, strict=True))
        record |= ranks | {"scientificName": taxon.scientific_name, "vernacularName": ""}
        return record | {"labels": labels}


def _row(config: ConfigDict, study: PictureStudy, world: PictureWorld, out: Path, arm: Arm) -> Row:
    """One model, trained and measured; its features are kept."""
    workdir = out / "runs" / file_of(Path(), arm).stem
    features = workdir / "features.npz"
    exams = world.examination()
    if not features.exists():
        _train(config, study, world, out, arm)
        _encode(workdir, world, arm, [pictures for pictures, _ in exams], features)
        if arm.images:
            shutil.rmtree(workdir / "checkpoints")  # many, and needed no more
    with np.load(features, allow_pickle=False) as stored:
        seen, unseen = (
            Exam(stored[name], truth)
            for name, (_, truth) in zip(("seen", "unseen"), exams, strict=True)
        )
        measures = measure(seen, unseen, stored["names"] if arm.images else None)
    return Row(**vars(arm), **vars(measures))


def _train(
    config: ConfigDict, study: PictureStudy, world: PictureWorld, out: Path, arm: Arm
) -> None:
    """One run; its pictures are made if they are not there."""
    general = out / "pictures" / f"general-{arm.seed}"
    kind = "flat" if arm.captions == "flat" else "lineages"
    folder = out / "pictures" / f"{kind}-{arm.images}-{arm.seed}" if arm.images else general
    if not folder.exists():
        records = world.general()
        if arm.images:
            records = world.records(arm.captions, arm.species, arm.images)
        write_dataset({"train": records}, folder, name="study", description="")
    recipe = config.to_dict()
    steps = arm.steps or study.general_steps
    recipe["seed"] = arm.seed
    recipe["compile_cache"] = str((out / "compile_cache").resolve())
    recipe["data"]["dir"] = str(folder)
    recipe["train"]["steps"] = steps
    recipe["train"]["warmup_steps"] = max(1, min(recipe["train"]["warmup_steps"], steps // 5))
    if arm.captions != "level":
        recipe["train"]["level_weight"] = 0.0
    if arm.images:
        recipe["init"] = str(out / "runs" / file_of(Path(), _start(arm)).stem)
        recipe["data"]["replay_dir"] = str(general)
    else:
        recipe["train"]["replay_batch_size"] = 0
    workdir = out / "runs" / file_of(Path(), arm).stem
    with train.alone_in(workdir):
        train.run(compose(ConfigDict(recipe)), workdir)
    if not (workdir / "done.json").exists():
        raise UserError(f"{workdir}: stopped before its end; the same command goes on")


def _start(arm: Arm) -> Arm:
    return arms(PictureStudy(), arm.seed)[0]


def _encode(
    workdir: Path, world: PictureWorld, arm: Arm, halves: list[list[bytes]], path: Path
) -> None:
    """Keeps the features of both halves' pictures and of the names of the first one's species."""
    model = load(workdir)
    seen, unseen = (
        np.concatenate(
            [b.features for b in embed_images(model, len(pictures), pictures.__getitem__, 128)]
        )
        for pictures in halves
    )
    known = world.pool[: min(world.study.species)]
    texts = [caption("taxon", world.taxon(species, arm.captions)) for species in known]
    with files.writing(path) as file:
        np.savez(file, seen=seen, unseen=unseen, names=embed_texts(model, texts, 128))
