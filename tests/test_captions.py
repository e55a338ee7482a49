"""The words of a taxon: captions of training, class names of evaluation, the draw of a kind."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip2_jax.errors import UsageError
from bioclip2_jax.text.captions import (
    LEVELS,
    TEXT_KINDS,
    caption,
    class_name,
    level_caption,
    levels_at,
    lineage_text,
    text_kind,
)
from bioclip2_jax.text.taxonomy import RANKS, Taxon

GRASS = Taxon("Plantae", "Tracheophyta", "Liliopsida", "Poales", "Poaceae", "Poa", "angustifolia")
ANT = Taxon("Animalia", "Arthropoda", "Insecta", "Hymenoptera", "Formicidae")
GOLDFISH = Taxon("Animalia", "Chordata", "", "Cypriniformes", "Cyprinidae", "Carassius", "auratus")
LINEAGE = "Plantae Tracheophyta Liliopsida Poales Poaceae Poa angustifolia"


def _captions(taxon, scientific_name="", common_name=""):
    return {kind: caption(kind, taxon, scientific_name, common_name) for kind in TEXT_KINDS}


def test_the_five_captions_of_a_species():
    assert _captions(GRASS, common_name="Spreading Bluegrass") == {
        "sci": "a photo of Poa angustifolia.",
        "com": "a photo of Spreading Bluegrass.",
        "taxon": f"a photo of {LINEAGE}.",
        "sci_com": "a photo of Poa angustifolia with common name Spreading Bluegrass.",
        "taxon_com": f"a photo of {LINEAGE} with common name Spreading Bluegrass.",
    }


def test_the_scientific_name_stands_in_for_a_missing_common_name():
    assert _captions(GRASS)["com"] == "a photo of Poa angustifolia."
    assert _captions(GRASS)["sci_com"] == (
        "a photo of Poa angustifolia with common name Poa angustifolia."
    )


def test_the_deepest_known_rank_stands_in_for_a_missing_species():
    texts = _captions(ANT, common_name="ant")
    assert texts["sci"] == "a photo of Formicidae."
    assert texts["taxon"] == "a photo of Animalia Arthropoda Insecta Hymenoptera Formicidae."
    assert texts["sci_com"] == "a photo of Formicidae with common name ant."


def test_a_hole_in_the_lineage_leaves_no_trace():
    assert caption("taxon", GOLDFISH) == (
        "a photo of Animalia Chordata Cypriniformes Cyprinidae Carassius auratus."
    )


def test_nothing_known_is_unknown():
    assert set(_captions(Taxon()).values()) == {
        "a photo of Unknown.",
        "a photo of Unknown with common name Unknown.",
    }


def test_a_scientific_name_with_authors_does_not_displace_the_lineage():
    assert caption("sci", GRASS, "Poa angustifolia L., 1753") == "a photo of Poa angustifolia."
    assert caption("taxon", Taxon(), "Tobacco mosaic virus") == "a photo of Tobacco mosaic virus."


@pytest.mark.parametrize(
    ("common", "written"),
    [
        ("St. John's wort spp.", "St. John's wort spp"),
        ("bear...", "bear"),
        ("Bachman&#39;s sparrow", "Bachman's sparrow"),
        ("black &amp; white warbler", "black & white warbler"),
        ("  red \n fox ", "red fox"),
        ("unknown", "Poa angustifolia"),
        ("N/A", "Poa angustifolia"),
        ("...", "Poa angustifolia"),
    ],
)
def test_common_names_are_cleaned(common, written):
    assert caption("com", GRASS, common_name=common) == f"a photo of {written}."


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(TEXT_KINDS), st.lists(st.text("ab .&\n", max_size=6), min_size=9))
def test_a_caption_is_one_sentence_with_one_dot_at_its_end(kind, names):
    text = caption(kind, Taxon(*names[:7]), names[7], names[8])
    assert text.startswith("a photo of ") and text.endswith(".") and text[-2] not in ". "


def test_class_names_of_evaluation():
    names = {kind: class_name(kind, GRASS, "bluegrass") for kind in TEXT_KINDS}
    assert names == {
        "sci": "Poa angustifolia",
        "com": "bluegrass",
        "taxon": LINEAGE,
        "sci_com": "Poa angustifolia with common name bluegrass",
        "taxon_com": f"{LINEAGE} with common name bluegrass",
    }


def test_a_class_without_common_name_is_named_by_its_taxon_alone():
    assert class_name("taxon_com", GRASS) == LINEAGE
    assert class_name("sci_com", GRASS) == class_name("com", GRASS) == "Poa angustifolia"


def test_a_class_without_kingdom_is_named_by_its_binomial():
    assert class_name("taxon", Taxon(family="Poaceae", genus="Poa", species="annua")) == "Poa annua"


def test_a_class_as_is_stays_as_it_is():
    assert class_name("asis", GRASS, as_is="Tomato___Late_blight.") == "Tomato___Late_blight."
    assert class_name("asis", GRASS) == "Poa angustifolia"


def test_a_subspecies_keeps_both_epithets():
    bear = Taxon("Animalia", genus="Ursus", species="arctos syriacus")
    assert caption("sci", bear) == "a photo of Ursus arctos syriacus."
    assert class_name("taxon", bear) == "Animalia Ursus arctos syriacus"


@pytest.mark.parametrize(
    ("rank", "text"), [("kingdom", "Animalia"), ("class", "Animalia Chordata")]
)
def test_a_class_at_a_higher_rank_is_the_lineage_down_to_it(rank, text):
    assert lineage_text(GOLDFISH, rank) == text
    assert lineage_text(GOLDFISH, RANKS[-1]).endswith("Carassius auratus")


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(UsageError, match="'sciname'; choose one of sci, com"):
        caption("sciname", GRASS)
    with pytest.raises(UsageError, match="asis, sci"):
        class_name("scientific", GRASS)


def test_the_kind_depends_on_seed_and_step_alone():
    first = [text_kind(0, step) for step in range(50)]
    random.seed(1)
    assert [text_kind(0, step) for step in range(50)] == first
    assert [text_kind(1, step) for step in range(50)] != first


def test_the_draw_does_not_disturb_the_global_generator():
    random.seed(3)
    expected = random.random()
    random.seed(3)
    text_kind(0, 5)
    assert random.random() == expected


def test_the_kind_never_changes_between_versions():
    assert [text_kind(0, step) for step in range(8)] == [
        "taxon",
        "taxon_com",
        "taxon",
        "com",
        "taxon_com",
        "sci_com",
        "taxon",
        "taxon_com",
    ]


def test_without_a_seed_the_kinds_are_those_of_the_original():
    for step in range(100):
        random.seed(step)
        assert text_kind(None, step) == random.choice(list(TEXT_KINDS))


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_kinds_are_drawn_evenly(seed):
    counts = Counter(text_kind(seed, step) for step in range(5000))
    assert set(counts) == set(TEXT_KINDS)
    assert all(850 < count < 1150 for count in counts.values())  # 5 deviations


def test_a_level_caption_stops_at_its_rank_and_leaves_holes_out():
    assert level_caption("class", GRASS) == "a photo of Plantae Tracheophyta Liliopsida."
    assert level_caption("class", GOLDFISH) == level_caption("phylum", GOLDFISH)
    assert level_caption("genus", ANT) == caption("taxon", ANT)
    assert level_caption("order", Taxon(), "Poa sp. 1") == "a photo of Poa sp. 1."


def test_levels_are_drawn_as_often_as_asked_and_again_the_same():
    drawn = Counter(levels_at(1, step, (1, 0, 1, 1, 1, 2))[0] for step in range(6000))
    assert set(drawn) == set(LEVELS) - {"phylum"} and 1850 < drawn["genus"] < 2150
    even = [levels_at(1, step, (1,) * 6) for step in range(20)]
    assert even == [levels_at(1, step, (1,) * 6) for step in range(20)]
    assert even != [levels_at(2, step, (1,) * 6) for step in range(20)]
    assert levels_at(1, 0, ()) == LEVELS
