"""The scaling study: one small model on more and more of a tree whose traits are known.

The paper trained on 1 M to 214 M pictures from the weights of a general CLIP model and watched the
features order species by their ecology and turn the variation within a species out of the space
between species. Here a stand-in for that CLIP model is trained on pictures of another simulated
tree with captions that say what can be seen, and from it one model for each number of pictures,
with captions that are lineages or names without any order, with and without replay. All take the
same number of steps. Every model is measured on the same pictures, which none has seen.

Every folder of pictures and the features of every run are kept: started again, it goes on.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from bioclip2_jax import files, train
from bioclip2_jax.analysis.scaling import Truth, measure
from bioclip2_jax.data.records import Record
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.experiments import Arm, Run, Scaling, ScalingSettings, Study
from bioclip2_jax.features.encode import embed_images, embed_texts
from bioclip2_jax.prepare.build import write_dataset
from bioclip2_jax.prepare.simulated.individuals import (
    Individual,
    draw_habitat,
    draw_individuals,
    look_of,
    photograph,
)
from bioclip2_jax.prepare.simulated.names import LatinNames, description
from bioclip2_jax.prepare.simulated.tree import Species, grow_tree
from bioclip2_jax.report.figures.scaling import scaling_curves
from bioclip2_jax.text.captions import caption
from bioclip2_jax.text.taxonomy import RANKS, Taxon
from bioclip2_jax.training.recipe import compose
from bioclip2_jax.training.start import model_sizes
from bioclip2_jax.weights.load import load

CAPTIONS = ("hierarchical", "flat")
PER_CELL = 10  # pictures of each species, sex and life stage to measure with
GENERAL = 6000  # pictures with captions that describe
GENERAL_STEPS = 3  # times the steps of the other runs


def run(
    config: ConfigDict,
    study: Study,
    out: str | Path,
    say: Callable[[str], None] = print,
) -> Scaling:
    """Trains and measures all models.

    Args:
      config: recipe of all runs; its data, start and seed are replaced.
      study: what is varied.
      out: folder for pictures, runs and results.
      say: receives one line a model.

    Returns:
      What `scaling.json` holds.

    Raises:
      UsageError: sizes that cannot be, or `out` holds a study with other settings.
    """
    out = Path(out)
    if min(study.sizes) < study.num_species or list(study.sizes) != sorted(set(study.sizes)):
        raise UsageError(
            f"--sizes {','.join(map(str, study.sizes))}: ascending numbers, each at least the"
            f" number of species ({study.num_species})"
        )
    settings = ScalingSettings(**vars(study), config=json.loads(config.to_json()))
    _claim(out, settings)
    world = _World(study, model_sizes(compose(config)).vision.image_size)
    truth, pictures = world.examination()

    runs = []
    for seed in study.seeds:
        general = Arm(captions="none", replay=False, images=0, seed=seed)
        arms = [
            Arm(captions=captions, replay=replay, images=size, seed=seed)
            for captions, replay, size in itertools.product(CAPTIONS, (False, True), study.sizes)
        ]
        for arm in (general, *arms):
            workdir = out / "runs" / _name(arm)
            features = workdir / "features.npz"
            if not features.exists():
                _train(config, world, out, arm)
                _encode(workdir, world, arm.captions, pictures, features)
                if arm.images:
                    shutil.rmtree(workdir / "checkpoints")  # many, and needed no more
            with np.load(features, allow_pickle=False) as stored:
                measures = measure(stored["pictures"], truth, stored["names"])
            runs.append(Run(**vars(arm), **vars(measures)))
            say(_one_line(runs[-1]))
    study_result = Scaling(settings=settings, runs=runs)
    schema.write(out / "scaling.json", study_result)
    files.write_csv(out / "scaling.csv", map(vars, runs), list(vars(runs[-1])))
    files.write_text(out / "scaling.svg", scaling_curves(study_result))
    return study_result


def _claim(out: Path, settings: ScalingSettings) -> None:
    path = out / "settings.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        schema.write(path, settings)
    elif schema.read(path, ScalingSettings) != settings:
        raise UsageError(f"--out {out} holds a study with other settings; name another folder")


def _name(arm: Arm) -> str:
    if not arm.images:
        return f"general-{arm.seed}"
    return f"{arm.captions}-{arm.replay:d}-{arm.images}-{arm.seed}"


def _one_line(run: Run) -> str:
    name = f"{run.captions} captions{', replay' * run.replay}"
    shares = (run.rho_sex, run.rho_life_stage)
    sex, stage = ("unknown" if share is None else f"{share:.3f}" for share in shares)
    return (
        f"{run.images:,} pictures, {name}: zero-shot {run.zero_shot_top1:.3f}, traits"
        f" {run.trait_alignment:.3f}, rho {sex} (sex) and {stage} (life stage)"
    )


# ---- The tree and its pictures


class _World:
    """The tree that is learned and the one that is described, and pictures of both."""

    def __init__(self, study: Study, image_size: int):
        self.image_size = image_size
        self.species = grow_tree(0, study.num_species)
        self._general = grow_tree(1, study.num_species)
        largest = max(study.sizes[-1], 5 * study.num_species)
        drawn = draw_individuals(0, self.species, 2 * largest)["train"]
        order = np.random.default_rng((0, 7)).permutation(len(drawn)).tolist()
        first = {drawn[place].species.taxon: place for place in reversed(order)}
        taken = set(first.values())
        # Every species is in the smallest part, and every part holds the smaller ones.
        self._order = [drawn[i] for i in (*first.values(), *(i for i in order if i not in taken))]
        names = LatinNames(np.random.default_rng((0, 8)))
        self._flat = {s.taxon: names.latin(3, "is").lower() for s in self.species}

    def taxon(self, species: Species, captions: str) -> Taxon:
        """What the captions know of a species: its lineage, or a word that tells nothing."""
        if captions == "flat":
            return Taxon(species=self._flat[species.taxon])
        return species.taxon

    def records(self, captions: str, size: int) -> Iterator[Record]:
        """Training pictures."""
        for individual in self._order[:size]:
            yield self._photograph(individual, self.taxon(individual.species, captions), {})

    def general(self) -> Iterator[Record]:
        """Pictures of the other tree, with captions that describe some of what can be seen."""
        drawn = draw_individuals(1, self._general, GENERAL)
        for individual in itertools.chain(*drawn.values()):
            rng = np.random.default_rng((1, 9, individual.number))
            labels = {"caption": description(look_of(individual), rng)}
            yield self._photograph(individual, Taxon(), labels, seed=1)

    def _photograph(
        self, individual: Individual, taxon: Taxon, labels: dict, seed: int = 0
    ) -> Record:
        record = photograph(seed, individual, self.image_size)
        ranks = dict(zip(RANKS, taxon.ranks, strict=True))
        record |= ranks | {"scientificName": taxon.scientific_name, "vernacularName": ""}
        return record | {"labels": labels}

    def examination(self) -> tuple[Truth, list[bytes]]:
        """Pictures to measure with, as many of each sex and life stage, and their truth."""
        pictures, rows = [], []
        numbers = itertools.count(1 << 20)  # beyond those of the training
        rng = np.random.default_rng((0, 10))
        for which, species in enumerate(self.species):
            for male, juvenile, _ in np.ndindex(2, 2, PER_CELL):
                individual = Individual(
                    number=next(numbers),
                    species=species,
                    male=bool(male),
                    juvenile=bool(juvenile),
                    habitat=draw_habitat(species, rng.random()),
                )
                pictures.append(photograph(0, individual, self.image_size)["image"])
                rows.append((which, male, juvenile))
        of_picture, male, juvenile = np.asarray(rows).T
        truth = Truth(species=self.species, of_picture=of_picture, male=male, juvenile=juvenile)
        return truth, pictures


# ---- Training and measuring


def _train(config: ConfigDict, world: _World, out: Path, arm: Arm) -> None:
    """One run; its pictures are made if they are not there."""
    general = out / "pictures" / "general"
    folder = out / "pictures" / f"{arm.captions}-{arm.images}" if arm.images else general
    if not folder.exists():
        records = world.records(arm.captions, arm.images) if arm.images else world.general()
        write_dataset({"train": records}, folder, name="study", description="")
    recipe = config.to_dict()
    recipe["seed"] = arm.seed
    recipe["compile_cache"] = str((out / "compile_cache").resolve())
    recipe["data"]["dir"] = str(folder)
    if arm.images:
        recipe["init"] = str(out / "runs" / f"general-{arm.seed}")
    else:
        recipe["train"]["steps"] *= GENERAL_STEPS
    if arm.replay:
        recipe["data"]["replay_dir"] = str(general)
    else:
        recipe["train"]["replay_batch_size"] = 0
    workdir = out / "runs" / _name(arm)
    train.run(compose(ConfigDict(recipe)), workdir)
    if not (workdir / "done.json").exists():
        raise UserError(f"{workdir}: stopped before its end; the same command goes on")


def _encode(workdir: Path, world: _World, captions: str, pictures: list[bytes], path: Path) -> None:
    """Keeps the features of the pictures of the examination and of the names of the species."""
    model = load(workdir)
    batches = embed_images(model, len(pictures), pictures.__getitem__, 128)
    features = np.concatenate([batch.features for batch in batches])
    kind = "flat" if captions == "flat" else "hierarchical"
    texts = [caption("taxon", world.taxon(species, kind)) for species in world.species]
    with files.writing(path) as file:
        np.savez(file, pictures=features, names=embed_texts(model, texts, 128))
