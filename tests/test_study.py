"""The scaling study: what it trains on, what it measures, and that it goes on where it stopped."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from kept_models import save_run

from bioclip2_jax.analysis import study as scaling_study
from bioclip2_jax.analysis.scaling import Truth, measure
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.prepare.simulated.tree import TRAITS, grow_tree
from bioclip2_jax.weights.description import Preprocess
from configs import scaling

STUDY = scaling_study.Study(sizes=(40, 60), num_species=40, seeds=(0,))


@pytest.fixture(scope="module")
def world():
    return scaling_study._World(STUDY, 32)


def test_larger_parts_hold_the_smaller_and_the_smallest_all_species(world):
    small, large = (list(world.records("hierarchical", size)) for size in STUDY.sizes)
    assert [r["key"] for r in large[: len(small)]] == [r["key"] for r in small]
    assert len({r["key"] for r in large}) == 60
    assert len({(r["family"], r["genus"], r["species"]) for r in small}) == 40


def test_flat_names_are_one_word_a_species_and_the_pictures_are_the_same(world):
    named, flat = (list(world.records(captions, 60)) for captions in scaling_study.CAPTIONS)
    assert [r["image"] for r in named] == [r["image"] for r in flat]
    assert not any(r[rank] for r in flat for rank in ("kingdom", "class", "family", "genus"))
    words = {(n["genus"], n["species"]): f["species"] for n, f in zip(named, flat, strict=True)}
    assert len(set(words.values())) == len(words) == 40
    assert not any(" " in word for word in words.values())


def test_the_examination_is_balanced_and_new(world):
    truth, pictures = world.examination()
    cells = itertools.product(range(40), (0, 1), (0, 1))
    found = list(zip(truth.of_picture, truth.male, truth.juvenile, strict=True))
    assert all(found.count(cell) == scaling_study.PER_CELL for cell in cells)
    assert not set(pictures) & {r["image"] for r in world.records("flat", 60)}


def test_general_pictures_are_described_and_never_named(world):
    said = [r["labels"]["caption"] for r in itertools.islice(world.general(), 50)]
    assert len(set(said)) > 20 and all(text.startswith("a photo of a ") for text in said)
    names = {word.lower() for s in world.species for word in s.taxon.ranks if word}
    assert not names & {word.strip(".") for text in said for word in text.split()[4:]} - {""}


@pytest.fixture(scope="module")
def planted():
    """Features that hold the traits and, across them, the sex; 20 pictures of each species."""
    rng = np.random.default_rng(0)
    species = grow_tree(0, 60)
    traits = np.asarray([one.traits for one in species])
    directions = np.linalg.qr(rng.normal(size=(96, len(TRAITS) + 2)))[0].T
    of_picture = np.repeat(np.arange(60), 20)
    male, juvenile = np.tile([0, 1], 600), np.tile([0, 0, 1, 1], 300)
    features = traits[of_picture] @ directions[: len(TRAITS)]
    features += np.outer(male - 0.5, directions[-1])
    # Life stage lies along a trait, and so between the species.
    features += np.outer(juvenile - 0.5, directions[0])
    features += rng.normal(0, 0.05, features.shape) + 3 * directions[-2]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float32), Truth(species, of_picture, male, juvenile)


def test_what_is_planted_is_measured(planted):
    features, truth = planted
    names = np.stack([features[truth.of_picture == s].mean(axis=0) for s in range(60)])
    found = measure(features, truth, names)
    assert found.zero_shot_top1 > 0.9 and found.trait_alignment > 0.7
    assert found.ridge_r_appendage > 0.9
    assert abs(found.rho_sex) < 0.05 and found.rho_life_stage > 0.6
    # Without the space between species the life stages scatter less, and hide the sexes less.
    assert found.fisher_removed_sex > 1.2 * found.fisher_sex
    assert found.fisher_removed_life_stage < 0.5 * found.fisher_life_stage
    shuffled = truth.of_picture.copy()
    np.random.default_rng(1).shuffle(shuffled)
    other = measure(features, dataclasses.replace(truth, of_picture=shuffled), names)
    assert other.zero_shot_top1 < 0.1 and other.trait_alignment < 0.2


def test_every_model_is_trained_once_and_measured(tmp_path, monkeypatch):
    seen = []
    params = jax.jit(lambda: clip.init_params(PRESETS["tiny"], 0))()

    def train_run(settings, workdir):
        seen.append((workdir.name, settings))
        if len(seen) == 4:
            return  # as training does when it is asked to stop
        save_run(workdir, {settings.steps: params}, PRESETS[settings.model], Preprocess(64))
        (workdir / "done.json").touch()

    monkeypatch.setattr(scaling_study.train, "run", train_run)
    monkeypatch.setattr(scaling_study, "PER_CELL", 1)
    monkeypatch.setattr(scaling_study, "GENERAL", 200)
    config = scaling.get_config()
    with pytest.raises(UserError, match="goes on"):
        scaling_study.run(config, STUDY, tmp_path / "study", say=lambda _: None)
    found = scaling_study.run(config, STUDY, tmp_path / "study", say=lambda _: None)
    names = [name for name, _ in seen]
    assert len(names) == 10 and names[3] == names[4] and len(set(names)) == 9
    runs = {(row.captions, row.replay, row.images) for row in found.runs}
    assert len(runs) == len(found.runs) == 9 and ("none", False, 0) in runs
    for name, used in seen:
        replay = name.startswith(("hierarchical-1", "flat-1"))
        assert bool(used.step.replay_batch_size) == replay == bool(used.data.replay_dir)
        assert used.init == ("" if name == "general-0" else str(tmp_path / "study/runs/general-0"))
    assert all(np.isfinite(row.trait_alignment) for row in found.runs)
    with pytest.raises(UsageError, match="other settings"):
        other = dataclasses.replace(STUDY, sizes=(40, 80))
        scaling_study.run(config, other, tmp_path / "study")


@pytest.mark.parametrize("sizes", [(20, 60), (60, 40), (60, 60)])
def test_sizes_that_cannot_be_are_refused(tmp_path, sizes):
    with pytest.raises(UsageError, match="--sizes"):
        study = dataclasses.replace(STUDY, sizes=sizes)
        scaling_study.run(scaling.get_config(), study, tmp_path)
