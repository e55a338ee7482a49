"""The scaling study: the world of factors, what is measured in it, and the command's way."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import scaling_study
from bioclip2_jax.analysis import factor_encoder, factor_study, factors
from bioclip2_jax.analysis import study as program
from bioclip2_jax.analysis.factor_encoder import Pairs
from bioclip2_jax.analysis.factors import FactorWorld
from bioclip2_jax.analysis.scaling import (
    Exam,
    Truth,
    measure,
    traits_permuted,
    variants_permuted,
    variation,
)
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.experiments import Row, Scaling
from bioclip2_jax.report.build import build_results
from bioclip2_jax.report.figures import scaling as figures
from configs import scaling

BRANCHES = (2, 2, 2, 5)


# ---- The world


@pytest.fixture(scope="module")
def world():
    return FactorWorld(0, BRANCHES, unseen=10)


def test_a_world_is_a_function_of_its_seed(world):
    again, other = FactorWorld(0, BRANCHES, unseen=10), FactorWorld(1, BRANCHES, unseen=10)
    pictures = [
        w.render(w.draw(w.pool, 50, np.random.default_rng(5))[1], np.random.default_rng(6))
        for w in (world, again, other)
    ]
    assert (pictures[0] == pictures[1]).all() and not np.allclose(pictures[0], pictures[2])
    elsewhere = FactorWorld(0, BRANCHES, unseen=10, tree=1)
    assert not np.allclose(elsewhere.inherited, world.inherited)
    shown = np.ones((3, factors.FACTORS))
    same = [w.render(shown, np.random.default_rng(6)) for w in (world, elsewhere)]
    assert (same[0] == same[1]).all()


def test_unseen_species_are_never_drawn_and_all_others_are(world):
    drawn = world.draw(world.pool, 60, np.random.default_rng(0))[0]
    assert set(drawn) == set(world.pool) and not set(drawn) & set(world.unseen)
    assert len(world.pool) + len(world.unseen) == 40


def test_relatives_share_inherited_traits_and_not_convergent_ones():
    world = FactorWorld(0, (4, 4, 4, 8), unseen=8)
    genus = world.ancestry[:, 2]
    for traits, least, most in ((world.inherited, 0.6, 0.95), (world.convergent, -1, 0.2)):
        means = np.stack([traits[genus == g].mean(axis=0) for g in range(genus.max() + 1)])
        share = means.var(axis=0).sum() / traits.var(axis=0).sum()
        assert least < share < most


def test_general_captions_tell_no_trait_no_sex_and_no_stage(world):
    species = np.repeat(world.pool[:2], 2)
    male, juvenile = np.asarray([0, 1, 0, 1]), np.zeros(4, np.int64)
    shown = world.individuals(species, male, juvenile, np.random.default_rng(0))
    changed = shown.copy()
    changed[:, : factors.INHERITED + factors.CONVERGENT] += 3
    changed[:, factors._VARIANT_PART] -= 2
    assert (world.describe(changed) == world.describe(shown)).all()
    changed[:, factors._POSE_PART] += 1
    assert not np.allclose(world.describe(changed), world.describe(shown))


# ---- What is measured


@pytest.fixture(scope="module")
def planted():
    """Features that hold the traits and, across them, the sex; life stage lies along a trait."""
    rng = np.random.default_rng(0)
    traits, convergent = rng.normal(size=(24, 6)), rng.normal(size=(24, 2))
    directions = np.linalg.qr(rng.normal(size=(64, 10)))[0].T
    of_picture = np.repeat(np.arange(24), 20)
    male, juvenile = np.tile([0, 1], 240), np.tile([0, 0, 1, 1], 120)
    features = traits[of_picture] @ directions[:6]
    features += np.outer(male - 0.5, directions[8]) + np.outer(juvenile - 0.5, directions[0])
    features += rng.normal(0, 0.05, features.shape) + 6 * directions[9]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    truth = Truth(
        of_picture=of_picture,
        inherited=traits,
        convergent=convergent,
        families=np.arange(24) // 3,
        variants={"sex": male, "life_stage": juvenile},
    )
    return Exam(features.astype(np.float32), truth)


def test_what_is_planted_is_measured(planted):
    names = np.stack([planted.features[planted.truth.of_picture == s].mean(0) for s in range(24)])
    found = measure(planted, planted, names / np.linalg.norm(names, axis=1, keepdims=True))
    assert found.zero_shot > 0.9 and found.zero_shot_chance == 1 / 24
    assert found.inherited_seen > 0.9 and found.inherited_held_out_unseen > 0.9
    assert abs(found.convergent_unseen) < 0.2
    assert abs(found.plane_sex) < 0.05 and abs(found.rho_sex) < 0.1
    assert found.halves_sex < found.null_sex - 0.1
    assert found.plane_life_stage > 0.15 and found.rho_life_stage > 0.9
    assert found.fisher_removed_sex > 1.2 * found.fisher_sex
    assert found.few_shot_sex > 0.95 and 4 < found.effective_rank < 9


def test_what_is_permuted_is_gone(planted):
    rng = np.random.default_rng(1)
    truth = traits_permuted(variants_permuted(planted.truth, rng), rng)
    assert sorted(truth.inherited[:, 0]) == sorted(planted.truth.inherited[:, 0])
    for species in (0, 23):
        rows = planted.truth.of_picture == species
        assert truth.variants["sex"][rows].sum() == 10
    exam = Exam(planted.features, truth)
    assert abs(measure(exam, exam, None).inherited_seen) < 0.25
    dealt = variation(exam)
    assert abs(dealt.halves_sex - dealt.null_sex) < 0.05
    assert abs(dealt.fisher_sex) < 0.05 and abs(dealt.few_shot_sex - 0.5) < 0.05


# ---- The command's way


def tiny_config(**factors_study):
    """Three small trees of three scales, no pictures."""
    config = scaling.get_config()
    sizes = {"trees": 3, "branches": BRANCHES, "unseen": 10, "species": (6, 10, 20)}
    sizes |= {"images": (20, 40, 80), "steps": (2, 4, 8), "captions": ("hierarchical", "level")}
    sizes |= {"alone": 1, "shuffles": 2}
    config.study.factors.update(sizes | factors_study)
    config.study.pictures.seeds = 0
    return config


@pytest.fixture
def small(monkeypatch):
    """A small model of the world of factors."""
    for name, size in (("DIM", 32), ("HIDDEN", 16), ("TOKEN", 8), ("TEXT_HIDDEN", 16)):
        monkeypatch.setattr(factor_encoder, name, size)


@pytest.fixture
def tiny(small, monkeypatch):
    """Nothing is learned, as that takes longest."""

    def train(params, pairs, captions, steps, rate, seed, replay=None):
        noise = np.random.default_rng((seed, steps)).normal(size=params["image"]["in"].shape)
        moved = params["image"]["in"] + 0.01 * noise.astype(np.float32)
        return params | {"image": params["image"] | {"in": moved}}

    def train_linear(shown, species, prototypes, steps, seed):
        return np.random.default_rng((seed, steps)).normal(size=(shown.shape[1], 32))

    monkeypatch.setattr(factor_encoder, "train", train)
    monkeypatch.setattr(factor_encoder, "train_linear", train_linear)
    monkeypatch.setattr(factor_study, "GENERAL_IMAGES", 60)
    monkeypatch.setattr(figures, "SHOWN", ("check",))  # drawing takes longer than the study


def test_names_are_learned_with_level_captions_and_replay_the_same_way_twice(world, small):
    rng = np.random.default_rng(0)
    species, shown = world.draw(world.pool, 600, rng)
    pairs = Pairs(pictures=world.render(shown, rng), captions=world.ancestry[species])
    general = Pairs(pictures=pairs.pictures, captions=world.describe(shown))
    taxa = tuple((world.ancestry.max(axis=0) + 1).tolist())
    start = factor_encoder.initial(0, factors.PIXELS, factors.GENERAL_WORDS, taxa)
    made = [factor_encoder.train(start, pairs, "level", 90, 1e-2, 0, general) for _ in range(2)]
    assert (np.asarray(made[0]["image"]["in"]) == np.asarray(made[1]["image"]["in"])).all()
    right = []
    for params in (start, made[0]):
        names = factor_encoder.name(params, world.ancestry[world.pool], "level")
        answers = (factor_encoder.embed(params, pairs.pictures) @ names.T).argmax(axis=1)
        right.append((world.pool[answers] == species).mean())
    assert right[0] < 0.1 < 0.4 < right[1]


def test_in_the_theorys_setting_names_are_learned_too(world):
    rng = np.random.default_rng(0)
    species, shown = world.draw(world.pool, 600, rng)
    prototypes = np.linalg.qr(rng.normal(size=(64, 40)))[0].T.astype(np.float32)
    right = []
    for steps in (0, 320):
        images = shown @ factor_encoder.train_linear(shown, species, prototypes, steps, 0)
        answers = (images @ prototypes[world.pool].T).argmax(axis=1)
        right.append((world.pool[answers] == species).mean())
    assert right[0] < 0.2 < 0.6 < right[1]


def test_the_study_is_kept_row_by_row_and_gives_the_same_again(tmp_path, tiny, monkeypatch):
    config, out = tiny_config(), tmp_path / "study"
    config.study.pictures.seeds = 1
    config.lock()  # as the command line gives it
    monkeypatch.setattr(program.picture_world, "run", lambda recipe, *_: recipe.get("study", []))
    made, row = [], factor_study._Tree.row

    def stopping(tree, arm, asked):
        made.append(arm)
        if len(made) == 5:
            raise UserError("stopped")
        return row(tree, arm, asked)

    monkeypatch.setattr(factor_study._Tree, "row", stopping)
    with pytest.raises(UserError, match="stopped"):
        program.run(config, out, processes=1, say=lambda _: None)
    assert len(list((out / "rows").iterdir())) == 4
    found = program.run(config, out, processes=1, say=lambda _: None)
    arms = factor_study.arms(found.settings.factors, 100)
    assert len(arms) == 2 + 12 + 6 + 6 and len(found.rows) == 3 * len(arms) == len(made) - 1
    first = (out / "scaling.json").read_bytes()
    for path in sorted((out / "rows").iterdir())[::30]:
        path.unlink()
    program.run(config, out, processes=1, say=lambda _: None)
    assert (out / "scaling.json").read_bytes() == first
    with pytest.raises(UsageError, match="other settings"):
        program.run(tiny_config(trees=2), out, processes=1)

    told = json.loads(first)
    asked = {"world", "captions", "replay", "species", "images", "steps", "seed", "zero_shot"}
    assert asked <= set(told["rows"][0])
    asked = {"claim", "slope", "interval", "p", "p_corrected", "holds"}
    assert asked <= set(told["hypotheses"][0])
    answers = {one.name: one for one in found.hypotheses if one.family == "paper"}
    assert len(answers) == 16 and all(len(one.trees) == 3 for one in list(answers.values())[:4])
    assert not any(one.holds for one in found.hypotheses)  # three trees cannot
    assert found.shuffled_null == 100 and answers["fisher_sex"].shuffled_null == 100
    assert answers["convergent_seen"].predicted is not None
    assert (
        "**open**" in (out / "scaling.md").read_text()
        or "**refuted**" in (out / "scaling.md").read_text()
    )

    stored = schema.read(out / "scaling.json", Scaling)
    assert stored.hypotheses == found.hypotheses
    page = tmp_path / "page.html"
    build_results([out], page)
    assert page.read_text().count("<figure>") == 1
    monkeypatch.setattr(scaling_study, "ROOT", tmp_path)
    (tmp_path / "docs/figures").mkdir(parents=True)
    (tmp_path / "docs/emergence.md").write_text(f"a\n{scaling_study.BEGIN}b{scaling_study.END}c\n")
    for _ in range(2):
        scaling_study.write_page(out)
    page = (tmp_path / "docs/emergence.md").read_text()
    assert "figures/scaling_zero_shot.svg" in page and page.count("| sex (") == 5
    assert page.startswith("a\n<!--") and page.endswith("-->\nc\n") and "\nb" not in page
    for name in ("rho_sex", "convergent_unseen_by_hierarchy"):
        assert "</svg>" in figures.claim_figure(found, answers[name])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"images": (5, 40, 80)}, "images"),
        ({"steps": (8, 4, 2)}, "steps"),
        ({"species": (6, 10, 31)}, "30 to train on"),
        ({"steps": (2, 4)}, "as many"),
        ({"alone": 3}, "alone"),
        ({"trees": "many"}, "trees"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path, changed, named):
    with pytest.raises(UsageError, match=named):
        config = tiny_config()
        with config.study.factors.ignore_type():
            config.study.factors.update(changed)
        program.run(config, tmp_path)


def test_an_older_result_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "scaling.json").write_text(json.dumps({"analysis": "scaling", "runs": []}))
    with pytest.raises(UserError, match="make it again"):
        build_results([tmp_path], tmp_path / "page.html")


def test_claims_of_the_recipe_are_about_measures_that_there_are():
    claims = program.settings_of(scaling.get_config()).claims
    fields = {field.name for field in dataclasses.fields(Row)}
    assert {claim.measure for claim in claims} | {c.beside for c in claims} - {""} <= fields
    assert len({(claim.family, claim.name) for claim in claims}) == len(claims)
