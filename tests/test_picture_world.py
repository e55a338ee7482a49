"""The scaling study in pictures: what is trained on, and that every model is made once."""

import itertools

import jax
import numpy as np
import pytest
from kept_models import save_run

from bioclip2_jax.analysis import picture_world
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation.experiments import PictureStudy
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights.description import Preprocess
from configs import scaling

STUDY = PictureStudy(
    tree=100,
    unseen=7,
    species=(6, 12),
    images=(40, 60),
    steps=(8, 16),
    captions=("hierarchical", "flat"),
    general_images=450,
    general_steps=10,
    per_cell=4,
)


@pytest.fixture(scope="module")
def world():
    return picture_world.PictureWorld(STUDY, 0, 32)


def test_flat_names_are_one_word_a_species_and_the_pictures_are_the_same(world):
    named, flat = (list(world.records(captions, 12, 60)) for captions in STUDY.captions)
    assert [r["image"] for r in named] == [r["image"] for r in flat] and len(named) == 60
    assert not any(r[rank] for r in flat for rank in ("kingdom", "class", "family", "genus"))
    words = {(n["genus"], n["species"]): f["species"] for n, f in zip(named, flat, strict=True)}
    assert len(set(words.values())) == len(words) == 12
    assert not any(" " in word for word in words.values())


def test_the_examination_is_balanced_and_new(world):
    (seen, truth), (unseen, other) = world.examination()
    cells = list(zip(truth.of_picture, *truth.variants.values(), strict=True))
    assert all(cells.count(cell) == 4 for cell in itertools.product(range(6), (0, 1), (0, 1)))
    assert len(unseen) == 7 * 16 and len(other.inherited) == 7
    trained = {r["image"] for r in world.records("hierarchical", 12, 60)}
    assert not trained & {*seen, *unseen}
    named = {(r["genus"], r["species"]) for r in world.records("hierarchical", 12, 60)}
    assert not named & {(s.taxon.genus, s.taxon.species) for s in world.unseen}


def test_general_captions_name_no_species_no_sex_no_stage_and_no_habitat(world):
    said = [r["labels"]["caption"] for r in itertools.islice(world.general(), 60)]
    assert len(set(said)) > 20 and all(text.startswith("a photo of a ") for text in said)
    words = {word.strip(".") for text in said for word in text.split()[4:]}
    names = {word.lower() for s in world.pool for word in s.taxon.ranks if word}
    assert not words & {*names, "male", "female", "young", "adult", "forest", "desert", "in"}


def test_every_model_is_trained_once_and_measured(tmp_path, monkeypatch):
    seen = []
    params = jax.jit(lambda: clip.init_params(PRESETS["tiny"], 0))()

    def train_run(settings, workdir):
        assert workdir.is_dir()
        seen.append((workdir.name, settings))
        if len(seen) == 3:
            return  # as training does when it is asked to stop
        save_run(workdir, {settings.steps: params}, PRESETS[settings.model], Preprocess(64))
        (workdir / "done.json").touch()

    monkeypatch.setattr(picture_world.train, "run", train_run)
    config = scaling.get_config()
    del config.study
    (tmp_path / "rows").mkdir()
    with pytest.raises(UserError, match="goes on"):
        picture_world.run(config, STUDY, tmp_path, lambda _: None)
    rows = picture_world.run(config, STUDY, tmp_path, lambda _: None)
    names = [name for name, _ in seen]
    assert len(names) == 6 and names[2] == names[3] and len(set(names)) == 5
    assert [(row.captions, row.images) for row in rows] == [
        ("general", 0),
        *itertools.product(("hierarchical", "flat"), (40,)),
        *itertools.product(("hierarchical", "flat"), (60,)),
    ]
    for name, used in seen:
        start = name.startswith("pictures-general")
        assert bool(used.step.replay_batch_size) == bool(used.data.replay_dir) != start
        assert used.init == ("" if start else str(tmp_path / "runs/pictures-general-0-0-0-0"))
        assert used.step.level_weight == 0 and used.steps in (8, 10, 16)
    assert all(np.isfinite(row.inherited_unseen) for row in rows)
    assert rows[0].zero_shot is None and rows[1].zero_shot is not None


def test_a_tree_of_too_few_birds_is_refused():
    with pytest.raises(UsageError, match="birds"):
        picture_world.PictureWorld(PictureStudy(tree=40), 0, 32)
