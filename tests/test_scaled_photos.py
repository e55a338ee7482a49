"""Photographs at four scales: what is trained on, what is measured, and what is found."""

import csv
import itertools
import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from kept_models import save_run
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import scaled_photos as campaign
from scaled_photos_figures import Alignment, Measured, Shares
from scaled_photos_known import TRAITS
from scaled_photos_slopes import slopes

from bioclip2_jax.analysis import between
from bioclip2_jax.data import dataset
from bioclip2_jax.models import clip
from bioclip2_jax.models.presets import PRESETS
from bioclip2_jax.weights.description import Preprocess

FAMILIES = ("Corvidae", "Paridae", "Turdidae", "Laridae", "Anatidae", "Picidae")
RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eighteen birds of known traits, and six plants of two cultivars each."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    birds = [
        ("Animalia", "Chordata", "Aves", "Aves", family, f"{family[:4]}ornis", epithet)
        for family in FAMILIES
        for epithet in ("alba", "nigra", "rubra")
    ]
    plants = [
        ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Rosaceae", f"Malus{n}", "edulis")
        for n in "abcdef"
    ]
    cells = {
        "birds": [(lineage, "") for lineage in birds for _ in range(8)],
        "plants": [(lineage, c) for lineage in plants for c in ("red", "green") for _ in range(10)],
    }
    for name, rows in cells.items():
        (folder / name).mkdir()
        with (folder / name / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", *RANKS, "scientific_name", "cultivar"])
            for number, (lineage, cultivar) in enumerate(rows):
                picture = Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8))
                picture.save(folder / name / f"{number}.png")
                writer.writerow([f"{number}.png", *lineage, " ".join(lineage[-2:]), cultivar])
            writer.writerow(["0.png", *lineage[:4], "", "", "", "", ""])  # of no species
    (folder / "traits").mkdir()
    with (folder / "traits" / "bird_traits_for_images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ("Mass", "Hand-Wing.Index", "Habitat.Density", "Habitat")
        writer.writerow(["scientific_name", *columns])
        for place, lineage in enumerate(birds):
            name = " ".join(lineage[-2:])
            writer.writerow(
                [name, 10 + place, rng.random(), place % 3, ("wood", "marsh")[place % 2]]
            )
    (folder / "traits" / "fishnet_genus_habitat.csv").write_text(
        "genus,Troph,FeedingPath\nZeus,4.5,pelagic\n"
    )
    return folder


@pytest.fixture(scope="module")
def plan(photos):
    return campaign.Plan.of(photos)


def test_what_is_examined_or_left_out_is_never_trained_on(plan):
    examined = set(plan.asked.keys)
    left_out = []
    for split in range(campaign.PARTS):
        sets = plan.training_sets(split)
        roles = plan.roles(split, sets[campaign.SHARES[0]])
        unseen = {list(plan.taxa)[number] for number in roles["unseen"]}
        left_out.append(unseen)
        for smaller, larger in itertools.pairwise(sets.values()):
            assert {p.key for p in smaller} < {p.key for p in larger}
            assert {p.name for p in smaller} < {p.name for p in larger}
        for pictures in sets.values():
            assert not examined & {p.key for p in pictures}
            assert not unseen & {p.name for p in pictures}
        whole = sets[Fraction(1)]
        assert [len(sets[s]) / len(whole) for s in campaign.SHARES] == pytest.approx(
            [float(s) for s in campaign.SHARES], abs=0.05
        )
        assert {p.name for p in whole} | unseen == set(plan.taxa)
        # Relatives are parted, and so are the species in which something varies.
        assert len({plan.taxa[name].family for name in unseen}) == 7
        assert len(unseen & plan.varied) == 2
    assert sum(map(len, left_out)) == len(set.union(*left_out)) == 24


def test_no_caption_names_a_variant(plan):
    record = next(p for p in plan.examination if p.variant == "green").record()
    assert "green" not in json.dumps({k: v for k, v in record.items() if k != "image"})


def test_models_of_two_splits_and_scales(photos, tmp_path, monkeypatch, capsys):
    trained = {}

    def train_run(settings, workdir):
        """Weights that know nothing."""
        if not trained:
            trained[workdir.name] = None
            return  # as training does when it is asked to stop
        trained[workdir.name] = settings
        model = PRESETS[settings.model]
        params = clip.init_params(model, settings.step.seed + settings.steps)
        save_run(workdir, {settings.steps: params}, model, Preprocess(model.vision.image_size))
        (workdir / "done.json").touch()

    monkeypatch.setattr(campaign.train, "run", train_run)
    out = tmp_path / "out"
    call = ["scaled_photos.py", "--photos", str(photos), "--out", str(out), "--toy", "--json"]
    call += ["--splits", "0", "1", "--shares", "1/4", "1"]
    monkeypatch.setattr(sys, "argv", call)
    with pytest.raises(SystemExit):
        campaign.main()
    assert "the same command goes on" in capsys.readouterr().err
    campaign.main()
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((out / "scaled_photos.json").read_text())
    rows = result["rows"]
    assert [(row["seed"], row["share"]) for row in rows] == list(
        itertools.product((0, 1), (0.0, 0.25, 1.0))
    )
    assert [row["steps"] for row in rows[:3]] == [0, 2, 8]
    assert rows[0]["images"] == 0 < rows[1]["images"] < rows[2]["images"]
    assert all(len(row["variants"]) == 6 and row["world"] == "photographs" for row in rows)
    for name, settings in trained.items():
        assert settings.step.seed == int(name[0]) and settings.steps == {"4": 2, "1": 8}[name[-1]]
        row = rows[int(name[0]) * 3 + (1 if name.endswith("4") else 2)]
        assert dataset.splits(settings.data.dir) == {"train": row["images"]}
    # The start is the one that training takes, and the same for all scales of a split.
    start = campaign.untrained(campaign.recipe_of(0, campaign.TOY))
    first = clip.init_params(PRESETS["toy"], 0)
    assert np.array_equal(start.params["image"]["projection"], first["image"]["projection"])

    found = {row["figure"]: row for row in result["slopes"]}
    assert {"bird_mass_all", "bird_mass_unseen", "fisher_unseen", "fisher_all"} < set(found)
    assert found["bird_mass_all"]["p_of"] == "traits that follow the tree"
    mass = next(t for t in rows[2]["traits"] if (t["trait"], t["on"]) == ("bird_mass", "all"))
    assert rows[2]["bird_mass_all"] == pytest.approx(mass["spearman"])
    table = (out / "scaled_photos.md").read_text()
    assert "| start | 1/4 | all |" in table and "| fisher_all | rises |" in table

    # What is there is not made again, and gives the same figures.
    def never(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(campaign, "make", never)
    campaign.main()
    assert json.loads(capsys.readouterr().out) == result


def test_alignment_is_what_between_measures(plan):
    rng = np.random.default_rng(0)
    species = np.arange(12)
    vectors, values = rng.normal(size=(12, 5)), rng.normal(size=12)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    part = Alignment(species, vectors, values, is_label=False)
    found = between.continuous_trait(vectors, values, species // 2, permutations=0).spearman
    assert part.value(np.ones(12)) == pytest.approx(found)
    assert part.values_of(values[:, None]) == pytest.approx([found])
    # A species that is drawn twice is no pair with itself, and one that is not drawn plays no part.
    assert part.value(np.full(12, 2)) == pytest.approx(found)
    assert np.isnan(part.value(1.0 * (species < 2)))  # a single pair


def made(plan, slope_of, seed):
    """Measured models of two splits, in which the trait of birds shows as much as it is told to."""
    rng, measured = np.random.default_rng(seed), {}
    species = plan.asked.species_with(campaign_trait())
    values = plan.asked.known["bird_hand_wing_index"][species]
    own = rng.normal(size=(len(species), 8))
    for split, (place, share) in itertools.product((0, 1), enumerate(campaign.SHARES)):
        shown = slope_of * place * (values - values.mean())[:, None] / values.std()
        vectors = np.hstack([own, shown])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        parts = {
            "bird_hand_wing_index_all": Alignment(species, vectors, values, is_label=False),
            "fisher_all": Shares(
                species, slope_of * place + rng.normal(0, 0.1, len(species)), np.ones(len(species))
            ),
        }
        everyone = np.ones(len(plan.taxa))
        row = {name: part.value(everyone) for name, part in parts.items()}
        measured[split, share] = Measured(row | {"effective_rank": 5.0 + place}, parts)
    return measured


def campaign_trait():
    return next(t for t in TRAITS if t.name == "bird_hand_wing_index")


def test_what_grows_is_found_and_what_does_not_is_not(plan):
    grows = {row["figure"]: row for row in slopes(made(plan, 1.0, 0), plan.asked, 99)}
    for name in ("bird_hand_wing_index_all", "fisher_all"):
        assert grows[name]["holds"] and grows[name]["interval"][0] > 0
    assert grows["effective_rank"]["slope"] == pytest.approx(1)
    assert grows["effective_rank"]["p"] is None
    still = [slopes(made(plan, 0.0, seed), plan.asked, 99) for seed in range(10)]
    # One in twenty, by chance.
    assert sum(bool(row.get("holds")) for rows in still for row in rows) <= 2
