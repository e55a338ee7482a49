"""The simulated tree of life: its shape, its traits, its individuals and their pictures."""

import collections

import numpy as np
import pytest

from bioclip2_jax.data import dataset, images
from bioclip2_jax.errors import UsageError
from bioclip2_jax.prepare.build import build
from bioclip2_jax.prepare.simulated.individuals import (
    LABELS,
    Individual,
    SimulatedTree,
    draw_individuals,
    photograph,
)
from bioclip2_jax.prepare.simulated.tree import GROUPS, grow_tree
from bioclip2_jax.prepare.workshop import Order
from bioclip2_jax.text.taxonomy import RANKS


@pytest.fixture(scope="module")
def tree():
    return grow_tree(seed=3, num_species=400)


def test_the_tree_has_the_asked_number_of_distinct_species(tree):
    assert len({species.taxon for species in tree}) == len(tree) == 400
    assert all(s.taxon.genus and s.taxon.species and s.taxon.kingdom for s in tree)


def test_the_same_seed_grows_the_same_tree(tree):
    assert grow_tree(seed=3, num_species=400) == tree
    assert grow_tree(seed=4, num_species=400) != tree


def test_it_has_three_kingdoms_holes_and_unbalanced_clades(tree):
    assert {s.taxon.kingdom for s in tree} == {"Animalia", "Plantae", "Fungi"}
    holes = {RANKS[i] for s in tree for i in range(1, 6) if not s.taxon.ranks[i]}
    assert {"class", "order", "family"} <= holes
    families = collections.Counter(s.taxon.lineage("family") for s in tree)
    assert max(families.values()) >= 5 * min(families.values())


def test_a_genus_lies_in_one_family(tree):
    parents = collections.defaultdict(set)
    for species in tree:
        parents[species.taxon.genus].add(species.taxon.lineage("family"))
    assert all(len(lineages) == 1 for lineages in parents.values())


def test_most_species_have_a_common_name_of_their_own(tree):
    names = [s.common_name for s in tree if s.common_name]
    assert 0.7 * len(tree) < len(names) < len(tree) and len(set(names)) == len(names)


def test_relatives_resemble_each_other(tree):
    traits = np.array([species.traits for species in tree])
    distance = ((traits[:, None] - traits[None]) ** 2).mean(-1)

    def mean_distance(rank, above):
        pairs = [
            distance[i, j]
            for i, a in enumerate(tree)
            for j, b in enumerate(tree[:i])
            if a.body == b.body
            and a.taxon.lineage(rank) == b.taxon.lineage(rank)
            and (above is None or a.taxon.lineage(above) != b.taxon.lineage(above))
        ]
        return np.mean(pairs)

    same_genus = mean_distance("genus", None)
    same_family = mean_distance("family", "genus")
    same_class = mean_distance("class", "order")
    assert same_genus < 0.6 * same_family < 0.6 * same_class


def test_every_species_is_pictured_in_every_split_and_counts_have_a_long_tail(tree):
    splits = draw_individuals(3, tree, 8000)
    assert sum(len(individuals) for individuals in splits.values()) == 8000
    for individuals in splits.values():
        assert {one.species for one in individuals} == set(tree)
    counts = sorted(collections.Counter(o.species.taxon for o in splits["train"]).values())
    assert counts[-1] > 4 * counts[len(counts) // 2] and counts[0] <= 6
    numbers = [one.number for individuals in splits.values() for one in individuals]
    assert len(set(numbers)) == 8000


def test_every_species_has_both_sexes_and_both_stages(tree):
    splits = draw_individuals(3, tree, 40_000)
    seen = collections.defaultdict(set)
    for one in splits["train"]:
        seen[one.species.taxon].add((one.male, one.juvenile))
    assert np.mean([len(kinds) == 4 for kinds in seen.values()]) > 0.9


@pytest.mark.parametrize("body", sorted({group.body for group in GROUPS}))
def test_sexes_and_stages_differ_visibly_in_every_body_plan(tree, body):
    species = next(s for s in tree if s.body == body)

    def picture(male, juvenile):
        one = Individual(5, species, male, juvenile, species.habitat)
        data = photograph(3, one, 64)["image"]
        return np.asarray(images.decode(data), np.float32)

    adult_male, adult_female = picture(True, False), picture(False, False)
    young = picture(False, True)
    assert (abs(adult_male - adult_female).max(axis=2) > 20).mean() > 0.01
    assert (abs(young - adult_female).max(axis=2) > 20).mean() > 0.03


def test_a_picture_is_a_function_of_seed_and_number(tree):
    one = draw_individuals(3, tree, 2000)["train"][7]
    assert photograph(3, one, 48) == photograph(3, one, 48)
    assert photograph(3, one, 48)["image"] != photograph(4, one, 48)["image"]


def test_a_picture_does_not_depend_on_those_drawn_before(tree):
    first, second = draw_individuals(3, tree, 2000)["val"][:2]
    forwards = [photograph(3, one, 32)["image"] for one in (first, second)]
    backwards = [photograph(3, one, 32)["image"] for one in (second, first)]
    assert forwards == backwards[::-1]


def test_some_individuals_are_pictured_outside_their_habitat(tree):
    splits = draw_individuals(3, tree, 8000)
    individuals = [one for group in splits.values() for one in group]
    strays = [one for one in individuals if one.habitat != one.species.habitat]
    assert len(strays) / len(individuals) == pytest.approx(0.15, abs=0.02)
    water = {"river", "reef", "deep sea"}
    assert all((one.habitat in water) == (one.species.body == "fish") for one in strays)


def test_held_out_pictures_can_be_told_apart_the_better_the_higher_the_rank():
    species = grow_tree(seed=0, num_species=64)
    splits = draw_individuals(0, species, 3000)
    counts = collections.Counter()

    def features(individuals):
        pictures = []
        for one in individuals:
            picture = images.decode(photograph(0, one, 48)["image"])
            hues = np.asarray(picture.convert("HSV"))[8:40, 8:40].reshape(-1, 3)
            edges = [np.linspace(0, 256, bins + 1) for bins in (13, 4, 4)]
            histogram = np.histogramdd(hues, edges)[0].ravel() ** 0.5
            thumbnail = np.asarray(picture.resize((8, 8)), np.float32).ravel() / 40
            pictures.append(np.concatenate([histogram, thumbnail]))
        return np.array(pictures)

    known = []
    for one in splits["train"]:  # at most 20 pictures a species
        counts[one.species.taxon] += 1
        known += [one] if counts[one.species.taxon] <= 20 else []
    asked = splits["val"][::2]
    distance = ((features(asked)[:, None] - features(known)[None]) ** 2).sum(-1)
    guesses = [known[i].species.taxon for i in distance.argmin(1)]
    accuracy = {
        rank: np.mean(
            [
                g.lineage(rank) == one.species.taxon.lineage(rank)
                for g, one in zip(guesses, asked, strict=True)
            ]
        )
        for rank in ("species", "family", "phylum", "kingdom")
    }
    assert accuracy["species"] > 15 / 64
    assert accuracy["species"] < accuracy["family"] < accuracy["phylum"] < accuracy["kingdom"]


def test_ground_truth_is_written_beside_the_pictures(tmp_path):
    tree = SimulatedTree(seed=0, num_species=12, num_images=60, image_size=32)
    summary = build(Order(source=tree, out=tmp_path / "d", name="simulated"))
    assert summary.records == 60 and not summary.set_aside
    record = dataset.open_split(tmp_path / "d", "train")[0]
    assert set(record["labels"]) == set(LABELS)
    assert images.decode(record["image"]).size == (32, 32)
    float(record["labels"]["trait_hue"])
    assert record["labels"]["sex"] in ("female", "male")


@pytest.mark.parametrize(("species", "pictures"), [(3, 100), (20, 50)])
def test_impossible_sizes_are_named(tmp_path, species, pictures):
    tree = SimulatedTree(seed=0, num_species=species, num_images=pictures, image_size=32)
    with pytest.raises(UsageError, match="--species|--images"):
        build(Order(source=tree, out=tmp_path / "d", name="simulated"))
    assert list(tmp_path.iterdir()) == []
