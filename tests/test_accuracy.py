import numpy as np
import pytest

from bioclip2_jax.measures import accuracy
from bioclip2_jax.measures.accuracy import Outcomes, Stratum
from bioclip2_jax.text.taxonomy import RANKS, Taxon


def outcomes_of(right: list[int], trials: list[int] | None = None) -> Outcomes:
    hits = np.asarray(right)
    return Outcomes(
        trials=np.ones(len(right), np.int64) if trials is None else np.asarray(trials),
        top=dict.fromkeys(accuracy.TOP, hits),
        ranks=dict.fromkeys(RANKS, hits),
    )


def test_lineage_groups_separate_equal_genus_names_of_different_families():
    plant = Taxon("Plantae", family="Pinaceae", genus="Oenanthe", species="x")
    bird = Taxon("Animalia", family="Muscicapidae", genus="Oenanthe", species="x")
    groups = accuracy.lineage_groups([plant, bird, plant])
    assert groups["genus"].tolist() == [0, 1, 0]
    assert groups["species"].tolist() == [0, 1, 0]


def test_a_taxon_known_to_its_family_is_a_species_class_of_its_own():
    ant_family = Taxon("Animalia", family="Formicidae")
    ant = Taxon("Animalia", family="Formicidae", genus="Lasius", species="niger")
    groups = accuracy.lineage_groups([ant_family, ant])
    assert groups["family"].tolist() == [0, 0]
    assert groups["genus"].tolist() == groups["species"].tolist() == [0, 1]


def test_micro_counts_images_and_macro_counts_classes():
    summary = accuracy.summarize(outcomes_of([1, 1, 1, 0]), np.array([0, 0, 0, 1]))
    assert summary.top1 == pytest.approx(0.75)
    assert summary.macro_top1 == pytest.approx(0.5)
    assert summary.ranks["genus"].top1 == pytest.approx(0.75)


def test_images_never_asked_do_not_count():
    summary = accuracy.summarize(outcomes_of([5, 0, 0], [5, 5, 0]), np.array([0, 0, 1]))
    assert summary.top1 == pytest.approx(0.5)
    assert summary.macro_top1 == pytest.approx(0.5)


def test_the_interval_has_the_width_of_a_binomial():
    rng = np.random.default_rng(1)
    right = (rng.random(400) < 0.3).astype(int)
    low, high = accuracy.summarize(outcomes_of(right), np.arange(400) % 7).intervals["top1"]
    expected = 2 * 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert low < right.mean() < high
    assert high - low == pytest.approx(expected, rel=0.15)


def test_intervals_depend_on_the_seed_alone():
    labels = np.arange(50) % 5
    first, again, other = (
        accuracy.summarize(outcomes_of(labels % 2), labels, seed).intervals for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_nothing_asked_gives_no_number():
    summary = accuracy.summarize(outcomes_of([], []), np.zeros(0, np.int64))
    assert summary.top1 is None and summary.intervals["macro_top1"] is None


def test_ranks_are_averaged_over_their_own_lineages():
    rng = np.random.default_rng(2)
    labels, trials = rng.integers(6, size=80), rng.integers(4, size=80)
    right = rng.binomial(trials, 0.6)
    groups = {rank: np.array([0, 0, 0, 1, 1, 2]) for rank in RANKS}
    groups["species"] = np.arange(6)
    summary = accuracy.summarize(outcomes_of(right, trials), labels, rank_groups=groups)
    for rank, of in groups.items():
        each = []
        for number in set(of.tolist()):
            rows = [i for i in range(80) if of[labels[i]] == number]
            each.append(sum(right[rows]) / sum(trials[rows]))
        assert summary.ranks[rank].macro_top1 == pytest.approx(np.mean(each))
    assert summary.macro_top5 == summary.macro_top1
    assert summary.macro_top1 == pytest.approx(summary.ranks["species"].macro_top1)


def test_strata_go_by_the_number_of_training_images():
    train = np.array([0, 1, 19, 20, 100, 101])
    labels = np.array([0, 1, 2, 2, 3, 4, 4, 4, 5])
    found = accuracy.strata(outcomes_of([0, 1, 1, 0, 0, 1, 1, 1, 1]), labels, train)
    assert found == {
        "unseen": Stratum(num_classes=1, num_images=1, top1=0.0, macro_top1=0.0),
        "few": Stratum(num_classes=2, num_images=3, top1=2 / 3, macro_top1=0.75),
        "medium": Stratum(num_classes=2, num_images=4, top1=0.75, macro_top1=0.5),
        "many": Stratum(num_classes=1, num_images=1, top1=1.0, macro_top1=1.0),
    }
    assert list(accuracy.strata(outcomes_of([1]), np.array([1]), train)) == ["few"]


def test_rows_by_class_is_what_masks_find():
    labels = np.random.default_rng(0).integers(9, size=50) * 3
    present, rows = accuracy.rows_by_class(labels)
    assert present.tolist() == sorted(set(labels.tolist()))
    for label, members in zip(present, rows, strict=True):
        assert members.tolist() == np.flatnonzero(labels == label).tolist()
    assert accuracy.rows_by_class(labels[:0])[1] == []


def test_most_confused_names_the_commonest_wrong_answer():
    labels = np.array([0, 0, 0, 0, 1])
    predictions = np.array([0, 2, 2, 1, 0])
    assert accuracy.most_confused(labels, predictions, 0) == (2, 2)
    assert accuracy.most_confused(labels, np.array(labels), 0) == (-1, 0)


@pytest.mark.parametrize("right", [0, 1])
def test_all_right_or_all_wrong_still_leaves_room(right):
    summary = accuracy.summarize(outcomes_of([right] * 10), np.arange(10) % 3)
    for low, high in summary.intervals.values():
        assert high - low == pytest.approx(0.278, abs=0.001)  # Wilson's, of 10
